//! The version of Redis that a product's clients are told. Knows nothing of the servers.

use std::fmt;

/// A version, or the default: the oldest one of the product's servers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ToldVersion {
    /// All 0: that of the servers.
    parts: [u16; 3],
}

impl ToldVersion {
    /// Reads `7.2.4`, or `servers`. `None`: it is neither.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text == "servers" {
            return Some(Self::default());
        }
        let parts: Vec<u16> = text.split('.').map(|part| part.parse().ok()).collect::<Option<_>>()?;
        let version = Self { parts: parts.try_into().ok()? };
        (!version.is_of_servers()).then_some(version)
    }

    /// Whether it is that of the servers.
    #[must_use]
    pub fn is_of_servers(self) -> bool {
        self.parts == [0; 3]
    }

    /// As one number; 0: that of the servers.
    #[must_use]
    pub fn number(self) -> u64 {
        self.parts.iter().fold(0, |number, part| number << 16 | u64::from(*part))
    }

    /// The version with this number. `None`: there is none.
    #[must_use]
    pub fn of_number(number: u64) -> Option<Self> {
        let part = |shift: u32| u16::try_from(number >> shift & 0xffff).ok();
        (number >> 48 == 0).then_some(Self { parts: [part(32)?, part(16)?, part(0)?] })
    }
}

impl fmt::Display for ToldVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.parts {
            [0, 0, 0] => f.write_str("servers"),
            [major, minor, patch] => write!(f, "{major}.{minor}.{patch}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_and_written_as_it_was() {
        for text in ["7.2.4", "7.0.15", "0.0.1", "65535.0.0", "servers"] {
            let version = ToldVersion::parse(text).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(version.to_string(), text);
            assert_eq!(ToldVersion::of_number(version.number()), Some(version));
        }
        for text in ["", "7.2", "7.2.4.1", "7.2.x", "0.0.0", "65536.0.0", "7.2.-1", "7.2.4-rc1", "Servers"] {
            assert_eq!(ToldVersion::parse(text), None, "{text}");
        }
        assert_eq!(ToldVersion::of_number(1 << 48), None);
    }
}
