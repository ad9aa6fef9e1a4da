//! Changes of a slot's owner without data.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::ids::{AssignmentId, Epoch, GroupId, HoldId, ProductId, SlotId, Term};

/// Gives slots without an owner to a group. Slots that the group owns already stay as they are. Refused when another
/// group owns one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssignFree {
    /// Product of the slots.
    pub product: ProductId,
    /// The slots.
    pub slots: BTreeSet<SlotId>,
    /// Their new owner.
    pub to: GroupId,
}

/// Begins an assignment of slots some of which have another owner. Slots without an owner may be among them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartAssign {
    /// Product of the slots.
    pub product: ProductId,
    /// The slots.
    pub slots: BTreeSet<SlotId>,
    /// Their new owner. `None`: they are released, and have no owner then.
    pub to: Option<GroupId>,
    /// Whether the keys that the present owners have in these slots are abandoned.
    pub abandon: bool,
}

/// The slots of an assignment change their owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FinishAssign {
    /// The assignment.
    pub assignment: AssignmentId,
    /// Its open hold, whose barrier has passed.
    pub hold: HoldId,
    /// Term of the verdict. Refused in another term.
    pub term: Term,
    /// Epochs of all groups concerned (the owners' and the target's) when their servers were scanned.
    pub group_epochs: BTreeMap<GroupId, Epoch>,
}

/// Ends an assignment without a change of owner. Ends its hold if one is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GiveUpAssign {
    /// The assignment.
    pub assignment: AssignmentId,
    /// The reason, for people.
    pub why: String,
}
