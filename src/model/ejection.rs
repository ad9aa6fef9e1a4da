//! Ejections: the slots of a cache's group that is down, owned by other groups until it is reinstated.
//! Knows nothing of liveness and of keys.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    ids::{Epoch, GroupId, SlotId},
    state::{Group, Product},
};

/// The ejection of a group. An ejected group owns no slots and can get only the ejected ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ejection {
    /// Its id: the log index of Eject.
    pub id: Epoch,
    /// The slots that the group gets back. A slot that an operator assigns to another group is removed.
    pub slots: BTreeSet<SlotId>,
    /// Time of its Eject entry, milliseconds since the Unix epoch.
    pub since_ms: u64,
}

impl Product {
    /// The temporary owners of the slots of an ejected group.
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
