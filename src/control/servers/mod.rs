//! What the leader does at servers: the connection fence, replication commands, replication reconciliation.
//! Decides nothing; `plan` does.

pub mod authorizer;
pub mod blocked;
pub mod control_user;
pub mod data_user;
pub mod fence;
pub mod first_primary;
pub mod flush;
pub mod libraries;
pub mod offered;
pub mod reconciler;
pub mod replication_commands;
pub mod replication_user;
pub mod scripts;
