//! The rules for serving requests (`docs/design/serving.md`) as small state machines. [`checker`] visits every state
//! that such a machine can reach, so the rules are checked for every order of events within the bounds of the model.
//!
//! - [`lease`]: leases, holds, acks, the barrier and the check at reply time, while a slot changes its owner.
//! - [`fence`]: how a leader proves that no connection of a mover can change a server any more.
//!
//! The models do not use the code of Pontoon. They are the specification that the code is compared with. Each rule can
//! be left out of its model; the tests show the shortest sequence of events that then loses a write or returns a stale
//! read.

pub mod checker;
pub mod fence;
pub mod lease;
