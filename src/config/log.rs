//! The settings of the log output.

use super::{
    section::section,
    value::{SettingKind, SettingValue},
};

// openraft logs about forty times a second that a node is down. `consensus` logs this once, and also what is fatal.
section! {
    /// Logging to standard error.
    LogConfig("log") {
        /// `text` for people, `json` for machines.
        format "format": LogFormat = LogFormat::Text, "text";
        /// error, warn, info, debug or trace; or directives, as `info,pontoon::consensus=debug`.
        level "level": String = "info,openraft=off".to_owned(), "info,openraft=off";
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
    pub(super) fn check(&self) -> Result<(), String> {
        tracing_subscriber::EnvFilter::try_new(&self.level).map(drop).map_err(|e| {
            format!(
                "log.level: '{}' is not valid ({e}); for example: info, or info,pontoon::consensus=debug",
                self.level
            )
        })
    }
}
