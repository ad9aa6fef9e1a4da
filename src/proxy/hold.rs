//! Holds in a worker: which requests sent before a hold are still unanswered.
//! Knows nothing of why slots are held, and ends no hold: only a new route table does.

use std::collections::BTreeMap;

use super::{dedicated::DedicatedUse, report::HoldProgress, worker::Worker};
use crate::model::{
    ids::{HoldId, ProductId, SlotId},
    route::{HoldKind, HoldRoutes, RouteTable},
};

/// Open holds and the progress of each.
#[derive(Debug, Default)]
pub(super) struct Holds {
    open: BTreeMap<HoldId, (HoldRoutes, HoldProgress)>,
}

impl Holds {
    /// Whether a hold has not drained yet.
    pub(super) fn undrained(&self) -> bool {
        self.open.values().any(|(_, progress)| !progress.drained)
    }

    /// Whether a hold of the product is open.
    pub(super) fn concern(&self, product: ProductId) -> bool {
        self.open.values().any(|(hold, _)| hold.product == product)
    }

    /// The progress of all open holds, for the report.
    pub(super) fn progress(&self) -> BTreeMap<HoldId, HoldProgress> {
        self.open.iter().map(|(id, (_, progress))| (*id, progress.clone())).collect()
    }
}

impl Worker {
    /// Takes over the holds of a new table. Closes the connections to the primaries of new holds of kind Abandon; cuts
    /// off the unsent requests of those of kind Wait.
    pub(super) fn swap_holds(&self, table: &RouteTable) {
        let mut new = Vec::new();
        {
            let mut holds = self.holds.borrow_mut();
            holds.open.retain(|id, _| table.holds.contains_key(id));
            for (id, routes) in &table.holds {
                holds.open.entry(*id).or_insert_with(|| {
                    new.push(routes.clone());
                    (routes.clone(), HoldProgress { drained: false, waiting_on: "not checked yet".into() })
                });
            }
        }
        for hold in &new {
            match hold.kind {
                HoldKind::Abandon => self.abandon(hold),
                HoldKind::Wait => self.cut_off_unsent(hold, true),
            }
        }
    }

    /// Cuts off the requests that are not completely written, so that a slow link does not hold up the hold.
    fn cut_off_unsent(&self, hold: &HoldRoutes, begins: bool) {
        let Some(product) = self.routes.product(hold.product) else { return };
        let held = |slot: SlotId| hold.slots.binary_search(&slot).is_ok();
        for backend in product.backends_and_retired() {
            backend.cut_off(self, begins, &held);
        }
        self.flush_replied();
    }

    /// Cuts off what is still not written. Called in each tick.
    pub(super) fn cut_off_again(&self) {
        let undrained: Vec<HoldRoutes> = {
            let holds = self.holds.borrow();
            let waiting =
                |(hold, progress): &&(HoldRoutes, HoldProgress)| hold.kind == HoldKind::Wait && !progress.drained;
            holds.open.values().filter(waiting).map(|(hold, _)| hold.clone()).collect()
        };
        for hold in &undrained {
            self.cut_off_unsent(hold, false);
        }
    }

    fn abandon(&self, hold: &HoldRoutes) {
        let Some(product) = self.routes.product(hold.product) else { return };
        let routes = product.routes.borrow().clone();
        let mut groups: Vec<u16> =
            hold.slots.iter().filter_map(|slot| routes.slots.get(usize::from(slot.0))?.group).collect();
        groups.sort_unstable();
        groups.dedup();
        for group in groups {
            product.abandon(self, &routes.groups[usize::from(group)].primary);
        }
    }

    /// Checks whether holds have drained, and publishes a report at once when one has. Called after a new table was
    /// installed, in each tick, and after a batch that answered a request sent under an older table: never on the
    /// ordinary path.
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

    /// Describes one unanswered request that was sent before the hold. Later requests are parked, so every request in
    /// flight for these slots counts.
    fn unanswered(&self, hold: &HoldRoutes) -> Option<String> {
        let product = self.routes.product(hold.product)?;
        let held = |slot: SlotId| hold.slots.binary_search(&slot).is_ok();
        // Reads at replicas do not count: check 2 withholds their replies once another group owns the slot.
        for backend in product.backends_and_retired().iter().filter(|backend| !backend.replica) {
            let inflight = backend.inflight.borrow();
            // What is passed on already was executed before the hold and has passed check 2.
            let passed_on = usize::from(backend.passing_on.get());
            if let Some(entry) = inflight.iter().skip(passed_on).find(|entry| entry.concerns(&held)) {
                let what = match (backend.dedicated_use(), entry.is_write) {
                    (Some(DedicatedUse::Blocking), _) => "a blocking call",
                    (_, true) => "a write",
                    (_, false) => "a read",
                };
                let slot = entry.slot.map_or_else(String::new, |slot| format!(" of slot {slot}"));
                let age = self.clock.age(entry.tick).as_millis();
                return Some(format!("{what}{slot}, sent {age} ms ago to {}, is not answered", backend.addr));
            }
        }
        for acks in product.acks_and_retired() {
            if let Some(tick) = acks.waits_for(&held) {
                let age = self.clock.age(tick).as_millis();
                return Some(format!("a write sent {age} ms ago waits for the replicas of {}", acks.addr));
            }
        }
        None
    }
}
