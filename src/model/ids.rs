//! Identifiers, each a type of its own, so that they cannot be mixed up.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($int:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $int);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// A product, numbered from 1 in order of creation; never reused.
    ProductId(u32)
);
id!(
    /// A group within its product, chosen by the operator, from 1.
    GroupId(u32)
);
id!(
    /// A node, chosen by the operator (`--id`), from 1. Never 0.
    NodeId(u64)
);
id!(
    /// A slot of a product, from 0 to `Layout::slots() - 1`.
    SlotId(u16)
);
id!(
    /// A log index that orders changes (docs/design/serving.md). 0: never.
    Epoch(u64)
);
id!(
    /// A hold: the log index of its Hold entry.
    HoldId(u64)
);
id!(
    /// One start of a node: the log index of the entry that admitted it.
    Incarnation(u64)
);
id!(
    /// An assignment of slots that have an owner: the log index of its StartAssign entry.
    AssignmentId(u64)
);
id!(
    /// A migration: the log index of its PlanMigration entry.
    MigrationId(u64)
);
id!(
    /// A promotion: the log index of its StartPromotion entry.
    PromotionId(u64)
);
id!(
    /// A Raft term.
    Term(u64)
);

/// 128 random bits: a node's identity (in its data directory), a start of a node, a cluster, a change.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Uuid(pub u128);

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// `host:port` as the operator wrote it: the identity of a server. IPv6 hosts are in brackets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort(String);

impl HostPort {
    /// Longest text accepted: a DNS name of 253 bytes, brackets, colon and port.
    pub const LEN_MAX: usize = 264;

    /// Parses `host:port`.
    ///
    /// # Errors
    /// Returns why `text` is not an address, as text for the operator: no host, no port from 1 to 65535, white space,
    /// or longer than [`Self::LEN_MAX`].
    pub fn parse(text: &str) -> Result<Self, String> {
        let bad = |why: &str| Err(format!("'{text}' is not HOST:PORT: {why}"));
        if text.len() > Self::LEN_MAX {
            return bad("too long");
        }
        if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return bad("it contains white space");
        }
        let Some((host, port)) = text.rsplit_once(':') else { return bad("no port") };
        if host.is_empty() {
            return bad("no host");
        }
        if host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) {
            return bad("put an IPv6 address in brackets");
        }
        match port.parse::<u16>() {
            Ok(p) if p > 0 => Ok(Self(format!("{host}:{p}"))),
            _ => bad("the port must be a number from 1 to 65535"),
        }
    }

    /// The whole text, for connecting and showing.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The host without the port; an IPv6 host keeps its brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        self.0.rsplit_once(':').map_or("", |(h, _)| h)
    }

    /// The port, 1 to 65535.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.0.rsplit_once(':').and_then(|(_, p)| p.parse().ok()).unwrap_or(0)
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
