//! What a change that was accepted did, for whoever asked for it.

use super::ids::{AssignmentId, HoldId, Incarnation, MigrationId, ProductId, PromotionId};

/// What came of an accepted change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was done.
    Done,
    /// It was so already; nothing changed.
    Unchanged,
    /// A product was made.
    Product(ProductId),
    /// A start was admitted.
    Admitted(Incarnation),
    /// An assignment began; its end is to be waited for.
    Assignment(AssignmentId),
    /// A migration was planned; its end is to be waited for.
    Migration(MigrationId),
    /// A promotion began; its end is to be waited for.
    Promotion(PromotionId),
    /// A hold was opened.
    Held(HoldId),
    /// Slots were assigned: how many changed.
    Slots(u32),
}
