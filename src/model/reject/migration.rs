//! Rejects of changes of migrations and sweeps, with the evidence and what to do.

use crate::model::ids::{GroupId, HoldId, HostPort, MigrationId, SlotId};

/// A reject of a change of a migration, a run or a sweep.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MigrationReject {
    // Planning.
    /// The source is the target.
    #[error("group {0} is both source and target; choose another target")]
    SameGroup(GroupId),
    /// The source does not own a slot.
    #[error(
        "slot {slot} does not belong to group {from} but to {owner}; `pontoon slot ls` shows the owners, nothing was done"
    )]
    NotOwned {
        /// The slot.
        slot: SlotId,
        /// The source that was named.
        from: GroupId,
        /// The owner, as text.
        owner: String,
    },
    /// The slot is in a migration that has not ended.
    #[error(
        "slot {slot} is in migration {migration} from group {from} to group {to}, which has not ended; wait for it (`pontoon migrate watch {migration}`) or cancel it (`pontoon migrate cancel {migration}`)"
    )]
    SlotMigrates {
        /// The slot.
        slot: SlotId,
        /// The migration.
        migration: MigrationId,
        /// The source.
        from: GroupId,
        /// The target.
        to: GroupId,
    },
    /// The group is in a migration that has not ended.
    #[error(
        "group {group} is in migration {migration}, which has not ended; wait for it (`pontoon migrate watch {migration}`) or cancel it (`pontoon migrate cancel {migration}`)"
    )]
    GroupMigrates {
        /// The group.
        group: GroupId,
        /// The migration.
        migration: MigrationId,
    },
    /// Too many open migrations.
    #[error("{max} migrations have not ended, the most there can be; wait for one of them, or cancel one")]
    TooMany {
        /// The limit.
        max: usize,
    },
    /// The budget of the hold is out of range.
    #[error("a hold cannot have a budget of {0} ms; choose 10 to 10000, or 0 for the cluster's setting")]
    BadHoldMax(u32),

    // Steps.
    /// No such migration, or it ended.
    #[error("migration {0} has ended or never existed; `pontoon migrate ls` lists the migrations, nothing was done")]
    Unknown(MigrationId),
    /// The change does not fit the phase.
    #[error("migration {migration} is {phase}, so it cannot {verb}; {remedy}")]
    WrongPhase {
        /// The migration.
        migration: MigrationId,
        /// Its phase.
        phase: &'static str,
        /// What the change would do, as a verb.
        verb: &'static str,
        /// What to do now, or why it does not fit.
        remedy: &'static str,
    },
    /// It is not the expected attempt.
    #[error("attempt {given} of migration {migration} is not the expected one ({expected}); nothing was done")]
    WrongAttempt {
        /// The migration.
        migration: MigrationId,
        /// The one given.
        given: u32,
        /// The expected one.
        expected: u32,
    },
    /// Another attempt reads from the source.
    #[error(
        "migration {other} copies from group {from} now; migration {migration} begins when that one has switched, the leader tries again"
    )]
    SourceBusy {
        /// The migration.
        migration: MigrationId,
        /// The migration whose attempt runs.
        other: MigrationId,
        /// The source.
        from: GroupId,
    },
    /// Too many attempts write to the target.
    #[error(
        "{max} migrations copy to group {to} now, the most there can be; migration {migration} begins when one of them has switched, the leader tries again"
    )]
    TargetBusy {
        /// The migration.
        migration: MigrationId,
        /// The target.
        to: GroupId,
        /// The limit.
        max: usize,
    },
    /// A server does not have the role that the change expects.
    #[error("server {addr} is not {what} of group {group}; nothing was done, the leader decides again")]
    NotServer {
        /// The server.
        addr: HostPort,
        /// The expected role: "the primary", "a server".
        what: &'static str,
        /// The group.
        group: GroupId,
    },
    /// The hold belongs to something else.
    #[error("hold {hold} is not the one of migration {migration}; nothing was done")]
    OtherHold {
        /// The hold.
        hold: HoldId,
        /// The migration.
        migration: MigrationId,
    },
    /// A migration waits for requests in flight.
    #[error("a migration takes a hold of kind Wait, not Abandon; nothing was done")]
    WrongHoldKind,

    // Runs.
    /// It is not the next run.
    #[error("run {given} of {job} is not the next one ({expected}); nothing was done, the leader decides again")]
    WrongRun {
        /// The job.
        job: String,
        /// The one given.
        given: u32,
        /// The expected one.
        expected: u32,
    },
    /// The run is not current.
    #[error("run {run} of {job} is not current; nothing was done")]
    RunNotCurrent {
        /// The job.
        job: String,
        /// The one given.
        run: u32,
    },
    /// The group gave no slots away, or all of them are in migrations.
    #[error("group {0} has given away no slots that could be swept; nothing was done")]
    NothingToSweep(GroupId),
    /// No sweep is open.
    #[error("no sweep of group {0} is open; nothing was done")]
    NoSweep(GroupId),
    /// A sweep of the group is open.
    #[error(
        "leftovers of slots that group {0} gave away are being deleted there; the leader ends that first, try again in a moment"
    )]
    SweepOpen(GroupId),
    /// Slots come to the group of the sweep.
    #[error("slots come to group {group} ({by}), so it cannot be swept now; nothing was done")]
    GroupReceives {
        /// The group.
        group: GroupId,
        /// The migration or assignment.
        by: String,
    },
}
