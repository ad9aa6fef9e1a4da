//! Commands that the table does not have, and servers do: those of modules and of newer versions, as servers describe them
//! in the reply to `COMMAND`. Knows nothing of how servers are asked.

mod command;
mod differing;
mod identity;
mod keys;
mod offered;
mod product;

pub use command::{LearntCommand, ReportedCommand};
pub use differing::DifferingCommands;
pub use identity::{RedisVersion, ServerIdentity};
pub use keys::{KeyCount, KeySearch, ReportedKeys};
pub use offered::OfferedCommands;
pub use product::ServerCommands;
