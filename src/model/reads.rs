//! Reads at replicas: what a product wants of them, and which replicas may serve now, as workers are told it.
//! Knows nothing of how servers are watched, nor of how a read gets there.

use std::{collections::BTreeMap, fmt, sync::Arc};

use super::ids::{Epoch, GroupId, HostPort, ProductId, SlotId};

/// Where reads of a product go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReadFrom {
    /// To the primary, as everything else.
    #[default]
    Primary,
    /// To a replica if one may serve, else to the primary.
    PreferReplica,
    /// To a replica, never to the primary.
    Replica,
    /// To a server in the node's zone if there is one, and of those, or of all, to the one that answers fastest; the primary is
    /// one of them.
    Nearest,
}

/// What a product wants of reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadPolicy {
    /// Where they go.
    pub from: ReadFrom,
    /// A replica that is further behind than this serves nothing, milliseconds, `limits::MAX_LAG_MS`; 0: however far it is.
    pub max_lag_ms: u32,
    /// A session finds what it has written, at whatever server.
    pub own_writes: bool,
}

impl Default for ReadPolicy {
    fn default() -> Self {
        // A second: twice what lies between two looks at a server, so that a replica in step is not left out between them.
        Self { from: ReadFrom::Primary, max_lag_ms: 1000, own_writes: false }
    }
}

impl ReadFrom {
    /// All, in the order in which they are explained.
    pub const ALL: [Self; 4] = [Self::Primary, Self::PreferReplica, Self::Replica, Self::Nearest];

    /// As operators write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::PreferReplica => "prefer-replica",
            Self::Replica => "replica",
            Self::Nearest => "nearest",
        }
    }
}

impl fmt::Display for ReadPolicy {
    /// A sentence's end: `reads go to ...`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.from {
            ReadFrom::Primary => return f.write_str("reads go to the primary"),
            ReadFrom::PreferReplica => "reads go to a replica if one may serve, else to the primary",
            ReadFrom::Replica => "reads go to a replica, never to the primary",
            ReadFrom::Nearest => "reads go to the nearest server",
        })?;
        match self.max_lag_ms {
            0 => f.write_str("; however far a replica is behind")?,
            ms => write!(f, "; a replica more than {ms} ms behind serves nothing")?,
        }
        f.write_str(if self.own_writes { "; a session finds what it has written" } else { "" })
    }
}

/// A change of a [`ReadPolicy`]; only what is `Some` changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetReads {
    /// Where reads go.
    pub from: Option<ReadFrom>,
    /// How far a replica may be behind, milliseconds; 0: however far.
    pub max_lag_ms: Option<u32>,
    /// Whether a session finds what it has written.
    pub own_writes: Option<bool>,
}

impl SetReads {
    /// Whether it says anything.
    #[must_use]
    pub fn says_something(&self) -> bool {
        *self != Self::default()
    }

    /// The policy that `before` becomes.
    #[must_use]
    pub fn of(&self, before: ReadPolicy) -> ReadPolicy {
        ReadPolicy {
            from: self.from.unwrap_or(before.from),
            max_lag_ms: self.max_lag_ms.unwrap_or(before.max_lag_ms),
            own_writes: self.own_writes.unwrap_or(before.own_writes),
        }
    }
}

/// Which replicas may serve, of all products that want it. Replaced as a whole, never changed in place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadTable {
    /// By product; one that reads from its primaries is not in it.
    pub products: BTreeMap<ProductId, Arc<ProductReads>>,
}

/// Which replicas of a product may serve.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProductReads {
    /// By group.
    pub groups: BTreeMap<GroupId, GroupReads>,
    /// Slots of migrations that have not ended, ascending: they are read from their primary.
    pub moving: Vec<SlotId>,
}

impl ProductReads {
    /// Whether a slot is in a migration that has not ended.
    #[must_use]
    pub fn is_moving(&self, slot: SlotId) -> bool {
        self.moving.binary_search(&slot).is_ok()
    }
}

/// Which replicas of a group may serve.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupReads {
    /// Those that may; one is as good as the other. Empty for [`ReadFrom::Nearest`] where the primary is the nearest.
    pub replicas: Vec<Readable>,
    /// When there is none: why, for people.
    pub none: String,
}

/// A replica that may serve. Times are nanoseconds of `CLOCK_BOOTTIME` of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readable {
    /// Which.
    pub addr: HostPort,
    /// Of the process that was looked at: after a restart it may have older data.
    pub run_id: String,
    /// It has all that its primary had then.
    pub has_ns: u64,
    /// It has all that its primary had when this node had applied this entry of the log: slots that changed their owner or
    /// their primary later are not read here.
    pub as_of: Epoch,
    /// It may serve until then, unless it is said anew.
    pub until_ns: u64,
}
