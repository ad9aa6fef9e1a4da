//! Faults that tests ask for: points at which a debug build pauses, tasks that panic, and rules that are left out, so
//! that a test can show that a rule is needed. A release build has no faults: every function here is then a constant.
//! Knows nothing of what happens at a point.
//!
//! The environment variable `PONTOON_FAULTS` names a directory of the test. The files in it are:
//!
//! | file | meaning |
//! |---|---|
//! | `pause.POINT` | a task that reaches the point waits for as long as the file exists |
//! | `reached.POINT` | written by the node: a task waits, or has waited, at the point |
//! | `panic.TASK` | one task of this name removes the file and panics |
//! | `without.RULE` | the rule is left out; the node checks once |

use std::time::Duration;

/// A point at which a migration, promotion, reconciliation or change of a data user can be paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// Mover: it is about to wipe the keys that an earlier run left at the target.
    CleaningTarget,
    /// Mover: the copy runs.
    Copying,
    /// Leader: the mover has caught up; the hold is not proposed yet.
    BeforeHold,
    /// Node: the hold is applied and drained; the ack is not sent yet.
    BeforeAck,
    /// Leader: the hold is in the log; the barrier is not checked yet.
    Held,
    /// Leader: the barrier has passed; the mover is not asked to finish yet.
    BarrierPassed,
    /// Leader: the mover has finished; its run is not closed yet.
    Finished,
    /// Leader: the run is closed; the switch is not proposed yet.
    BeforeSwitch,
    /// Leader: the switch is in the log.
    Switched,
    /// Mover: it is about to clean the source.
    CleaningSource,
    /// Leader: a promotion is in the log; its hold is not proposed yet.
    PromotionBegun,
    /// Leader: a promotion's hold is in the log; the barrier is not checked yet.
    PromotionHeld,
    /// Leader: a promotion's barrier has passed; the servers are not probed yet.
    PromotionBarrier,
    /// Leader: the candidate was probed for the last time; REPLICAOF NO ONE is sent next.
    BeforePromote,
    /// Leader: the candidate is a primary; its configuration file and the log do not say so yet.
    Promoted,
    /// Leader: the candidate is a primary and has saved its configuration, if it can; the log does not say so yet.
    PromotionSaved,
    /// Leader: the log has the new primary; the other servers do not follow it yet.
    PromotionFinished,
    /// Leader: the runs of a server that must follow its group's primary are closed; REPLICAOF is not sent yet.
    Reconciliation,
    /// Leader: the primary of an ejected group is empty and the group's slots are held; the primary is not probed again
    /// yet.
    Reinstating,
    /// Leader: all servers of a group accept its new credentials; the former ones are not removed yet.
    FormerCredentials,
    /// Leader: the log has another data user for a group; nobody waits for the nodes yet, and the former one can log in.
    DataUserChanged,
}

impl Point {
    /// Its name in file names.
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
            Self::BeforePromote => "before-promote",
            Self::Promoted => "promoted",
            Self::PromotionSaved => "promotion-saved",
            Self::PromotionFinished => "promotion-finished",
            Self::Reconciliation => "reconciliation",
            Self::Reinstating => "reinstating",
            Self::FormerCredentials => "former-credentials",
            Self::DataUserChanged => "data-user-changed",
        }
    }
}

/// A rule that can be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The check of lease and epoch before a reply is delivered (check 2 of `docs/design/serving.md`).
    ReplyCheck,
    /// The barrier between a hold and the entry that follows it.
    Barrier,
    /// Closing a run's connections before the switch and before the next run.
    Fence,
    /// A changed key is fetched again. Without this rule, the mover sends the change itself to the target.
    Refetch,
    /// Of several candidates, the one with the largest offset is promoted. Without this rule, the one with the
    /// smallest.
    LargestOffset,
    /// The leader closes the connections of blocked clients of a node whose lease has ended.
    BlockedConnections,
    /// A node ends its blocked calls before its lease ends, and closes their connections when it has ended.
    BlockedLease,
    /// A blocked call is ended at its server when its slot is held.
    BlockedHold,
}

impl Rule {
    /// Its name in file names.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ReplyCheck => "reply-check",
            Self::Barrier => "barrier",
            Self::Fence => "fence",
            Self::Refetch => "refetch",
            Self::LargestOffset => "largest-offset",
            Self::BlockedConnections => "blocked-connections",
            Self::BlockedLease => "blocked-lease",
            Self::BlockedHold => "blocked-hold",
        }
    }
}

/// Time between two checks of a pause file.
const POLL_INTERVAL: Duration = Duration::from_millis(2);
/// Time between two checks of a panic file. Every supervised task checks one, so this is longer than [`POLL_INTERVAL`].
const PANIC_POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Whether this process takes faults at all: false in a release build, so that the compiler drops what it guards.
#[must_use]
pub fn enabled() -> bool {
    dir().is_some()
}

/// Waits at this point for as long as the test wants.
pub async fn pause_at(point: Point) {
    let Some(dir) = dir() else { return };
    let pause = dir.join(format!("pause.{}", point.name()));
    let mut reported = false;
    while pause.exists() {
        if !reported {
            reported = true;
            tracing::warn!(point = point.name(), "the node pauses at this point, as a test asks");
            let _ = std::fs::write(dir.join(format!("reached.{}", point.name())), b"");
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Runs a task, and panics in it when a test asks for that: see the head of this module.
///
/// # Panics
/// When the test asks for it.
pub async fn or_panic<F: Future>(task: &str, future: F) -> F::Output {
    tokio::select! {
        output = future => output,
        never = panic_when_asked(task) => match never {},
    }
}

/// Resolves never; panics when a test asks `task` to panic.
///
/// # Panics
/// When the test asks for it.
pub async fn panic_when_asked(task: &str) -> std::convert::Infallible {
    let Some(dir) = dir() else { return std::future::pending().await };
    let file = dir.join(format!("panic.{task}"));
    loop {
        // Of several tasks with one name, only the one that removes the file panics.
        if file.exists() && std::fs::remove_file(&file).is_ok() {
            panic!("a test asked {task} to panic");
        }
        tokio::time::sleep(PANIC_POLL_INTERVAL).await;
    }
}

/// Panics if a test asks `task` to. For code that handles one call or one entry, and waits for nothing.
///
/// # Panics
/// When the test asks for it.
pub fn panic_if_asked(task: &str) {
    if let Some(dir) = dir()
        && std::fs::remove_file(dir.join(format!("panic.{task}"))).is_ok()
    {
        panic!("a test asked {task} to panic");
    }
}

/// Whether a test leaves out this rule. It reads the file system: the hot path must keep the answer.
#[must_use]
pub fn without(rule: Rule) -> bool {
    let without = dir().is_some_and(|dir| dir.join(format!("without.{}", rule.name())).exists());
    if without {
        tracing::warn!(rule = rule.name(), "a rule is left out, as a test asks: data will be lost");
    }
    without
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
