//! How this node watches servers: the prober, its connections, the probe log, and the probe log on the wire.

pub mod connection;
pub mod log;
pub mod misrouted;
pub mod prober;
pub mod report_wire;

pub use prober::Prober;
