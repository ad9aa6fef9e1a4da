//! How a command fails, and the exit code that says so.
//! Knows nothing of what commands do.

use std::{fmt, process::ExitCode};

/// Why a command did not do what it was asked; shown on standard error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CliError {
    /// It did not happen. Exit code 1.
    Failed(String),
    /// The command makes no sense as typed. Exit code 2, as clap's own.
    Usage(String),
    /// It may have happened. Exit code 3.
    Unknown(String),
    /// It happened, or goes on by itself; what was waited for was not seen. Exit code 4.
    Made(String),
    /// A part of a node ended unexpectedly, which is a bug. Exit code 5, of `serve` only.
    Internal(String),
}

impl CliError {
    /// The exit code of the process.
    #[must_use]
    pub fn code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::Unknown(_) => 3,
            Self::Made(_) => 4,
            Self::Internal(_) => 5,
        })
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Failed(text) | Self::Usage(text) | Self::Unknown(text) | Self::Made(text) | Self::Internal(text)) =
            self;
        f.write_str(text)
    }
}

/// Shorthand for `map_err`.
pub(super) fn failed(what: impl fmt::Display) -> CliError {
    CliError::Failed(what.to_string())
}

/// A runtime for one command: on this thread, since children must be started from the main one (see `exec_child`).
pub(super) fn runtime() -> Result<tokio::runtime::Runtime, CliError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| failed(format!("the runtime could not be started: {e}")))
}
