//! Which Redis a server is: its version and its modules. Knows nothing of how servers are asked.

use std::{collections::BTreeMap, fmt};

/// Modules of a server that are kept; Redis 8 has five.
const MODULES_MAX: usize = 64;

/// Longest name of a module that is kept, in bytes.
const MODULE_NAME_MAX: usize = 64;

/// A version of Redis, as `INFO` has it in `redis_version`: Valkey says there with which Redis it is compatible.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RedisVersion {
    major: u16,
    minor: u16,
    patch: u16,
}

impl RedisVersion {
    /// Reads `7.2.4`, and what may stand behind it (`7.2.4-rc1`). `None`: it is no version.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = |part: &str| part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        let mut parts = text.trim().splitn(3, '.');
        let mut next = || {
            let part = parts.next()?;
            part[..digits(part)].parse().ok()
        };
        Some(Self { major: next()?, minor: next()?, patch: next()? })
    }
}

impl fmt::Display for RedisVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { major, minor, patch } = self;
        write!(f, "{major}.{minor}.{patch}")
    }
}

/// What a server is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerIdentity {
    /// `None`: it does not say.
    pub(super) version: Option<RedisVersion>,
    /// Versions by name.
    pub(super) modules: BTreeMap<String, i64>,
}

impl ServerIdentity {
    /// A server that answers `INFO server` with this text, and has these modules.
    #[must_use]
    pub fn new(info: &str, modules: impl IntoIterator<Item = (String, i64)>) -> Self {
        let mut lines = info.lines().filter_map(|line| line.split_once(':'));
        let version = lines.find(|(name, _)| *name == "redis_version");
        let is_name = |name: &str| name.len() <= MODULE_NAME_MAX && name.bytes().all(|c| c.is_ascii_graphic());
        let modules = modules.into_iter().filter(|(name, _)| is_name(name)).take(MODULES_MAX);
        Self { version: version.and_then(|(_, text)| RedisVersion::parse(text)), modules: modules.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_ordered() {
        let shown = |text: &str| RedisVersion::parse(text).map(|version| version.to_string());
        for (text, want) in [
            ("7.0.15", Some("7.0.15")),
            ("8.2.3-int\r", Some("8.2.3")),
            ("255.255.255", Some("255.255.255")),
            ("7.2", None),
            ("", None),
            ("x.1.2", None),
            ("7.99999999.1", None),
        ] {
            assert_eq!(shown(text).as_deref(), want, "{text}");
        }
        assert!(RedisVersion::parse("7.0.15") < RedisVersion::parse("7.2.4"));
        assert!(RedisVersion::parse("7.0.9") < RedisVersion::parse("7.0.15"));
    }

    #[test]
    fn a_server_says_what_it_is() {
        let info = "# Server\r\nredis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.1.8\r\n";
        let modules = [("ReJSON".to_owned(), 20_607), ("bad name".to_owned(), 1)];
        let identity = ServerIdentity::new(info, modules);
        assert_eq!(identity.version, RedisVersion::parse("7.2.4"));
        assert_eq!(identity.modules, BTreeMap::from([("ReJSON".to_owned(), 20_607)]));
        assert_eq!(ServerIdentity::new("", []), ServerIdentity::default());
    }
}
