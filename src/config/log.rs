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
        let bad = |why: String| {
            format!(
                "log.level: '{}' is not valid ({why}); for example: info, or info,pontoon::consensus=debug",
                self.level
            )
        };
        // EnvFilter takes a word that it does not know for the name of a module, and shows everything of it.
        for part in self.level.split(',') {
            let level = part.rsplit_once('=').map_or(part, |(_, level)| level).trim();
            if !LEVELS.iter().any(|known| level.eq_ignore_ascii_case(known)) {
                return Err(bad(format!("'{level}' is not a level; the levels are {}", LEVELS.join(", "))));
            }
        }
        tracing_subscriber::EnvFilter::try_new(&self.level).map(drop).map_err(|e| bad(e.to_string()))
    }
}

/// The levels, from none to all.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_levels_are_refused() {
        let check = |level: &str| LogConfig { level: level.into(), ..LogConfig::default() }.check();
        for good in ["info", "INFO", "off", "info,openraft=off", "warn,pontoon::consensus=debug"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in ["", "verbose", "inf", "info,", "info,pontoon=loud", "pontoon::consensus", "info,=", "3"] {
            assert!(check(bad).is_err_and(|why| why.contains("the levels are off, error")), "{bad}");
        }
    }
}
