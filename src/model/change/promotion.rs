//! Changes of promotions.

use crate::model::{
    ids::{Epoch, GroupId, HoldId, HostPort, ProductId, PromotionId, Term},
    promotion::{PromotionKind, ReplicationOffset},
};

/// Begins a promotion: a group is to get another primary. This entry precedes everything that is done at a server.
/// Nothing is done there before the first hold, because a promotion that is given up before it leaves no mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartPromotion {
    /// Product of the group.
    pub product: ProductId,
    /// The group.
    pub group: GroupId,
    /// The replica that is to be the primary.
    pub to: HostPort,
    /// Failover (unplanned) or switchover (planned).
    pub kind: PromotionKind,
    /// Epoch of the group when its servers were checked.
    pub group_epoch: Epoch,
    /// The `Group::required_offset` that the choice respected. Refused when a switch has changed it since.
    pub required_offset: Option<ReplicationOffset>,
    /// The operator demands the promotion of a server that has diverged.
    pub forced: bool,
    /// Why the promotion is needed, and why this replica was chosen.
    pub why: String,
}

/// The replica is the primary now. Proposed when the replica has confirmed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FinishPromotion {
    /// The promotion.
    pub promotion: PromotionId,
    /// Its open hold, whose barrier has passed.
    pub hold: HoldId,
    /// Term of the verdict. Refused in another term.
    pub term: Term,
}

/// Gives a promotion up: the group keeps its primary. Ends the hold if one is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GiveUpPromotion {
    /// The promotion.
    pub promotion: PromotionId,
    /// The reason, for people.
    pub why: String,
    /// The old primary has answered and has its data. A failover that has held slots is given up only then, or if
    /// `forced`.
    pub primary_back: bool,
    /// The operator demands it.
    pub forced: bool,
}
