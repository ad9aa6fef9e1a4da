//! The numbers of unmanaged replicas: replicas of a primary that are not in its group. The node publishes them; workers
//! read them when they count the replicas that confirmed a write. Knows nothing of how the node finds them.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use crate::model::ids::HostPort;

/// Shared by the node, which publishes the numbers, and its workers, which read one number per batch of writes. Cheap
/// to clone.
#[derive(Clone, Debug, Default)]
pub struct UnmanagedReplicas {
    by_primary: Arc<RwLock<BTreeMap<HostPort, u32>>>,
}

impl UnmanagedReplicas {
    /// Replaces the numbers; a primary that is not in `by_primary` has no unmanaged replicas.
    pub fn publish(&self, by_primary: BTreeMap<HostPort, u32>) {
        *self.by_primary.write().unwrap_or_else(PoisonError::into_inner) = by_primary;
    }

    /// The number of unmanaged replicas of `primary`.
    #[must_use]
    pub fn of(&self, primary: &HostPort) -> u32 {
        // The value is consistent even if a thread panicked while it held the lock.
        self.by_primary.read().unwrap_or_else(PoisonError::into_inner).get(primary).copied().unwrap_or(0)
    }
}
