//! The admin service of proto/admin.proto, on every node: it answers what is replicated, and has the leader decide the rest.
//! Knows nothing of how a change is carried out; it asks the control plane and the log.
//!
//! ```text
//! call -> validate -> this node leads? -> ask servers -> propose -> wait -> reply
//!                       | no
//!                       v
//!                  forward to the leader, one hop; again under the same change id while leaders change
//! ```

pub mod change;
pub mod cluster;
pub mod error;
pub mod events;
pub mod forward;
pub mod group_show;
pub mod group_view;
pub mod groups;
pub mod grpc;
pub mod health;
pub mod migration_view;
pub mod migrations;
pub mod nodes;
pub mod products;
pub mod promotions;
pub mod rebalance;
pub mod server;
pub mod servers;
pub mod show;
pub mod slots;
pub mod validate;

use crate::control::handle::Control;

/// The service. Cheap to clone.
#[derive(Clone)]
pub struct Api {
    /// The log and what the leader sees.
    pub control: Control,
    /// Calls to the leader.
    pub leaders: forward::Leaders,
}
