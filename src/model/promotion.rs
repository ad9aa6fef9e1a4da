//! A promotion: a group gets another primary, because the one it has is gone (failover) or because somebody wants it so
//! (switchover). Knows nothing of how a candidate is chosen, nor of what is done at the servers.

use super::{
    ids::{Epoch, GroupId, HoldId, HostPort, ProductId, PromotionId},
    route::HoldKind,
    state::{Cause, ClusterState},
};

/// Why a group gets another primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PromotionKind {
    /// The primary is gone; what its replica has not got is lost.
    Failover,
    /// The primary is there; nothing is lost.
    Switchover,
}

impl PromotionKind {
    /// As people and machines read it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Failover => "failover",
            Self::Switchover => "switchover",
        }
    }

    /// How its hold treats what is in flight: a primary that is gone answers nothing more.
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
    /// Its id: the log index of StartPromotion.
    pub id: PromotionId,
    /// In which product.
    pub product: ProductId,
    /// Of which group.
    pub group: GroupId,
    /// The primary when it began, and until it ends.
    pub from: HostPort,
    /// The replica that is to be the primary.
    pub to: HostPort,
    /// Unplanned or planned.
    pub kind: PromotionKind,
    /// Demanded by the operator against what speaks against it.
    pub forced: bool,
    /// The group's epoch when it began, and until it ends.
    pub group_epoch: Epoch,
    /// Why it began, and why this replica, for people and for the next leader.
    pub why: String,
    /// Hold entries so far. From the first on `to` may have been told to be a primary.
    pub attempts: u32,
    /// Milliseconds since the epoch, of its StartPromotion.
    pub started_ms: u64,
}

/// How a promotion ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedPromotion {
    /// As it was at its end.
    pub promotion: Promotion,
    /// Log index of the entry that ended it.
    pub at: Epoch,
    /// Milliseconds since the epoch, of that entry.
    pub at_ms: u64,
    /// `None`: finished. Else why it was given up.
    pub failed: Option<String>,
}

/// A place in a primary's stream of writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicationOffset {
    /// Replication id under which the offset counts.
    pub replid: String,
    /// Replication offset, bytes.
    pub offset: u64,
}

impl ClusterState {
    /// The promotion of a group that has not ended.
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
