//! Changes of ejections.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::ids::{Epoch, GroupId, ProductId, SlotId};

/// Ejects a group of a cache that is down: all its slots go to other groups until it is reinstated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eject {
    /// Product of the group.
    pub product: ProductId,
    /// The group.
    pub group: GroupId,
    /// Epoch of the group when its servers were checked.
    pub group_epoch: Epoch,
    /// The temporary owners and their slots.
    pub to: BTreeMap<GroupId, BTreeSet<SlotId>>,
    /// The reason, for people.
    pub why: String,
}

/// Reinstates an ejected group that is up again: begins the assignment that gives its slots back, or ends the ejection
/// at once if no slot is ejected any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reinstate {
    /// Product of the group.
    pub product: ProductId,
    /// The group.
    pub group: GroupId,
    /// Its ejection.
    pub ejection: Epoch,
    /// Epoch of the group when its servers were checked.
    pub group_epoch: Epoch,
}
