//! Cold-path client of the backend servers: what the control plane asks them. The redis-protocol crate lives here.
//! Knows nothing of slots, groups or the log, and is never used for clients' requests.

pub mod capabilities;
pub mod client;
pub mod error;
pub mod frame;
pub mod info;
pub mod raw;
pub mod replication_status;
pub mod reply;
pub mod rights;
pub mod role;

pub use client::Client;
pub use error::RedisError;
pub use info::Info;
pub use replication_status::ReplicationStatus;
pub use reply::Reply;
pub use role::Role;
