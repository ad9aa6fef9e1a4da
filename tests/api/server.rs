//! A real redis-server for a test; it stops when the test ends.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
};

use pontoon::{
    model::{
        ids::HostPort,
        secret::{Credentials, Secret},
    },
    redis::{Client, Reply},
};

use crate::wait::{soon, wait_for};

pub fn password(text: &str) -> Credentials {
    Credentials { username: None, password: Secret::new(text.into()) }
}

pub struct Redis {
    child: Child,
    pub addr: HostPort,
    credentials: Option<Credentials>,
    _dir: tempfile::TempDir,
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Redis {
    pub async fn start(options: &[&str]) -> Self {
        Self::start_with(options, None).await
    }

    pub async fn start_with(options: &[&str], credentials: Option<Credentials>) -> Self {
        Self::start_program(|| Command::new("redis-server"), options, credentials).await
    }

    /// Starts this redis-server.
    pub async fn start_program(
        program: impl Fn() -> Command,
        options: &[&str],
        credentials: Option<Credentials>,
    ) -> Self {
        // Between asking for a free port and using it another process may take it: then another one is asked for.
        for _ in 0..10 {
            if let Some(redis) = Self::try_start(program(), options, credentials.clone()).await {
                return redis;
            }
        }
        panic!("redis-server could not be started");
    }

    async fn try_start(mut program: Command, options: &[&str], credentials: Option<Credentials>) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = program
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--repl-diskless-sync-delay", "0"])
            .args(["--dir", dir.path().to_str().unwrap()])
            .args(options)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server must be installed");
        let addr = HostPort::parse(&format!("127.0.0.1:{port}")).unwrap();
        let mut redis = Self { child, addr, credentials, _dir: dir };
        let runs = wait_for("redis-server to answer", async || {
            if redis.child.try_wait().unwrap().is_some() {
                return Ok(false);
            }
            let connected = Client::connect(&redis.addr, redis.credentials.as_ref(), "test", soon()).await;
            let mut client = connected.map_err(|e| e.to_string())?;
            client.ask(&[b"PING"], soon()).await.map(|_| true).map_err(|e| e.to_string())
        });
        runs.await.then_some(redis)
    }

    /// A replica of `self`, in sync.
    pub async fn replica(&self) -> Self {
        let (host, port) = (self.addr.host().to_owned(), self.addr.port().to_string());
        let mut options = vec!["--replicaof", &host, &port];
        if let Some(credentials) = &self.credentials {
            options.extend([
                "--masterauth",
                credentials.password.reveal(),
                "--requirepass",
                credentials.password.reveal(),
            ]);
        }
        let replica = Self::start_with(&options, self.credentials.clone()).await;
        replica.until_info("master_link_status", "up").await;
        replica
    }

    pub async fn until_info(&self, field: &str, value: &str) {
        let mut client = self.client().await;
        wait_for(&format!("{field} to be {value}"), async || {
            let info = client.info("default", soon()).await.unwrap();
            if info.get(field) == Some(value) { Ok(()) } else { Err(format!("{:?}", info.get(field))) }
        })
        .await;
    }

    pub async fn client(&self) -> Client {
        Client::connect(&self.addr, self.credentials.as_ref(), "test", soon()).await.unwrap()
    }

    /// Runs a command given as words.
    pub async fn run(&self, words: &str) -> Reply {
        let words: Vec<&[u8]> = words.split(' ').map(str::as_bytes).collect();
        self.client().await.ask(&words, soon()).await.unwrap()
    }

    /// The same server by another name.
    pub fn as_localhost(&self) -> HostPort {
        HostPort::parse(&format!("localhost:{}", self.addr.port())).unwrap()
    }
}
