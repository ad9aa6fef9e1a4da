//! Real redis-servers as child processes. Knows nothing of Pontoon.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use rustix::process::Signal;

use crate::{
    client::{Client, Reply},
    kinds::Kind,
    process::Process,
    wait::{GENEROUS, wait_for},
};

/// A redis-server.
#[derive(Debug)]
pub struct RedisServer {
    /// The server's port on 127.0.0.1.
    pub port: u16,
    process: Process,
    home: PathBuf,
    options: RedisOptions,
}

/// The options with which a server is started.
#[derive(Clone, Debug, Default)]
pub struct RedisOptions {
    /// Which server it is.
    pub kind: Kind,
    /// The port of the server's primary.
    pub primary: Option<u16>,
    /// `requirepass` (and `masterauth`, unless `no_masterauth`).
    pub password: Option<String>,
    /// The server does not know the password of its primary.
    pub no_masterauth: bool,
    /// The server has a configuration file, which it may rewrite. These options then apply to the first start, and the
    /// file applies to all later starts.
    pub config_file: bool,
    /// Further arguments.
    pub more: Vec<String>,
    /// The size of the server's files can be limited later (`RedisServer::limit_files`).
    pub limitable: bool,
}

/// Name of the configuration file in the server's directory.
const CONFIG_FILE: &str = "redis.conf";

impl RedisOptions {
    fn arguments(&self, port: u16) -> Vec<String> {
        let port = port.to_string();
        let always = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0"];
        let mut all: Vec<String> = always.into_iter().chain(["--port", &port]).map(str::to_owned).collect();
        if let Some(primary) = self.primary {
            all.extend(["--replicaof".to_owned(), "127.0.0.1".to_owned(), primary.to_string()]);
        }
        if let Some(password) = &self.password {
            all.extend(["--requirepass".to_owned(), password.clone()]);
            let masterauth = ["--masterauth".to_owned(), password.clone()];
            all.extend(masterauth.into_iter().filter(|_| !self.no_masterauth));
        }
        all.extend(self.more.iter().cloned());
        all
    }

    /// Returns the same options as a configuration file, with one line per option.
    fn config(&self, port: u16) -> String {
        let word = |arg: &String| match arg.strip_prefix("--") {
            Some(option) => format!("\n{option}"),
            None => format!(" \"{arg}\""),
        };
        self.arguments(port).iter().map(word).collect::<String>() + "\n"
    }
}

impl RedisServer {
    /// Starts an empty primary that writes nothing to disk.
    #[must_use]
    pub fn start(port: u16, dir: &Path) -> Self {
        Self::start_with(port, dir, &RedisOptions::default())
    }

    /// Starts a server and waits until it answers. A replica must also be in sync.
    ///
    /// # Panics
    /// When the server is not ready at the deadline.
    #[must_use]
    pub fn start_with(port: u16, dir: &Path, options: &RedisOptions) -> Self {
        let home = dir.join(format!("redis-{port}"));
        std::fs::create_dir_all(&home).expect("a directory can be made");
        let process = Self::launch(port, &home, options);
        let server = Self { port, process, home, options: options.clone() };
        server.wait_ready();
        server
    }

    /// Restarts the server with the same directory and options, and waits until it is ready. Which data it keeps
    /// depends on the options. With `--appendonly yes --appendfsync no` it keeps everything that it has answered: it
    /// writes to the file before it answers, and what is written outlives the process, though not the machine. Unlike
    /// with `always`, a slow disk does not stop the server.
    ///
    /// # Panics
    /// When the server is not ready at the deadline.
    pub fn restart(&mut self) {
        self.launch_again();
        self.wait_ready();
    }

    /// As [`RedisServer::restart`], without waiting: a replica whose primary is down does not become ready.
    ///
    /// # Panics
    /// When the server cannot be started.
    pub fn launch_again(&mut self) {
        self.process.kill9();
        self.process = Self::launch(self.port, &self.home, &self.options);
    }

    /// From now on, the kernel limits each of the server's files to this number of bytes, as on a full disk. `None`
    /// removes the limit.
    ///
    /// # Panics
    /// When the limit cannot be set.
    pub fn limit_files(&self, bytes: Option<u64>) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.process.id()).expect("a process id"));
        let limit = rustix::process::Rlimit { current: bytes, maximum: None };
        rustix::process::prlimit(pid, rustix::process::Resource::Fsize, limit)
            .expect("the limit of a child can be set");
    }

    /// Returns the process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Returns whether the process exists, also while it is stopped by SIGSTOP.
    pub fn runs(&mut self) -> bool {
        self.process.ended().is_none()
    }

    /// Returns the current content of the configuration file.
    ///
    /// # Panics
    /// When the server has no configuration file.
    #[must_use]
    #[track_caller]
    pub fn config(&self) -> String {
        std::fs::read_to_string(self.home.join(CONFIG_FILE)).expect("it was started with a configuration file")
    }

    /// Returns the server's working directory.
    #[must_use]
    pub fn home(&self) -> &Path {
        &self.home
    }

    fn launch(port: u16, home: &Path, options: &RedisOptions) -> Process {
        let mut command = match options.limitable {
            false => Command::new(options.kind.program()),
            // SIGXFSZ is ignored, so that a write beyond the limit fails, as on a full disk.
            true => {
                let mut shell = Command::new("/bin/sh");
                shell.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""]).arg(options.kind.program());
                shell
            }
        };
        command.current_dir(home);
        match options.config_file {
            false => {
                command.args(options.arguments(port));
            }
            true => {
                let file = home.join(CONFIG_FILE);
                if !file.exists() {
                    std::fs::write(&file, options.config(port)).expect("a file can be written");
                }
                command.arg(CONFIG_FILE);
            }
        }
        Process::start(&format!("redis-server {port}"), &mut command, &home.join("log"))
    }

    fn wait_ready(&self) {
        let (port, options) = (self.port, &self.options);
        wait_for(&format!("redis-server {port} to be ready"), GENEROUS, || {
            let mut client = Client::connect(port).map_err(|e| e.to_string())?;
            if let Some(password) = &options.password {
                client.call(&["AUTH", password]).map_err(|e| e.to_string())?;
            }
            // A server that loads its data answers INFO, but no other command.
            let info = client.call(&["INFO"]).map_err(|e| e.to_string())?.text();
            let ready = options.primary.is_none() || info.contains("master_link_status:up");
            if ready && info.contains("loading:0") && info.contains("role:") { Ok(()) } else { Err(info) }
        });
    }

    /// Returns HOST:PORT.
    #[must_use]
    pub fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Connects directly to the server, without a proxy.
    ///
    /// # Panics
    /// When the server does not accept the connection.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::connect(self.port).expect("the server listens")
    }

    /// Executes a command directly at the server, without a proxy.
    ///
    /// # Panics
    /// When the server does not answer.
    #[must_use]
    #[track_caller]
    pub fn call(&self, args: &[&str]) -> Reply {
        self.try_call(args).expect("the server answers")
    }

    /// As [`RedisServer::call`], for a server that may be down.
    ///
    /// # Errors
    /// When the server does not answer.
    pub fn try_call(&self, args: &[&str]) -> std::io::Result<Reply> {
        let mut client = Client::connect(self.port)?;
        if let Some(password) = &self.options.password {
            client.call(&["AUTH", password])?;
        }
        client.call(args)
    }

    /// Sends SIGKILL and waits until the process has ended.
    pub fn kill9(&mut self) {
        self.process.kill9();
    }

    /// Sends SIGSTOP and waits until every thread is stopped.
    pub fn pause(&self) {
        self.process.pause();
    }

    /// Sends SIGCONT.
    pub fn resume(&self) {
        self.process.signal(Signal::CONT);
    }
}
