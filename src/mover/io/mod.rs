//! Connections of a mover to servers: pipelined, monitored, paced.
//! Knows nothing of what is copied.

pub mod connection;
pub mod monitor;
pub mod pace;
pub mod pipeline;
pub mod scan;
