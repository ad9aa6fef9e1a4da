//! The admin service of proto/admin.proto, on every node: reads are answered from the replicated state, changes are
//! executed by the leader.
//! Knows nothing of how a change takes effect; that is for the log and the control plane.
//!
//! ```text
//! call -> validate -> this node leads? -> probe servers -> propose -> wait -> reply
//!                       | no
//!                       v
//!                  forward to the leader, one hop; repeat under the same change id while the leader changes
//! ```

mod bounded;
pub mod call;
pub mod change;
mod clients;
pub mod cluster;
mod connections;
mod control_user;
mod data_user;
pub mod error;
pub mod events;
pub mod forward;
pub mod gate;
pub mod group_show;
pub mod group_view;
pub mod groups;
pub mod grpc;
pub mod health;
mod http1;
mod incoming;
mod leader;
pub mod metrics;
pub mod migration_view;
pub mod migrations;
mod node_log;
mod node_note;
pub mod nodes;
mod opening;
mod origin;
mod product_guard;
pub mod products;
pub mod promotions;
mod quorum_guard;
pub mod rebalance;
pub mod scripts;
pub mod server;
pub mod servers;
mod shared_risk;
pub mod show;
mod silence;
pub mod slots;
mod status;
pub mod validate;

use crate::{control::handle::Control, proxy::NodeClients};

/// The service. Cheap to clone.
#[derive(Clone)]
pub struct Api {
    /// The log, and what nodes have reported to the leader.
    pub control: Control,
    /// Calls to the leader.
    pub leaders: forward::Leaders,
    /// The Redis clients of this node.
    pub clients: NodeClients,
}
