//! What happened, with its evidence, for people: a bounded list in the replicated state.
//! Knows nothing of who reads it; nothing is decided by it.

use super::ids::{Epoch, ProductId};

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Log index of the entry by which it happened; an entry makes one event at most.
    pub index: Epoch,
    /// Milliseconds since the epoch at the node that proposed the entry.
    pub at_ms: u64,
    /// What.
    pub kind: EventKind,
    /// In which product.
    pub product: Option<ProductId>,
    /// To what: "migration 17", "group 3".
    pub subject: String,
    /// With which evidence.
    pub text: String,
}

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventKind {
    /// A migration was planned.
    Planned,
    /// An attempt began.
    Started,
    /// The target is clean, copying began.
    Copying,
    /// Only what changes now is missing.
    CaughtUp,
    /// The comparison of source and target has ended.
    Verified,
    /// The slots are held.
    Held,
    /// The hold ended without a switch.
    Released,
    /// The slots have another owner.
    Switched,
    /// The attempt ended, the next one begins anew.
    Restarted,
    /// It was cancelled; the target is wiped.
    Cancelling,
    /// It waits for somebody to resume it.
    Paused,
    /// It goes on.
    Resumed,
    /// Its limits changed.
    LimitsSet,
    /// A run that deletes leftovers began.
    RunStarted,
    /// A migration is done.
    Done,
    /// A migration is cancelled and the target is clean.
    Cancelled,
    /// A sweep ended before it was through.
    SweepEnded,
    /// A sweep is through.
    Swept,
    /// A group is to get another primary.
    PromotionStarted,
    /// Its slots are held for that.
    PromotionHeld,
    /// That hold ended without a change of primary.
    PromotionReleased,
    /// A group has another primary.
    Promoted,
    /// It keeps its primary after all.
    PromotionGivenUp,
    /// A primary has another replication id than it had: it restarted, was replaced by hand, or got its first replica.
    PrimaryNoted,
    /// A server that was no candidate follows its primary again.
    Resynced,
    /// Nothing is changed automatically any more.
    MaintenanceOn,
    /// Changes are made automatically again.
    MaintenanceOff,
    /// A cache's group is out: its slots are reinstates.
    Ejected,
    /// It is back, and has its slots.
    Reinstated,
    /// A server was made to be in its group what the log says: a replica of the primary, or the primary.
    Reconciled,
}

impl EventKind {
    /// All of them, in the order of the durable format.
    pub const ALL: [Self; 30] = [
        Self::Planned,
        Self::Started,
        Self::Copying,
        Self::CaughtUp,
        Self::Verified,
        Self::Held,
        Self::Released,
        Self::Switched,
        Self::Restarted,
        Self::Cancelling,
        Self::Paused,
        Self::Resumed,
        Self::LimitsSet,
        Self::RunStarted,
        Self::Done,
        Self::Cancelled,
        Self::SweepEnded,
        Self::Swept,
        Self::PromotionStarted,
        Self::PromotionHeld,
        Self::PromotionReleased,
        Self::Promoted,
        Self::PromotionGivenUp,
        Self::PrimaryNoted,
        Self::Resynced,
        Self::MaintenanceOn,
        Self::MaintenanceOff,
        Self::Ejected,
        Self::Reinstated,
        Self::Reconciled,
    ];

    /// As people and machines read it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Started => "started",
            Self::Copying => "copying",
            Self::CaughtUp => "caught-up",
            Self::Verified => "verified",
            Self::Held => "held",
            Self::Released => "released",
            Self::Switched => "switched",
            Self::Restarted => "restarted",
            Self::Cancelling => "cancelling",
            Self::Paused => "paused",
            Self::Resumed => "resumed",
            Self::LimitsSet => "limits-set",
            Self::RunStarted => "run-started",
            Self::Done => "done",
            Self::Cancelled => "cancelled",
            Self::SweepEnded => "sweep-ended",
            Self::Swept => "swept",
            Self::PromotionStarted => "promotion-started",
            Self::PromotionHeld => "promotion-held",
            Self::PromotionReleased => "promotion-released",
            Self::Promoted => "promoted",
            Self::PromotionGivenUp => "promotion-given-up",
            Self::PrimaryNoted => "primary-noted",
            Self::Resynced => "resynced",
            Self::MaintenanceOn => "maintenance-on",
            Self::MaintenanceOff => "maintenance-off",
            Self::Ejected => "reinstates",
            Self::Reinstated => "returned",
            Self::Reconciled => "reconciled",
        }
    }
}
