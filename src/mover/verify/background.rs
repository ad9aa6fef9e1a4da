//! The verification beside the copying: started when the copy has caught up for the first time, its barriers served.
//! Knows nothing of how keys are compared.

use std::{cell::RefCell, future::Future, pin::Pin, rc::Rc};

use super::{Comparison, Outcome, Scope};
use crate::{
    model::migration::{Verified, Verify},
    mover::{
        spec::CopySpec,
        track::changes::{WatchedKeys, WatchedKeysView},
    },
};

/// A comparison under way.
pub(in crate::mover) struct Comparing<'a> {
    pub work: Pin<Box<dyn Future<Output = Result<Outcome, String>> + 'a>>,
    pub progress: Rc<RefCell<Verified>>,
    /// A barrier that is being passed: the poll at the primary that gives its offset, and whether the feed knows it.
    pub barrier: Option<(u64, bool)>,
}

impl<'a> Comparing<'a> {
    /// Compares what the spec asks for; `keys`: about how many there are; `tells_groups`: see [`Scope`].
    pub fn start(spec: &'a CopySpec, keys: u64, tells_groups: bool, watched: Rc<RefCell<WatchedKeys>>) -> Self {
        let progress = Rc::new(RefCell::new(Verified::default()));
        let so_far = progress.clone();
        let work = async move {
            let scope =
                Scope { slots: &spec.slots, databases: spec.databases, verify: spec.verify, keys, tells_groups };
            let comparison = Comparison::open(&spec.feed, &spec.target, &spec.name, scope).await?;
            comparison.run(&WatchedKeysView(watched), |verified| *so_far.borrow_mut() = verified).await
        };
        Self { work: Box::pin(work), progress, barrier: None }
    }
}

/// What a comparison means for the attempt.
///
/// # Errors
/// Something differs lastingly: the copy is to begin anew. A sentence that names keys.
pub(in crate::mover) fn verdict(outcome: &Outcome, verify: Verify) -> Result<Verified, String> {
    if outcome.verified.different > 0 {
        return Err(format!(
            "verification: {} of {} keys differ between source and target: {}",
            outcome.verified.different,
            outcome.verified.keys,
            outcome.different.join("; ")
        ));
    }
    if outcome.busy + outcome.unread > 0 {
        tracing::warn!(
            ?verify,
            keys = outcome.verified.keys,
            always_changing = outcome.busy,
            not_comparable = outcome.unread,
            names = outcome.unread_named.join("; "),
            "some keys could not be compared"
        );
    }
    Ok(outcome.verified)
}
