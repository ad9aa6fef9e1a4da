//! The invariants: no acknowledged write is lost, no read is stale, no reply passes under an older slot epoch than an
//! earlier reply. Knows nothing of leases and holds; it observes from outside, in true time.

use std::collections::{BTreeMap, BTreeSet};

use pontoon::model::ids::Epoch;

/// One register per slot; a version is the rank of a write's execution among all executions anywhere.
pub type Version = u64;
/// The registers of one server.
pub type Registers = BTreeMap<u16, Version>;

/// Checks the invariants.
#[derive(Default)]
pub struct Witness {
    /// The highest version that a client has read, or for which it has an acknowledgement, by key.
    known: BTreeMap<u16, BTreeSet<Version>>,
    /// Writes that were lost with a primary before its replica had them: asynchronous replication allows that.
    lost: BTreeSet<Version>,
    /// The highest slot epoch under which a reply has passed, by slot.
    passed: BTreeMap<u16, Epoch>,
}

impl Witness {
    /// The version that every read which is sent from now on must show at least.
    pub fn floor(&self, slot: u16) -> Version {
        self.known.get(&slot).and_then(BTreeSet::last).copied().unwrap_or(0)
    }

    /// A worker lets a reply pass.
    pub fn passes(&mut self, slot: u16, epoch: Epoch) -> Result<(), String> {
        let newest = self.passed.entry(slot).or_default();
        if epoch < *newest {
            return Err(format!("slot {slot}: a reply passes under epoch {epoch} after one under {newest}"));
        }
        *newest = epoch;
        Ok(())
    }

    /// A client has the acknowledgement of a write; `at_owner` is the version at the slot's owner now.
    pub fn acknowledged(&mut self, slot: u16, version: Version, at_owner: Version) -> Result<(), String> {
        if self.lost.contains(&version) {
            return Ok(());
        }
        if at_owner < version {
            return Err(format!("slot {slot}: write {version} is acknowledged, the owner has {at_owner}: lost"));
        }
        self.learn(slot, version);
        Ok(())
    }

    /// A client has the answer of a read that was sent when the floor was `floor`.
    pub fn read(&mut self, slot: u16, version: Version, floor: Version) -> Result<(), String> {
        // Writes that were lost since the read was sent need not be shown.
        let floor = self.known.get(&slot).and_then(|known| known.range(..=floor).next_back()).copied().unwrap_or(0);
        if self.lost.contains(&version) {
            return Ok(());
        }
        if version < floor {
            return Err(format!("slot {slot}: a read shows {version}, but {floor} was known when it was sent: stale"));
        }
        self.learn(slot, version);
        Ok(())
    }

    /// A slot has moved to its new owner, with the values of `data`.
    pub fn moved(&self, slot: u16, data: &Registers) -> Result<(), String> {
        let (floor, has) = (self.floor(slot), data.get(&slot).copied().unwrap_or(0));
        if has < floor {
            return Err(format!("slot {slot}: the new owner has {has}, but {floor} was acknowledged: lost"));
        }
        Ok(())
    }

    /// These writes were lost with a primary.
    pub fn lose(&mut self, lost: impl Iterator<Item = (u16, Version)>) {
        for (key, version) in lost {
            self.lost.insert(version);
            if let Some(known) = self.known.get_mut(&key) {
                known.remove(&version);
            }
        }
    }

    /// Whether a client knows of this version.
    pub fn knows(&self, key: u16, version: Version) -> bool {
        self.known.get(&key).is_some_and(|known| known.contains(&version))
    }

    fn learn(&mut self, slot: u16, version: Version) {
        self.known.entry(slot).or_default().insert(version);
    }
}
