//! The rules for migrations (`docs/design/migration.md`) as small state machines.
//! [`checker`](crate::serving_model::checker) visits every state that such a machine can reach, so the rules are
//! checked for every order of events within the bounds of the model.
//!
//! - [`copy`]: how one copy run becomes complete although clients change keys while it copies.
//! - [`runs`]: which run may change a server: successive runs, their connections, two leaders, the log.
//! - [`failover`]: a migration between two groups whose primaries are replaced meanwhile.
//!
//! The models do not use the code of Pontoon. They are the specification that the code is compared with. Each rule can
//! be left out of its model; the tests show the shortest sequence of events that then loses a write or leaves a key
//! behind.

pub mod copy;
pub mod failover;
pub mod runs;
