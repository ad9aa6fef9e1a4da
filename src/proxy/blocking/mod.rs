//! Blocking commands: each call waits at the owner of its slot, on a dedicated connection; holds, the end of a lease and
//! the end of its client end the wait there. Knows nothing of what the commands do.
//!
//! `keyed` runs the commands with keys, `replicas` WAIT and WAITAOF, both over `connection`; `delay` runs DEBUG SLEEP; `call` is
//! what the worker and the session see of a call; `decision` and `request` are pure.

mod call;
mod connection;
mod decision;
mod delay;
mod keyed;
mod replicas;
mod request;

pub(super) use call::{BlockedCall, BlockedCalls};
pub(super) use decision::LeaseState;
pub use decision::Unblock;
pub(super) use delay::run as delay_client;
pub(super) use keyed::run as run_blocking;
pub(super) use replicas::run as wait_for_replicas;
