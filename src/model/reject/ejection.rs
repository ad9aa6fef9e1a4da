//! Rejects of changes of ejections, with the evidence and what to do.

use crate::model::ids::{GroupId, SlotId};

/// A reject of a change of an ejection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EjectionReject {
    /// The product is a store: its slots wait for their group.
    #[error("product '{0}' is a store: the slots of a group that is down wait for it; only caches eject slots")]
    NotCache(String),
    /// The group is ejected.
    #[error(
        "group {0} is ejected, because its primary is down, and it is flushed before it gets its slots back; wait until it is reinstated (`pontoon group show {0}`)"
    )]
    Ejected(GroupId),
    /// The group is not ejected, or by another ejection.
    #[error("group {0} is not ejected any more by this ejection; nothing was done")]
    NotEjected(GroupId),
    /// The change does not give exactly the slots of the group, each once, to other groups.
    #[error("group {0} owns other slots than those of this ejection; nothing was done, the leader decides again")]
    NotAll(GroupId),
    /// The temporary owner has leftovers of the slot.
    #[error("group {group} still has leftovers of slot {slot}; it may get the slot when they are deleted")]
    Leftovers {
        /// The slot.
        slot: SlotId,
        /// The temporary owner.
        group: GroupId,
    },
    /// The time is out of range.
    #[error(
        "a group ejects its slots after 500 ms to 600000 ms without its primary, or never (0); {0} ms was asked for"
    )]
    BadEjectAfter(u32),
}
