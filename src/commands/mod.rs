//! The Redis command table: what a command is, where its keys are, what the proxy does with it.
//! Refuses to know slots, servers, sessions and how bytes arrive.

mod keys;
mod lookup;
mod spec;
mod table;

pub use keys::{Args, KeySpec, KeysError, is_blocking_call};
pub use lookup::{ResolveError, all, lookup, resolve};
pub use spec::{Flags, Handling, Local, Spec, Split, flag};
