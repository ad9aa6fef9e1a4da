//! A migration: slots that move, with their keys, from one group to another while clients use them; and the runs that
//! act on servers for it. Knows nothing of keys, of progress within an attempt, or of who decides the next step.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    ids::{Epoch, GroupId, HoldId, HostPort, MigrationId, NodeId, ProductId, SlotId, Term, Uuid},
    state::ClusterState,
};

/// Where a migration stands (migration.md, "States").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MigrationPhase {
    /// In the log; no attempt runs. Also after a Restart.
    Planned,
    /// An attempt runs: what is ours at the target is deleted, so that nothing old is there.
    CleaningTarget,
    /// Keys are copied while clients change them.
    Copying,
    /// All keys are at the target but the few that changed just now.
    CaughtUp,
    /// The slots are held; next is Switch or Release.
    Held(HoldId),
    /// The target owns the slots; the source is cleaned.
    Switched,
    /// Cancelled; the staged copy is wiped from the target.
    Cancelling,
    /// Nothing runs until somebody resumes it.
    Paused,
}

impl MigrationPhase {
    /// As people and machines read it; see `api`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::CleaningTarget => "cleaning-target",
            Self::Copying => "copying",
            Self::CaughtUp => "caught-up",
            Self::Held(_) => "held",
            Self::Switched => "switched",
            Self::Cancelling => "cancelling",
            Self::Paused => "paused",
        }
    }

    /// Whether an attempt runs: begun by Start, not yet ended by Switch, Restart, Pause or Cancel.
    #[must_use]
    pub const fn attempting(self) -> bool {
        match self {
            Self::CleaningTarget | Self::Copying | Self::CaughtUp | Self::Held(_) => true,
            Self::Planned | Self::Switched | Self::Cancelling | Self::Paused => false,
        }
    }
}

/// What the node of an attempt can tell the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProgressPhase {
    /// The target is clean, keys are copied.
    Copying,
    /// Only what changes now is missing.
    CaughtUp,
}

/// How a migration ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndPhase {
    /// The slots moved, the source is clean.
    Done,
    /// Nothing moved, the target is clean.
    Cancelled,
}

impl EndPhase {
    /// As people and machines read it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Cancelled => "cancelled",
        }
    }
}

/// How much is compared before the slots are held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verify {
    /// Nothing.
    #[default]
    None,
    /// A sample of the keys.
    Sample,
    /// Every key.
    Full,
}

/// How fast a migration may be; changeable while it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Keys per second; 0: no limit.
    pub keys_per_second: u64,
    /// Bytes per second; 0: no limit.
    pub bytes_per_second: u64,
    /// Budget of its hold in milliseconds; 0: the cluster's.
    pub hold_ms_max: u32,
}

/// What the operator chose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MigrationOptions {
    /// How much is compared before the hold.
    pub verify: Verify,
    /// Keys of these slots at the target that are not ours may be deleted.
    pub wipe: bool,
    /// How fast.
    pub limits: Limits,
}

/// What an attempt has done so far, for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Keys looked at.
    pub scanned: u64,
    /// Keys copied.
    pub keys: u64,
    /// Bytes copied.
    pub bytes: u64,
    /// Keys copied again because they changed.
    pub refetched: u64,
    /// Keys deleted: at the target before the copy, at the source after the switch, at the target after a cancel.
    pub deleted: u64,
    /// Keys that changed and wait to be copied again.
    pub dirty: u64,
}

/// What a comparison found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Keys compared.
    pub keys: u64,
    /// Keys that differed, lastingly.
    pub different: u64,
}

/// What a run does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RunKind {
    /// An attempt: clean the target, copy, finish. Begun by Start.
    Copy,
    /// Deletes the moved keys at the source, after the switch.
    CleanSource,
    /// Deletes the staged keys at the target, after a cancel.
    WipeTarget,
    /// Deletes what is left of slots that the group gave away.
    Sweep,
}

/// What a mover does just now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum MoverState {
    /// It opens its connections and asks for their authorization.
    #[default]
    Opening,
    /// It deletes what is ours at the target.
    CleaningTarget,
    /// It copies.
    Copying,
    /// It compares.
    Verifying,
    /// Only what changes now is missing.
    CaughtUp,
    /// It brings the last changes over, under this hold.
    Finishing(HoldId),
    /// The target has everything, under this hold.
    Finished(HoldId),
    /// It deletes leftovers.
    Cleaning,
    /// There are no leftovers any more.
    Cleaned,
    /// The run cannot go on; why.
    Failed(String),
}

impl MoverState {
    /// As people and machines read it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::CleaningTarget => "cleaning-target",
            Self::Copying => "copying",
            Self::Verifying => "verifying",
            Self::CaughtUp => "caught-up",
            Self::Finishing(_) => "finishing",
            Self::Finished(_) => "finished",
            Self::Cleaning => "cleaning",
            Self::Cleaned => "cleaned",
            Self::Failed(_) => "failed",
        }
    }
}

/// A connection of a run that is going to change a server. The server knows it by the name of the run and by its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionId {
    /// The server.
    pub server: HostPort,
    /// The answer to CLIENT ID over this connection.
    pub client_id: u64,
}

/// What may act on servers now for a job; fenced by its connections (serving.md, "Acts on servers").
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// From 1 within its job, all kinds counted together; never used twice (sweeps: within their product).
    pub run: u32,
    /// What it does.
    pub kind: RunKind,
    /// The node whose node does it.
    pub node: NodeId,
    /// Copy: the server of `from` that serves feed and fetches; only read there.
    pub feed: Option<HostPort>,
    /// The server that is changed: the primary of `to` (Copy, WipeTarget), of `from` (CleanSource), of the group (Sweep).
    pub server: HostPort,
    /// Copy: epochs of `from` and `to` at its Start; while they stay, no primary changed.
    pub group_epochs: BTreeMap<GroupId, Epoch>,
    /// Term whose leader began it.
    pub term: Term,
    /// Log index of the entry that began it.
    pub began: Epoch,
}

/// Slots that move, not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migration {
    /// Its id: the log index of its PlanMigration.
    pub id: MigrationId,
    /// Whose slots.
    pub product: ProductId,
    /// The slots.
    pub slots: BTreeSet<SlotId>,
    /// The owner until the switch.
    pub from: GroupId,
    /// The owner after it.
    pub to: GroupId,
    /// What the operator chose.
    pub options: MigrationOptions,
    /// Where it stands.
    pub phase: MigrationPhase,
    /// The last attempt; 0: never started.
    pub attempt: u32,
    /// Runs so far, of all kinds.
    pub runs: u32,
    /// The run that is current, if one is.
    pub run: Option<Run>,
    /// An attempt has reached Copying: keys of these slots at the target are ours, whoever's they were before. A node
    /// writes none there before this is in the log (`mover::Authorize::may_write`).
    pub staged: bool,
    /// Holds that ended without a switch since it was planned or resumed.
    pub releases: u32,
    /// Of the last attempt.
    pub counters: Counters,
    /// What the comparison of the last attempt found, if there was one.
    pub verified: Option<Verified>,
    /// Why it was last restarted, paused, released or cancelled.
    pub why: String,
    /// Milliseconds since the epoch, of its plan; shown, never decided on.
    pub planned_ms: u64,
    /// Of the last change of phase.
    pub changed_ms: u64,
}

impl Migration {
    /// The hold that is open for it, if one is.
    #[must_use]
    pub const fn hold(&self) -> Option<HoldId> {
        match self.phase {
            MigrationPhase::Held(hold) => Some(hold),
            MigrationPhase::Planned
            | MigrationPhase::CleaningTarget
            | MigrationPhase::Copying
            | MigrationPhase::CaughtUp
            | MigrationPhase::Switched
            | MigrationPhase::Cancelling
            | MigrationPhase::Paused => None,
        }
    }

    /// Of which of its slots the keys at the target may be deleted before the copy: those that an attempt has begun
    /// to copy, those that the target owned once, or all if the operator said so.
    #[must_use]
    pub fn ours_at_target(&self, state: &ClusterState) -> BTreeSet<SlotId> {
        if self.staged || self.options.wipe {
            return self.slots.clone();
        }
        let target = state.products.get(&self.product).and_then(|p| p.groups.get(&self.to));
        target.map_or_else(BTreeSet::new, |to| self.slots.intersection(&to.given_away).copied().collect())
    }
}

/// A migration that ended, as it is remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedMigration {
    /// Its id.
    pub id: MigrationId,
    /// Whose slots.
    pub product: ProductId,
    /// The owner before.
    pub from: GroupId,
    /// The owner that was wanted.
    pub to: GroupId,
    /// The slots.
    pub slots: BTreeSet<SlotId>,
    /// Attempts it took.
    pub attempt: u32,
    /// Of the last attempt, and what was deleted at the end.
    pub counters: Counters,
    /// What the comparison found, if there was one.
    pub verified: Option<Verified>,
    /// How it ended.
    pub end: EndPhase,
    /// The last reason of a restart, pause, release or cancel.
    pub why: String,
    /// Milliseconds since the epoch, of its plan.
    pub planned_ms: u64,
    /// Of its end.
    pub ended_ms: u64,
    /// Log index of the entry that ended it.
    pub at: Epoch,
}

/// What is left of slots that a group gave away is being deleted there. While it is there, no slot comes to the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sweep {
    /// Its current run.
    pub run: Run,
    /// The slots; given away, and in no migration from or to the group that has not ended.
    pub slots: BTreeSet<SlotId>,
}

/// What a run belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Job {
    /// A migration.
    Migration(MigrationId),
    /// The sweep of a group.
    Sweep {
        /// In which product.
        product: ProductId,
        /// Which group.
        group: GroupId,
    },
}

impl std::fmt::Display for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Migration(id) => write!(f, "migration {id}"),
            Self::Sweep { product, group } => write!(f, "the sweep of group {group} of product {product}"),
        }
    }
}

/// The name of every connection of a run at a server, by which it is found and closed.
#[must_use]
pub fn run_name(cluster: Uuid, job: Job, run: u32) -> String {
    format!("{}{run}", run_prefix(cluster, job))
}

/// What the names of all runs of a job begin with, and of no other job's.
#[must_use]
pub fn run_prefix(cluster: Uuid, job: Job) -> String {
    match job {
        Job::Migration(id) => format!("pt:{cluster}:run:m{id}."),
        Job::Sweep { product, group } => format!("pt:{cluster}:run:s{product}-{group}."),
    }
}

impl ClusterState {
    /// The run that is current for a job, if the job is there and has one.
    #[must_use]
    pub fn current_run(&self, job: Job) -> Option<&Run> {
        match job {
            Job::Migration(id) => self.migrations.get(&id)?.run.as_ref(),
            Job::Sweep { product, group } => {
                Some(&self.products.get(&product)?.groups.get(&group)?.sweep.as_ref()?.run)
            }
        }
    }

    /// What a sweep of the group would sweep: what it gave away, but for slots of its migrations that have not ended
    /// (those that left are cleaned by their own run, those that return are cleaned by their next attempt). Nothing while
    /// it is out: then it is flushed before it gets a slot.
    #[must_use]
    pub fn sweepable(&self, product: ProductId, group: GroupId) -> BTreeSet<SlotId> {
        let group_state =
            self.products.get(&product).and_then(|p| p.groups.get(&group)).filter(|g| g.ejection.is_none());
        let mut slots = group_state.map(|g| g.given_away.clone()).unwrap_or_default();
        for open in self.migrations.values().filter(|m| m.product == product && (m.from == group || m.to == group)) {
            slots.retain(|slot| !open.slots.contains(slot));
        }
        slots
    }

    /// The number that the next run of a job must have; `None`: there is no such job.
    #[must_use]
    pub fn next_run(&self, job: Job) -> Option<u32> {
        let last = match job {
            Job::Migration(id) => self.migrations.get(&id)?.runs,
            Job::Sweep { product, group } => {
                let product = self.products.get(&product)?;
                product.groups.get(&group)?;
                product.sweep_runs
            }
        };
        last.checked_add(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_runs_tell_jobs_apart() {
        let (one, seventeen) = (Job::Migration(MigrationId(1)), Job::Migration(MigrationId(17)));
        let sweep = Job::Sweep { product: ProductId(1), group: GroupId(7) };
        let hex = "0000000000000000000000000000000a";
        assert_eq!(run_name(Uuid(10), seventeen, 3), format!("pt:{hex}:run:m17.3"));
        assert_eq!(run_name(Uuid(10), sweep, 3), format!("pt:{hex}:run:s1-7.3"));
        assert!(!run_name(Uuid(10), seventeen, 3).starts_with(&run_prefix(Uuid(10), one)));
        assert!(run_name(Uuid(10), seventeen, 3).starts_with(&run_prefix(Uuid(10), seventeen)));
    }
}
