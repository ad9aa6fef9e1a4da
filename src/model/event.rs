//! What happened, with its evidence, for people: a bounded list in the replicated state. No decision depends on it.

use super::ids::{Epoch, ProductId};

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Log index of the entry that caused it. An entry causes at most one event.
    pub index: Epoch,
    /// Milliseconds since the Unix epoch, by the clock of the node that proposed the entry.
    pub at_ms: u64,
    /// What happened.
    pub kind: EventKind,
    /// The product it concerns, if any.
    pub product: Option<ProductId>,
    /// The object it happened to: "migration 17", "group 3".
    pub subject: String,
    /// The evidence.
    pub text: String,
}

/// The kinds of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventKind {
    /// A migration was planned.
    Planned,
    /// An attempt began.
    Started,
    /// The target is clean, and copying began.
    Copying,
    /// The target lacks only the keys that change now.
    CaughtUp,
    /// The comparison of source and target has ended.
    Verified,
    /// The slots are held.
    Held,
    /// The hold ended without a switch.
    Released,
    /// The slots changed their owner.
    Switched,
    /// The attempt ended; the next one starts from the beginning.
    Restarted,
    /// A migration was cancelled; the target is being wiped.
    Cancelling,
    /// A migration was paused until an operator resumes it.
    Paused,
    /// A paused migration continues.
    Resumed,
    /// The limits of a migration changed.
    LimitsSet,
    /// A run that deletes leftovers began.
    RunStarted,
    /// A migration is done.
    Done,
    /// A migration is cancelled and the target is clean.
    Cancelled,
    /// A sweep was ended before it was finished.
    SweepEnded,
    /// A sweep is finished.
    Swept,
    /// A promotion began: a group is to get another primary.
    PromotionStarted,
    /// The slots of the group are held for its promotion.
    PromotionHeld,
    /// The hold of a promotion ended without a change of primary.
    PromotionReleased,
    /// A group has another primary.
    Promoted,
    /// A promotion was given up; the group keeps its primary.
    PromotionGivenUp,
    /// A primary has a new process or a new replication id: it restarted, was replaced by hand, or got its first
    /// replica.
    PrimaryNoted,
    /// A server that had diverged has copied its primary's data and is a candidate again.
    Resynced,
    /// Maintenance began: nothing is changed automatically.
    MaintenanceOn,
    /// Maintenance ended.
    MaintenanceOff,
    /// A group of a cache was ejected: its slots belong to other groups for now.
    Ejected,
    /// An ejected group has its slots again.
    Reinstated,
    /// A server was made what the log says: the primary of its group, or a replica of it.
    Reconciled,
    /// The guard keeps a group from an automatic failover.
    FailoverHeldBack,
    /// A script that kept a server busy for too long was ended.
    ScriptEnded,
    /// A primary refuses writes because it cannot write to its disk.
    WritesRefused,
    /// A node closes clients because its memory budget is used up.
    ClientsClosed,
    /// A group needs another primary, and no server can replace the present one.
    NotFailedOver,
}

impl EventKind {
    /// All kinds, in the order of the durable format.
    pub const ALL: [Self; 35] = [
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
        Self::FailoverHeldBack,
        Self::ScriptEnded,
        Self::WritesRefused,
        Self::ClientsClosed,
        Self::NotFailedOver,
    ];

    /// The name that people and machines read.
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
            Self::Ejected => "ejected",
            Self::Reinstated => "reinstated",
            Self::Reconciled => "reconciled",
            Self::FailoverHeldBack => "failover-held-back",
            Self::ScriptEnded => "script-ended",
            Self::WritesRefused => "writes-refused",
            Self::ClientsClosed => "clients-closed",
            Self::NotFailedOver => "not-failed-over",
        }
    }
}
