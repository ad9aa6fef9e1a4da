//! Forwards a request to one server: finds the connection, and queues the request there. With `handle` and `dispatch` this is
//! all that a plain request costs a session, so these functions are inlined where plain requests are handled, although rare
//! requests call them, too. Knows nothing of what else a request may need.

use std::rc::Rc;

use super::{
    Session,
    outcome::{Handled, SendTo},
};
use crate::{
    model::{reads::ReadFrom, route::ProductRoutes},
    proxy::{
        backend::{Backend, InFlight, Requester, Unavailable},
        client::ReplyMode,
        counters::count,
        dispatch::{CallContext, DispatchTarget},
        reads::{self, ReadChoice},
        replies::Ticket,
        worker::Worker,
    },
};

impl Session {
    /// Forwards a plain request: the most frequent case, once per request.
    #[inline(always)]
    pub(super) fn forward_plain(
        self: &Rc<Self>,
        worker: &Rc<Worker>,
        routes: &ProductRoutes,
        target: &DispatchTarget,
        call: &CallContext<'_>,
        mode: ReplyMode,
    ) -> Handled {
        match self.choose_backend(worker, routes, target, call.bytes.len()) {
            SendTo::Backend(backend) => {
                self.count_request(worker, mode);
                self.forward(worker, routes, &backend, target, call, mode != ReplyMode::On);
                Handled::Done
            }
            SendTo::Refuse(text) => {
                self.refuse_request(worker, mode, &text);
                Handled::Done
            }
            SendTo::Wait => Handled::Waiting,
        }
    }

    /// Whether [`choose_connections`](Self::choose_connections) has to be asked; it is rarely.
    #[inline]
    pub(super) fn needs_choice(&self, worker: &Worker, len: usize) -> bool {
        len >= worker.config.limits.large_message || self.dedicated_since.get().is_some()
    }

    #[inline(always)]
    pub(in crate::proxy) fn choose_backend(
        self: &Rc<Self>,
        worker: &Rc<Worker>,
        routes: &ProductRoutes,
        target: &DispatchTarget,
        len: usize,
    ) -> SendTo {
        if self.needs_choice(worker, len) && !self.choose_connections(worker, len) {
            return SendTo::Wait;
        }
        if routes.reads.from != ReadFrom::Primary && target.may_read_replica {
            match self.at_replica(worker, routes, target) {
                ReadChoice::Primary => {}
                ReadChoice::Replica(backend) => return SendTo::Backend(backend),
                ReadChoice::Refuse(text) => return SendTo::Refuse(text),
            }
        }
        let Some(backend) = self.backend_set().backend(worker, &self.product, target.group) else {
            return self.without_dedicated(worker, len);
        };
        self.if_available(worker, backend)
    }

    /// The connection if it takes a request now.
    #[inline(always)]
    pub(super) fn if_available(self: &Rc<Self>, worker: &Worker, backend: Rc<Backend>) -> SendTo {
        match backend.available(worker) {
            Ok(()) => SendTo::Backend(backend),
            Err(Unavailable::Down) => SendTo::Refuse(backend.refusal()),
            Err(Unavailable::Full) => {
                backend.wait_for_room(worker, self);
                SendTo::Wait
            }
        }
    }

    /// There is no dedicated connection for a request: a large one is refused, others use shared connections.
    #[cold]
    pub(super) fn without_dedicated(&self, worker: &Worker, len: usize) -> SendTo {
        if len >= worker.config.limits.large_message {
            return SendTo::Refuse(self.product.too_many_dedicated(worker));
        }
        self.use_shared();
        if !self.settling.get() {
            self.wake();
        }
        SendTo::Wait
    }

    #[inline(always)]
    pub(super) fn forward(
        self: &Rc<Self>,
        worker: &Worker,
        routes: &ProductRoutes,
        backend: &Backend,
        target: &DispatchTarget,
        call: &CallContext<'_>,
        muted: bool,
    ) -> Ticket {
        count(&worker.stats.forwarded);
        let ticket = self.open(muted, call.bytes.len());
        if routes.reads.own_writes && target.is_write {
            self.note_write(ticket);
        }
        self.send(worker, backend, target, call.bytes, Requester::Session(self.clone(), ticket));
        ticket
    }

    #[cold]
    fn at_replica(self: &Rc<Self>, worker: &Rc<Worker>, routes: &ProductRoutes, target: &DispatchTarget) -> ReadChoice {
        let keys = target.slot.map(|slot| (slot, target.epoch)).into_iter();
        reads::choose(worker, self, &self.backend_set(), routes, target.group, keys)
    }

    #[inline(always)]
    pub(in crate::proxy) fn send(
        &self,
        worker: &Worker,
        backend: &Backend,
        target: &DispatchTarget,
        request: &[u8],
        requester: Requester,
    ) {
        if target.is_write {
            self.note_written(backend);
        }
        backend.send(
            request,
            InFlight {
                requester,
                epoch: target.epoch,
                // `REQUEST_MAX` is 1 GB, far below 4 GB.
                len: request.len() as u32,
                tick: worker.clock.tick(),
                sent_us: worker.clock.micros(),
                generation: worker.routes.generation(),
                slot: target.slot,
                is_write: target.is_write,
                command: self.number.get(),
            },
        );
    }
}
