//! Faults that tests ask for: points at which a debug build stands still, and rules that it leaves out, so that a test
//! can show that the rule is needed. A release build has none of it: every function here is then a constant.
//! Knows nothing of what happens at a point.
//!
//! `PONTOON_FAULTS` names a directory of the test. A file `pause.POINT` there stops whoever reaches the point for as long as it
//! exists; a file `reached.POINT` then says that somebody stands there. A file `without.RULE`, looked for once, leaves out the rule.

use std::time::Duration;

/// Where a migration can be made to stand still. The name of the file is the one in [`Point::name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// Worker: the staged keys of before are being wiped.
    CleaningTarget,
    /// Worker: the copy runs.
    Copying,
    /// Leader: caught up, the hold not proposed yet.
    BeforeHold,
    /// Node: the hold is applied and drained, the ack not sent yet.
    BeforeAck,
    /// Leader: the hold is in the log, the barrier not asked yet.
    Held,
    /// Leader: the barrier has passed, the worker not told yet.
    BarrierPassed,
    /// Leader: the worker is done, its run not closed yet.
    Finished,
    /// Leader: the run is closed, the switch not proposed yet.
    BeforeSwitch,
    /// Leader: the switch is in the log.
    Switched,
    /// Worker: the source is being cleaned.
    CleaningSource,
    /// Leader: a promotion is in the log, its hold not proposed yet.
    PromotionBegun,
    /// Leader: a promotion's hold is in the log, the barrier not asked yet.
    PromotionHeld,
    /// Leader: a promotion's barrier has passed, the servers not asked yet.
    PromotionBarrier,
    /// Leader: the chosen one was looked at for the last time, REPLICAOF NO ONE is the next thing to be sent.
    PromotionSent,
    /// Leader: the chosen one is a primary, the log not told yet.
    Promoted,
    /// Leader: a server is to follow its group's primary, its runs are closed, REPLICAOF is not sent yet.
    Reconciliation,
    /// Leader: a group's primary is emptied and the slots it had lent are held, the primary not looked at again yet.
    Returning,
}

impl Point {
    /// As files name it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::CleaningTarget => "cleaning-target",
            Self::Copying => "copying",
            Self::BeforeHold => "before-hold",
            Self::BeforeAck => "before-ack",
            Self::Held => "held",
            Self::BarrierPassed => "barrier-passed",
            Self::Finished => "finished",
            Self::BeforeSwitch => "before-switch",
            Self::Switched => "switched",
            Self::CleaningSource => "cleaning-source",
            Self::PromotionBegun => "promotion-begun",
            Self::PromotionHeld => "promotion-held",
            Self::PromotionBarrier => "promotion-barrier",
            Self::PromotionSent => "promotion-told",
            Self::Promoted => "promoted",
            Self::Reconciliation => "wiring",
            Self::Returning => "returning",
        }
    }
}

/// A rule that can be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The lease and epoch check at reply time (serving.md, check 2).
    ReplyCheck,
    /// The barrier between Hold and what follows it.
    Barrier,
    /// Closing a run's connections before Switch, Start and StartRun.
    Fence,
    /// A changed key is fetched again; without it, the change itself is sent to the target.
    Refetch,
    /// Of several candidates the one with the largest offset is promoted; without it, the smallest.
    LargestOffset,
}

impl Rule {
    /// As files name it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ReplyCheck => "reply-check",
            Self::Barrier => "barrier",
            Self::Fence => "fence",
            Self::Refetch => "refetch",
            Self::LargestOffset => "largest-offset",
        }
    }
}

/// Between two looks at a pause file.
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// Stands still here while the test wants it.
pub async fn pause_at(point: Point) {
    let Some(dir) = dir() else { return };
    let pause = dir.join(format!("pause.{}", point.name()));
    let mut told = false;
    while pause.exists() {
        if !told {
            told = true;
            tracing::warn!(point = point.name(), "standing still, as a test wants it");
            let _ = std::fs::write(dir.join(format!("reached.{}", point.name())), b"");
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Whether a test has taken this rule out. Asked for on the hot path: remember the answer.
#[must_use]
pub fn without(rule: Rule) -> bool {
    let out = dir().is_some_and(|dir| dir.join(format!("without.{}", rule.name())).exists());
    if out {
        tracing::warn!(rule = rule.name(), "a rule is left out, as a test wants it: data will be lost");
    }
    out
}

#[cfg(debug_assertions)]
fn dir() -> Option<&'static std::path::Path> {
    static DIR: std::sync::OnceLock<Option<std::path::PathBuf>> = std::sync::OnceLock::new();
    DIR.get_or_init(|| std::env::var_os("PONTOON_FAULTS").map(Into::into)).as_deref()
}

#[cfg(not(debug_assertions))]
const fn dir() -> Option<&'static std::path::Path> {
    None
}
