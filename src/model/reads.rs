//! Reads from replicas: the settings of a product, and the replicas that may serve now, as workers see them.
//! Knows nothing of how servers are probed, and of how a read is sent.

use std::{collections::BTreeMap, fmt, sync::Arc};

use super::ids::{Epoch, GroupId, HostPort, ProductId, SlotId};

/// Where reads of a product go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReadFrom {
    /// To the primary, like everything else.
    #[default]
    Primary,
    /// To a replica if one may serve, else to the primary.
    PreferReplica,
    /// To a replica, never to the primary.
    Replica,
    /// To the server that answers fastest, among those in the node's zone if there are any, else among all. The primary
    /// is one of them.
    Nearest,
}

/// The read settings of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadPolicy {
    /// Where reads go.
    pub from: ReadFrom,
    /// A replica that is further behind than this does not serve, milliseconds, within `limits::MAX_LAG_MS`; 0: no
    /// limit.
    pub max_lag_ms: u32,
    /// A session reads its own writes, whichever server it reads from.
    pub own_writes: bool,
    /// With min-acks: the reply to a read waits for the same confirmation as a write's. Only for reads from primaries.
    pub confirmed: bool,
}

impl Default for ReadPolicy {
    fn default() -> Self {
        // One second: twice the interval between two probes of a server, so that a replica in sync is not left out
        // between them.
        Self { from: ReadFrom::Primary, max_lag_ms: 1000, own_writes: false, confirmed: false }
    }
}

impl ReadFrom {
    /// All, in the order in which the documentation explains them.
    pub const ALL: [Self; 4] = [Self::Primary, Self::PreferReplica, Self::Replica, Self::Nearest];

    /// The name that operators write.
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
    /// A clause for people: `reads go to ...`.
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
        f.write_str(if self.own_writes { "; a session finds what it has written" } else { "" })?;
        f.write_str(if self.confirmed {
            "; a read waits until replicas have what it has seen (with min-acks)"
        } else {
            ""
        })
    }
}

/// A change of a [`ReadPolicy`]; only what is `Some` changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetReads {
    /// Where reads go.
    pub from: Option<ReadFrom>,
    /// How far a replica may be behind, milliseconds; 0: no limit.
    pub max_lag_ms: Option<u32>,
    /// Whether a session reads its own writes.
    pub own_writes: Option<bool>,
    /// With min-acks: whether reads are confirmed like writes.
    pub confirmed: Option<bool>,
}

impl SetReads {
    /// Whether any field is `Some`.
    #[must_use]
    pub fn changes_anything(&self) -> bool {
        *self != Self::default()
    }

    /// The policy that `before` becomes by this change.
    #[must_use]
    pub fn of(&self, before: ReadPolicy) -> ReadPolicy {
        ReadPolicy {
            from: self.from.unwrap_or(before.from),
            max_lag_ms: self.max_lag_ms.unwrap_or(before.max_lag_ms),
            own_writes: self.own_writes.unwrap_or(before.own_writes),
            confirmed: self.confirmed.unwrap_or(before.confirmed),
        }
    }
}

/// The replicas that may serve, of all products that read from replicas. Replaced as a whole, never changed in place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadTable {
    /// By product, without those that read from their primaries.
    pub products: BTreeMap<ProductId, Arc<ProductReads>>,
}

/// The replicas of a product that may serve.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProductReads {
    /// By group.
    pub groups: BTreeMap<GroupId, GroupReads>,
    /// Slots of open migrations, ascending: they are read from their primary.
    pub moving: Vec<SlotId>,
}

impl ProductReads {
    /// Whether a slot is in an open migration.
    #[must_use]
    pub fn is_moving(&self, slot: SlotId) -> bool {
        self.moving.binary_search(&slot).is_ok()
    }
}

/// The replicas of a group that may serve.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupReads {
    /// The replicas, all equally good. Empty for [`ReadFrom::Nearest`] where the primary is the nearest.
    pub replicas: Vec<Readable>,
    /// Why no replica may serve, for people. Used only if `replicas` is empty.
    pub none: String,
}

/// A replica that may serve. Times are nanoseconds of `CLOCK_BOOTTIME` of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readable {
    /// Its address.
    pub addr: HostPort,
    /// The process that was probed: after a restart the server may have older data.
    pub run_id: String,
    /// It has everything that its primary had at this time.
    pub has_ns: u64,
    /// It has everything that its primary had when this node had applied this log entry. Slots whose owner or primary
    /// changed later are not read here.
    pub as_of: Epoch,
    /// It may serve until this time, unless it is confirmed again.
    pub until_ns: u64,
}
