//! Migrations: slots that move with their keys from one group to another while clients use them; jobs and their runs.
//! Knows nothing of keys, and of how the next step is chosen.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    ids::{Epoch, GroupId, HoldId, HostPort, MigrationId, NodeId, ProductId, SlotId, Term, Uuid},
    state::ClusterState,
};

/// What an operator does about keys that a target has in slots that it never owned; completes a sentence that names them.
/// It names the whole command, since drains and rebalances do not have its option. `moves`: the arguments of `migrate start`.
#[must_use]
pub fn unexpected_keys_remedy(moves: &str) -> String {
    format!(
        "no client reads them there. They were written to the server directly, or by a script of another slot that does not \
         declare them (KEYS), which it has to. Delete them there, or have them deleted: pontoon migrate start {moves} \
         --wipe"
    )
}

/// The phase of a migration (docs/design/migration.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MigrationPhase {
    /// No attempt runs. Also the phase after a restart.
    Planned,
    /// An attempt runs: old copies and leftovers of the slots are deleted at the target.
    CleaningTarget,
    /// Keys are copied while clients change them.
    Copying,
    /// All keys are at the target, except the few that changed just now.
    CaughtUp,
    /// The slots are held; next is Switch or Release.
    Held(HoldId),
    /// The target owns the slots; the source is cleaned.
    Switched,
    /// Cancelled; the staged copy is wiped from the target.
    Cancelling,
    /// No attempt runs until an operator resumes the migration.
    Paused,
}

impl MigrationPhase {
    /// The name that people and machines read.
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

    /// Whether an attempt runs: StartMigration has begun it, and no switch, restart, pause or cancel has ended it.
    #[must_use]
    pub const fn attempting(self) -> bool {
        match self {
            Self::CleaningTarget | Self::Copying | Self::CaughtUp | Self::Held(_) => true,
            Self::Planned | Self::Switched | Self::Cancelling | Self::Paused => false,
        }
    }
}

/// The phases that the node of an attempt reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProgressPhase {
    /// The target is clean, and keys are copied.
    Copying,
    /// The target lacks only the keys that change now.
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
    /// The name that people and machines read.
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

/// Limits of a migration. They can be changed while it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Keys per second; 0: no limit.
    pub keys_per_second: u64,
    /// Bytes per second; 0: no limit.
    pub bytes_per_second: u64,
    /// Budget of its hold in milliseconds; 0: the cluster's.
    pub hold_ms_max: u32,
}

/// The operator's choices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MigrationOptions {
    /// How much is compared before the hold.
    pub verify: Verify,
    /// Unexpected keys at the target may be deleted.
    pub wipe: bool,
    /// Its limits.
    pub limits: Limits,
}

/// What an attempt has done so far, for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Keys scanned.
    pub scanned: u64,
    /// Keys copied.
    pub keys: u64,
    /// Bytes copied.
    pub bytes: u64,
    /// Keys copied again because they changed.
    pub refetched: u64,
    /// Keys deleted at the target, before and while it is filled: old copies, leftovers, keys that the source lost.
    pub deleted: u64,
    /// Keys deleted after the attempt: at the source after the switch, at the target after a cancel.
    pub cleaned: u64,
    /// Keys that changed and wait to be copied again.
    pub dirty: u64,
}

/// The result of a comparison.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Keys compared.
    pub keys: u64,
    /// Keys that still differed after they had been compared again.
    pub different: u64,
}

/// The kinds of runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RunKind {
    /// An attempt: cleans the target, copies, finishes. Begun by StartMigration.
    Copy,
    /// Deletes the moved keys at the source, after the switch.
    CleanSource,
    /// Deletes the staged keys at the target, after a cancel.
    WipeTarget,
    /// Deletes the leftovers of slots that the group gave away.
    Sweep,
}

/// What a mover does now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum MoverState {
    /// It opens its connections and asks for their authorization.
    #[default]
    Opening,
    /// It deletes old copies and leftovers at the target.
    CleaningTarget,
    /// It copies.
    Copying,
    /// It compares.
    Verifying,
    /// The target lacks only the keys that change now.
    CaughtUp,
    /// It copies the last changes, under this hold.
    Finishing(HoldId),
    /// The target has everything, under this hold.
    Finished(HoldId),
    /// It deletes leftovers.
    Cleaning,
    /// There are no leftovers any more.
    Cleaned,
    /// The run cannot continue, for this reason.
    Failed(String),
}

impl MoverState {
    /// The name that people and machines read.
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

/// A connection of a run that will change a server. The server knows it by the name of the run and by its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionId {
    /// The server.
    pub server: HostPort,
    /// The answer to CLIENT ID over this connection.
    pub client_id: u64,
}

/// The execution of a job that may change servers now. It is ended by fencing its connections
/// (docs/design/migration.md).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Its number: from 1 within its job, all kinds counted together, never used twice (for sweeps: within their
    /// product).
    pub run: u32,
    /// Its kind.
    pub kind: RunKind,
    /// The node whose mover executes it.
    pub node: NodeId,
    /// Copy: the server of the source group that the mover takes the feed and the keys from. It is only read.
    pub feed: Option<HostPort>,
    /// The server that is changed: the primary of the target (Copy, WipeTarget), the source (CleanSource), the group
    /// (Sweep).
    pub server: HostPort,
    /// Copy: epochs of the source and the target group when it began. While they are the same, no primary has changed.
    pub group_epochs: BTreeMap<GroupId, Epoch>,
    /// Term of the leader that began it.
    pub term: Term,
    /// Log index of the entry that began it.
    pub began: Epoch,
}

/// A migration that has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migration {
    /// Its id: the log index of its PlanMigration entry.
    pub id: MigrationId,
    /// Product of the slots.
    pub product: ProductId,
    /// The slots.
    pub slots: BTreeSet<SlotId>,
    /// The owner until the switch.
    pub from: GroupId,
    /// The owner after the switch.
    pub to: GroupId,
    /// The operator's choices.
    pub options: MigrationOptions,
    /// Its phase.
    pub phase: MigrationPhase,
    /// The last attempt; 0: never started.
    pub attempt: u32,
    /// Runs so far, of all kinds.
    pub runs: u32,
    /// The current run, if there is one.
    pub run: Option<Run>,
    /// An attempt has reached Copying: from now on, all keys of these slots at the target are copies. A node writes no
    /// key there before this is in the log (`mover::Authorize::may_write`).
    pub staged: bool,
    /// Holds that ended without a switch since it was planned or resumed.
    pub releases: u32,
    /// Counters of the last attempt.
    pub counters: Counters,
    /// The result of the comparison of the last attempt, if there was one.
    pub verified: Option<Verified>,
    /// Reason of the last restart, pause, release or cancel.
    pub why: String,
    /// When it was planned, milliseconds since the Unix epoch. Only shown: no decision depends on it.
    pub planned_ms: u64,
    /// When its phase changed last.
    pub changed_ms: u64,
}

impl Migration {
    /// Its open hold, if there is one.
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

    /// The slots whose keys at the target may be deleted before the copy: those that an attempt has begun to copy,
    /// those that the target owned once, or all if the operator allowed it.
    #[must_use]
    pub fn deletable_at_target(&self, state: &ClusterState) -> BTreeSet<SlotId> {
        if self.staged || self.options.wipe {
            return self.slots.clone();
        }
        let target = state.products.get(&self.product).and_then(|p| p.groups.get(&self.to));
        target.map_or_else(BTreeSet::new, |to| self.slots.intersection(&to.given_away).copied().collect())
    }
}

/// A migration that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedMigration {
    /// Its id.
    pub id: MigrationId,
    /// Product of the slots.
    pub product: ProductId,
    /// The source group.
    pub from: GroupId,
    /// The target group.
    pub to: GroupId,
    /// The slots.
    pub slots: BTreeSet<SlotId>,
    /// Number of its attempts.
    pub attempt: u32,
    /// Counters of the last attempt, and of the keys deleted at the end.
    pub counters: Counters,
    /// The result of the comparison, if there was one.
    pub verified: Option<Verified>,
    /// How it ended.
    pub end: EndPhase,
    /// The last reason of a restart, pause, release or cancel.
    pub why: String,
    /// When it was planned, milliseconds since the Unix epoch.
    pub planned_ms: u64,
    /// When it ended, milliseconds since the Unix epoch.
    pub ended_ms: u64,
    /// Log index of the entry that ended it.
    pub at: Epoch,
}

/// The deletion of leftovers of slots that a group gave away. While a sweep is open, the group gets no slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sweep {
    /// Its current run.
    pub run: Run,
    /// The slots: given away, and in no open migration from or to the group.
    pub slots: BTreeSet<SlotId>,
}

/// A job: what a run belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Job {
    /// A migration.
    Migration(MigrationId),
    /// The sweep of a group.
    Sweep {
        /// Product of the group.
        product: ProductId,
        /// The group.
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

/// The name of all connections of a run at a server. A fence finds and closes them by it.
#[must_use]
pub fn run_name(cluster: Uuid, job: Job, run: u32) -> String {
    format!("{}{run}", run_prefix(cluster, job))
}

/// The prefix of the names of all runs of a job. No other job's names have it.
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

    /// The slots that a sweep of the group would sweep: those that it gave away, except slots of its open migrations
    /// (their own runs clean those that leave, the next attempt cleans those that return). The set is empty while the
    /// group is ejected, because the group is flushed before it gets a slot.
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
    fn names_of_runs_distinguish_jobs() {
        let (one, seventeen) = (Job::Migration(MigrationId(1)), Job::Migration(MigrationId(17)));
        let sweep = Job::Sweep { product: ProductId(1), group: GroupId(7) };
        let hex = "0000000000000000000000000000000a";
        assert_eq!(run_name(Uuid(10), seventeen, 3), format!("pt:{hex}:run:m17.3"));
        assert_eq!(run_name(Uuid(10), sweep, 3), format!("pt:{hex}:run:s1-7.3"));
        assert!(!run_name(Uuid(10), seventeen, 3).starts_with(&run_prefix(Uuid(10), one)));
        assert!(run_name(Uuid(10), seventeen, 3).starts_with(&run_prefix(Uuid(10), seventeen)));
    }
}
