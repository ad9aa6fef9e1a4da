//! The comparison that runs beside the copy. It starts when the copy has caught up for the first time.
//! Knows nothing of how keys are compared.

use std::{cell::RefCell, future::Future, pin::Pin, rc::Rc};

use super::{
    Comparison, Outcome, Scope,
    watched::{WatchedKeys, WatchedKeysView},
};
use crate::{
    model::migration::{Verified, Verify},
    mover::spec::CopySpec,
};

/// A running comparison.
pub(in crate::mover) struct Comparing<'a> {
    pub work: Pin<Box<dyn Future<Output = Result<Outcome, String>> + 'a>>,
    pub progress: Rc<RefCell<Verified>>,
    /// The current barrier: the poll of the primary that reads its offset, and whether the feed has got the offset.
    pub barrier: Option<(u64, bool)>,
}

impl<'a> Comparing<'a> {
    /// Starts the comparison that the spec demands. `keys`: estimated number of keys; `reports_groups`: see [`Scope`].
    pub fn start(spec: &'a CopySpec, keys: u64, reports_groups: bool, watched: Rc<RefCell<WatchedKeys>>) -> Self {
        let progress = Rc::new(RefCell::new(Verified::default()));
        let so_far = progress.clone();
        let work = async move {
            let scope =
                Scope { slots: &spec.slots, databases: spec.databases, verify: spec.verify, keys, reports_groups };
            let comparison = Comparison::open(&spec.feed, &spec.target, &spec.name, scope).await?;
            comparison.run(&WatchedKeysView(watched), |verified| *so_far.borrow_mut() = verified).await
        };
        Self { work: Box::pin(work), progress, barrier: None }
    }
}

/// Evaluates the result of a comparison.
///
/// # Errors
/// Returns as text for the operator which keys differ. The copy must be restarted.
pub(in crate::mover) fn evaluate(outcome: &Outcome, verify: Verify) -> Result<Verified, String> {
    if outcome.verified.different > 0 {
        return Err(format!(
            "verification: {} of {} keys differ between source and target: {}",
            outcome.verified.different,
            outcome.verified.keys,
            outcome.different.join("; ")
        ));
    }
    if outcome.always_changing + outcome.unreadable > 0 {
        tracing::warn!(
            ?verify,
            keys = outcome.verified.keys,
            always_changing = outcome.always_changing,
            not_comparable = outcome.unreadable,
            names = outcome.unreadable_named.join("; "),
            "some keys could not be compared"
        );
    }
    Ok(outcome.verified)
}
