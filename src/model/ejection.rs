//! A ejection: slots of a cache whose group is out, with other groups of the product until it is back.
//! Knows nothing of who is down or up, nor of keys.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    ids::{Epoch, GroupId, SlotId},
    state::{Group, Product},
};

/// What a group reinstates when it went out. While it has one, it owns no slot and gets none but these.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ejection {
    /// Its id: the log index of Eject.
    pub id: Epoch,
    /// The slots that it gets back. One that an operator gives to another group is not among them any more.
    pub slots: BTreeSet<SlotId>,
    /// Milliseconds since the epoch, of its Eject.
    pub since_ms: u64,
}

impl Product {
    /// Who has the slots that a group reinstates.
    #[must_use]
    pub fn temporary_owners(&self, group: &Group) -> BTreeMap<GroupId, BTreeSet<SlotId>> {
        let mut by: BTreeMap<GroupId, BTreeSet<SlotId>> = BTreeMap::new();
        for slot in group.ejection.iter().flat_map(|ejection| &ejection.slots) {
            if let Some(owner) = self.slots.get(usize::from(slot.0)).and_then(|s| s.owner) {
                by.entry(owner).or_default().insert(*slot);
            }
        }
        by
    }

    /// The slots that a group owns.
    #[must_use]
    pub fn owned(&self, group: GroupId) -> BTreeSet<SlotId> {
        (0u16..).zip(&self.slots).filter(|(_, s)| s.owner == Some(group)).map(|(slot, _)| SlotId(slot)).collect()
    }
}
