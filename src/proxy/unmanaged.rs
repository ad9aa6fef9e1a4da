//! How many replicas hang on a primary that are no servers of its group: told by the node, read when replicas are counted.
//! Knows nothing of how they were found.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use crate::model::ids::HostPort;

/// SharedReport by the node, which looks, and its workers, which read it once for a group of writes. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct UnmanagedReplicas {
    by_primary: Arc<RwLock<BTreeMap<HostPort, u32>>>,
}

impl UnmanagedReplicas {
    /// Replaces what is known; a primary that is not named has none.
    pub fn publish(&self, by_primary: BTreeMap<HostPort, u32>) {
        *self.by_primary.write().unwrap_or_else(PoisonError::into_inner) = by_primary;
    }

    /// Of one primary.
    #[must_use]
    pub fn of(&self, primary: &HostPort) -> u32 {
        // The value is whole even if a thread died while it held the lock.
        self.by_primary.read().unwrap_or_else(PoisonError::into_inner).get(primary).copied().unwrap_or(0)
    }
}
