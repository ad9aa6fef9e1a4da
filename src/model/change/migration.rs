//! Changes of migrations, except the runs that delete leftovers (`run`).

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{
    ids::{Epoch, GroupId, HoldId, HostPort, MigrationId, NodeId, ProductId, SlotId, Term},
    migration::{Counters, MigrationOptions, ProgressPhase, Verified},
    promotion::ReplicationOffset,
};

/// Plans a migration. The servers have been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanMigration {
    /// Product of the slots.
    pub product: ProductId,
    /// The slots; `from` owns all of them.
    pub slots: BTreeSet<SlotId>,
    /// Their owner.
    pub from: GroupId,
    /// Their next owner.
    pub to: GroupId,
    /// The operator's choices.
    pub options: MigrationOptions,
}

/// Begins an attempt, and its copy run. Proposed behind the fence of the last run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartMigration {
    /// The migration.
    pub migration: MigrationId,
    /// The last attempt + 1.
    pub attempt: u32,
    /// The node that copies.
    pub node: NodeId,
    /// The server of the source group that the mover takes the feed and the keys from.
    pub feed: HostPort,
    /// The primary of the target group.
    pub target: HostPort,
    /// Epochs of the source and the target group when their servers were checked.
    pub group_epochs: BTreeMap<GroupId, Epoch>,
    /// Term of the fence. Refused in another term.
    pub term: Term,
}

/// Progress that the node of an attempt reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigrationProgress {
    /// The migration.
    pub migration: MigrationId,
    /// Its attempt.
    pub attempt: u32,
    /// The phase that the attempt has reached.
    pub phase: ProgressPhase,
    /// What the attempt has done.
    pub counters: Counters,
    /// The result of its comparison; `None`: nothing new about it.
    pub verified: Option<Verified>,
}

/// The slots of a migration change their owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Switch {
    /// The migration.
    pub migration: MigrationId,
    /// Its attempt.
    pub attempt: u32,
    /// Its open hold, whose barrier has passed.
    pub hold: HoldId,
    /// Term of the verdict and of the fence. Refused in another term.
    pub term: Term,
    /// Epochs of the source and the target group when the mover finished.
    pub group_epochs: BTreeMap<GroupId, Epoch>,
    /// The replication offset of the target's primary when the mover was done. A replica must have reached it to be
    /// promoted there.
    pub target_offset: ReplicationOffset,
}

/// Ends an attempt before its switch; the next one starts from the beginning. Ends its hold if one is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestartMigration {
    /// The migration.
    pub migration: MigrationId,
    /// The reason, for people.
    pub why: String,
}

/// Cancels a migration before its switch. Ends its hold if one is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CancelMigration {
    /// The migration.
    pub migration: MigrationId,
    /// The reason, for people.
    pub why: String,
}

/// Ends an attempt before its switch; the next one starts only after the migration was resumed. Ends its hold if one is
/// open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PauseMigration {
    /// The migration.
    pub migration: MigrationId,
    /// The reason, for people.
    pub why: String,
}

/// Resumes a paused migration. It starts from the beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResumeMigration {
    /// The migration.
    pub migration: MigrationId,
}

/// Changes limits of a migration. Only what is `Some` changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetMigration {
    /// The migration.
    pub migration: MigrationId,
    /// Keys per second; 0: no limit.
    pub keys_per_second: Option<u64>,
    /// Bytes per second; 0: no limit.
    pub bytes_per_second: Option<u64>,
    /// Budget of its hold in milliseconds; 0: the cluster's.
    pub hold_ms_max: Option<u32>,
}
