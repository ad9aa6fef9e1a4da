//! Why a change of a promotion, or of what promotions go by, did nothing, with the evidence and what to do.
//! Knows nothing of other changes.

use crate::model::ids::{AssignmentId, GroupId, HoldId, HostPort, MigrationId, PromotionId};

/// A refusal of a change about promotions, or about what an operator says of groups and servers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PromotionReject {
    // Beginning.
    /// The group is being promoted.
    #[error(
        "group {group} is getting {to} as its primary (promotion {promotion}), which has not ended; wait for it (`pontoon group show {group}`), then try again"
    )]
    GroupPromoted {
        /// Which.
        group: GroupId,
        /// By which promotion.
        promotion: PromotionId,
        /// Its next primary.
        to: HostPort,
    },
    /// It is the primary already.
    #[error("server {addr} is the primary of group {group} already; nothing was done")]
    IsPrimary {
        /// Which.
        addr: HostPort,
        /// Of which group.
        group: GroupId,
    },
    /// It may have what the primary never had.
    #[error(
        "server {addr} of group {group} may have other keys than the group's primary (it was the primary, or was perhaps promoted and given up), so it is no candidate until it has followed the primary again; `--force` takes it with what it has"
    )]
    Diverged {
        /// Which.
        addr: HostPort,
        /// Of which group.
        group: GroupId,
    },
    /// Slots came since the replicas were looked at.
    #[error("slots came to group {0} since its replicas were looked at; nothing was done, the leader looks again")]
    RequiredOffsetChanged(GroupId),
    /// A migration is about to switch.
    #[error(
        "slots of group {group} are held for migration {migration} (hold {hold}); try again in a moment, or cancel it (`pontoon migrate cancel {migration}`)"
    )]
    MigrationHeld {
        /// Which.
        group: GroupId,
        /// By which migration.
        migration: MigrationId,
        /// By which hold.
        hold: HoldId,
    },
    /// An assignment is about to change owners.
    #[error("slots of group {group} are held for assignment {assignment} (hold {hold}); try again in a moment")]
    AssignmentHeld {
        /// Which.
        group: GroupId,
        /// By which assignment.
        assignment: AssignmentId,
        /// By which hold.
        hold: HoldId,
    },

    // Steps.
    /// No such promotion, or it ended.
    #[error("promotion {0} has ended or never was; nothing was done")]
    Unknown(PromotionId),
    /// The attempt is not the next one.
    #[error("promotion {promotion} had {attempts} attempt(s), so the next is not number {given}; nothing was done")]
    WrongAttempt {
        /// Which.
        promotion: PromotionId,
        /// Attempts so far.
        attempts: u32,
        /// The one given.
        given: u32,
    },
    /// The kind of a promotion decides how it holds.
    #[error("a {kind} takes a hold of kind {wanted}; nothing was done")]
    WrongHoldKind {
        /// Of the promotion.
        kind: &'static str,
        /// The one it takes.
        wanted: &'static str,
    },
    /// It is held already.
    #[error("promotion {promotion} holds already (hold {hold}); nothing was done")]
    Held {
        /// Which.
        promotion: PromotionId,
        /// By which hold.
        hold: HoldId,
    },
    /// The hold is not the promotion's.
    #[error("hold {hold} is not one of promotion {promotion}; nothing was done")]
    OtherHold {
        /// The hold.
        hold: HoldId,
        /// The promotion.
        promotion: PromotionId,
    },
    /// The replica may be a primary by now.
    #[error(
        "promotion {promotion} held, so {to} may be a primary by now; it can be given up when {from} is back with its keys, or with `--force`"
    )]
    MayBePromoted {
        /// Which.
        promotion: PromotionId,
        /// The replica.
        to: HostPort,
        /// The old primary.
        from: HostPort,
    },

    // What promotions go by.
    /// The replication id is none.
    #[error("what was said to be the replication id of the primary of group {0} is none; nothing was done")]
    BadReplid(GroupId),
    /// Ejected of range.
    #[error("a server cannot be down after {0} ms; choose 500 ms to 10 min")]
    BadDownAfter(u32),
    /// Not a name of a zone.
    #[error(
        "'{0}' is not a zone: at most 64 letters, digits, '_', '.' or '-' (none: it is not said where the server stands)"
    )]
    BadZone(String),
    /// Ejected of range.
    #[error("{0} % of the primaries cannot be the most that may be down for failovers; choose 1 to 100")]
    BadShare(u8),
}
