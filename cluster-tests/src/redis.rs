//! Real redis-servers.
//! Knows nothing of Pontoon.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use rustix::process::Signal;

use crate::{
    client::{Client, Reply},
    process::Process,
    wait::{GENEROUS, wait_for},
};

/// A redis-server that answers.
#[derive(Debug)]
pub struct RedisServer {
    /// Its port on 127.0.0.1.
    pub port: u16,
    process: Process,
    home: PathBuf,
    options: RedisOptions,
}

/// How one is started.
#[derive(Clone, Debug, Default)]
pub struct RedisOptions {
    /// Port of its primary.
    pub primary: Option<u16>,
    /// `requirepass` (and `masterauth`).
    pub password: Option<String>,
    /// Further arguments.
    pub more: Vec<String>,
}

impl RedisServer {
    /// An empty primary that writes nothing to disk.
    #[must_use]
    pub fn start(port: u16, dir: &Path) -> Self {
        Self::start_with(port, dir, &RedisOptions::default())
    }

    /// Starts one and waits until it answers; a replica until it is in sync.
    ///
    /// # Panics
    /// When it does not.
    #[must_use]
    pub fn start_with(port: u16, dir: &Path, options: &RedisOptions) -> Self {
        let home = dir.join(format!("redis-{port}"));
        std::fs::create_dir_all(&home).expect("a directory can be made");
        let process = Self::launch(port, &home, options);
        let server = Self { port, process, home, options: options.clone() };
        server.wait_ready();
        server
    }

    /// Starts it again with the same directory and options, and waits as at first. What it keeps depends on the options
    /// (`--appendonly yes --appendfsync always`: everything it has answered).
    ///
    /// # Panics
    /// When it does not come up.
    pub fn restart(&mut self) {
        self.launch_again();
        self.wait_ready();
    }

    /// As [`RedisServer::restart`], and waits for nothing: a replica whose primary is down does not get ready.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn launch_again(&mut self) {
        self.process.kill9();
        self.process = Self::launch(self.port, &self.home, &self.options);
    }

    fn launch(port: u16, home: &Path, options: &RedisOptions) -> Process {
        let mut command = Command::new("redis-server");
        command.current_dir(home);
        command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0"]);
        command.arg("--port").arg(port.to_string());
        if let Some(primary) = options.primary {
            command.args(["--replicaof", "127.0.0.1", &primary.to_string()]);
        }
        if let Some(password) = &options.password {
            command.args(["--requirepass", password, "--masterauth", password]);
        }
        command.args(&options.more);
        Process::start(&format!("redis-server {port}"), &mut command, &home.join("log"))
    }

    fn wait_ready(&self) {
        let (port, options) = (self.port, &self.options);
        wait_for(&format!("redis-server {port}"), GENEROUS, || {
            let mut client = Client::connect(port).map_err(|e| e.to_string())?;
            if let Some(password) = &options.password {
                client.call(&["AUTH", password]).map_err(|e| e.to_string())?;
            }
            let info = client.call(&["INFO", "replication"]).map_err(|e| e.to_string())?.text();
            let ready = options.primary.is_none() || info.contains("master_link_status:up");
            if ready && info.contains("role:") { Ok(()) } else { Err(info) }
        });
    }

    /// HOST:PORT.
    #[must_use]
    pub fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A connection past the proxies, to see what is really there.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::connect(self.port).expect("the server listens")
    }

    /// A command past the proxies.
    ///
    /// # Panics
    /// When it is not answered.
    #[must_use]
    pub fn call(&self, args: &[&str]) -> Reply {
        self.client().call(args).expect("the server answers")
    }

    /// kill -9.
    pub fn kill9(&mut self) {
        self.process.kill9();
    }

    /// SIGSTOP; returns when it stands still.
    pub fn pause(&self) {
        self.process.pause();
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.process.signal(Signal::CONT);
    }
}
