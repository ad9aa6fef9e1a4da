//! The begin and the end of a hold.

use crate::model::{ids::HoldId, route::HoldKind, state::Cause};

/// Opens a hold of the slots of its cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenHold {
    /// The assignment, migration or promotion that needs the hold.
    pub cause: Cause,
    /// Attempt of the cause: of an assignment and a promotion the last one + 1, of a migration the present one.
    pub attempt: u32,
    /// Wait or Abandon; for a promotion, the one that its kind demands.
    pub kind: HoldKind,
    /// The reason, for people.
    pub reason: String,
}

/// Ends a hold without a change of owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// The hold.
    pub hold: HoldId,
    /// The reason, for people.
    pub why: String,
}
