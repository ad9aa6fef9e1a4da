//! The writes that failovers of asynchronously replicated groups may lose: for each failover, the acknowledged writes
//! of a time window just before the new primary. Knows nothing of workloads, nor of how the window was measured.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use pontoon::model::{ids::SlotId, slot::Layout};

/// The loss that one failover of a group may cause.
#[derive(Clone, Debug)]
pub struct LossWindow {
    /// Writes that were acknowledged up to this moment had been replicated. They must exist.
    pub kept: Instant,
    /// The new primary answers from this moment on. The old primary has stopped answering some time before.
    pub at: Instant,
    /// Maximum time between the acknowledgement of a lost write and the last acknowledgement of the old primary.
    pub window: Duration,
    /// Slots that the group owned at any time of the test.
    pub slots: BTreeSet<u16>,
    /// Slots that the group owned during the whole test: their lost writes are a suffix of their writes.
    pub steady: BTreeSet<u16>,
}

impl LossWindow {
    /// Returns whether a write that was acknowledged at `acked` may be lost.
    #[must_use]
    pub fn covers(&self, acked: Instant) -> bool {
        self.kept < acked && acked <= self.at
    }
}

/// The loss windows of all failovers of a test, the earliest first.
#[derive(Clone, Debug, Default)]
pub struct Losses(Vec<LossWindow>);

/// Returns the slot of a key.
#[must_use]
pub fn slot(key: &str) -> u16 {
    let SlotId(slot) = Layout::Codis.slot(key.as_bytes());
    slot
}

impl Losses {
    /// Sorts the loss windows.
    #[must_use]
    pub fn of(mut windows: Vec<LossWindow>) -> Self {
        windows.sort_by_key(|window| window.at);
        Self(windows)
    }

    /// Returns the loss windows that concern a key.
    #[must_use]
    pub fn of_key(&self, key: &str) -> Vec<&LossWindow> {
        let slot = slot(key);
        self.0.iter().filter(|window| window.slots.contains(&slot)).collect()
    }

    /// Returns all loss windows.
    #[must_use]
    pub fn all(&self) -> &[LossWindow] {
        &self.0
    }

    /// Returns whether a write of this key that was acknowledged at `acked` may be lost.
    #[must_use]
    pub fn explain(&self, key: &str, acked: Instant) -> bool {
        self.of_key(key).iter().any(|window| window.covers(acked))
    }
}

/// A write that was acknowledged, and whether it exists at the end of the test.
#[derive(Clone, Debug)]
pub struct Acked {
    /// The key.
    pub key: String,
    /// The write, as text for messages.
    pub what: String,
    /// The moment just before the write was sent.
    pub begin: Instant,
    /// The moment just after the write was answered.
    pub end: Instant,
    /// Whether the write exists at the end of the test.
    pub kept: bool,
}

/// Checks the lost writes and returns their number. Each lost write must be in the loss window of a failover. The
/// writes that a failover has lost must be a short suffix of the writes of its group: no write exists that was sent
/// after a lost write was answered.
pub fn check(writes: &[Acked], losses: &Losses, wrong: &mut Vec<String>) -> usize {
    let lost: Vec<&Acked> = writes.iter().filter(|w| !w.kept).collect();
    let unexplained: Vec<&&Acked> = lost.iter().filter(|w| !losses.explain(&w.key, w.end)).collect();
    if let Some(first) = unexplained.first() {
        let last_kept = |window: &LossWindow| first.end.saturating_duration_since(window.kept);
        let of_key: Vec<_> = losses.of_key(&first.key).into_iter().map(last_kept).collect();
        wrong.push(format!(
            "{} acknowledged writes are lost and no failover explains it, the first {} of {} (acknowledged {of_key:?} \
             after the last write that was provably replicated, {:?} before the newest)",
            unexplained.len(),
            first.what,
            first.key,
            writes.iter().map(|w| w.end).max().map(|newest| newest - first.end)
        ));
    }
    for loss in losses.all() {
        let of_loss = |w: &&Acked| loss.steady.contains(&slot(&w.key));
        let Some(first) = lost.iter().copied().filter(of_loss).filter(|w| loss.covers(w.end)).min_by_key(|w| w.end)
        else {
            continue;
        };
        let before = |end: &Instant| *end <= loss.at;
        let last = writes.iter().filter(of_loss).map(|w| w.end).filter(before).max().unwrap_or(first.end);
        if last - first.end > loss.window {
            wrong.push(format!(
                "{} of {} is lost, which was acknowledged {:?} before the last write that its primary acknowledged: \
                 more than {:?}",
                first.what,
                first.key,
                last - first.end,
                loss.window
            ));
        }
        let later = writes.iter().filter(of_loss).find(|w| w.kept && w.begin > first.end && w.end <= loss.at);
        if let Some(later) = later {
            wrong.push(format!(
                "{} of {} is lost, but {} of {}, sent {:?} after the lost write was acknowledged, exists",
                first.what,
                first.key,
                later.what,
                later.key,
                later.begin - first.end
            ));
        }
    }
    lost.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(writes: &[(u64, bool)]) -> Vec<String> {
        let zero = Instant::now();
        let at = |ms| zero + Duration::from_millis(ms);
        let slots: BTreeSet<u16> = [slot("k")].into();
        let window = Duration::from_millis(50);
        let losses = Losses::of(vec![LossWindow { kept: at(100), at: at(200), window, steady: slots.clone(), slots }]);
        let acked = |(end, kept): &(u64, bool)| Acked {
            key: "k".into(),
            what: end.to_string(),
            begin: at(end - 5),
            end: at(*end),
            kept: *kept,
        };
        let mut wrong = Vec::new();
        check(&writes.iter().map(acked).collect::<Vec<_>>(), &losses, &mut wrong);
        wrong
    }

    #[test]
    fn only_a_suffix_of_the_loss_window_may_be_lost() {
        assert_eq!(verdict(&[(50, true), (110, true), (150, true), (250, true)]), Vec::<String>::new());
        assert_eq!(verdict(&[(50, true), (110, true), (150, false), (160, false), (250, true)]), Vec::<String>::new());
        // Too many writes are lost.
        assert!(verdict(&[(110, false), (150, false), (161, false)])[0].contains("more than"));
        // The lost write is too old, or was acknowledged by the new primary.
        assert!(verdict(&[(90, false)])[0].contains("no failover explains"));
        assert!(verdict(&[(210, false)])[0].contains("no failover explains"));
        // A later write exists.
        assert!(verdict(&[(110, false), (150, true)])[0].contains("exists"));
        // Overlapping writes may be lost in either order.
        assert_eq!(verdict(&[(110, false), (113, true)]), Vec::<String>::new());
    }
}
