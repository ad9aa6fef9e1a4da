//! The log entries that decide which run may act, and what follows from a prefix of the log.
//! Knows nothing of servers and connections.

/// Room for two moves with Hold and Switch, one additional attempt, one additional cleaning and a Cancel.
const LOG_MAX: usize = 14;

/// A committed entry. Its numbers (run, hold id) follow from its index, because the log accepts no others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Entry {
    /// Start of an attempt. If no migration is planned, it stands for Plan and Start.
    Start,
    Hold,
    Switch,
    Release,
    Restart,
    Cancel,
    StartRun,
    Cleaned,
}

/// The phase of the migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// No migration is planned: there was none yet, or the last one is done or cancelled.
    Idle,
    Planned,
    /// CleaningTarget, Copying and CaughtUp. A hold may begin in each of them, which permits more than Pontoon does.
    Running,
    /// Held, with the hold's id (its index in the log, from 1).
    Held(u8),
    Switched,
    Cancelling,
}

/// The committed entries, or the part of them that a leader has applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Log {
    entries: [Option<Entry>; LOG_MAX],
    pub(super) len: u8,
}

/// How the log is interpreted. Both are true unless the rule is left out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    /// A Start ends the run of a sweep.
    pub(super) start_ends_sweep: bool,
    /// A Cancel of a migration that was ever started leads to Cancelling.
    pub(super) cancel_wipes: bool,
}

/// The purpose of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Attempt,
    /// Clean source after a switch, wipe target after a Cancel, or a sweep.
    Cleaning,
}

pub(super) const RUNS: usize = 4;

/// The facts that follow from a prefix of the log.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    pub(super) phase: Phase,
    /// The server that owns the slot.
    pub(super) owner: usize,
    /// Each run so far: its kind, and the server that it changes.
    pub(super) runs: [Option<(Kind, usize)>; RUNS],
    /// Number of runs so far.
    pub(super) count: usize,
    /// Runs whose connections may be authorized, one bit each.
    pub(super) current: u8,
    /// The latest attempt.
    last_attempt: usize,
    /// The latest run, unless an entry that is proposed behind its fence has ended it.
    pub(super) unfenced: Option<usize>,
    pub(super) switches: u8,
    pub(super) holds: u8,
}

impl Log {
    pub(super) const EMPTY: Self = Self { entries: [None; LOG_MAX], len: 0 };

    /// Appends an entry. Returns `None` if the log is full.
    pub(super) fn push(&mut self, entry: Entry) -> Option<()> {
        *self.entries.get_mut(usize::from(self.len))? = Some(entry);
        self.len += 1;
        Some(())
    }

    /// Returns the facts that follow from the first `len` entries.
    pub(super) fn view(&self, len: u8, reading: Reading) -> View {
        let mut v = View {
            phase: Phase::Idle,
            owner: 0,
            runs: [None; RUNS],
            count: 0,
            current: 0,
            last_attempt: 0,
            unfenced: None,
            switches: 0,
            holds: 0,
        };
        for (i, entry) in self.entries[..usize::from(len)].iter().flatten().enumerate() {
            match entry {
                Entry::Start => {
                    let kept = if reading.start_ends_sweep { 0 } else { v.current };
                    v.last_attempt = v.count;
                    v.begin(Kind::Attempt);
                    v.current |= kept;
                    v.phase = Phase::Running;
                }
                // A sweep beside an attempt. It is possible only if a rule is left out.
                Entry::StartRun if v.attempt().is_some() => {
                    let (kept, unfenced) = (v.current, v.unfenced);
                    v.begin(Kind::Cleaning);
                    (v.current, v.unfenced) = (v.current | kept, unfenced);
                }
                Entry::StartRun => v.begin(Kind::Cleaning),
                Entry::Hold => {
                    v.phase = Phase::Held(i as u8 + 1);
                    v.holds += 1;
                }
                Entry::Release => v.phase = Phase::Running,
                Entry::Restart => (v.phase, v.current) = (Phase::Planned, 0),
                Entry::Cancel if v.phase == Phase::Planned && !reading.cancel_wipes => v.phase = Phase::Idle,
                Entry::Cancel => (v.phase, v.current) = (Phase::Cancelling, 0),
                Entry::Switch => {
                    (v.phase, v.current, v.unfenced) = (Phase::Switched, 0, None);
                    v.owner = 1 - v.owner;
                    v.switches += 1;
                }
                Entry::Cleaned => (v.phase, v.current, v.unfenced) = (Phase::Idle, 0, None),
            }
        }
        v
    }
}

impl View {
    fn begin(&mut self, kind: Kind) {
        // Every run changes the server that does not own the slot: it stages copies there or deletes leftovers.
        self.runs[self.count] = Some((kind, 1 - self.owner));
        self.current = 1 << self.count;
        self.unfenced = Some(self.count);
        self.count += 1;
    }

    pub(super) fn is_current(&self, run: usize) -> bool {
        self.current >> run & 1 == 1
    }

    /// Returns the attempt that is running or held.
    pub(super) fn attempt(&self) -> Option<usize> {
        matches!(self.phase, Phase::Running | Phase::Held(_)).then_some(self.last_attempt)
    }
}
