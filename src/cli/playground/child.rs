//! Starts, watches and stops the playground's child processes.
//! Knows nothing of what they do.

use std::{
    fs::OpenOptions,
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use super::{CliError, POLL_INTERVAL, files::quoted};
use crate::cli::{error::failed, exec_child, output};

/// A node drains and transfers its leadership within its shutdown deadline (10 s); a server saves its data.
const STOP_MAX: Duration = Duration::from_secs(12);

/// A program that was started.
struct RunningChild {
    name: String,
    command: Vec<String>,
    log: PathBuf,
    child: Child,
    ended: Option<ExitStatus>,
    reported: bool,
}

/// All children, in the order in which they were started. Killed when this is dropped.
pub struct Children {
    program: PathBuf,
    list: Vec<RunningChild>,
}

impl Children {
    /// An empty list.
    ///
    /// # Errors
    /// If the path of this program is not known.
    pub fn new() -> Result<Self, CliError> {
        let program =
            std::env::current_exe().map_err(|e| failed(format!("this program's own path is not known: {e}")))?;
        Ok(Self { program, list: Vec::new() })
    }

    /// This program.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Starts a program that is killed when this process ends. Must be called from the main thread.
    ///
    /// # Errors
    /// If the program cannot be started, or its log cannot be opened.
    pub fn start(&mut self, name: String, command: Vec<String>, log: &Path) -> Result<(), CliError> {
        let at = |e: std::io::Error| failed(format!("{name} cannot be started: {e}"));
        let out = OpenOptions::new().create(true).append(true).open(log).map_err(at)?;
        let mut start = Command::new(&self.program);
        // Without the settings of the shell: a playground is the same for every user.
        for (key, _) in std::env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("PONTOON_")) {
            start.env_remove(key);
        }
        let child = start
            .args([exec_child::NAME, "--parent", &std::process::id().to_string(), "--"])
            .args(&command)
            // Ctrl-C goes to the foreground process group of the terminal; this process stops the children, in order.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(out.try_clone().map_err(at)?)
            .stderr(out)
            .spawn()
            .map_err(at)?;
        self.list.push(RunningChild { name, command, log: log.to_owned(), child, ended: None, reported: false });
        Ok(())
    }

    /// The process id of a child, or a dash.
    #[must_use]
    pub fn pid(&self, name: &str) -> String {
        self.list.iter().find(|r| r.name == name).map_or_else(|| "-".into(), |r| r.child.id().to_string())
    }

    /// Where the logs are, for messages.
    #[must_use]
    pub fn logs(&self) -> String {
        self.list
            .first()
            .and_then(|r| r.log.parent())
            .map_or_else(String::new, |dir| format!("{}/*.log", dir.display()))
    }

    fn reap(&mut self) {
        for running in self.list.iter_mut().filter(|r| r.ended.is_none()) {
            running.ended = running.child.try_wait().ok().flatten();
        }
    }

    /// Checks that all children run.
    ///
    /// # Errors
    /// [`CliError::Failed`] with the first child that has ended, and the end of its log.
    pub fn check(&mut self) -> Result<(), CliError> {
        self.reap();
        let Some(dead) = self.list.iter_mut().find(|r| r.ended.is_some() && !r.reported) else { return Ok(()) };
        dead.reported = true;
        let (why, tail) = (dead.how(), dead.log_tail());
        Err(CliError::Failed(format!("{} {why} at its start; the end of {}:\n{tail}", dead.name, dead.log.display())))
    }

    /// Prints which children have ended since the last call, and how to start them again. It does not restart them.
    pub fn report_dead(&mut self) {
        self.reap();
        for dead in self.list.iter_mut().filter(|r| r.ended.is_some() && !r.reported) {
            dead.reported = true;
            let words: Vec<_> = dead.command.iter().map(|w| quoted(w)).collect();
            output::say(&format!(
                "\n{} (pid {}) {}; its log: {}\nto start it again, in another terminal:\n\n  {}\n",
                dead.name,
                dead.child.id(),
                dead.how(),
                dead.log.display(),
                words.join(" ")
            ));
        }
    }

    /// Stops the nodes, then the servers, so that no node reports that a server is gone.
    pub async fn stop(&mut self) {
        for nodes in [true, false] {
            self.reap();
            let deadline = Instant::now() + STOP_MAX;
            let of_this_kind = |r: &&mut RunningChild| r.name.starts_with("node") == nodes && r.ended.is_none();
            for running in self.list.iter_mut().filter(of_this_kind) {
                if let Some(pid) = i32::try_from(running.child.id()).ok().and_then(Pid::from_raw) {
                    // It may just have ended; then there is nothing to stop.
                    let _ = kill_process(pid, Signal::TERM);
                }
            }
            while self.list.iter_mut().filter(of_this_kind).count() > 0 {
                if Instant::now() > deadline {
                    for running in self.list.iter_mut().filter(of_this_kind) {
                        let (name, secs) = (&running.name, STOP_MAX.as_secs());
                        output::say(&format!("{name} has not stopped within {secs} s and is killed"));
                        running.kill();
                    }
                    break;
                }
                tokio::time::sleep(POLL_INTERVAL / 4).await;
                self.reap();
            }
        }
    }

    /// Kills the children that still run.
    pub fn kill(&mut self) {
        self.reap();
        self.list.iter_mut().filter(|r| r.ended.is_none()).for_each(RunningChild::kill);
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        self.kill();
    }
}

impl RunningChild {
    fn kill(&mut self) {
        let _ = self.child.kill();
        self.ended = self.child.wait().ok();
    }

    fn how(&self) -> String {
        match self.ended.map(|s| (s.code(), s.signal())) {
            Some((Some(code), _)) => format!("has ended with exit code {code}"),
            Some((None, Some(signal))) => format!("was killed by signal {signal}"),
            _ => "has ended".into(),
        }
    }

    /// The last lines of the log.
    fn log_tail(&self) -> String {
        /// Enough for the message and what led to it.
        const LINES: usize = 8;
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(LINES)..].iter().map(|l| format!("  {l}\n")).collect()
    }
}
