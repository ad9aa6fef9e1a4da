//! Why a command failed, and its exit code.

use std::{fmt, process::ExitCode};

use serde::Serialize;

/// Why a command failed; shown on standard error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CliError {
    /// It was not executed. Exit code 1.
    Failed(String),
    /// A node refused it, or no node could be asked. The first part is the code in JSON. Exit code 1.
    Refused(&'static str, String),
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
        ExitCode::from(self.exit_code())
    }

    const fn exit_code(&self) -> u8 {
        match self {
            Self::Failed(_) | Self::Refused(..) => 1,
            Self::Usage(_) => 2,
            Self::Unknown(_) => 3,
            Self::Made(_) => 4,
            Self::Internal(_) => 5,
            Self::Checked(code) => *code,
        }
    }

    /// For programs: a stable code, and the text that people get.
    #[must_use]
    pub fn json(&self) -> ErrorJson {
        let code = match self {
            Self::Failed(_) => "failed",
            Self::Refused(code, _) => code,
            Self::Usage(_) => "usage",
            Self::Unknown(_) => "outcome-unknown",
            Self::Made(_) => "made",
            Self::Internal(_) => "internal",
            Self::Checked(_) => "checked",
        };
        ErrorJson { error: ErrorBody { code, exit_code: self.exit_code(), message: self.to_string() } }
    }
}

/// An error under `--output json`.
#[derive(Debug, Serialize)]
pub struct ErrorJson {
    error: ErrorBody,
}

#[derive(Debug, Serialize)]
struct ErrorBody {
    code: &'static str,
    exit_code: u8,
    message: String,
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(text)
            | Self::Refused(_, text)
            | Self::Usage(text)
            | Self::Unknown(text)
            | Self::Made(text)
            | Self::Internal(text) => f.write_str(text),
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
