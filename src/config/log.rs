//! The settings of the log output.

use std::path::PathBuf;

use super::{
    section::section,
    value::{SettingKind, SettingValue},
};
use crate::logging::Levels;

// openraft logs about forty times a second that a node is down. `consensus` logs this once, and also what is fatal.
section! {
    /// Logging.
    LogConfig("log") {
        /// `text` for people, `json` for machines.
        format "format": LogFormat = LogFormat::Text, "text";
        /// error, warn, info, debug or trace; or directives, as `info,pontoon::consensus=debug`.
        level "level": String = "info,openraft=off".to_owned(), "info,openraft=off";
        /// File that lines are appended to; not set: standard error. SIGHUP opens it again, after it was renamed.
        file "file": Option<PathBuf> = None, "/var/log/pontoon/pontoon.log";
    }
}

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

impl SettingValue for LogFormat {
    const KIND: SettingKind = SettingKind::Text;
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(format!("text or json is expected, not '{text}'")),
        }
    }
    fn toml(&self) -> Option<String> {
        Some(match self {
            Self::Text => "\"text\"".into(),
            Self::Json => "\"json\"".into(),
        })
    }
}

impl LogConfig {
    /// The levels.
    ///
    /// # Errors
    /// Returns what is expected, as text for the operator.
    pub fn levels(&self) -> Result<Levels, String> {
        self.level.parse().map_err(|e| format!("log.level: {e}; for example: info, or info,pontoon::consensus=debug"))
    }
}
