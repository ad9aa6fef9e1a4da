//! WATCH: the watched keys of a session, and its own connection to their owner, which has the watch. Only WATCH and the
//! transaction go over it: the session's other requests wait until WATCH is answered, and EXEC until they are, so they read
//! what the watch saw or newer. Knows nothing of what a transaction contains.

use std::rc::Rc;

use super::{exec::NO_TRANSACTIONS, probe::Supported};
use crate::{
    commands::Args,
    model::{
        ids::{Epoch, SlotId},
        route::ProductRoutes,
    },
    proxy::{
        backend::{Backend, BackendLink, Requester, Unavailable},
        backend_set::BackendSet,
        check::ServeCheck,
        client::ReplyMode,
        counters::count,
        dedicated::DedicatedUse,
        dispatch::{CallContext, DispatchTarget, RefusalReason},
        session::{Handled, Session},
        worker::Worker,
    },
    resp::write,
};

/// The watched keys of a session.
#[derive(Debug)]
pub(in crate::proxy) struct Watch {
    /// Has the connection.
    set: Rc<BackendSet>,
    backend: Rc<Backend>,
    /// The slot of all watched keys.
    slot: SlotId,
    /// The epoch of the slot at the first WATCH. Epochs are log indexes, so a slot that left and came back has another.
    epoch: Epoch,
    /// Number of keys that WATCH was called with.
    keys: usize,
    /// EXEC was sent, so the server has ended the watch.
    is_ended: bool,
}

/// What EXEC has to know of a watch.
pub(super) struct Watched {
    pub(super) slot: SlotId,
    pub(super) epoch: Epoch,
    /// `None`: the connection was lost, or is about to be, and the watch with it.
    pub(super) backend: Option<Rc<Backend>>,
}

impl Watch {
    /// Number of keys that it watches.
    pub(in crate::proxy) fn keys(&self) -> usize {
        if self.is_ended { 0 } else { self.keys }
    }

    fn is_lost(&self) -> bool {
        self.backend.link.get() != BackendLink::Up || !self.backend.may_be_borrowed()
    }
}

impl Session {
    /// Whether it watches keys.
    pub(in crate::proxy) fn is_watching(&self) -> bool {
        self.watch.borrow().as_ref().is_some_and(|watch| !watch.is_ended)
    }

    pub(super) fn watched(&self) -> Option<Watched> {
        let watch = self.watch.borrow();
        let watch = watch.as_ref().filter(|watch| !watch.is_ended)?;
        let backend = (!watch.is_lost()).then(|| watch.backend.clone());
        Some(Watched { slot: watch.slot, epoch: watch.epoch, backend })
    }

    /// Executes WATCH.
    pub(super) fn watch(
        self: &Rc<Self>,
        worker: &Rc<Worker>,
        routes: &ProductRoutes,
        serve_check: ServeCheck,
        call: &CallContext<'_>,
        mode: ReplyMode,
    ) -> Handled {
        let slot = routes.layout.slot(call.get(1));
        let others = (2..call.args.len()).map(|arg| routes.layout.slot(call.get(arg)));
        let watched = self.watched();
        let watched_slot = watched.as_ref().map(|watched| watched.slot);
        if others.chain(watched_slot).any(|other| other != slot) {
            self.refuse_request(worker, mode, &RefusalReason::CrossSlot.to_string());
            return Handled::Done;
        }
        let (before, max) =
            (self.watch.borrow().as_ref().map_or(0, Watch::keys), worker.config.limits.watched_keys_max);
        if before + call.args.len() - 1 > max {
            count(&worker.stats.transactions_refused);
            let text = format!(
                "ERR a client watches at most {max} keys (proxy.watched_keys_max), not executed. Send EXEC or UNWATCH"
            );
            self.refuse_request(worker, mode, &text);
            return Handled::Done;
        }
        if !self.is_settled() {
            return Handled::Waiting;
        }
        if serve_check != ServeCheck::Open {
            self.refuse_request(worker, mode, &RefusalReason::ServeCheck(serve_check).to_string());
            return Handled::Done;
        }
        let route = routes.slots[usize::from(slot.0)];
        if route.hold.0 != 0 {
            return match self.park_or_refuse(worker, call.bytes.len()) {
                None => Handled::Parked,
                Some(text) => {
                    self.refuse_request(worker, mode, text);
                    Handled::Done
                }
            };
        }
        let Some(group) = route.group else {
            self.refuse_request(worker, mode, &RefusalReason::Unassigned(slot).to_string());
            return Handled::Done;
        };
        if watched.is_some_and(|watched| watched.epoch != route.epoch || watched.backend.is_none()) {
            // The first watch is void, so EXEC answers nil whatever else is watched.
            self.answer_request(worker, mode, &|out| write::simple(out, "OK"));
            return Handled::Done;
        }
        let target =
            DispatchTarget { group, slot: Some(slot), epoch: route.epoch, is_write: false, may_read_replica: false };
        self.send_watch(worker, &target, call, mode)
    }

    fn send_watch(
        self: &Rc<Self>,
        worker: &Rc<Worker>,
        target: &DispatchTarget,
        call: &CallContext<'_>,
        mode: ReplyMode,
    ) -> Handled {
        let set = self.watch_set();
        let Some(backend) = set.backend(worker, &self.product, target.group) else {
            self.refuse_request(worker, mode, &self.product.too_many_dedicated(worker));
            return Handled::Done;
        };
        match backend.available(worker) {
            Ok(()) => {}
            Err(Unavailable::Down) => {
                self.refuse_request(worker, mode, &backend.refusal());
                return Handled::Done;
            }
            Err(Unavailable::Full) => {
                backend.wait_for_room(worker, self);
                return Handled::Waiting;
            }
        }
        // Not behind the WATCH: the probe's EXEC would end the watch.
        match backend.probe.supported(worker.clock.tick()) {
            Supported::Yes => {}
            Supported::NotAt(_) => {
                worker.report_data_user(&backend.addr);
                self.refuse_request(worker, mode, &format!("ERR {NO_TRANSACTIONS}"));
                return Handled::Done;
            }
            Supported::Asked | Supported::Unknown => {
                self.ask_probe(worker, &backend);
                self.probed_set.replace(Some(set));
                return Handled::Waiting;
            }
        }
        self.count_request(worker, mode);
        count(&worker.stats.forwarded);
        let ticket = self.open(mode != ReplyMode::On, call.bytes.len());
        self.send(worker, &backend, target, call.bytes, Requester::Session(self.clone(), ticket));
        let (Some(slot), epoch) = (target.slot, target.epoch) else { return Handled::Done };
        let mut watch = self.watch.borrow_mut();
        let keys = watch.as_ref().map_or(0, Watch::keys) + call.args.len() - 1;
        *watch = Some(Watch { set, backend, slot, epoch, keys, is_ended: false });
        drop(watch);
        self.settle();
        Handled::Done
    }

    /// The set of the present watch, or of the one before, or a new one.
    fn watch_set(&self) -> Rc<BackendSet> {
        let client = self.client.borrow();
        let watch = self.watch.borrow();
        let fits = |set: &Rc<BackendSet>| set.db == client.db && set.version == client.version;
        let probed = self.probed_set.take().filter(fits);
        match watch.as_ref().map(|watch| watch.set.clone()).filter(fits).or(probed) {
            Some(set) => set,
            None => {
                if let Some(watch) = &*watch {
                    watch.set.close();
                }
                Rc::new(BackendSet::dedicated(client.db, client.version, DedicatedUse::Watch))
            }
        }
    }

    /// Ends the watch, if there is one: the connection is closed, which ends it at the server.
    pub(in crate::proxy) fn end_watch(&self) {
        if let Some(set) = self.probed_set.take() {
            set.close();
        }
        if let Some(watch) = self.watch.borrow_mut().take() {
            watch.set.close();
        }
        self.watch_is_over.set(false);
    }

    /// EXEC was sent, which ends the watch, so that the connection can be returned behind its reply.
    pub(super) fn watch_is_sent(&self) {
        if let Some(watch) = &mut *self.watch.borrow_mut() {
            watch.is_ended = true;
            self.watch_is_over.set(true);
            // The next request goes over another connection.
            self.settle();
        }
    }

    /// Returns the connection of a watch that is over, if all requests are answered.
    #[cold]
    pub(in crate::proxy) fn return_watch(&self) {
        if self.waiting() > 0 {
            return;
        }
        self.watch_is_over.set(false);
        if let Some(watch) = self.watch.borrow_mut().take() {
            watch.set.release(&self.product);
        }
    }
}
