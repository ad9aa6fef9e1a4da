//! Changes of the runs that delete leftovers: of a migration after its switch or cancel, and of sweeps.

use crate::model::{
    ids::{GroupId, HostPort, NodeId, ProductId, Term},
    migration::Job,
};

/// Begins a run that deletes leftovers: of a switched or cancelled migration, or of slots that a group gave away.
/// Proposed behind the fence of the job's last run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartRun {
    /// The job that the run belongs to.
    pub job: Job,
    /// The last run + 1.
    pub run: u32,
    /// The node that executes the run.
    pub node: NodeId,
    /// The primary that the run deletes at.
    pub server: HostPort,
    /// Term of the fence. Refused in another term.
    pub term: Term,
}

/// A run has deleted all leftovers: ends the migration or the sweep. Proposed behind the fence of the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cleaned {
    /// The job that the run belongs to.
    pub job: Job,
    /// The run.
    pub run: u32,
    /// Term of the fence. Refused in another term.
    pub term: Term,
    /// Keys that the run deleted.
    pub deleted: u64,
}

/// Ends a sweep that is not finished, because slots are to move to the group. Proposed behind the fence of its run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndSweep {
    /// Product of the group.
    pub product: ProductId,
    /// Group of the sweep.
    pub group: GroupId,
    /// Its current run.
    pub run: u32,
    /// Term of the fence. Refused in another term.
    pub term: Term,
    /// The reason, for people.
    pub why: String,
}
