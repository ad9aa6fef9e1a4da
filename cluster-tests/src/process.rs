//! A child process of a test. Its log is kept and printed when the test fails, and it never outlives the test.

use std::{
    fs::File,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::wait::{GENEROUS, wait_for, wait_until};

/// Number of log lines that are printed when a test fails.
const SHOWN: usize = 80;

/// The directory of one test. It is removed at the end of the test, or kept and printed if the test fails.
#[derive(Debug)]
pub struct Scratch(tempfile::TempDir);

impl Scratch {
    /// Creates a directory.
    ///
    /// # Panics
    /// When it cannot be created.
    #[must_use]
    pub fn new() -> Self {
        Self(tempfile::Builder::new().prefix("pontoon-test-").tempdir().expect("a temporary directory can be created"))
    }

    /// Returns the path.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.disable_cleanup(true);
            eprintln!("files of the failed test: {}", self.0.path().display());
        }
    }
}

/// A child process.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a process. Its output is appended to `log`.
    ///
    /// # Panics
    /// When the process cannot be started.
    #[must_use]
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Self {
        let out = File::options().create(true).append(true).open(log).expect("a log can be opened");
        let err = out.try_clone().expect("a file can be opened twice");
        let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn();
        let child = child.unwrap_or_else(|e| panic!("{name} could not be started ({command:?}): {e}"));
        Self { name: name.to_owned(), child, log: log.to_path_buf() }
    }

    /// Returns the process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal. It is no error if the process has ended.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(i32::try_from(self.child.id()).unwrap_or(0)) {
            let _ = kill_process(pid, signal);
        }
    }

    /// Sends SIGSTOP and waits until every thread is stopped. On a busy machine, the other threads run until the thread
    /// that receives the signal is scheduled, and could still pass a reply that the test expects to be frozen.
    ///
    /// # Panics
    /// When the threads do not stop in time.
    #[track_caller]
    pub fn pause(&self) {
        self.signal(Signal::STOP);
        let tasks = format!("/proc/{}/task", self.child.id());
        wait_until(&format!("{} to be stopped", self.name), GENEROUS, || stopped(&tasks).is_some_and(|all| all));
    }

    /// Sends SIGKILL and waits until the process has ended.
    pub fn kill9(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Returns the exit status, or `None` if the process is running.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits until the process has ended.
    ///
    /// # Panics
    /// When the process is still running at the deadline.
    #[track_caller]
    pub fn wait_end(&mut self, within: Duration) -> ExitStatus {
        let name = self.name.clone();
        wait_for(&format!("the end of {name}"), within, || self.ended().ok_or("it is still running"))
    }

    /// Returns the whole log.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let ended = self.ended();
        self.kill9();
        if std::thread::panicking() {
            let how = ended.map_or_else(|| "was running".to_owned(), ending);
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            let last = lines[lines.len().saturating_sub(SHOWN)..].join("\n");
            eprintln!("---- {} ({how}), the end of {}:\n{last}\n----", self.name, self.log.display());
        }
    }
}

/// Returns whether all threads are in a kernel state in which they execute nothing, or `None` if the states cannot be
/// read.
fn stopped(tasks: &str) -> Option<bool> {
    for task in std::fs::read_dir(tasks).ok()? {
        let stat = std::fs::read_to_string(task.ok()?.path().join("stat")).ok()?;
        // "12 (name) T ...": the name may contain any character, so the state is read after its last parenthesis.
        let state = stat.rsplit_once(')')?.1.trim_start().chars().next()?;
        if !matches!(state, 'T' | 't' | 'Z' | 'X') {
            return Some(false);
        }
    }
    Some(true)
}

fn ending(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with code {code}"),
        (_, signal) => format!("ended by signal {}", signal.unwrap_or(0)),
    }
}
