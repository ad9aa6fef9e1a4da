//! A password: compared, sent to a server, never shown. Knows nothing of who wants it.

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

/// How servers begin when they refuse a login. What comes behind is text of the server's own program.
const REFUSALS: [&str; 6] = [
    "WRONGPASS ",
    "NOAUTH ",
    "NOPERM ",
    "ERR invalid password",
    "ERR Client sent AUTH",
    "ERR AUTH <password> called without any password",
];

/// What may be repeated to people of a server's error answer to a request that held a password. A server that does not know
/// the command (it was renamed, or the address is somebody else's by now) quotes what it was sent.
#[must_use]
pub fn repeatable(answer: &str) -> &str {
    if REFUSALS.iter().any(|known| answer.starts_with(known)) {
        return answer;
    }
    "in words that are not repeated here, since they may quote the password; does a Redis server listen there, and does it \
     know the command?"
}

/// How one logs in: to a server (of a group) or to a product (its clients). Without a username it is `AUTH password`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    /// ACL user; `None` is the user `default`.
    pub username: Option<String>,
    /// The password.
    pub password: Secret,
}
