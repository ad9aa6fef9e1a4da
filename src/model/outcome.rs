//! What an accepted change did, for the caller that proposed it.

use super::ids::{AssignmentId, HoldId, Incarnation, MigrationId, ProductId, PromotionId};

/// The result of an accepted change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was done.
    Done,
    /// The state was as wanted already; nothing changed.
    Unchanged,
    /// A product was created.
    Product(ProductId),
    /// A start was admitted.
    Admitted(Incarnation),
    /// An assignment began; the caller may wait for its end.
    Assignment(AssignmentId),
    /// A migration was planned; the caller may wait for its end.
    Migration(MigrationId),
    /// A promotion began; the caller may wait for its end.
    Promotion(PromotionId),
    /// A hold was opened.
    Held(HoldId),
    /// Slots changed their owner: their number.
    Slots(u32),
}
