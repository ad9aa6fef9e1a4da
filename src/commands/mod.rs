//! The table of Redis commands: arity and flags of a command, the positions of its keys, and how the proxy handles it.
//! Knows nothing of slots, servers, sessions or how bytes arrive.

mod allow_list;
mod blocking;
mod invalid;
mod keys;
mod learnt;
mod lookup;
mod routing;
mod spec;
mod table;

pub use allow_list::allow_list;
pub use blocking::{BlockTimeout, from_now_on};
pub use invalid::InvalidCall;
pub use keys::{Args, KeySpec, KeysError};
pub use learnt::{
    DifferingCommands, KeyCount, KeySearch, LearntCommand, OfferedCommands, ReportedCommand, ReportedKeys,
    ServerCommands,
};
pub use lookup::{ResolveError, all, lookup, resolve};
pub use routing::is_blocking_call;
pub use spec::{AllGroups, Flags, Handling, Local, ScriptCall, ScriptCommand, Spec, Split, TransactionCommand};
