//! `pontoon exec-child`: becomes another program that dies when the playground dies, however that dies.
//! Knows nothing of what it becomes.

use std::{ffi::OsString, os::unix::process::CommandExt, process::Command};

use clap::Args;
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

use super::error::{CliError, failed};

/// Name of the hidden subcommand.
pub const NAME: &str = "exec-child";

/// `pontoon exec-child --parent PID -- PROGRAM ARGUMENTS`
#[derive(Args, Debug)]
pub struct ExecChildArgs {
    /// The process that started this one
    #[arg(long, value_name = "PID")]
    parent: i32,
    /// What to become
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// Does not return when it succeeds.
pub(super) fn run(args: &ExecChildArgs) -> Result<(), CliError> {
    // SIGKILL, since a process that is stopped or hangs would survive anything else. Nothing acknowledged is lost: nodes
    // sync their log first, and what redis-server has written to its file is with the kernel. The setting outlives exec.
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(failed)?;
    // The parent may have died before that line; then nobody would tell us.
    if getppid() != Pid::from_raw(args.parent) {
        return Err(CliError::Failed(format!("process {} is not the parent any more", args.parent)));
    }
    let Some((program, arguments)) = args.command.split_first() else {
        return Err(CliError::Usage("what is to be started?".into()));
    };
    let error = Command::new(program).args(arguments).exec();
    Err(failed(format!("{} cannot be started: {error}", program.display())))
}
