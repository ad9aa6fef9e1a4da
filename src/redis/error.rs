//! What can go wrong when a server is asked, in words that say what to do.
//! Knows nothing of why it was asked.

use crate::model::ids::HostPort;

/// A server gave no usable answer. The `Display` text names the server and the remedy; it never holds a password.
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
    /// This machine cannot connect to anyone now: that says nothing of the server.
    #[error(
        "this machine cannot open a connection to {addr}: {why}; raise its limits (LimitNOFILE, ip_local_port_range)"
    )]
    Exhausted {
        /// Which server.
        addr: HostPort,
        /// From the operating system.
        why: String,
    },
    /// Connected, but no complete answer in time.
    #[error("{addr} did not answer {command} in time; it may hang or be overloaded")]
    Timeout {
        /// Which server.
        addr: HostPort,
        /// The command's name.
        command: String,
    },
    /// The connection ended in the middle.
    #[error("{addr} closed the connection while {command} was awaited: {why}")]
    Closed {
        /// Which server.
        addr: HostPort,
        /// The command's name.
        command: String,
        /// From the operating system.
        why: String,
    },
    /// Not RESP, or beyond a limit.
    #[error("{addr} does not answer as a Redis server does: {why}")]
    Protocol {
        /// Which server.
        addr: HostPort,
        /// What was wrong.
        why: String,
    },
    /// The server wants a password and got none.
    #[error("{addr} wants a password; give --password-file (and --username, if it is not for the user 'default')")]
    PasswordNeeded {
        /// Which server.
        addr: HostPort,
    },
    /// The server did not take the password.
    #[error("{addr} refuses the password: {text}; check --password-file and --username")]
    WrongPassword {
        /// Which server.
        addr: HostPort,
        /// The server's words.
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
    /// `-NOPERM`.
    #[error("{addr} does not allow this user {command}: {text}; let the user run it (ACL SETUSER ... +{command})")]
    NotAllowed {
        /// Which server.
        addr: HostPort,
        /// The command's name.
        command: String,
        /// The server's words.
        text: String,
    },
    /// Any other error answer.
    #[error("{addr} answers {command} with an error: {text}")]
    Refused {
        /// Which server.
        addr: HostPort,
        /// The command's name.
        command: String,
        /// The server's words.
        text: String,
    },
}

/// Longest piece of a server's error that is repeated to people.
const TEXT_MAX: usize = 300;

impl RedisError {
    /// Sorts a server's error answer.
    #[must_use]
    pub fn of_answer(addr: &HostPort, command: &str, text: &str) -> Self {
        let (addr, command) = (addr.clone(), command.to_owned());
        let text: String = text.chars().filter(|c| !c.is_control()).take(TEXT_MAX).collect();
        match text.split(' ').next().unwrap_or_default() {
            "NOAUTH" => Self::PasswordNeeded { addr },
            "WRONGPASS" => Self::WrongPassword { addr, text },
            "DENIED" => Self::Protected { addr },
            "LOADING" => Self::Loading { addr },
            "NOPERM" => Self::NotAllowed { addr, command: command.to_ascii_lowercase(), text },
            // "ERR invalid password" up to Redis 5; "ERR AUTH <password> called without any password configured".
            _ if command == "AUTH" => Self::WrongPassword { addr, text },
            _ => Self::Refused { addr, command, text },
        }
    }

    /// Whether the server answered, and the answer was no (rather than silence).
    #[must_use]
    pub fn answered(&self) -> bool {
        !matches!(self, Self::Unreachable { .. } | Self::Exhausted { .. } | Self::Timeout { .. } | Self::Closed { .. })
    }
}
