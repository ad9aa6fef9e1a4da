//! Holds in a worker: what of before is still unanswered, and who is parked.
//! Knows nothing of why slots are held, and ends no hold: only a new table does.

use std::{collections::BTreeMap, rc::Rc};

use super::{report::HoldProgress, worker::Worker};
use crate::model::{
    ids::{HoldId, SlotId},
    route::{HoldKind, HoldRoutes, RouteTable},
};

/// Open holds and how far each is.
#[derive(Debug, Default)]
pub(super) struct Holds {
    open: BTreeMap<HoldId, (HoldRoutes, HoldProgress)>,
}

impl Holds {
    /// Whether anything is still waited for.
    pub(super) fn undrained(&self) -> bool {
        self.open.values().any(|(_, progress)| !progress.drained)
    }

    /// For the report.
    pub(super) fn progress(&self) -> BTreeMap<HoldId, HoldProgress> {
        self.open.iter().map(|(id, (_, progress))| (*id, progress.clone())).collect()
    }
}

impl Worker {
    /// Takes over the holds of a new table. New ones of kind Abandon have their servers' connections closed.
    pub(super) fn swap_holds(&self, table: &RouteTable) {
        let mut new = Vec::new();
        {
            let mut holds = self.holds.borrow_mut();
            holds.open.retain(|id, _| table.holds.contains_key(id));
            for (id, routes) in &table.holds {
                holds.open.entry(*id).or_insert_with(|| {
                    new.push(routes.clone());
                    (routes.clone(), HoldProgress { drained: false, waiting_on: "not looked yet".into() })
                });
            }
        }
        for hold in new.iter().filter(|hold| hold.kind == HoldKind::Abandon) {
            self.abandon(hold);
        }
    }

    fn abandon(&self, hold: &HoldRoutes) {
        let Some(product) = self.products.borrow().get(&hold.product).cloned() else { return };
        let routes = product.routes.borrow().clone();
        let mut groups: Vec<u16> =
            hold.slots.iter().filter_map(|slot| routes.slots.get(usize::from(slot.0))?.group).collect();
        groups.sort_unstable();
        groups.dedup();
        for group in groups {
            product.abandon(self, &routes.groups[usize::from(group)].primary);
        }
    }

    /// Looks whether holds have drained; tells the node at once when one has. Called after a swap, and after a batch in
    /// which something that was sent under an older table was answered: never on the ordinary path.
    pub(super) fn recount_holds(&self) {
        let mut news = false;
        {
            let mut holds = self.holds.borrow_mut();
            if !holds.undrained() {
                return;
            }
            for (routes, progress) in holds.open.values_mut().filter(|(_, progress)| !progress.drained) {
                let waiting_on = self.unanswered(routes);
                let now = HoldProgress { drained: waiting_on.is_none(), waiting_on: waiting_on.unwrap_or_default() };
                news |= now.drained;
                *progress = now;
            }
        }
        if news {
            self.publish();
        }
    }

    /// One thing of before the hold that is unanswered. What came later is parked, so whatever is in flight for these slots
    /// counts.
    fn unanswered(&self, hold: &HoldRoutes) -> Option<String> {
        let product = self.products.borrow().get(&hold.product).cloned()?;
        let held = |slot: SlotId| hold.slots.binary_search(&slot).is_ok();
        // A read at a replica is not waited for: what it answers does not pass once the slot is somebody else's (check 2).
        for backend in product.backends_and_retired().iter().filter(|backend| !backend.replica) {
            let inflight = backend.inflight.borrow();
            if let Some(entry) = inflight.iter().find(|entry| entry.concerns(&held)) {
                let what = if entry.is_write { "a write" } else { "a read" };
                let slot = entry.slot.map_or_else(String::new, |slot| format!(" of slot {slot}"));
                let age = self.age(entry.tick).as_millis();
                return Some(format!("{what}{slot} runs for {age} ms on {}", backend.addr));
            }
        }
        for acks in product.acks_and_retired() {
            if let Some(tick) = acks.waits_for(&held) {
                let age = self.age(tick).as_millis();
                return Some(format!("a write of {age} ms ago waits for the replicas of {}", acks.addr));
            }
        }
        None
    }

    /// Parked sessions look again: a hold may have ended.
    pub(super) fn unpark_all(&self) {
        for session in std::mem::take(&mut *self.parked.borrow_mut()) {
            session.unpark();
        }
    }

    /// Parked sessions whose time is over look again, and refuse.
    pub(super) fn unpark_expired(&self) {
        let max = self.config.limits.parked_for_max;
        let mut expired: Vec<Rc<_>> = Vec::new();
        self.parked.borrow_mut().retain(|session| {
            let stays = session.parked_at.get().is_some_and(|tick| self.age(tick) < max);
            if !stays {
                expired.push(session.clone());
            }
            stays
        });
        for session in expired {
            session.unpark();
        }
    }
}
