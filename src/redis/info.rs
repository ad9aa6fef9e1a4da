//! The fields of INFO.
//! Knows nothing of the meaning of fields, except for the few that have methods.

use std::collections::BTreeMap;

/// A larger number of keys is read as this one, so that sums over databases do not overflow. No machine has the memory
/// for so many.
const KEYS_MAX: u64 = 1 << 40;
/// A larger number of calls is read as this one, so that sums over commands do not overflow: a million calls per second
/// for 36,000 years.
const CALLS_MAX: u64 = 1 << 60;

/// The fields of a reply to INFO. Section titles are stored separately.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Info {
    /// Titles without the `# `, in lower case.
    pub sections: Vec<String>,
    /// Fields by name.
    pub fields: BTreeMap<String, String>,
}

impl Info {
    /// Parses the text of INFO. Lines that are not a field are skipped.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut info = Self::default();
        for line in text.lines() {
            if let Some(title) = line.strip_prefix('#') {
                info.sections.push(title.trim().to_ascii_lowercase());
            } else if let Some((name, value)) = line.split_once(':') {
                info.fields.insert(name.to_owned(), value.trim_end().to_owned());
            }
        }
        info
    }

    /// A field.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(String::as_str)
    }

    /// Number of keys by database, for databases that have keys (section keyspace: `db0:keys=1,expires=0,...`).
    #[must_use]
    pub fn keyspace(&self) -> BTreeMap<u32, u64> {
        self.of_databases("keys=")
    }

    /// Number of keys with a time to live by database, for databases that have keys.
    #[must_use]
    pub fn expires(&self) -> BTreeMap<u32, u64> {
        self.of_databases("expires=")
    }

    fn of_databases(&self, what: &str) -> BTreeMap<u32, u64> {
        self.fields
            .iter()
            .filter_map(|(name, value)| {
                let db = name.strip_prefix("db")?.parse().ok()?;
                let count: u64 = value.split(',').find_map(|part| part.strip_prefix(what))?.parse().ok()?;
                Some((db, count.min(KEYS_MAX)))
            })
            .collect()
    }

    /// How often a command was called, by its field of the section commandstats (`cmdstat_del:calls=1,usec=...`). 0: the
    /// server does not report it.
    #[must_use]
    pub fn calls(&self, field: &str) -> u64 {
        let calls =
            self.get(field).and_then(|value| value.strip_prefix("calls=")?.split(',').next()?.parse::<u64>().ok());
        calls.unwrap_or(0).min(CALLS_MAX)
    }

    /// Major and minor of `redis_version`. (Valkey reports the Redis version that it is compatible with, 7.2.4.)
    #[must_use]
    pub fn version(&self) -> Option<(u32, u32)> {
        let mut parts = self.get("redis_version")?.split('.');
        Some((parts.next()?.parse().ok()?, parts.next().unwrap_or("0").parse().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_and_keyspace() {
        let info = Info::parse(
            "# Server\r\nredis_version:7.0.15\r\nrun_id:abc\r\nexecutable:/a:b\r\n\r\n# Keyspace\r\n\
             db0:keys=3,expires=0,avg_ttl=0\r\ndb15:keys=40,expires=1,avg_ttl=2\r\ndbx:keys=1\r\nno field\r\n",
        );
        assert_eq!(info.sections, ["server", "keyspace"]);
        assert_eq!(info.get("executable"), Some("/a:b"));
        assert_eq!(info.version(), Some((7, 0)));
        assert_eq!(info.keyspace(), BTreeMap::from([(0, 3), (15, 40)]));
        assert_eq!(info.expires(), BTreeMap::from([(0, 0), (15, 1)]));
        assert_eq!(Info::parse("redis_version:8").version(), Some((8, 0)));
        assert_eq!(Info::parse("redis_version:x.y").version(), None);
    }

    #[test]
    fn sums_of_counts_do_not_overflow() {
        let info = Info::parse(
            "db0:keys=18446744073709551615,expires=18446744073709551615\r\ndb1:keys=1,expires=1\r\n\
             cmdstat_del:calls=18446744073709551615,usec=1\r\ncmdstat_set:calls=7\r\n",
        );
        assert_eq!(info.keyspace().values().sum::<u64>(), KEYS_MAX + 1);
        assert_eq!(info.expires().values().sum::<u64>(), KEYS_MAX + 1);
        assert_eq!(["cmdstat_del", "cmdstat_set", "x"].map(|name| info.calls(name)), [CALLS_MAX, 7, 0]);
    }
}
