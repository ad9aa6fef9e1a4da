//! How this node watches servers: a prober, its connections, the log of what they found, and that log on the wire.

pub mod connection;
pub mod log;
pub mod prober;
pub mod report_wire;

pub use prober::Prober;
