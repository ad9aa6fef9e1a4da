//! `pontoon exec-child`: becomes another program, which the kernel kills when the playground ends, even by SIGKILL.

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
    /// The program and its arguments
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// Does not return when it succeeds.
pub(super) fn run(args: &ExecChildArgs) -> Result<(), CliError> {
    // SIGKILL, because a process that is stopped or hangs would survive any other signal. Nothing acknowledged is lost: nodes
    // sync their log before they acknowledge, and the kernel has what redis-server has written to its file. The setting
    // outlives exec.
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(failed)?;
    // The parent may have died before the setting was made; then the signal would never come.
    if getppid() != Pid::from_raw(args.parent) {
        return Err(CliError::Failed(format!("process {} is no longer the parent", args.parent)));
    }
    let Some((program, arguments)) = args.command.split_first() else {
        return Err(CliError::Usage("no program is named".into()));
    };
    let error = Command::new(program).args(arguments).exec();
    Err(failed(format!("{} cannot be started: {error}", program.display())))
}
