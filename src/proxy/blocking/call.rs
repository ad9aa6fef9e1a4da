//! The blocked calls of a worker, as its sessions, its holds and its clock see them: what may end them is only signalled
//! here. Knows nothing of how a call ends.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
};

use tokio::sync::Notify;

use super::decision::{LeaseState, RouteState, Unblock};
use crate::{
    model::{
        ids::{Epoch, SlotId},
        route::Isolated,
    },
    proxy::{product::ProductView, session::Session, worker::Worker},
};

/// A blocked call.
#[derive(Debug)]
pub(in crate::proxy) struct BlockedCall {
    product: Rc<ProductView>,
    /// `None`: it concerns no slot.
    slot: Option<SlotId>,
    /// The slot's epoch when it was sent.
    epoch: Cell<Epoch>,
    /// Whether its client sends nothing more.
    client_ended: Cell<bool>,
    unblock: Cell<Option<Unblock>>,
    /// Notified when something may end its wait.
    changed: Notify,
}

impl BlockedCall {
    /// Resolves when something may end the wait, or has changed since the last time.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Lets its operation see what has changed.
    pub(in crate::proxy) fn wake(&self) {
        self.changed.notify_one();
    }

    /// Its client sends nothing more.
    pub(in crate::proxy) fn client_ended(&self) {
        if !self.client_ended.replace(true) {
            self.wake();
        }
    }

    pub(super) fn has_client_ended(&self) -> bool {
        self.client_ended.get()
    }

    pub(super) fn unblock(&self) -> Option<Unblock> {
        self.unblock.get()
    }

    /// Records that it is sent under this epoch of its slot.
    pub(super) fn sent(&self, epoch: Epoch) {
        self.epoch.set(epoch);
    }

    /// Its slot, compared with its state when the call was sent.
    pub(super) fn route(&self) -> RouteState {
        let Some(slot) = self.slot else { return RouteState::Same };
        let routes = self.product.routes.borrow();
        match routes.slots.get(usize::from(slot.0)) {
            Some(route) if route.epoch != self.epoch.get() => RouteState::Changed,
            Some(route) if route.hold.0 != 0 => RouteState::Held,
            Some(_) => RouteState::Same,
            None => RouteState::Changed,
        }
    }

    pub(super) fn lease(&self, worker: &Worker) -> LeaseState {
        worker.lease_state(self.product.routes.borrow().isolated)
    }
}

/// The blocked calls of a worker, by the id of the session.
#[derive(Debug, Default)]
pub(in crate::proxy) struct BlockedCalls(RefCell<BTreeMap<u64, Rc<BlockedCall>>>);

impl BlockedCalls {
    /// Number of calls.
    pub(in crate::proxy) fn count(&self) -> usize {
        self.0.borrow().len()
    }

    /// Wakes the calls whose slot is held or has changed.
    pub(in crate::proxy) fn routes_changed(&self) {
        self.0.borrow().values().filter(|call| call.route() != RouteState::Same).for_each(|call| call.wake());
    }

    /// Wakes the calls of products for which the lease ends.
    pub(in crate::proxy) fn check_leases(&self, worker: &Worker) {
        // The stricter setting, once for all calls.
        if worker.lease_state(Isolated::Refuse) == LeaseState::Valid {
            return;
        }
        let ends = |call: &&Rc<BlockedCall>| call.lease(worker) != LeaseState::Valid;
        self.0.borrow().values().filter(ends).for_each(|call| call.wake());
    }
}

/// Keeps a call in its worker and its session. Dropping it removes it.
pub(super) struct Registration {
    worker: Rc<Worker>,
    session: Rc<Session>,
    pub(super) call: Rc<BlockedCall>,
    /// Whether INFO counts its client among those that are blocked.
    is_counted: Cell<bool>,
}

impl Registration {
    pub(super) fn new(worker: &Rc<Worker>, session: &Rc<Session>, slot: Option<SlotId>) -> Self {
        let call = Rc::new(BlockedCall {
            product: session.product.clone(),
            slot,
            epoch: Cell::default(),
            client_ended: Cell::default(),
            unblock: Cell::default(),
            changed: Notify::new(),
        });
        worker.blocked.0.borrow_mut().insert(session.id, call.clone());
        session.set_blocked_call(Some(call.clone()));
        // It reads from now on, to see that the client closes the connection.
        session.wake();
        Self { worker: worker.clone(), session: session.clone(), call, is_counted: Cell::new(false) }
    }

    /// Lets INFO count its client in `blocked_clients`. Called when the call is sent to a server: who sees the client counted
    /// can rely on it that an element that is pushed from now on goes to this client.
    pub(super) fn count(&self) {
        if !self.is_counted.replace(true) {
            self.session.product.usage(&self.worker).block();
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.worker.blocked.0.borrow_mut().remove(&self.session.id);
        if self.is_counted.get() {
            self.session.product.usage(&self.worker).unblock();
        }
        self.session.set_blocked_call(None);
    }
}

impl Session {
    /// Ends its blocked call before its time, as CLIENT UNBLOCK does. Returns whether it has one.
    pub(in crate::proxy) fn unblock(&self, how: Unblock) -> bool {
        let call = self.blocked_call();
        if let Some(call) = &call {
            call.unblock.set(Some(how));
            call.wake();
        }
        call.is_some()
    }
}
