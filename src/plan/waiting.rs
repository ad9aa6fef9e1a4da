//! What the leader waits for, as sentences for the operator: what it is, for how long already, and what ends it. Every such
//! sentence is made of a [`Wait`], so that none lacks one of these. Knows nothing of why something waits.

use std::{collections::BTreeMap, time::Duration};

/// A wait that began this soon after its leader began to lead counts as older, nanoseconds: the leader before may have
/// waited for the same, and a new one learns what it waits for within a few heartbeats.
const INHERITED_NS: u64 = 5_000_000_000;
const SECOND_NS: u64 = 1_000_000_000;

/// Something that is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    what: String,
    detail: String,
    ends_when: String,
}

impl Wait {
    /// `what`: what is waited for, without anything that changes in the meantime, since the time counts for as long as it
    /// stays the same. `ends_when`: what ends it, a clause ("node 3 answers"): an event or a bound, and what the operator
    /// can do.
    #[must_use]
    pub fn new(what: impl Into<String>, ends_when: impl Into<String>) -> Self {
        Self { what: what.into(), detail: String::new(), ends_when: ends_when.into() }
    }

    /// The same with more of what is waited for: numbers or the text of an error, which may change. It follows `what`
    /// directly.
    #[must_use]
    pub fn with_detail(self, detail: impl Into<String>) -> Self {
        Self { detail: detail.into(), ..self }
    }

    /// The same with one more detail.
    #[must_use]
    pub fn and_detail(self, more: &str) -> Self {
        Self { detail: self.detail + more, ..self }
    }

    /// The same, of something that has a name: "migration 17".
    #[must_use]
    pub fn of(self, subject: &str) -> Self {
        Self { what: format!("{subject}: {}", self.what), ..self }
    }

    /// Whether both are about the same, so that one continues the other.
    #[must_use]
    pub fn continues(&self, other: &Self) -> bool {
        self.what == other.what
    }

    /// What may change of it.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// What ends it.
    #[must_use]
    pub fn ends_when(&self) -> &str {
        &self.ends_when
    }

    /// The sentence without the time.
    #[must_use]
    pub fn text(&self) -> String {
        self.sentence("")
    }

    fn sentence(&self, lasting: &str) -> String {
        let Self { what, detail, ends_when } = self;
        format!("{what}{detail}{lasting}; ends when {ends_when}")
    }
}

/// Something that is waited for, and since when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastingWait {
    /// What.
    pub wait: Wait,
    /// Since when at the latest, nanoseconds of the leader's clock.
    since_ns: u64,
    /// It may have begun under another leader.
    inherited: bool,
}

impl LastingWait {
    /// A wait that is seen at `now_ns`, by a leader that began to lead at `led_since_ns`; `before`: what was seen last.
    #[must_use]
    pub fn seen(wait: Wait, before: Option<&Self>, now_ns: u64, led_since_ns: u64) -> Self {
        match before.filter(|before| wait.continues(&before.wait)) {
            Some(Self { since_ns, inherited, .. }) => Self { wait, since_ns: *since_ns, inherited: *inherited },
            None => Self { wait, since_ns: now_ns, inherited: now_ns.saturating_sub(led_since_ns) < INHERITED_NS },
        }
    }

    /// The same, of something that has a name.
    #[must_use]
    pub fn of(self, subject: &str) -> Self {
        Self { wait: self.wait.of(subject), ..self }
    }

    /// For how long it has lasted at least.
    #[must_use]
    pub fn lasted(&self, now_ns: u64) -> Duration {
        Duration::from_nanos(now_ns.saturating_sub(self.since_ns))
    }

    /// The sentence at `now_ns`.
    #[must_use]
    pub fn text(&self, now_ns: u64) -> String {
        let at_least = if self.inherited { "at least " } else { "" };
        let lasting = span(self.lasted(now_ns));
        self.wait.sentence(&match lasting {
            Some(span) => format!("; has lasted {at_least}{span}"),
            None => "; has lasted a few seconds".into(),
        })
    }
}

/// Since when a leader waits for what.
#[derive(Clone, Debug, Default)]
pub struct WaitTimes {
    led_since_ns: Option<u64>,
    waits: BTreeMap<String, LastingWait>,
}

impl WaitTimes {
    /// Everything that is waited for at `now_ns`, in the same order. What is missing has ended.
    pub fn update(&mut self, waits: Vec<Wait>, now_ns: u64) -> Vec<LastingWait> {
        let led_since_ns = *self.led_since_ns.get_or_insert(now_ns);
        let before = std::mem::take(&mut self.waits);
        let seen = |wait: Wait| {
            let last = before.get(&wait.what);
            LastingWait::seen(wait, last, now_ns, led_since_ns)
        };
        let now: Vec<LastingWait> = waits.into_iter().map(seen).collect();
        self.waits = now.iter().map(|lasting| (lasting.wait.what.clone(), lasting.clone())).collect();
        now
    }
}

/// A time span of ten seconds or more, rounded down so that its text changes rarely: `40 s`, `5 min`, `3 h`.
fn span(lasted: Duration) -> Option<String> {
    match lasted.as_secs() {
        0..10 => None,
        seconds @ 10..60 => Some(format!("{} s", seconds / 10 * 10)),
        seconds @ 60..7200 => Some(format!("{} min", seconds / 60)),
        seconds => Some(format!("{} h", seconds / 3600)),
    }
}

/// A time span that is left, rounded up so that its text changes rarely: `50 s`, `10 min`.
#[must_use]
pub fn left(ns: u64) -> String {
    let seconds = ns.div_ceil(SECOND_NS);
    if seconds > 60 { format!("{} min", seconds.div_ceil(60)) } else { format!("{} s", seconds.div_ceil(10) * 10) }
}

/// Seconds of a bound, for people: `0.25`, `30`.
#[must_use]
pub fn seconds(ns: u64) -> f64 {
    (ns / 1_000_000) as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE_NS: u64 = 60 * SECOND_NS;

    fn copying(keys: u64) -> Wait {
        Wait::new("it copies", "the target has all keys").with_detail(format!(", {keys} keys"))
    }

    #[test]
    fn a_sentence_has_what_for_how_long_and_the_end() {
        let mut times = WaitTimes::default();
        times.update(Vec::new(), SECOND_NS);
        let mut at = |ns: u64, wait: Wait| times.update(vec![wait], ns)[0].text(ns);
        let began_ns = 10 * SECOND_NS;
        assert_eq!(
            at(began_ns, copying(1)),
            "it copies, 1 keys; has lasted a few seconds; ends when the target has all keys"
        );
        for (later_ns, lasting) in [
            (10 * SECOND_NS, "10 s"),
            (39 * SECOND_NS, "30 s"),
            (MINUTE_NS, "1 min"),
            (119 * MINUTE_NS, "119 min"),
            (150 * MINUTE_NS, "2 h"),
        ] {
            let text = at(began_ns + later_ns, copying(later_ns));
            assert!(text.contains(&format!(" keys; has lasted {lasting}; ends when")), "{text}");
        }
        let other = at(began_ns + 200 * MINUTE_NS, Wait::new("it verifies", "all is compared"));
        assert_eq!(other, "it verifies; has lasted a few seconds; ends when all is compared");
        let again = at(began_ns + 201 * MINUTE_NS, copying(1));
        assert!(again.contains("has lasted a few seconds"), "it began anew: {again}");
        assert_eq!(
            copying(3).and_detail(": slow").of("migration 17").text(),
            "migration 17: it copies, 3 keys: slow; ends when the target has all keys"
        );
    }

    #[test]
    fn a_new_leader_does_not_know_when_it_began() {
        let mut times = WaitTimes::default();
        times.update(vec![copying(1)], SECOND_NS);
        let text = times.update(vec![copying(2)], 40 * SECOND_NS)[0].text(45 * SECOND_NS);
        assert!(text.contains("; has lasted at least 40 s;"), "{text}");
    }

    #[test]
    fn what_is_left_is_rounded_up() {
        let all = [1, 10 * SECOND_NS, 11 * SECOND_NS, 61 * SECOND_NS, 600 * SECOND_NS].map(left);
        assert_eq!(all, ["10 s", "10 s", "20 s", "2 min", "10 min"]);
        assert_eq!((seconds(250_000_000), seconds(30 * SECOND_NS)), (0.25, 30.0));
    }
}
