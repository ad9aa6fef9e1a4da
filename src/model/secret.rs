//! A password: compared, sent to a server, never shown.

use std::fmt;

/// A password. `Debug` and `Display` print stars, so that no log line and no error text can show it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a password.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The password itself, for sending it to the server it belongs to and for the log's format.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether `given` is this password. Takes the same time wherever they differ.
    #[must_use]
    pub fn matches(&self, given: &[u8]) -> bool {
        let own = self.0.as_bytes();
        let mut different = u8::from(own.len() != given.len());
        for (i, byte) in given.iter().enumerate() {
            different |= byte ^ own.get(i).copied().unwrap_or(!byte);
        }
        different == 0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// How one logs in: to a server (of a group) or to a product (its clients). Without a username it is `AUTH password`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    /// ACL user; `None` is the user `default`.
    pub username: Option<String>,
    /// The password.
    pub password: Secret,
}
