//! Connections of a mover to servers: pipelined, monitored, paced.
//! Knows nothing of what is copied.

pub mod connection;
mod data_loss;
pub mod monitor;
pub mod pace;
pub mod pipeline;
pub mod scan;
