//! The entries of migration.md that decide which run may act, and what a prefix of the log says.
//! Knows nothing of servers and connections.

/// Hold and Switch twice, an attempt more, a cleaning or a wipe more, a Cancel.
const LOG_MAX: usize = 14;

/// A committed entry. Its numbers (run, hold id) follow from its place, since `apply` accepts no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Entry {
    /// Start of an attempt; where no migration is planned also its Plan.
    Start,
    Hold,
    Switch,
    Release,
    Restart,
    Cancel,
    StartRun,
    Cleaned,
}

/// Where the migration is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// None is planned; `Done` or `Cancelled` is behind us.
    Idle,
    Planned,
    /// Cleaning target, Copying and CaughtUp: a hold may come in any of them, which allows more than `apply` does.
    Running,
    /// With the hold's id, its index in the log from 1.
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

/// How the log is read; both are true, unless a rule is left out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    /// A Start ends the run of a sweep.
    pub(super) start_ends_sweep: bool,
    /// A Cancel of what was ever started goes by Cancelling.
    pub(super) cancel_wipes: bool,
}

/// What a run is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Attempt,
    /// Of the source after a switch, of the target after a Cancel, or a sweep.
    Cleaning,
}

pub(super) const RUNS: usize = 4;

/// What a prefix of the log says.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    pub(super) phase: Phase,
    /// The server that owns the slot.
    pub(super) owner: usize,
    /// Kind and server of each run so far: the server that it changes.
    pub(super) runs: [Option<(Kind, usize)>; RUNS],
    /// Number of runs so far.
    pub(super) count: usize,
    /// Runs whose connections may be authorized, a bit each.
    pub(super) current: u8,
    /// The attempt begun last.
    last_attempt: usize,
    /// The last run, if no entry that stands behind its fence has ended it.
    pub(super) unfenced: Option<usize>,
    pub(super) switches: u8,
    pub(super) holds: u8,
}

impl Log {
    pub(super) const EMPTY: Self = Self { entries: [None; LOG_MAX], len: 0 };

    /// `None` if there is no room.
    pub(super) fn push(&mut self, entry: Entry) -> Option<()> {
        *self.entries.get_mut(usize::from(self.len))? = Some(entry);
        self.len += 1;
        Some(())
    }

    /// What the first `len` entries say.
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
                // A sweep beside an attempt: only where a rule is left out.
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
        // Every run changes the server that does not own the slot: staged copies, leftovers.
        self.runs[self.count] = Some((kind, 1 - self.owner));
        self.current = 1 << self.count;
        self.unfenced = Some(self.count);
        self.count += 1;
    }

    pub(super) fn is_current(&self, run: usize) -> bool {
        self.current >> run & 1 == 1
    }

    /// The attempt that runs or is held.
    pub(super) fn attempt(&self) -> Option<usize> {
        matches!(self.phase, Phase::Running | Phase::Held(_)).then_some(self.last_attempt)
    }
}
