//! Why a command failed, and its exit code.

use std::{fmt, process::ExitCode};

/// Why a command failed; shown on standard error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CliError {
    /// It was not executed, or was refused. Exit code 1.
    Failed(String),
    /// The arguments are not valid. Exit code 2, which clap uses too.
    Usage(String),
    /// The outcome is unknown. Exit code 3.
    Unknown(String),
    /// The change was made; what the command waited for failed or is not done yet. Exit code 4.
    Made(String),
    /// A part of a node ended unexpectedly, which is a bug. Exit code 5, of `serve` only.
    Internal(String),
    /// `status --check` has said how the cluster is; only its exit code is left: 1, 2 or 3.
    Checked(u8),
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
            Self::Checked(code) => *code,
        })
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(text) | Self::Usage(text) | Self::Unknown(text) | Self::Made(text) | Self::Internal(text) => {
                f.write_str(text)
            }
            Self::Checked(code) => write!(f, "the cluster is not well (exit code {code})"),
        }
    }
}

/// Shorthand for `map_err`.
pub(super) fn failed(what: impl fmt::Display) -> CliError {
    CliError::Failed(what.to_string())
}

/// A runtime for one command, on this thread: children must be started from the main thread (see `exec_child`).
pub(super) fn runtime() -> Result<tokio::runtime::Runtime, CliError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| failed(format!("the runtime could not be started: {e}")))
}
