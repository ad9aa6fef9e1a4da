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
    /// `requirepass` (and `masterauth`, unless `no_masterauth`).
    pub password: Option<String>,
    /// It does not know the password of its primary.
    pub no_masterauth: bool,
    /// It has a configuration file, which it may rewrite: these options count at its first start, afterwards the file does.
    pub config_file: bool,
    /// Further arguments.
    pub more: Vec<String>,
    /// Its files can be limited later (`RedisServer::limit_files`).
    pub limitable: bool,
}

/// Its configuration file, in its directory.
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

    /// The same as a file: a line for each option.
    fn config(&self, port: u16) -> String {
        let word = |arg: &String| match arg.strip_prefix("--") {
            Some(option) => format!("\n{option}"),
            None => format!(" \"{arg}\""),
        };
        self.arguments(port).iter().map(word).collect::<String>() + "\n"
    }
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

    /// The same without waiting; one that still runs is killed.
    pub fn start_again(&mut self) {
        self.process.kill9();
        self.process = Self::launch(self.port, &self.home, &self.options);
    }

    /// From now on the kernel limits each of its files to this number of bytes, as on a full disk. `None` lifts the limit.
    ///
    /// # Panics
    /// When the limit cannot be set.
    pub fn limit_files(&self, bytes: Option<u64>) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.process.id()).expect("a process id"));
        let limit = rustix::process::Rlimit { current: bytes, maximum: None };
        rustix::process::prlimit(pid, rustix::process::Resource::Fsize, limit)
            .expect("the limit of a child can be set");
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Whether its process is there.
    pub fn runs(&mut self) -> bool {
        self.process.ended().is_none()
    }

    /// Its configuration file as it is now.
    ///
    /// # Panics
    /// When it has none.
    #[must_use]
    #[track_caller]
    pub fn config(&self) -> String {
        std::fs::read_to_string(self.home.join(CONFIG_FILE)).expect("it was started with a configuration file")
    }

    /// The directory that it works in.
    #[must_use]
    pub fn home(&self) -> &Path {
        &self.home
    }

    fn launch(port: u16, home: &Path, options: &RedisOptions) -> Process {
        let mut command = match options.limitable {
            false => Command::new("redis-server"),
            // Without SIGXFSZ the write fails, as on a full disk.
            true => {
                let mut shell = Command::new("/bin/sh");
                shell.args(["-c", "trap '' XFSZ; exec redis-server \"$@\"", "sh"]);
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
    #[track_caller]
    pub fn call(&self, args: &[&str]) -> Reply {
        self.try_call(args).expect("the server answers")
    }

    /// The same, of one that may not be there.
    ///
    /// # Errors
    /// When it is not answered.
    pub fn try_call(&self, args: &[&str]) -> std::io::Result<Reply> {
        let mut client = Client::connect(self.port)?;
        if let Some(password) = &self.options.password {
            client.call(&["AUTH", password])?;
        }
        client.call(args)
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
