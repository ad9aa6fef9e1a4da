//! A node: `pontoon serve` as a child process that can be killed, stopped and restarted.
//! Knows nothing of the other nodes.

use std::{
    io::{self, Write},
    net::TcpStream,
    path::PathBuf,
    process::{Command, ExitStatus},
    time::Duration,
};

use rustix::process::Signal;

use crate::{binary, cli::Cli, client::Client, faults::Faults, process::Process};

/// A node and the arguments with which it is started.
#[derive(Debug)]
pub struct Node {
    /// The node's id, which is also its port offset.
    pub id: u16,
    /// The admin port.
    pub admin_port: u16,
    /// The port for clients of product `default`.
    pub client_port: u16,
    /// The data directory.
    pub data_dir: PathBuf,
    /// The file with the cluster secret.
    pub secret: Option<PathBuf>,
    /// `--peers` or `--join`, and its value.
    pub origin: (String, String),
    /// Further arguments of `serve`.
    pub more: Vec<String>,
    /// Size limit of the files that the node writes, in KB (`ulimit -f`). `None`: no limit.
    pub file_limit_kb: Option<u32>,
    /// Limit of the node's open files (`ulimit -n`). `None`: that of the test.
    pub open_files_max: Option<u32>,
    /// The faults inside the node.
    pub faults: Faults,
    log: PathBuf,
    process: Option<Process>,
}

impl Node {
    /// Returns a node that is not started yet. `default_port`: the port of product `default`, if this node forms the
    /// cluster.
    #[must_use]
    pub fn new(id: u16, admin_port: u16, default_port: u16, dir: &std::path::Path, origin: (String, String)) -> Self {
        Self {
            id,
            admin_port,
            client_port: default_port + id,
            data_dir: dir.join(format!("node-{id}")),
            secret: None,
            origin,
            more: vec!["--set".into(), format!("default_port={default_port}")],
            file_limit_kb: None,
            open_files_max: None,
            faults: Faults::in_dir(dir.join(format!("faults-{id}"))),
            log: dir.join(format!("node-{id}.log")),
            process: None,
        }
    }

    /// Returns the admin address.
    #[must_use]
    pub fn admin(&self) -> String {
        format!("127.0.0.1:{}", self.admin_port)
    }

    /// Returns the command that starts the node.
    #[must_use]
    pub fn command(&self) -> Command {
        // SIGXFSZ is ignored, as by a service manager: the write fails, as on a full disk.
        let size = self.file_limit_kb.map(|kb| format!("trap '' XFSZ; ulimit -f {}; ", u64::from(kb) * 2));
        let files = self.open_files_max.map(|files| format!("ulimit -n {files}; "));
        let limits: String = size.into_iter().chain(files).collect();
        let mut command = if limits.is_empty() {
            binary::command(binary::pontoon())
        } else {
            let mut shell = binary::command("/bin/sh".as_ref());
            shell.args(["-c", &format!("{limits}exec \"$0\" \"$@\"")]).arg(binary::pontoon());
            shell
        };
        command.args(["serve", "--id", &self.id.to_string(), "--admin", &self.admin()]);
        command.args(["--bind", "127.0.0.1", "--port-offset", &self.id.to_string(), "--workers", "1"]);
        command.arg("--data-dir").arg(&self.data_dir);
        command.args([&self.origin.0, &self.origin.1]);
        if let Some(secret) = &self.secret {
            command.arg("--secret-file").arg(secret);
        }
        command.args(&self.more);
        command.env("PONTOON_FAULTS", self.faults.dir());
        command
    }

    /// Starts the node, for the first time or again.
    ///
    /// # Panics
    /// When the node is running.
    pub fn start(&mut self) {
        assert!(self.process.as_mut().is_none_or(|p| p.ended().is_some()), "node {} is already running", self.id);
        self.process = Some(Process::start(&format!("node {}", self.id), &mut self.command(), &self.log));
    }

    fn running(&self) -> &Process {
        self.process.as_ref().expect("the node was started")
    }

    /// Sends SIGKILL and waits until the process has ended.
    pub fn kill9(&mut self) {
        if let Some(process) = &mut self.process {
            process.kill9();
        }
    }

    /// Sends SIGSTOP and waits until every thread is stopped.
    pub fn pause(&self) {
        self.running().pause();
    }

    /// Sends SIGCONT.
    pub fn resume(&self) {
        self.running().signal(Signal::CONT);
    }

    /// From now on, the kernel limits each of the node's files to this number of bytes. The node must have been started
    /// with a `file_limit_kb`, so that it ignores SIGXFSZ.
    ///
    /// # Panics
    /// When the limit cannot be set.
    pub fn limit_files(&self, bytes: u64) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.pid()).expect("a process id"));
        let limit = rustix::process::Rlimit { current: Some(bytes), maximum: Some(bytes) };
        rustix::process::prlimit(pid, rustix::process::Resource::Fsize, limit)
            .expect("the limit of a child can be set");
    }

    /// From now on, the node has at most this many open files. `None`: as many as the test may have.
    ///
    /// # Panics
    /// When the limit cannot be set.
    pub fn limit_open_files(&self, files: Option<u64>) {
        use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
        let pid = Pid::from_raw(i32::try_from(self.pid()).expect("a process id"));
        let maximum = getrlimit(Resource::Nofile).maximum;
        let limit = Rlimit { current: files.or(maximum), maximum };
        prlimit(pid, Resource::Nofile, limit).expect("the limit of a child can be set");
    }

    /// Sends a signal that does not end the node.
    pub fn signal(&self, signal: Signal) {
        self.running().signal(signal);
    }

    /// Sends SIGTERM and waits until the process has ended.
    pub fn terminate(&mut self, within: Duration) -> ExitStatus {
        self.running().signal(Signal::TERM);
        self.wait_end(within)
    }

    /// Waits until the process ends without a signal from the test.
    ///
    /// # Panics
    /// When the process is still running at the deadline.
    #[track_caller]
    pub fn wait_end(&mut self, within: Duration) -> ExitStatus {
        self.process.as_mut().expect("the node was started").wait_end(within)
    }

    /// Returns whether the process exists, also while it is stopped by SIGSTOP.
    pub fn runs(&mut self) -> bool {
        self.process.as_mut().is_some_and(|p| p.ended().is_none())
    }

    /// Returns the process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.running().id()
    }

    /// Returns the log of all starts of the node.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Returns a command line that uses this node.
    #[must_use]
    pub fn cli(&self) -> Cli {
        Cli::new(self.admin(), self.secret.clone())
    }

    /// The value of a counter in `/metrics`, which has no labels. For nodes without a cluster secret.
    ///
    /// # Panics
    /// When the node does not answer, or has no such counter.
    #[must_use]
    pub fn counter(&self, name: &str) -> u64 {
        let ask = || {
            let mut stream = TcpStream::connect(self.admin())?;
            stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
            io::read_to_string(stream)
        };
        let page = ask().expect("the node answers");
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.trim().parse().ok()).unwrap_or_else(|| panic!("{name} is not in: {page}"))
    }

    /// Connects a client of product `default`.
    ///
    /// # Panics
    /// When the node does not listen.
    #[must_use]
    #[track_caller]
    pub fn client(&self) -> Client {
        Client::connect(self.client_port).unwrap_or_else(|e| panic!("node {} does not accept clients: {e}", self.id))
    }
}
