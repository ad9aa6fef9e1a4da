//! Worlds with migrations: an operator plans, cancels, pauses and resumes them; conditions are checked after a switch
//! and after an end; and all migrations must end once nothing fails any more. Knows nothing of how they are carried
//! out.

use std::collections::BTreeSet;

use pontoon::model::{
    change::{CancelMigration, Change, Cleaned, PauseMigration, PlanMigration, ResumeMigration, Switch},
    ids::{GroupId, MigrationId, SlotId},
    migration::{Job, MigrationOptions, MigrationPhase, RunKind},
    state::ClusterState,
};

use super::{
    invariants::Registers,
    leader::Tag,
    network::{Ns, SECOND},
    raft::Proposal,
    world::{GROUPS, KEYS_PER_SLOT, MIGRATION_FAULTS, PRODUCT, SLOTS, World},
};

/// After the faults everything ends within this: the longest back-off twice, a lease, late writes waited for.
const SETTLE_MAX: Ns = 90 * SECOND;

impl World {
    pub fn keys(&self) -> u16 {
        SLOTS * if self.rules.migrations { KEYS_PER_SLOT } else { 1 }
    }

    pub const fn slot_of(key: u16) -> SlotId {
        SlotId(key % SLOTS)
    }

    /// A time with faults, then one without, until everything has recovered.
    pub fn run_migrations(&mut self) -> Result<(), String> {
        self.run_faults()?;
        let mut end = MIGRATION_FAULTS;
        loop {
            end += SECOND;
            self.until(end)?;
            match self.all_ended() {
                Ok(()) => return Ok(()),
                Err(why) if end >= MIGRATION_FAULTS + SETTLE_MAX => return Err(why),
                Err(_) => {}
            }
        }
    }

    fn all_ended(&self) -> Result<(), String> {
        let newest = &self.raft.log[self.raft.last()];
        let open = newest.state.migrations.values().find(|m| m.phase != MigrationPhase::Paused);
        if let Some(open) = open {
            return Err(format!("a migration does not end: {open:?}"));
        }
        if !newest.state.holds.is_empty() {
            return Err(format!("slots stay held: {:?}", newest.state.holds));
        }
        let sweep = newest.state.products[&PRODUCT].groups.values().find(|g| g.sweep.is_some());
        if let Some(group) = sweep {
            return Err(format!("a sweep does not end: {group:?}"));
        }
        let parked = self.nodes.iter().flat_map(|n| &n.workers).find(|w| !w.parked.is_empty());
        parked.map_or(Ok(()), |worker| Err(format!("requests stay parked: {worker:?}")))
    }

    /// What an operator does at random times.
    pub fn migrate(&mut self) {
        let Some(leader) = self.raft.leader.filter(|l| self.has_quorum(*l) && !self.nodes[*l].paused) else { return };
        let state = self.raft.log[self.raft.last()].state.clone();
        let Some(change) = self.operator_change(&state) else { return };
        self.propose(leader, Proposal { change, tag: Tag::None, copied: Registers::new() });
    }

    fn operator_change(&mut self, state: &ClusterState) -> Option<Change> {
        let open: Vec<MigrationId> = state.migrations.keys().copied().collect();
        let some = if open.is_empty() { None } else { Some(open[self.rng.usize(0..open.len())]) };
        match (self.rng.u8(0..10), some) {
            (0, Some(migration)) => {
                Some(Change::CancelMigration(CancelMigration { migration, why: "an operator".into() }))
            }
            (1, Some(migration)) => {
                Some(Change::PauseMigration(PauseMigration { migration, why: "an operator".into() }))
            }
            (2 | 3, Some(_)) => {
                let paused = state.migrations.values().find(|m| m.phase == MigrationPhase::Paused)?;
                Some(Change::ResumeMigration(ResumeMigration { migration: paused.id }))
            }
            _ => {
                let from = GroupId(self.rng.u16(1..=GROUPS).into());
                let to = GroupId(u32::from(GROUPS) + 1 - from.0);
                let moves = |slot: SlotId| state.migrations.values().any(|m| m.slots.contains(&slot));
                let owned = |slot: SlotId| state.products[&PRODUCT].slots[usize::from(slot.0)].owner == Some(from);
                let slots = (0..SLOTS).map(SlotId).filter(|slot| owned(*slot) && !moves(*slot));
                let slots: BTreeSet<SlotId> = slots.filter(|_| self.rng.u8(0..3) > 0).collect();
                let options = MigrationOptions::default();
                (!slots.is_empty()).then_some(Change::PlanMigration(PlanMigration {
                    product: PRODUCT,
                    slots,
                    from,
                    to,
                    options,
                }))
            }
        }
    }

    /// Checks that the servers are in the state that an entry requires. `before`: the index of the entry before it.
    pub fn check_servers(&mut self, change: &Change, before: usize) {
        let state = self.raft.log[before].state.clone();
        match change {
            Change::Switch(Switch { migration, .. }) => {
                let Some(moved) = state.migrations.get(migration) else { return };
                self.seen.switched += 1;
                self.switched.insert(*migration, self.executions);
                let to = moved.to.0 as usize - 1;
                for key in self.keys_where(|_, slot| moved.slots.contains(&slot)) {
                    if let Err(why) = self.witness.moved(key, &self.servers[to]) {
                        self.violated(why);
                    }
                }
            }
            Change::Cleaned(Cleaned { job, .. }) => {
                let Some(run) = state.current_run(*job) else { return };
                let (slots, since) = match job {
                    Job::Migration(id) => {
                        let ended = &state.migrations[id];
                        (ended.slots.clone(), self.switched.remove(id).unwrap_or_default())
                    }
                    Job::Sweep { group, .. } => {
                        let sweep = state.products[&PRODUCT].groups[group].sweep.as_ref();
                        (sweep.map(|s| s.slots.clone()).unwrap_or_default(), 0)
                    }
                };
                match run.kind {
                    RunKind::CleanSource => self.seen.done += 1,
                    RunKind::Sweep => self.seen.swept += 1,
                    RunKind::WipeTarget | RunKind::Copy => self.seen.cancelled += 1,
                }
                let server = Self::place(&run.server).0;
                for key in self.keys_where(|_, slot| slots.contains(&slot)) {
                    let Some(version) = self.servers[server].get(&key).copied() else { continue };
                    // Only a late write may be there, which no client knows to be executed.
                    let late = self.stores[server].written_by_client(key) && version > since;
                    if !late || self.witness.knows(key, version) {
                        self.violated(format!("{job} is over, and server {} has {version} of key {key}", server + 1));
                    }
                }
            }
            Change::RestartMigration(_) => self.seen.restarted += 1,
            _ => {}
        }
    }
}
