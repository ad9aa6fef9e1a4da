//! The table of Redis commands: arity and flags of a command, the positions of its keys, and how the proxy handles it.
//! Knows nothing of slots, servers, sessions or how bytes arrive.

mod allow_list;
mod blocking;
mod invalid;
mod keys;
mod learnt;
mod lookup;
mod number;
mod packed_name;
mod routing;
mod secrets;
mod spec;
mod table;

pub use allow_list::allow_list;
pub use blocking::{BlockTimeout, from_now_on};
pub use invalid::InvalidCall;
pub use keys::{Args, KeySpec, KeysError};
pub use learnt::{
    DifferingCommands, KeyCount, KeySearch, LearntCommand, OfferedCommands, RedisVersion, ReportedCommand,
    ReportedKeys, ServerCommands, ServerIdentity,
};
pub use lookup::{ResolveError, all, lookup, resolve, resolve_numbered};
pub use number::CommandNumber;
pub use routing::is_blocking_call;
pub use secrets::secret_args;
pub use spec::{
    AllGroups, Flags, Handling, HashImport, Local, NodeCommand, ScriptCall, ScriptCommand, Spec, Split,
    TransactionCommand,
};
pub use table::NO_CLUSTER;
