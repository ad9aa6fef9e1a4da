//! The log of the lease model: its entries, and what follows from a prefix of them.
//! Knows nothing of leases.

/// Room for Hold, Release, Hold, Switch, one admission and the two entries of a removal.
const LOG_MAX: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Entry {
    Nothing,
    Hold,
    Release,
    Switch,
    Admit(u8),
    Leaving(u8),
    Gone(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Log {
    entries: [Entry; LOG_MAX],
    pub(super) len: u8,
}

impl Log {
    pub(super) const EMPTY: Self = Self { entries: [Entry::Nothing; LOG_MAX], len: 0 };

    pub(super) fn prefix(&self, len: u8) -> &[Entry] {
        &self.entries[..usize::from(len)]
    }
    pub(super) fn all(&self) -> &[Entry] {
        self.prefix(self.len)
    }
    pub(super) fn push(&mut self, entry: Entry) {
        self.entries[usize::from(self.len)] = entry;
        self.len += 1;
    }
}

/// Returns the id of the open hold, which is its index in the log (from 1), or 0 if no hold is open.
pub(super) fn open_hold(log: &[Entry]) -> u8 {
    let last = log.iter().rposition(|e| matches!(e, Entry::Hold | Entry::Release | Entry::Switch));
    last.filter(|i| log[*i] == Entry::Hold).map_or(0, |i| i as u8 + 1)
}

pub(super) fn switched(log: &[Entry]) -> bool {
    log.contains(&Entry::Switch)
}

/// Returns the index of the last routing entry (from 1), or 0 if there is none.
pub(super) fn route_epoch(log: &[Entry]) -> u8 {
    let routing = |e: &Entry| matches!(e, Entry::Hold | Entry::Release | Entry::Switch | Entry::Admit(_));
    log.iter().rposition(routing).map_or(0, |i| i as u8 + 1)
}

pub(super) fn incarnation(log: &[Entry], node: usize) -> u8 {
    log.iter().filter(|e| **e == Entry::Admit(node as u8)).count() as u8
}

pub(super) fn leaving(log: &[Entry], node: usize) -> bool {
    log.contains(&Entry::Leaving(node as u8))
}

pub(super) fn gone(log: &[Entry], node: usize) -> bool {
    log.contains(&Entry::Gone(node as u8))
}
