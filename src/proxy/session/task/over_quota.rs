//! What a product's quota means for the requests of a session: they are admitted, wait, or are refused.

use super::{ScanStop, SessionTask};
use crate::proxy::quota::{Quota, WAIT_MAX};

/// What the product's quota says of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    Admitted,
    /// It waits for tokens.
    Waits,
    /// It has waited for too long.
    Refused,
}

impl SessionTask {
    /// Whether a request of `len` bytes may be handled now, by the product's quota.
    pub(super) fn admit(&mut self, quota: &Quota, len: usize) -> Admission {
        if quota.admits(len) {
            (self.over_quota_since, self.admitted) = (None, Some(len));
            return Admission::Admitted;
        }
        let clock = &self.worker.clock;
        let since = *self.over_quota_since.get_or_insert_with(|| clock.tick());
        if clock.age(since) < WAIT_MAX { Admission::Waits } else { Admission::Refused }
    }

    /// What the end of a scan means for the quota.
    pub(super) fn settle_quota(&mut self, quota: &Quota, stop: ScanStop) {
        let admitted = self.admitted.take();
        match stop {
            ScanStop::OverQuota => quota.wait(&self.session),
            // The last request is handled again later.
            ScanStop::Parked | ScanStop::Waiting => admitted.iter().for_each(|len| quota.give_back(*len)),
            // Everything was refused: what comes next may wait again.
            ScanStop::Incomplete => self.over_quota_since = None,
            ScanStop::AtLimit | ScanStop::TurnOver => {}
        }
    }
}
