//! What each open promotion waits for: texts that its task writes and the leader's loop shows. Decides nothing.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::model::ids::PromotionId;

/// The texts of one term, for people. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct PromotionWaits(Arc<Mutex<BTreeMap<PromotionId, String>>>);

impl PromotionWaits {
    /// Sets what a promotion waits for now; `None`: it is over.
    pub fn set(&self, id: PromotionId, why: Option<String>) {
        match why {
            Some(why) => self.lock().insert(id, why),
            None => self.lock().remove(&id),
        };
    }

    /// What a promotion waits for.
    #[must_use]
    pub fn of(&self, id: PromotionId) -> Option<String> {
        self.lock().get(&id).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PromotionId, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
