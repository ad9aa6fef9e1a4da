//! A worker's share of a product's quotas: two token buckets, refilled at each tick, and the sessions that wait for tokens.
//! Knows nothing of requests.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use super::{session::Session, worker::TICK};
use crate::model::client_rules::ClientRules;

/// How long a request waits for tokens before it is refused. Clients that wait longer for a reply are rare, and one that has
/// given up repeats its request, which then waits twice.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(1);

/// Tokens that a bucket keeps, in ticks of its rate: what a tick adds is not lost when the tick before was not used up.
const BURST_TICKS: f64 = 2.0;

/// One bucket. It may owe tokens: the size of a reply is known when it is written.
#[derive(Debug)]
struct Bucket {
    per_tick: f64,
    tokens: Cell<f64>,
}

impl Bucket {
    /// `per_second`: of all workers of the node; 0: no limit.
    fn new(per_second: f64, workers: usize) -> Option<Self> {
        let per_tick = per_second * TICK.as_secs_f64() / workers as f64;
        (per_second > 0.0).then(|| Self { per_tick, tokens: Cell::new(per_tick.max(1.0)) })
    }

    fn refill(&self) {
        // At least one token, or a small rate would never allow a request.
        let most = (self.per_tick * BURST_TICKS).max(1.0);
        self.tokens.set((self.tokens.get() + self.per_tick).min(most));
    }

    fn take(&self, tokens: f64) {
        self.tokens.set(self.tokens.get() - tokens);
    }
}

/// A worker's share of the quotas of a product that has some.
#[derive(Debug)]
pub(super) struct Quota {
    ops: Option<Bucket>,
    bytes: Option<Bucket>,
    /// Sessions that wait for tokens, in the order in which they came.
    waiting: RefCell<Vec<Rc<Session>>>,
}

impl Quota {
    /// `None`: there is no limit.
    pub(super) fn new(rules: ClientRules, workers: usize) -> Option<Self> {
        let ops = Bucket::new(rules.ops_max.into(), workers);
        let bytes = Bucket::new(rules.bytes_max as f64, workers);
        (ops.is_some() || bytes.is_some()).then(|| Self { ops, bytes, waiting: RefCell::default() })
    }

    /// Takes the tokens of a request of `len` bytes, if there are some. A request that is larger than the bucket passes when
    /// nothing is owed, and later ones wait the longer.
    pub(super) fn admits(&self, len: usize) -> bool {
        let has = |bucket: &Option<Bucket>, least: f64| bucket.as_ref().is_none_or(|b| b.tokens.get() >= least);
        if !has(&self.ops, 1.0) || !has(&self.bytes, 0.0) {
            return false;
        }
        self.ops.iter().for_each(|ops| ops.take(1.0));
        self.charge(len);
        true
    }

    /// Takes the tokens of bytes that were sent.
    pub(super) fn charge(&self, len: usize) {
        self.bytes.iter().for_each(|bytes| bytes.take(len as f64));
    }

    /// Returns what a request has taken that could not be sent yet.
    pub(super) fn give_back(&self, len: usize) {
        self.ops.iter().for_each(|ops| ops.take(-1.0));
        self.bytes.iter().for_each(|bytes| bytes.take(-(len as f64)));
    }

    /// Wakes the session when there are tokens again.
    pub(super) fn wait(&self, session: &Rc<Session>) {
        if !session.waits_for_quota.replace(true) {
            self.waiting.borrow_mut().push(session.clone());
        }
    }

    /// Adds the tokens of a tick. Those that wait longest try first.
    pub(super) fn refill(&self) {
        self.ops.iter().chain(&self.bytes).for_each(Bucket::refill);
        self.wake_all();
    }

    /// Lets all sessions try again.
    pub(super) fn wake_all(&self) {
        for session in self.waiting.borrow_mut().drain(..) {
            session.waits_for_quota.set(false);
            session.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn quota(ops_max: u32, bytes_max: u64) -> Quota {
        Quota::new(ClientRules { ops_max, bytes_max, ..ClientRules::default() }, 2).unwrap()
    }

    fn admitted(quota: &Quota, len: usize, ticks: usize) -> usize {
        let tick = |_| {
            let admitted = (0..10_000).take_while(|_| quota.admits(len)).count();
            quota.refill();
            admitted
        };
        (0..ticks).map(tick).sum()
    }

    #[test]
    fn a_product_without_quotas_has_none() {
        assert!(Quota::new(ClientRules::default(), 2).is_none());
    }

    #[test]
    fn each_worker_admits_its_share() {
        // A hundred ticks are ten seconds.
        assert_eq!(admitted(&quota(1_000, 0), 10, 100), 5_000);
        // Less than one request a tick.
        assert!((9..=11).contains(&admitted(&quota(2, 0), 10, 100)));
        // Fifty requests of a thousand bytes a second.
        assert!((490..=510).contains(&admitted(&quota(0, 100_000), 1_000, 100)));
    }

    #[test]
    fn a_large_request_passes_and_is_paid_for() {
        let quota = quota(0, 20_000);
        assert!(quota.admits(10_000) && !quota.admits(1));
        // Ten thousand bytes a second are a thousand a tick.
        let ticks = (0..100)
            .take_while(|_| !{
                quota.refill();
                quota.admits(0)
            })
            .count();
        assert!((7..=9).contains(&ticks), "{ticks}");
    }

    #[test]
    fn replies_are_paid_for() {
        let quota = quota(0, 20_000);
        assert!(quota.admits(10));
        quota.charge(50_000);
        quota.refill();
        assert!(!quota.admits(10));
    }

    #[test]
    fn unused_tokens_are_not_saved_up() {
        let quota = quota(1_000, 0);
        (0..1_000).for_each(|_| quota.refill());
        assert_eq!((0..10_000).take_while(|_| quota.admits(1)).count(), 100);
    }
}
