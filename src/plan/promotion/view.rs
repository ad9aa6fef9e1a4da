//! What the leader knows at one moment about a promotion. Decides nothing.

use crate::{
    model::{
        ids::{HostPort, PromotionId, Term},
        promotion::Promotion,
        state::{ClusterState, Group, Hold, Product},
    },
    plan::{
        lease::Barrier,
        liveness::{Liveness, Watchers, liveness},
        observation::Observation,
        timing::Timing,
    },
};

/// What the leader knows at one moment about a promotion, without the state of its servers.
#[derive(Clone, Copy, Debug)]
pub struct PromotionObservation<'a> {
    /// The newest applied state.
    pub state: &'a ClusterState,
    /// The term in which this node leads.
    pub term: Term,
    /// The leader's clock, nanoseconds.
    pub now_ns: u64,
    /// The barrier of the hold that is open for the promotion, if one is.
    pub barrier: Option<&'a Barrier>,
    /// The ping timeout, the first pause and the number of attempts.
    pub timing: Timing,
}

/// What the nodes reported about servers, at the moment when an answer of one is judged.
#[derive(Clone, Copy, Debug)]
pub struct Reports<'a> {
    /// The reports.
    pub servers: &'a Observation,
    /// The nodes whose reports count.
    pub watchers: &'a Watchers<'a>,
}

/// An open promotion, and what it refers to.
#[derive(Clone, Copy, Debug)]
pub(super) struct OpenPromotion<'a> {
    pub seen: PromotionObservation<'a>,
    pub promotion: &'a Promotion,
    pub product: &'a Product,
    pub group: &'a Group,
    pub hold: Option<&'a Hold>,
}

impl<'a> OpenPromotion<'a> {
    /// `None`: the promotion is over.
    pub fn of(seen: &PromotionObservation<'a>, id: PromotionId) -> Option<Self> {
        let state = seen.state;
        let promotion = state.promotions.get(&id)?;
        let product = state.products.get(&promotion.product)?;
        let group = product.groups.get(&promotion.group)?;
        let hold = state.promotion_hold(id).and_then(|hold| state.holds.get(&hold));
        Some(Self { seen: *seen, promotion, product, group, hold })
    }

    /// Whether the old primary cannot have acknowledged a write since the candidate was promoted: there was a single
    /// hold, and it is still open. The candidate does not have writes that the old primary accepted between two holds.
    pub fn never_released(&self) -> bool {
        self.promotion.forced || (self.promotion.attempts == 1 && self.hold.is_some())
    }

    pub fn is_down(&self, reports: &Reports<'_>, server: &HostPort) -> bool {
        matches!(liveness(reports.watchers, server, self.group.options.down_after_ms), Liveness::Down { .. })
    }
}
