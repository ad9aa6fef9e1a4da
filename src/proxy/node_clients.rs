//! The clients of the node, for operators. Knows nothing of who asks.

use super::{
    client_view::{ClientFilter, ClientView},
    inquiry::{Unanswered, Workers},
    operation::{describe_clients, kill_clients},
};

/// The clients of a node. Cheap to clone. The default has none.
#[derive(Clone, Debug, Default)]
pub struct NodeClients(Workers);

impl NodeClients {
    pub(super) fn new(workers: Workers) -> Self {
        Self(workers)
    }

    /// Those that a filter means, up to `max`, and whether there are more.
    ///
    /// # Errors
    /// A worker gives no answer in time.
    pub async fn list(&self, filter: &ClientFilter, max: usize) -> Result<(Vec<ClientView>, bool), Unanswered> {
        describe_clients(&self.0, filter, max).await
    }

    /// Closes those that a filter means, and returns them.
    ///
    /// # Errors
    /// A worker gives no answer in time; clients of others may be closed.
    pub async fn kill(&self, filter: &ClientFilter) -> Result<Vec<ClientView>, Unanswered> {
        kill_clients(&self.0, filter, None).await
    }
}
