//! Checks at servers before a change is proposed, and the reasons why it cannot be.
//! Knows nothing of the log.

pub mod control_user;
pub mod data_user;
pub mod migration;
mod rivals;
pub mod server;
pub mod switchover;
