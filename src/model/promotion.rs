//! Promotions: a group gets another primary, because its primary is down (failover) or because an operator wants it
//! (switchover). Knows nothing of how a candidate is chosen, and of what is done at the servers.

use super::{
    ids::{Epoch, GroupId, HoldId, HostPort, ProductId, PromotionId},
    route::HoldKind,
    state::{Cause, ClusterState},
};

/// The kinds of promotions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PromotionKind {
    /// Unplanned: the primary is down. Writes that the replica does not have are lost.
    Failover,
    /// Planned: the primary is up. Nothing is lost.
    Switchover,
}

impl PromotionKind {
    /// The name that people and machines read.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Failover => "failover",
            Self::Switchover => "switchover",
        }
    }

    /// How its hold treats requests in flight: a primary that is down does not answer them.
    #[must_use]
    pub const fn hold(self) -> HoldKind {
        match self {
            Self::Failover => HoldKind::Abandon,
            Self::Switchover => HoldKind::Wait,
        }
    }
}

/// A promotion that has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promotion {
    /// Its id: the log index of its StartPromotion entry.
    pub id: PromotionId,
    /// Product of the group.
    pub product: ProductId,
    /// The group.
    pub group: GroupId,
    /// The primary, from its begin to its end.
    pub from: HostPort,
    /// The replica that is to be the primary.
    pub to: HostPort,
    /// Failover or switchover.
    pub kind: PromotionKind,
    /// The operator demands it although data may be lost.
    pub forced: bool,
    /// The group's epoch, from its begin to its end.
    pub group_epoch: Epoch,
    /// Why it began, and why this replica, for people and for the next leader.
    pub why: String,
    /// Holds so far. After the first one, `to` may have become a primary.
    pub attempts: u32,
    /// When it began, milliseconds since the Unix epoch.
    pub started_ms: u64,
}

/// A promotion that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedPromotion {
    /// The promotion at its end.
    pub promotion: Promotion,
    /// Log index of the entry that ended it.
    pub at: Epoch,
    /// When it ended, milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// `None`: finished. Else why it was given up.
    pub failed: Option<String>,
}

/// A position in a primary's replication stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicationOffset {
    /// Replication id that the offset belongs to.
    pub replid: String,
    /// Replication offset, bytes.
    pub offset: u64,
}

impl ClusterState {
    /// The open promotion of a group.
    #[must_use]
    pub fn promotion_of(&self, product: ProductId, group: GroupId) -> Option<&Promotion> {
        self.promotions.values().find(|p| (p.product, p.group) == (product, group))
    }

    /// The open hold of a promotion.
    #[must_use]
    pub fn promotion_hold(&self, id: PromotionId) -> Option<HoldId> {
        self.holds.values().find(|h| h.cause == Cause::Promotion(id)).map(|h| h.id)
    }
}
