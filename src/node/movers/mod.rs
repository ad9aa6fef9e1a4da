//! The runs of this node: their movers, and what is said of them on the wire.

pub mod mover_wire;
pub mod runs;

pub use runs::Movers;
