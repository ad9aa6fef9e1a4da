//! The runs of this node: their movers, and their reports on the wire.

pub mod mover_wire;
pub mod runs;

pub use runs::Movers;
