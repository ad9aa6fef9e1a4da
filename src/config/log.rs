//! What this node logs, and how.
//! Knows nothing of what is logged.

use super::{
    section::section,
    value::{SettingKind, SettingValue},
};

// openraft says of a node that is down some forty times a second that it is; `consensus` says it once, and what is fatal too.
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
    /// An object a line.
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
            format!("log.level: '{}' is not understood ({e}); as: info, or info,pontoon::consensus=debug", self.level)
        })
    }
}
