//! What should happen next. Pure: values in, values out; times are arguments.
//! Knows nothing of clocks, servers or the log; who calls it acts.

// As in the model: a new variant must be looked at wherever one is matched.
#![deny(clippy::wildcard_enum_match_arm)]

pub mod assign;
pub mod lease;
pub mod membership;
pub mod timing;
