//! What each open promotion or assignment waits for: its task writes it, and the leader's loop shows it. Decides nothing.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::plan::waiting::Wait;

/// The waits of one term. Cheap to clone.
#[derive(Debug)]
pub struct Waits<Id>(Arc<Mutex<BTreeMap<Id, Wait>>>);

impl<Id> Clone for Waits<Id> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<Id> Default for Waits<Id> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<Id: Ord> Waits<Id> {
    /// Sets what this one waits for now; `None`: it is over.
    pub fn set(&self, id: Id, wait: Option<Wait>) {
        match wait {
            Some(wait) => self.lock().insert(id, wait),
            None => self.lock().remove(&id),
        };
    }

    /// What this one waits for. Before its task has said so, it has just begun.
    #[must_use]
    pub fn of(&self, id: Id) -> Wait {
        let begins = || Wait::new("it is in progress", "its task has taken the next step, within seconds");
        self.lock().get(&id).cloned().unwrap_or_else(begins)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Id, Wait>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An entry could not be written. The next activation of the leader's loop tries again.
#[must_use]
pub fn not_written(what: String, why: &str) -> Wait {
    Wait::new(what, "the log accepts it; it is tried again several times a second").with_detail(format!(": {why}"))
}
