//! What open promotions wait for, a sentence each: written by their tasks, shown by the leader's loop. Decides nothing.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::model::ids::PromotionId;

/// The sentences of one term. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct PromotionWaits(Arc<Mutex<BTreeMap<PromotionId, String>>>);

impl PromotionWaits {
    /// What this one waits for now; `None`: it is over.
    pub fn tell(&self, id: PromotionId, why: Option<String>) {
        match why {
            Some(why) => self.lock().insert(id, why),
            None => self.lock().remove(&id),
        };
    }

    /// What this one waits for.
    #[must_use]
    pub fn of(&self, id: PromotionId) -> Option<String> {
        self.lock().get(&id).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PromotionId, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
