//! What the leader does for the cluster as a whole: heartbeats and leases, quorum confirmation, membership, the loop
//! that starts everything else. Knows nothing of slots and servers.

pub mod context;
pub mod heartbeat_handler;
pub mod leader_loop;
pub mod leases;
pub mod node_notes;
pub mod peers;
pub mod quorum;
pub mod view;
pub mod waits;
