//! The replicated state and the changes of it. Pure: no clock, no randomness, no I/O.
//! Knows nothing of encodings, of Raft, and of processes.

// A new variant must be considered wherever one is matched: a forgotten one could mean a wrong decision.
#![deny(clippy::wildcard_enum_match_arm)]

pub mod apply;
pub mod auth;
pub mod author;
pub mod change;
pub mod check;
pub mod client_rules;
pub mod cluster_secret;
pub mod data_user;
pub mod derive;
pub mod ejection;
pub mod event;
pub mod ids;
pub mod limits;
pub mod migration;
pub mod names;
pub mod outcome;
pub mod ports;
pub mod printable;
pub mod promotion;
pub mod reads;
pub mod redis_version;
pub mod reject;
pub mod route;
pub mod scan_cursor;
pub mod scan_history;
pub mod script;
pub mod secret;
pub mod slot;
pub mod state;
