//! What the clients of each product do on this node: calls of each command, errors, bytes. Exact at every moment, so that
//! INFO can show it. Knows nothing of who shows it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use crate::{commands::CommandNumber, model::ids::ProductId};

/// Kinds of errors that are counted for a product and worker, as in Redis: scripts can return any.
const ERRORS_MAX: usize = 128;

/// Longest kind of error, in bytes. Redis has none with more than 16.
const ERROR_LEN_MAX: usize = 32;

/// The shortest time over which rates are averages.
const RATE_OVER: Duration = Duration::from_secs(1);

/// The kind of errors that have no name of their own, or are beyond [`ERRORS_MAX`].
const OTHER_ERRORS: &str = "ERR";

/// A counter that only one thread increments, and others read: no more than a `Cell` for the one that increments.
#[derive(Debug, Default)]
struct Counter(AtomicU64);

impl Counter {
    #[inline]
    fn add(&self, more: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(more), Relaxed);
    }
}

/// The calls of one command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Calls {
    /// Executed, at a server or by the node.
    pub(super) calls: u64,
    /// Refused before they were executed.
    pub(super) rejected: u64,
    /// Executed and answered with an error.
    pub(super) failed: u64,
}

#[derive(Debug, Default)]
struct CallCounters {
    calls: Counter,
    rejected: Counter,
    failed: Counter,
}

/// The counters of a product on one worker. Only its thread increments them.
#[derive(Debug)]
pub(super) struct ProductUsage {
    /// By the number of the command.
    commands: Box<[CallCounters]>,
    /// Requests of commands that the table does not have.
    other_calls: Counter,
    received: Counter,
    sent: Counter,
    /// Clients whose call blocks.
    blocked: AtomicU64,
    /// Errors by their first word. Locked by another thread only to show them.
    errors: Mutex<BTreeMap<Box<str>, u64>>,
}

impl ProductUsage {
    fn new() -> Self {
        Self {
            commands: (0..CommandNumber::count()).map(|_| CallCounters::default()).collect(),
            other_calls: Counter::default(),
            received: Counter::default(),
            sent: Counter::default(),
            blocked: AtomicU64::new(0),
            errors: Mutex::default(),
        }
    }

    /// Counts a call.
    #[inline]
    pub(super) fn call(&self, command: Option<CommandNumber>) {
        match command {
            Some(command) => self.commands[command.index()].calls.add(1),
            None => self.other_calls.add(1),
        }
    }

    /// Counts a call that is refused.
    pub(super) fn reject(&self, command: CommandNumber) {
        self.commands[command.index()].rejected.add(1);
    }

    /// Counts an error that answers a call; `error` is with or without `-`. `command`: if it has failed.
    #[cold]
    pub(super) fn fail(&self, command: Option<CommandNumber>, error: &[u8]) {
        if let Some(command) = command {
            self.commands[command.index()].failed.add(1);
        }
        self.count_error(error);
    }

    /// Counts an error; `error` is with or without `-`.
    #[cold]
    pub(super) fn count_error(&self, error: &[u8]) {
        let error = error.strip_prefix(b"-").unwrap_or(error);
        let end = error.iter().position(|c| matches!(c, b' ' | b'\r')).unwrap_or(error.len());
        let kind = std::str::from_utf8(&error[..end]).unwrap_or_default();
        let is_name = (1..=ERROR_LEN_MAX).contains(&kind.len()) && kind.bytes().all(|c| c.is_ascii_graphic());
        let mut errors = locked(&self.errors);
        let has_room = errors.len() < ERRORS_MAX;
        match errors.get_mut(kind) {
            Some(count) => *count += 1,
            None if is_name && has_room => {
                errors.insert(kind.into(), 1);
            }
            None => *errors.entry(OTHER_ERRORS.into()).or_default() += 1,
        }
    }

    /// Counts bytes from clients.
    #[inline]
    pub(super) fn received(&self, bytes: usize) {
        self.received.add(bytes as u64);
    }

    /// Counts a call that begins to block.
    pub(super) fn block(&self) {
        self.blocked.fetch_add(1, Relaxed);
    }

    /// Counts a call that does not block any more.
    pub(super) fn unblock(&self) {
        self.blocked.fetch_sub(1, Relaxed);
    }

    /// Counts bytes to clients.
    #[inline]
    pub(super) fn sent(&self, bytes: usize) {
        self.sent.add(bytes as u64);
    }
}

/// What was counted for a product on all workers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct UsageTotal {
    /// By the number of the command; empty: nothing was counted.
    pub(super) commands: Vec<Calls>,
    /// Calls of all commands.
    pub(super) calls: u64,
    /// By their first word.
    pub(super) errors: BTreeMap<Box<str>, u64>,
    pub(super) received: u64,
    pub(super) sent: u64,
    /// Clients whose call blocks now.
    pub(super) blocked: u64,
}

impl UsageTotal {
    fn add(&mut self, usage: &ProductUsage) {
        self.commands.resize(usage.commands.len(), Calls::default());
        for (total, counters) in self.commands.iter_mut().zip(&usage.commands) {
            let calls = counters.calls.0.load(Relaxed);
            total.calls += calls;
            total.rejected += counters.rejected.0.load(Relaxed);
            total.failed += counters.failed.0.load(Relaxed);
            self.calls += calls;
        }
        self.calls += usage.other_calls.0.load(Relaxed);
        self.received += usage.received.0.load(Relaxed);
        self.sent += usage.sent.0.load(Relaxed);
        self.blocked += usage.blocked.load(Relaxed);
        for (kind, count) in &*locked(&usage.errors) {
            *self.errors.entry(kind.clone()).or_default() += count;
        }
    }

    /// What was counted since `before`.
    fn since(mut self, before: &Self) -> Self {
        for (now, before) in self.commands.iter_mut().zip(&before.commands) {
            now.calls -= before.calls;
            now.rejected -= before.rejected;
            now.failed -= before.failed;
        }
        for (kind, before) in &before.errors {
            if let Some(now) = self.errors.get_mut(kind) {
                *now -= before;
            }
        }
        self.errors.retain(|_, count| *count > 0);
        self.calls -= before.calls;
        self.received -= before.received;
        self.sent -= before.sent;
        self
    }

    /// Errors of all kinds.
    pub(super) fn errors_sum(&self) -> u64 {
        self.errors.values().sum()
    }
}

/// What happened in a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rates {
    pub(super) calls: f64,
    pub(super) received: f64,
    pub(super) sent: f64,
}

/// The counters at a time.
#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Instant,
    calls: u64,
    received: u64,
    sent: u64,
}

impl Sample {
    fn of(total: &UsageTotal, at: Instant) -> Self {
        Self { at, calls: total.calls, received: total.received, sent: total.sent }
    }

    fn rates_until(&self, later: &Self) -> Rates {
        let seconds = later.at.duration_since(self.at).as_secs_f64().max(f64::EPSILON);
        let rate = |before: u64, now: u64| (now - before) as f64 / seconds;
        Rates {
            calls: rate(self.calls, later.calls),
            received: rate(self.received, later.received),
            sent: rate(self.sent, later.sent),
        }
    }
}

/// The counters of a product.
#[derive(Debug)]
struct Counted {
    workers: Vec<Arc<ProductUsage>>,
    /// What was counted when the counters were reset.
    before: UsageTotal,
    /// When somebody last asked, and before that.
    samples: [Sample; 2],
}

/// The counters of all products.
#[derive(Debug, Default)]
pub(super) struct Usage(Mutex<BTreeMap<ProductId, Counted>>);

impl Usage {
    /// Counters of a product for a worker.
    pub(super) fn add(&self, product: ProductId) -> Arc<ProductUsage> {
        let usage = Arc::new(ProductUsage::new());
        let none = Sample::of(&UsageTotal::default(), Instant::now());
        let mut all = locked(&self.0);
        let new = || Counted { workers: Vec::new(), before: UsageTotal::default(), samples: [none; 2] };
        all.entry(product).or_insert_with(new).workers.push(usage.clone());
        usage
    }

    /// Forgets the products for which `stays` is false.
    pub(super) fn retain(&self, stays: impl Fn(ProductId) -> bool) {
        locked(&self.0).retain(|id, _| stays(*id));
    }

    /// What was counted for a product since the last reset.
    pub(super) fn total(&self, product: ProductId) -> UsageTotal {
        let all = locked(&self.0);
        all.get(&product).map(|counted| counted.now().since(&counted.before)).unwrap_or_default()
    }

    /// What happened in a second, on average since somebody asked before, at least [`RATE_OVER`] ago.
    pub(super) fn rates(&self, product: ProductId) -> Rates {
        let mut all = locked(&self.0);
        let Some(counted) = all.get_mut(&product) else { return Rates::default() };
        let now = Sample::of(&counted.now(), Instant::now());
        let [older, last] = counted.samples;
        if now.at.duration_since(last.at) >= RATE_OVER {
            counted.samples = [last, now];
            last.rates_until(&now)
        } else {
            older.rates_until(&now)
        }
    }

    /// Lets the counters of a product begin at 0.
    pub(super) fn reset(&self, product: ProductId) {
        if let Some(counted) = locked(&self.0).get_mut(&product) {
            counted.before = counted.now();
        }
    }
}

impl Counted {
    fn now(&self) -> UsageTotal {
        let mut total = UsageTotal::default();
        self.workers.iter().for_each(|usage| total.add(usage));
        total
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The values are consistent even if a thread panicked while it held the lock.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::commands::resolve_numbered;

    fn number(name: &str) -> CommandNumber {
        let words: Vec<&[u8]> = name.split(' ').map(str::as_bytes).collect();
        resolve_numbered(&words[..]).1.unwrap()
    }

    #[test]
    fn workers_are_added_and_a_reset_begins_at_0() {
        let usage = Usage::default();
        let (a, b, other) = (usage.add(ProductId(1)), usage.add(ProductId(1)), usage.add(ProductId(2)));
        let get = number("get");
        a.call(Some(get));
        b.call(Some(get));
        b.call(None);
        b.fail(Some(get), b"-WRONGTYPE Operation against\r\n");
        a.reject(number("config get"));
        other.call(Some(get));
        a.received(7);
        b.sent(9);
        let total = usage.total(ProductId(1));
        assert_eq!(total.commands[get.index()], Calls { calls: 2, rejected: 0, failed: 1 });
        assert_eq!(total.commands[number("config get").index()], Calls { calls: 0, rejected: 1, failed: 0 });
        assert_eq!((total.calls, total.received, total.sent, total.errors_sum()), (3, 7, 9, 1));
        assert_eq!(total.errors.get("WRONGTYPE"), Some(&1));
        usage.reset(ProductId(1));
        let total = usage.total(ProductId(1));
        assert_eq!((total.calls, total.received, total.sent, total.errors.len()), (0, 0, 0, 0));
        a.call(Some(get));
        assert_eq!(usage.total(ProductId(1)).commands[get.index()].calls, 1);
        assert_eq!(usage.total(ProductId(2)).calls, 1);
        usage.retain(|id| id == ProductId(1));
        assert_eq!(usage.total(ProductId(2)), UsageTotal::default());
    }

    #[test]
    fn kinds_of_errors_are_bounded() {
        let usage = Usage::default();
        let of = usage.add(ProductId(1));
        for i in 0..1000 {
            of.count_error(format!("KIND{i} text").as_bytes());
        }
        of.count_error(&[b'x'; 1000]);
        of.count_error(b"\xff\xfe x");
        let total = usage.total(ProductId(1));
        assert!(total.errors.len() <= ERRORS_MAX + 1, "{}", total.errors.len());
        assert_eq!(total.errors_sum(), 1002);
    }

    #[test]
    fn rates_are_averages_since_the_question_before() {
        let at = Instant::now();
        let sample = |seconds, calls| Sample {
            at: at + Duration::from_secs(seconds),
            calls,
            received: calls * 10,
            sent: calls * 20,
        };
        let want = Rates { calls: 50.0, received: 500.0, sent: 1000.0 };
        assert_eq!(sample(1, 100).rates_until(&sample(3, 200)), want);
    }
}
