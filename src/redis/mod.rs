//! Client of the backend servers for everything but clients' requests. The only user of the redis-protocol crate.
//! Knows nothing of slots, groups and the log.

pub mod capabilities;
pub mod client;
pub mod client_list;
pub mod error;
pub mod frame;
pub mod info;
pub mod login;
pub mod raw;
pub mod replication_status;
pub mod reply;
pub mod rights;
pub mod role;

pub use client::Client;
pub use client_list::ClientListEntry;
pub use error::RedisError;
pub use info::Info;
pub use replication_status::ReplicationStatus;
pub use reply::{Reply, clock_ms};
pub use role::Role;
