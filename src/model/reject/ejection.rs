//! Why a change of a ejection did nothing, with the evidence and what to do.
//! Knows nothing of other changes.

use crate::model::ids::{GroupId, SlotId};

/// A refusal of a change about slots that a cache's group ejects.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EjectionReject {
    /// A store keeps its data: its slots wait for their group.
    #[error(
        "product '{0}' is a store: the slots of a group that is down wait for it, they are reinstates in caches only"
    )]
    NotCache(String),
    /// The group is out.
    #[error(
        "group {0} is out: its slots are ejected, since its primary is down, and it is flushed before it gets them back; wait until it is back (`pontoon group show {0}`)"
    )]
    Ejected(GroupId),
    /// The group is not out, or not by this ejection.
    #[error("group {0} does not eject slots by this ejection any more; nothing was done")]
    NotEjected(GroupId),
    /// Not exactly its slots are given, each once, to others.
    #[error("group {0} owns other slots than this ejection is of; nothing was done, the leader looks again")]
    NotAll(GroupId),
    /// The borrower had the slot before.
    #[error(
        "group {group} has not deleted yet what it had of slot {slot}; it may be reinstates the slot when that is done"
    )]
    Leftovers {
        /// Which slot.
        slot: SlotId,
        /// The borrower.
        group: GroupId,
    },
    /// The wait is too short or too long.
    #[error(
        "a group ejects its slots after 500 ms to 600000 ms without its primary, or never (0); {0} ms was asked for"
    )]
    BadEjectAfter(u32),
}
