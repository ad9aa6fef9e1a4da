//! The errors of requests to a server, with the remedy in the text.
//! Knows nothing of the purpose of a request.

use crate::model::{ids::HostPort, secret::repeatable};

/// Why a server gave no usable reply. The `Display` text names the server and the remedy; it never contains a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedisError {
    /// No TCP connection.
    #[error("{addr} cannot be reached: {why}; check the address and that the server runs")]
    Unreachable {
        /// Which server.
        addr: HostPort,
        /// From the operating system, or the deadline.
        why: String,
    },
    /// This machine cannot open connections now. That says nothing about the server.
    #[error(
        "this machine cannot open a connection to {addr}: {why}; raise its limits (LimitNOFILE, ip_local_port_range)"
    )]
    Exhausted {
        /// Which server.
        addr: HostPort,
        /// From the operating system.
        why: String,
    },
    /// Connected, but no complete reply in time.
    #[error("{addr} did not answer {command} in time; it may hang or be overloaded")]
    Timeout {
        /// Which server.
        addr: HostPort,
        /// The command's name.
        command: String,
    },
    /// The connection was closed.
    #[error("{addr} closed the connection before it answered {command}: {why}")]
    Closed {
        /// Which server.
        addr: HostPort,
        /// The command's name.
        command: String,
        /// From the operating system.
        why: String,
    },
    /// Not RESP, or a limit was exceeded.
    #[error("{addr} does not answer as a Redis server does: {why}")]
    Protocol {
        /// Which server.
        addr: HostPort,
        /// What was wrong.
        why: String,
    },
    /// The server needs a password and got none.
    #[error("{addr} wants a password; give --password-file (and --username, if it is not for the user 'default')")]
    PasswordNeeded {
        /// Which server.
        addr: HostPort,
    },
    /// The server refused the password.
    #[error("{addr} refuses the password: {text}; check --password-file and --username")]
    WrongPassword {
        /// Which server.
        addr: HostPort,
        /// The server's error text.
        text: String,
    },
    /// `-DENIED`: protected mode.
    #[error(
        "{addr} is in protected mode and takes no connections from other machines; give it a password (requirepass) \
         or bind it to an address that is protected otherwise and set 'protected-mode no'"
    )]
    Protected {
        /// Which server.
        addr: HostPort,
    },
    /// `-LOADING`.
    #[error("{addr} is still loading its data; try again when it is done")]
    Loading {
        /// Which server.
        addr: HostPort,
    },
    /// `-BUSY`: a script runs, and the server executes nothing else.
    #[error("{addr} is busy with a script; try again when it has ended, or end it (SCRIPT KILL, FUNCTION KILL)")]
    Busy {
        /// Which server.
        addr: HostPort,
    },
    /// `-NOPERM`.
    #[error(
        "{addr} does not allow this user {command}: {text}; let the user run it \
         (ACL SETUSER ... +{command}, then ACL SAVE or CONFIG REWRITE)"
    )]
    NotAllowed {
        /// Which server.
        addr: HostPort,
        /// The command's name.
        command: String,
        /// The server's error text.
        text: String,
    },
    /// Any other error reply.
    #[error("{addr} answers {command} with an error: {text}")]
    Refused {
        /// Which server.
        addr: HostPort,
        /// The command's name.
        command: String,
        /// The server's error text.
        text: String,
    },
}

/// Longest part of a server's error text that is repeated to people, in characters.
const TEXT_MAX: usize = 300;

/// After these words a server quotes the arguments of an unknown command, which may contain data or a password.
const QUOTATION: &str = ", with args beginning with";

impl RedisError {
    /// Classifies an error reply to this request. If the request contained a password, the server's text is not
    /// repeated.
    #[must_use]
    pub fn of_request(addr: &HostPort, request: &[&[u8]], text: &str) -> Self {
        let name = String::from_utf8_lossy(request.first().copied().unwrap_or_default());
        Self::classify(addr, &name, text, holds_secret(request))
    }

    /// Classifies an error reply to a request of which only the command's name is known.
    #[must_use]
    pub fn of_answer(addr: &HostPort, command: &str, text: &str) -> Self {
        Self::classify(addr, command, text, matches!(command, "AUTH" | "CONFIG" | "ACL"))
    }

    /// `secret`: the request contained a password.
    fn classify(addr: &HostPort, command: &str, text: &str, secret: bool) -> Self {
        let (addr, command) = (addr.clone(), command.to_owned());
        let kind = text.split(' ').next().unwrap_or_default();
        let text = if secret { repeatable(text) } else { text.split(QUOTATION).next().unwrap_or_default() };
        let text: String = text.chars().filter(|c| !c.is_control()).take(TEXT_MAX).collect();
        match kind {
            "NOAUTH" => Self::PasswordNeeded { addr },
            "WRONGPASS" => Self::WrongPassword { addr, text },
            "DENIED" => Self::Protected { addr },
            "LOADING" => Self::Loading { addr },
            "BUSY" => Self::Busy { addr },
            "NOPERM" => Self::NotAllowed { addr, command: command.to_ascii_lowercase(), text },
            // "ERR invalid password" up to Redis 5; "ERR AUTH <password> called without any password configured".
            _ if command == "AUTH" => Self::WrongPassword { addr, text },
            _ => Self::Refused { addr, command, text },
        }
    }

    /// Whether the server replied with an error (rather than not at all).
    #[must_use]
    pub fn answered(&self) -> bool {
        !matches!(self, Self::Unreachable { .. } | Self::Exhausted { .. } | Self::Timeout { .. } | Self::Closed { .. })
    }
}

/// Whether a request contains a password.
fn holds_secret(request: &[&[u8]]) -> bool {
    let is = |at: usize, word: &str| request.get(at).is_some_and(|arg| arg.eq_ignore_ascii_case(word.as_bytes()));
    let named =
        |words: &[&str]| request.iter().skip(1).any(|arg| words.iter().any(|w| arg.eq_ignore_ascii_case(w.as_bytes())));
    is(0, "AUTH")
        || is(0, "HELLO") && named(&["AUTH"])
        || is(0, "CONFIG") && named(&["masterauth", "requirepass"])
        || is(0, "ACL") && is(1, "SETUSER")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn error(request: &[&str], text: &str) -> String {
        let request: Vec<&[u8]> = request.iter().map(|arg| arg.as_bytes()).collect();
        RedisError::of_request(&HostPort::parse("10.0.0.1:6379").unwrap(), &request, text).to_string()
    }

    #[test]
    fn a_password_that_a_server_quotes_is_not_repeated() {
        for request in [
            &["AUTH", "topsecret42"][..],
            &["AUTH", "user", "topsecret42"],
            &["HELLO", "3", "AUTH", "user", "topsecret42"],
            &["CONFIG", "SET", "masterauth", "topsecret42"],
        ] {
            for text in [
                "ERR unknown command 'AUTH', with args beginning with: 'topsecret42'",
                "ERR what is topsecret42?",
                "topsecret42",
                "500 unknown: AUTH topsecret42",
            ] {
                let shown = error(request, text);
                assert!(!shown.contains("secret") && shown.contains("10.0.0.1:6379"), "{request:?}: {shown}");
            }
        }
        let shown = error(&["AUTH", "x"], "WRONGPASS invalid username-password pair or user is disabled.");
        assert!(shown.contains("invalid username-password pair"), "{shown}");
        let shown = error(&["AUTH", "x"], "ERR AUTH <password> called without any password configured for the user.");
        assert!(shown.contains("without any password"), "{shown}");
        assert!(error(&["AUTH", "x"], "DENIED Redis is running in protected mode").contains("protected mode"));
        // Nor are the arguments of other commands; otherwise their errors are repeated.
        let shown =
            error(&["RESTORE", "key", "0", "data"], "ERR unknown command 'RESTORE', with args beginning with: 'key'");
        assert!(shown.contains("unknown command 'RESTORE'") && !shown.contains("key"), "{shown}");
    }
}
