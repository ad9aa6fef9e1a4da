//! What is asked of servers before a change is proposed, and why it is refused.
//! Knows nothing of the log.

pub mod migration;
pub mod server;
pub mod switchover;
