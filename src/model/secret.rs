//! Passwords: compared, sent to servers, never shown.

use std::fmt;

use secrecy::{ExposeSecret, SecretString, zeroize::Zeroizing};
use subtle::ConstantTimeEq;

/// A password. `Debug` and `Display` print stars, so that no log line and no error text can contain it. Its memory is
/// erased when it is dropped.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// Wraps a password.
    #[must_use]
    pub fn new(text: String) -> Self {
        // Copied, since a string that has more room than it needs would be moved, and leave what it held behind.
        Self(Zeroizing::new(text).as_str().into())
    }

    /// The password itself, to send it to a server and to write it into the log.
    #[must_use]
    pub fn reveal(&self) -> &str {
        self.0.expose_secret()
    }

    /// Whether `given` is this password. The time it takes does not depend on where they differ.
    #[must_use]
    pub fn matches(&self, given: &[u8]) -> bool {
        self.reveal().as_bytes().ct_eq(given).into()
    }
}

impl Default for Secret {
    fn default() -> Self {
        Self::new(String::new())
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.matches(other.reveal().as_bytes())
    }
}

impl Eq for Secret {}

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

/// How the errors of servers that refuse a login begin. The rest of such an error is a fixed text of the server.
const REFUSALS: [&str; 6] = [
    "WRONGPASS ",
    "NOAUTH ",
    "NOPERM ",
    "ERR invalid password",
    "ERR Client sent AUTH",
    "ERR AUTH <password> called without any password",
];

/// The part that may be shown to people of a server's error answer to a request with a password. A server that does not
/// know the command (it was renamed, or the address belongs to another program now) quotes what it received.
#[must_use]
pub fn repeatable(answer: &str) -> &str {
    if REFUSALS.iter().any(|known| answer.starts_with(known)) {
        return answer;
    }
    "in words that are not repeated here, since they may quote the password; does a Redis server listen there, and does it \
     know the command?"
}

/// A login: of nodes at the servers of a group, or of clients at a product. Without a user name it is `AUTH password`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    /// ACL user; `None` is the user `default`.
    pub username: Option<String>,
    /// The password.
    pub password: Secret,
}

impl Credentials {
    /// The name of the user.
    #[must_use]
    pub fn user(&self) -> &str {
        self.username.as_deref().unwrap_or("default")
    }

    /// Whether both are the same user with the same password, however it is named.
    #[must_use]
    pub fn is_same_login(&self, other: &Self) -> bool {
        self.user() == other.user() && self.password == other.password
    }

    /// Whether a client gave these; without a user name it is the user `default`. Both are compared in any case, so that
    /// the time does not reveal which of the two was wrong.
    #[must_use]
    pub fn matches(&self, username: Option<&[u8]>, password: &[u8]) -> bool {
        let user_fits = username.unwrap_or(b"default") == self.user().as_bytes();
        let password_fits = self.password.matches(password);
        user_fits && password_fits
    }
}

/// How a node logs in at a server to carry out what clients ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerLogin {
    /// The control user: opens the connection and prepares it. `None`: the server needs no password.
    pub control: Option<Credentials>,
    /// The data user, to which the connection changes then. `None`: it stays the control user.
    pub data: Option<Credentials>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_shown() {
        let password = Secret::new("hunter2".into());
        let credentials = Credentials { username: Some("app".into()), password: password.clone() };
        let texts =
            [format!("{password}"), format!("{password:?}"), format!("{credentials:?}"), format!("{credentials:#?}")];
        for text in texts {
            assert!(!text.contains("hunter2") && text.contains("***"), "{text}");
        }
    }

    #[test]
    fn only_the_same_password_matches() {
        let password = Secret::new("hunter2".into());
        for (given, matches) in
            [("hunter2", true), ("hunter3", false), ("hunter", false), ("hunter22", false), ("", false)]
        {
            assert_eq!(password.matches(given.as_bytes()), matches, "{given}");
            assert_eq!(password == Secret::new(given.into()), matches, "{given}");
        }
        assert!(Secret::default().matches(b""));
    }
}
