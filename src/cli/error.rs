//! Why a command failed, and its exit code.

use std::{fmt, process::ExitCode};

use serde::Serialize;

/// Why a command failed; shown on standard error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CliError {
    /// It was not executed. Exit code 1.
    Failed(String),
    /// A node refused it, or no node could be asked: one of the codes with exit code 1.
    Refused(ErrorCode, String),
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

    fn exit_code(&self) -> u8 {
        match self {
            Self::Checked(code) => *code,
            _ => self.error_code().exit_code(),
        }
    }

    const fn error_code(&self) -> ErrorCode {
        match self {
            // A check that has failed is never printed: its headline has said it.
            Self::Failed(_) | Self::Checked(_) => ErrorCode::Failed,
            Self::Refused(code, _) => *code,
            Self::Usage(_) => ErrorCode::Usage,
            Self::Unknown(_) => ErrorCode::OutcomeUnknown,
            Self::Made(_) => ErrorCode::Made,
            Self::Internal(_) => ErrorCode::Internal,
        }
    }

    /// For programs: a stable code, and the text that people get.
    #[must_use]
    pub fn json(&self) -> ErrorJson {
        let (code, exit_code) = (self.error_code().code(), self.exit_code());
        ErrorJson { error: ErrorBody { code, exit_code, message: self.to_string() } }
    }
}

/// Declares the codes of errors, so that none can be missing in docs/json.md.
macro_rules! codes {
    ($($(#[doc = $meaning:literal])+ $name:ident $code:literal $exit:literal $remedy:literal,)*) => {
        /// The codes of errors in JSON. They never change; docs/json.md lists them with these comments and remedies.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum ErrorCode {
            $($(#[doc = $meaning])+ $name,)*
        }

        impl ErrorCode {
            /// Its name for programs.
            #[must_use]
            pub const fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// The exit code of the process.
            #[must_use]
            pub const fn exit_code(self) -> u8 {
                match self { $(Self::$name => $exit,)* }
            }

            /// All of them, each with what it means and what to do then.
            #[cfg(test)]
            pub(super) const ALL: &'static [(Self, &'static str, &'static str)] =
                &[$((Self::$name, concat!($($meaning),+), $remedy),)*];
        }
    };
}

codes! {
    /// The change is not possible in the present state of the cluster. It was not executed.
    Refused "refused" 1 "what the message says; then repeat it",
    /// An argument is not valid for the node.
    InvalidArgument "invalid-argument" 1 "correct the argument that the message names",
    /// There is no such product, group, node, server or migration.
    NotFound "not-found" 1 "list what there is: the message names the command",
    /// The cluster has a secret, and the call carries none or another one.
    Unauthenticated "unauthenticated" 1 "`--secret-file FILE`",
    /// A limit of the node is reached, such as the size of a message.
    ResourceExhausted "resource-exhausted" 1 "ask for less at once",
    /// The node has another version and does not know the call.
    OtherVersion "other-version" 1 "use a `pontoon` of the version of the nodes (`pontoon version`)",
    /// Nothing listens at any address of `--node`, or something that is no node. Nothing was sent.
    NoNode "no-node" 1 "start a node, or name another one with `--node`",
    /// No node has answered a question before the deadline.
    NoAnswer "no-answer" 1 "repeat it, with a longer `--timeout` if nodes are slow; `pontoon status` says how the cluster is",
    /// The change was not executed before the deadline, since no node leads or the leader could not be reached.
    NotExecuted "not-executed" 1 "repeat it when `pontoon status` shows a leader",
    /// `migrate watch`: a migration is paused or was cancelled.
    NotDone "not-done" 1 "remove the cause that the message names; `pontoon migrate resume ID`, or start it again",
    /// Something on this machine has failed: a file cannot be read or written, a program cannot be started.
    Failed "failed" 1 "what the message says",
    /// The command line is not valid, or the configuration of a node is not.
    Usage "usage" 2 "correct it: `pontoon help COMMAND`",
    /// The change was sent and not answered: it is not known whether it was made.
    OutcomeUnknown "outcome-unknown" 3 "the command that the message names shows whether it was made",
    /// The change was made. What `--wait` or `migrate watch` waited for failed, or has not come in time.
    Made "made" 4 "do not repeat it; the message says what is missing, `pontoon status` what is waited for",
    /// `serve`: a task or thread of the node ended unexpectedly, which is a bug.
    Internal "internal" 5 "start the node again, and report the bug with the last lines of its log",
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
