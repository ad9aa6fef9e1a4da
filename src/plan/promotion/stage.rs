//! How far a leader has come with a promotion in its term. Plain values; decides nothing.

use std::collections::BTreeMap;

use super::servers::ServerStatus;
use crate::model::{
    change::Change,
    ids::{Epoch, HoldId, HostPort},
    promotion::Promotion,
};

const MS: u64 = 1_000_000;
/// How long a server may take for a few answers, nanoseconds. A server that takes longer counts as down; in a hold,
/// clients wait for it.
pub const ACT_MAX_NS: u64 = 1_000 * MS;
/// Budget of a failover's hold, nanoseconds: longer than a lease, so that the lease of a silent node ends within it.
/// Afterwards requests are refused immediately instead of parked, until the next hold.
pub(super) const HOLD_MAX_NS: u64 = 10_000 * MS;
/// How long a switchover may fail to begin before it is given up, since an operator waits for it, nanoseconds. Longer
/// than a lease and an election together.
pub(super) const BEGIN_MAX_NS: u64 = 30_000 * MS;
/// How long the candidate may be unfit before the promotion is given up, while nothing was held yet, nanoseconds: a new
/// leader must first receive the nodes' reports.
pub(super) const UNFIT_MAX_NS: u64 = 3_000 * MS;
/// By how much a switchover's hold may exceed its budget while it is unknown whether the candidate, which may have been
/// sent REPLICAOF NO ONE, is a primary, nanoseconds. Giving up leaves two primaries for a while, and one of them must
/// copy everything again. Together with the time before (hold-max, [`ACT_MAX_NS`] for the answer, [`SAVE_MAX_NS`]) and
/// after it (the last [`ACT_MAX_NS`]) it is shorter than the 5 s for which requests are parked by default, so that no
/// request fails because of it.
pub(super) const UNKNOWN_MAX_NS: u64 = 2_000 * MS;
/// How long the candidate may take to save its configuration while clients wait for it, nanoseconds: that takes two
/// syncs of its disk, some milliseconds.
pub const SAVE_MAX_NS: u64 = 500 * MS;
/// The interval at which a server that does not answer is asked again, nanoseconds: an answer takes less than a
/// millisecond when it is up.
pub(super) const POLL_NS: u64 = 100 * MS;
/// The interval at which a replica that has almost everything is asked, nanoseconds: its primary sends more often.
pub(super) const CATCH_UP_POLL_NS: u64 = MS;
/// The longest pause after a hold that was released, nanoseconds: requests are refused in the meantime.
pub(super) const BACKOFF_MAX_NS: u64 = 5_000 * MS;
/// How many bytes a replica may lag when its hold begins: replicating and executing them takes about a millisecond.
pub(super) const LAG_AT_HOLD: u64 = 256 << 10;
/// After this number of refusals by the candidate the cause is assumed to be lasting (no right to REPLICAOF, other
/// data). Another candidate is then better, since clients wait.
pub(super) const REFUSED_MAX: u32 = 10;

/// Why an attempt failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The promotion ends.
    GiveUp(GivenUp),
    /// Another attempt follows after a pause.
    Retry(String),
}

/// Why a promotion ends, and why that is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GivenUp {
    pub why: String,
    /// The old primary has its data and stays.
    pub primary_back: bool,
    /// Although slots were held: the candidate was provably not promoted, or lacks confirmed writes.
    pub forced: bool,
}

impl Failure {
    pub fn give_up(why: String) -> Self {
        Self::GiveUp(GivenUp { why, primary_back: false, forced: false })
    }

    pub fn primary_back(why: String) -> Self {
        Self::GiveUp(GivenUp { why, primary_back: true, forced: false })
    }

    /// The candidate was not promoted, or must not be: another one can be chosen.
    pub fn not_promoted(why: String) -> Self {
        Self::GiveUp(GivenUp { why, primary_back: false, forced: true })
    }
}

/// The stage that follows from an answer; or why the attempt failed.
pub(super) type Turn = Result<Stage, Failure>;

/// The open hold of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub hold: HoldId,
    /// When its budget is spent.
    pub end_ns: u64,
    /// Of a switchover: the process and the replication id of the old primary before the hold.
    pub before: Option<(String, String)>,
    /// The barrier has passed.
    pub passed: bool,
    /// The candidate was asked to save its configuration.
    pub saved: bool,
    /// Of a failover: how often the candidate has refused REPLICAOF NO ONE.
    pub refused: u32,
}

/// What the servers are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Question {
    /// Failover, nothing is held: is the candidate fit?
    Candidate,
    /// Switchover, nothing is held: are both servers in sync?
    Both,
    /// Which offsets do the other replicas have? Before the hold (`None`), or in it.
    Replicas(Option<Held>),
    /// Has the candidate reached the highest of these offsets? `failed`: see `plan::restart`.
    Confirmed { held: Option<Held>, offsets: BTreeMap<HostPort, u64>, failed: usize, end_ns: u64 },
    /// Failover, a later hold: was the old primary up between two holds?
    OldPrimary(Held),
    /// Failover: is the candidate, which is sent REPLICAOF NO ONE next, still what it was?
    BeforePromote(Held),
    /// Switchover, behind the barrier: the last offset of the old primary.
    LastOffset(Held),
    /// Switchover: has the candidate reached it?
    CaughtUp { held: Held, last: LastOffset },
    /// Switchover: is the candidate a primary of this history? Asked until `until_ns`.
    WasPromoted { held: Held, replid: String, until_ns: u64, then: AfterUnknown },
    /// The switchover was given up: is the candidate still in sync?
    Resynced { promotion: Box<Promotion>, replid: String },
}

/// The old primary of a switchover behind the barrier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LastOffset {
    pub replid: String,
    pub offset: u64,
}

/// What follows when it is known whether a switchover's candidate is a primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum AfterUnknown {
    /// An earlier leader left the hold open. If the candidate is not a primary, the attempt begins anew.
    Left,
    /// REPLICAOF NO ONE may have been sent, and this happened then.
    Sent(String),
    /// It was a primary, and then did not answer when it was to save its configuration.
    Saving,
}

/// How far the leader is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Stage {
    /// An attempt is to begin.
    #[default]
    Begin,
    /// Servers are asked, not before `from_ns`; `why`: what the promotion waits for until then.
    Asks { question: Question, from_ns: u64, why: String },
    /// The primary's replication id is to be noted; then the attempt begins anew.
    Note(Change),
    /// Every possible server must answer. `before`: as in [`Held`].
    Preflight { before: Option<(String, String)> },
    /// The hold is to be opened. `since_ns`: its budget counts from then.
    OpenHold { before: Option<(String, String)>, since_ns: u64 },
    /// The barrier is waited for.
    Barrier(Held),
    /// The candidate is to become a primary. `last`: of a switchover, the data that it must have.
    Promote { held: Held, last: Option<LastOffset> },
    /// The candidate is a primary and is to save its configuration. `replid`: the history that it must have.
    Save { held: Held, replid: String },
    /// The promotion is to be finished.
    Finish(Held),
    /// The hold is to be released. `None`: the next attempt begins at once.
    Release { hold: HoldId, why: String, pause: bool },
    /// The next attempt begins at `until_ns`.
    Pause { until_ns: u64, why: String },
    /// The promotion is to be given up.
    GiveUp(GivenUp),
    /// The candidate of a switchover that was given up is to be a candidate again.
    MarkResynced(Change),
    /// The promotion is finished at this log index: the other servers are to follow the new primary.
    Repoint { promotion: Box<Promotion>, epoch: Epoch },
    /// Nothing is left to do in this task.
    Over,
}

impl Stage {
    /// Asks at once.
    pub fn asks(question: Question) -> Self {
        Self::Asks { question, from_ns: 0, why: String::new() }
    }

    /// The hold that is open in this stage.
    pub fn held(&self) -> Option<&Held> {
        match self {
            Self::Asks { question, .. } => match question {
                Question::Replicas(held) | Question::Confirmed { held, .. } => held.as_ref(),
                Question::OldPrimary(held)
                | Question::BeforePromote(held)
                | Question::LastOffset(held)
                | Question::CaughtUp { held, .. }
                | Question::WasPromoted { held, .. } => Some(held),
                Question::Candidate | Question::Both | Question::Resynced { .. } => None,
            },
            Self::Barrier(held) | Self::Promote { held, .. } | Self::Save { held, .. } | Self::Finish(held) => {
                Some(held)
            }
            Self::Begin
            | Self::Note(_)
            | Self::Preflight { .. }
            | Self::OpenHold { .. }
            | Self::Release { .. }
            | Self::Pause { .. }
            | Self::GiveUp(_)
            | Self::MarkResynced(_)
            | Self::Repoint { .. }
            | Self::Over => None,
        }
    }
}

/// Answers of servers, or why one did not answer, for people.
pub type Answers = BTreeMap<HostPort, Result<ServerStatus, String>>;
