//! Rejects of changes of promotions and of the settings that they depend on, with the evidence and what to do.

use crate::model::ids::{AssignmentId, GroupId, HoldId, HostPort, MigrationId, PromotionId};

/// A reject of a change of a promotion, or of the settings of groups and servers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PromotionReject {
    // Beginning.
    /// The group is being promoted.
    #[error(
        "group {group} is getting {to} as its primary (promotion {promotion}), which has not ended; wait for it (`pontoon group show {group}`), then try again"
    )]
    GroupPromoted {
        /// The group.
        group: GroupId,
        /// The promotion.
        promotion: PromotionId,
        /// Its next primary.
        to: HostPort,
    },
    /// It is the primary already.
    #[error("server {addr} is the primary of group {group} already; nothing was done")]
    IsPrimary {
        /// The server.
        addr: HostPort,
        /// The group.
        group: GroupId,
    },
    /// The server may have data that the primary never had.
    #[error(
        "server {addr} of group {group} has diverged: it may have other keys than the group's primary (it was the primary, or a promotion to it was given up), so it is not a candidate until it is resynced; `--force` promotes it with the keys that it has"
    )]
    Diverged {
        /// The server.
        addr: HostPort,
        /// The group.
        group: GroupId,
    },
    /// Slots came to the group since its replicas were checked.
    #[error("slots came to group {0} since its replicas were checked; nothing was done, the leader decides again")]
    RequiredOffsetChanged(GroupId),
    /// A migration is about to switch.
    #[error(
        "slots of group {group} are held for migration {migration} (hold {hold}); try again in a moment, or cancel it (`pontoon migrate cancel {migration}`)"
    )]
    MigrationHeld {
        /// The group.
        group: GroupId,
        /// The migration.
        migration: MigrationId,
        /// The hold.
        hold: HoldId,
    },
    /// An assignment is about to change owners.
    #[error("slots of group {group} are held for assignment {assignment} (hold {hold}); try again in a moment")]
    AssignmentHeld {
        /// The group.
        group: GroupId,
        /// The assignment.
        assignment: AssignmentId,
        /// The hold.
        hold: HoldId,
    },

    // Steps.
    /// No such promotion, or it ended.
    #[error("promotion {0} has ended or never existed; nothing was done")]
    Unknown(PromotionId),
    /// The attempt is not the next one.
    #[error("promotion {promotion} had {attempts} attempt(s), so the next is not number {given}; nothing was done")]
    WrongAttempt {
        /// The promotion.
        promotion: PromotionId,
        /// Attempts so far.
        attempts: u32,
        /// The one given.
        given: u32,
    },
    /// The hold does not have the kind that the promotion demands.
    #[error("a {kind} takes a hold of kind {wanted}; nothing was done")]
    WrongHoldKind {
        /// Kind of the promotion.
        kind: &'static str,
        /// The kind of hold that it demands.
        wanted: &'static str,
    },
    /// The promotion has an open hold already.
    #[error("promotion {promotion} has an open hold already ({hold}); nothing was done")]
    Held {
        /// The promotion.
        promotion: PromotionId,
        /// The hold.
        hold: HoldId,
    },
    /// The hold belongs to something else.
    #[error("hold {hold} is not one of promotion {promotion}; nothing was done")]
    OtherHold {
        /// The hold.
        hold: HoldId,
        /// The promotion.
        promotion: PromotionId,
    },
    /// The replica may have become a primary.
    #[error(
        "promotion {promotion} has held slots, so {to} may have become a primary; it can be given up when {from} is back with its keys, or with `--force`"
    )]
    MayBePromoted {
        /// The promotion.
        promotion: PromotionId,
        /// The replica.
        to: HostPort,
        /// The old primary.
        from: HostPort,
    },

    // Settings that promotions depend on.
    /// It is not a replication id or run id.
    #[error("the replication id or run id of the primary of group {0} is not one; nothing was done")]
    BadReplid(GroupId),
    /// The time is out of range.
    #[error("down-after cannot be {0} ms; choose 500 ms to 10 min")]
    BadDownAfter(u32),
    /// The time is out of range.
    #[error("the time until something is done about an impaired server cannot be {0} ms; choose 1 s to 1 h, or off")]
    BadImpairedAfter(u32),
    /// Not a name of a zone.
    #[error("'{0}' is not a zone: at most 64 letters, digits, '_', '.' or '-' (empty: no zone)")]
    BadZone(String),
    /// The share is out of range.
    #[error("the failover share cannot be {0} %; choose 1 to 100")]
    BadShare(u8),
}
