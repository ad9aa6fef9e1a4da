//! Why a change of a migration or a sweep did nothing, with the evidence and what to do.
//! Knows nothing of other changes.

use crate::model::ids::{GroupId, HoldId, HostPort, MigrationId, SlotId};

/// A refusal of a change about migrations, runs or sweeps.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MigrationReject {
    // Planning.
    /// A migration to where the slots are.
    #[error("group {0} is both source and target; choose another target")]
    SameGroup(GroupId),
    /// A slot is not the source's.
    #[error(
        "slot {slot} does not belong to group {from} but to {owner}; `pontoon slot ls` shows the owners, nothing was done"
    )]
    NotOwned {
        /// Which.
        slot: SlotId,
        /// The source that was named.
        from: GroupId,
        /// The owner, in words.
        owner: String,
    },
    /// The slot is in a migration that has not ended.
    #[error(
        "slot {slot} is in migration {migration} from group {from} to group {to}, which has not ended; wait for it (`pontoon migrate watch {migration}`) or cancel it (`pontoon migrate cancel {migration}`)"
    )]
    SlotMigrates {
        /// Which.
        slot: SlotId,
        /// By which migration.
        migration: MigrationId,
        /// From whom.
        from: GroupId,
        /// To whom.
        to: GroupId,
    },
    /// The group is in a migration that has not ended.
    #[error(
        "group {group} is in migration {migration}, which has not ended; wait for it (`pontoon migrate watch {migration}`) or cancel it (`pontoon migrate cancel {migration}`)"
    )]
    GroupMigrates {
        /// Which.
        group: GroupId,
        /// By which migration.
        migration: MigrationId,
    },
    /// Too many that have not ended.
    #[error("{max} migrations have not ended, the most there can be; wait for one of them, or cancel one")]
    TooMany {
        /// The limit.
        max: usize,
    },
    /// The limit on holds is none.
    #[error("a hold of {0} ms cannot be; choose 10 to 10000, or 0 for the cluster's setting")]
    BadHoldMax(u32),

    // Steps.
    /// No such migration, or it ended.
    #[error("migration {0} has ended or never was; `pontoon migrate ls` shows what there is, nothing was done")]
    Unknown(MigrationId),
    /// It stands where the change makes no sense.
    #[error("migration {migration} is {phase}, so it cannot {verb}; {remedy}")]
    WrongPhase {
        /// Which.
        migration: MigrationId,
        /// Where it stands.
        phase: &'static str,
        /// What was wanted.
        verb: &'static str,
        /// What to do now.
        remedy: &'static str,
    },
    /// The attempt is another.
    #[error("attempt {given} of migration {migration} is not the one that counts now ({expected}); nothing was done")]
    WrongAttempt {
        /// Which.
        migration: MigrationId,
        /// The one given.
        given: u32,
        /// The one that would do.
        expected: u32,
    },
    /// The source is being read by another attempt.
    #[error(
        "migration {other} copies from group {from} now; migration {migration} begins when that one has switched, the leader tries again"
    )]
    SourceBusy {
        /// Which.
        migration: MigrationId,
        /// What runs.
        other: MigrationId,
        /// From where.
        from: GroupId,
    },
    /// Enough attempts fill the target.
    #[error(
        "{max} migrations copy to group {to} now, the most there can be; migration {migration} begins when one of them has switched, the leader tries again"
    )]
    TargetBusy {
        /// Which.
        migration: MigrationId,
        /// To where.
        to: GroupId,
        /// The limit.
        max: usize,
    },
    /// A server is not what the change takes it for.
    #[error("server {addr} is not {what} of group {group}; nothing was done, the leader looks again")]
    NotServer {
        /// Which.
        addr: HostPort,
        /// What it should be: "the primary", "a server".
        what: &'static str,
        /// Of which group.
        group: GroupId,
    },
    /// The hold is not the migration's.
    #[error("hold {hold} is not the one of migration {migration}; nothing was done")]
    OtherHold {
        /// The hold.
        hold: HoldId,
        /// Which.
        migration: MigrationId,
    },
    /// A migration waits for what is in flight.
    #[error("a migration takes a hold of kind Wait, not Abandon; nothing was done")]
    WrongHoldKind,

    // Runs.
    /// The run's number is not the next one.
    #[error("run {given} of {job} is not the next one ({expected}); nothing was done, the leader looks again")]
    WrongRun {
        /// Of what.
        job: String,
        /// The one given.
        given: u32,
        /// The one that would do.
        expected: u32,
    },
    /// The run is not current.
    #[error("run {run} of {job} is not current; nothing was done")]
    RunNotCurrent {
        /// Of what.
        job: String,
        /// The one given.
        run: u32,
    },
    /// Nothing was given away, or all of it is in migrations.
    #[error("group {0} has given away no slots that could be swept; nothing was done")]
    NothingToSweep(GroupId),
    /// No sweep is open.
    #[error("no sweep of group {0} is open; nothing was done")]
    NoSweep(GroupId),
    /// A sweep is open where slots are to come, or a group is to go.
    #[error(
        "leftovers of slots that group {0} gave away are being deleted there; the leader ends that first, try again in a moment"
    )]
    SweepOpen(GroupId),
    /// Slots come to a group that is to be swept.
    #[error("slots come to group {group} ({by}), so it is not swept now; nothing was done")]
    GroupReceives {
        /// Which.
        group: GroupId,
        /// By what.
        by: String,
    },
}
