//! What failovers of asynchronously replicated groups may have lost: acknowledged writes of a stretch of time each, the last ones
//! before the new primary. Knows nothing of workloads, nor of how the stretch was measured.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use pontoon::model::{ids::SlotId, slot::Layout};

/// One failover of a group.
#[derive(Clone, Debug)]
pub struct Cut {
    /// What was acknowledged until here had been replicated, and is there.
    pub kept: Instant,
    /// From here on the new primary answers; the old one has answered nothing any more for a while.
    pub at: Instant,
    /// What is lost was acknowledged no longer than this before the last that the old primary acknowledged.
    pub window: Duration,
    /// Slots that the group owned at any time of the test.
    pub slots: BTreeSet<u16>,
    /// Slots that it owned all the time: what is lost of them is a suffix.
    pub steady: BTreeSet<u16>,
}

impl Cut {
    /// Whether a write acknowledged then may be lost.
    #[must_use]
    pub fn covers(&self, acked: Instant) -> bool {
        self.kept < acked && acked <= self.at
    }
}

/// All failovers of a test, the earliest first.
#[derive(Clone, Debug, Default)]
pub struct Losses(Vec<Cut>);

/// The slot of a key.
#[must_use]
pub fn slot(key: &str) -> u16 {
    let SlotId(slot) = Layout::Codis.slot(key.as_bytes());
    slot
}

impl Losses {
    /// Of these.
    #[must_use]
    pub fn of(mut cuts: Vec<Cut>) -> Self {
        cuts.sort_by_key(|cut| cut.at);
        Self(cuts)
    }

    /// Those that concern a key.
    #[must_use]
    pub fn of_key(&self, key: &str) -> Vec<&Cut> {
        let slot = slot(key);
        self.0.iter().filter(|cut| cut.slots.contains(&slot)).collect()
    }

    /// All.
    #[must_use]
    pub fn all(&self) -> &[Cut] {
        &self.0
    }

    /// Whether a write of this key that was acknowledged then may be lost.
    #[must_use]
    pub fn excuse(&self, key: &str, acked: Instant) -> bool {
        self.of_key(key).iter().any(|cut| cut.covers(acked))
    }
}

/// A write that was acknowledged, and whether it is there in the end.
#[derive(Clone, Debug)]
pub struct Acked {
    /// Of which key.
    pub key: String,
    /// For people.
    pub what: String,
    /// Just before it was sent.
    pub begin: Instant,
    /// Just after it was answered.
    pub end: Instant,
    /// It is there.
    pub kept: bool,
}

/// Each lost write has to have an excuse, and what a failover lost has to be a suffix of what its group executed: no write is
/// there that was sent after a lost one was answered, and it is short. How many were lost.
pub fn check(writes: &[Acked], losses: &Losses, wrong: &mut Vec<String>) -> usize {
    let lost: Vec<&Acked> = writes.iter().filter(|w| !w.kept).collect();
    let bare: Vec<&&Acked> = lost.iter().filter(|w| !losses.excuse(&w.key, w.end)).collect();
    if let Some(first) = bare.first() {
        let last_kept = |cut: &Cut| first.end.saturating_duration_since(cut.kept);
        let of_key: Vec<_> = losses.of_key(&first.key).into_iter().map(last_kept).collect();
        wrong.push(format!(
            "{} acknowledged writes are lost without an excuse, the first {} of {} (acknowledged {of_key:?} after what is provably \
             kept, {:?} before the newest)",
            bare.len(),
            first.what,
            first.key,
            writes.iter().map(|w| w.end).max().map(|newest| newest - first.end)
        ));
    }
    for cut in losses.all() {
        let of_cut = |w: &&Acked| cut.steady.contains(&slot(&w.key));
        let Some(first) = lost.iter().copied().filter(of_cut).filter(|w| cut.covers(w.end)).min_by_key(|w| w.end)
        else {
            continue;
        };
        let last = writes.iter().filter(of_cut).map(|w| w.end).filter(|end| *end <= cut.at).max().unwrap_or(first.end);
        if last - first.end > cut.window {
            wrong.push(format!(
                "{} of {} is lost, which was acknowledged {:?} before the last that its primary acknowledged, more than {:?}",
                first.what,
                first.key,
                last - first.end,
                cut.window
            ));
        }
        let later = writes.iter().filter(of_cut).find(|w| w.kept && w.begin > first.end && w.end <= cut.at);
        if let Some(later) = later {
            wrong.push(format!(
                "{} of {} is lost, and {} of {}, sent {:?} after that was acknowledged, is there",
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
        let losses = Losses::of(vec![Cut { kept: at(100), at: at(200), window, steady: slots.clone(), slots }]);
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
    fn only_a_suffix_of_the_last_stretch_may_be_lost() {
        assert_eq!(verdict(&[(50, true), (110, true), (150, true), (250, true)]), Vec::<String>::new());
        assert_eq!(verdict(&[(50, true), (110, true), (150, false), (160, false), (250, true)]), Vec::<String>::new());
        // Too much, too old, after the new primary, a hole.
        assert!(verdict(&[(110, false), (150, false), (161, false)])[0].contains("more than"));
        // Overlapping ones may go either way.
        assert!(verdict(&[(90, false)])[0].contains("without an excuse"));
        assert!(verdict(&[(210, false)])[0].contains("without an excuse"));
        assert!(verdict(&[(110, false), (150, true)])[0].contains("is there"));
        assert_eq!(verdict(&[(110, false), (113, true)]), Vec::<String>::new());
    }
}
