//! What a session does with one request: dispatches it, and sends, parks, answers or refuses it.
//! Knows nothing of how requests are read; `task` reads them.

use std::rc::Rc;

use super::Session;
use crate::{
    commands::Local,
    model::{reads::ReadFrom, route::ProductRoutes},
    proxy::{
        backend::{Backend, InFlight, Requester},
        check::ServeCheck,
        client::ReplyMode,
        dispatch::{CallContext, Dispatch, DispatchTarget, RefusalReason, dispatch},
        gather::ScatterGather,
        local,
        reads::{self, ReadChoice},
        worker::Worker,
    },
    resp::write,
};

impl Session {
    /// Handles one request. Returns false if it is parked; then all requests behind it wait, too.
    #[inline]
    pub(super) fn handle(
        self: &Rc<Self>,
        worker: &Rc<Worker>,
        routes: &ProductRoutes,
        serve_check: ServeCheck,
        call: &CallContext<'_>,
    ) -> bool {
        if call.args.is_empty() {
            return true;
        }
        let (logged_in, mode) = {
            let client = self.client.borrow();
            (client.logged_in, client.replies)
        };
        let mut scratch = worker.buffers.dispatch.borrow_mut();
        let decision = dispatch(routes, serve_check, logged_in, call, &mut scratch);
        let refused = match decision {
            Dispatch::Held => match self.park_or_refuse(worker, call) {
                None => return false,
                refused => refused,
            },
            _ => None,
        };
        worker.stats.requests.set(worker.stats.requests.get() + 1);
        let muted = mode != ReplyMode::On;
        if mode == ReplyMode::SkipNext {
            self.client.borrow_mut().replies = ReplyMode::On;
        }
        match decision {
            Dispatch::Forward(target) => self.forward(worker, routes, &target, call, muted),
            Dispatch::Split { kind, spec } => {
                let started = ScatterGather::start(
                    worker,
                    self,
                    &self.backend_set(),
                    call,
                    (kind, spec, muted),
                    (routes, &scratch.keys),
                );
                match started {
                    Ok(()) => worker.stats.forwarded.set(worker.stats.forwarded.get() + 1),
                    Err(text) => self.refuse(worker, muted, &text),
                }
            }
            Dispatch::Local(local) => self.answer_locally(worker, routes, local, call, muted),
            Dispatch::Refuse(RefusalReason::Unresolved(error)) => {
                self.refuse(worker, muted, &local::unresolved(&error, call));
            }
            Dispatch::Refuse(refusal) => self.refuse(worker, muted, &refusal.to_string()),
            Dispatch::Close(why) => {
                self.refuse(worker, false, &format!("ERR {why}"));
                self.closing.set(true);
            }
            Dispatch::Held => self.refuse(worker, muted, refused.unwrap_or_default()),
        }
        true
    }

    #[inline]
    fn forward(
        self: &Rc<Self>,
        worker: &Rc<Worker>,
        routes: &ProductRoutes,
        target: &DispatchTarget,
        call: &CallContext<'_>,
        muted: bool,
    ) {
        if routes.reads.from != ReadFrom::Primary && target.may_read_replica {
            match self.at_replica(worker, routes, target) {
                ReadChoice::Primary => {}
                ReadChoice::Replica(backend) => {
                    let requester = Requester::Session(self.clone(), self.open(muted, call.bytes.len()));
                    worker.stats.forwarded.set(worker.stats.forwarded.get() + 1);
                    return self.send(worker, &backend, target, call, requester);
                }
                ReadChoice::Refuse(text) => return self.refuse(worker, muted, &text),
            }
        }
        let backend = self.backend_set().backend(worker, &self.product, target.group);
        if let Err(why) = backend.available(worker) {
            self.refuse(worker, muted, &backend.refusal(why));
            return;
        }
        worker.stats.forwarded.set(worker.stats.forwarded.get() + 1);
        let ticket = self.open(muted, call.bytes.len());
        if routes.reads.own_writes && target.is_write {
            self.note_write(ticket);
        }
        self.send(worker, &backend, target, call, Requester::Session(self.clone(), ticket));
    }

    #[cold]
    fn at_replica(self: &Rc<Self>, worker: &Rc<Worker>, routes: &ProductRoutes, target: &DispatchTarget) -> ReadChoice {
        let keys = target.slot.map(|slot| (slot, target.epoch)).into_iter();
        reads::choose(worker, self, &self.backend_set(), routes, target.group, keys)
    }

    #[inline]
    fn send(
        &self,
        worker: &Worker,
        backend: &Backend,
        target: &DispatchTarget,
        call: &CallContext<'_>,
        requester: Requester,
    ) {
        backend.send(
            call.bytes,
            InFlight {
                requester,
                epoch: target.epoch,
                // `REQUEST_MAX` is 1 GB, far below 4 GB.
                len: call.bytes.len() as u32,
                tick: worker.clock.tick(),
                generation: worker.routes.generation(),
                slot: target.slot,
                is_write: target.is_write,
            },
        );
    }

    /// Answers a request with an error.
    pub(super) fn refuse(&self, worker: &Worker, muted: bool, text: &str) {
        worker.stats.refused.set(worker.stats.refused.get() + 1);
        if !muted {
            self.answer(worker, &|out| write::error(out, text));
        }
    }

    fn answer_locally(
        self: &Rc<Self>,
        worker: &Worker,
        routes: &ProductRoutes,
        local: Local,
        call: &CallContext<'_>,
        muted: bool,
    ) {
        let mut reply = worker.buffers.take_reply();
        let answer = local::answer(worker, self, routes, local, call, &mut reply);
        // `CLIENT REPLY ON` is answered although replies were off; OFF and SKIP are not answered although replies were
        // on.
        let silent = match answer.mode_changed {
            true => self.client.borrow().replies != ReplyMode::On,
            false => muted,
        };
        if !silent {
            self.answer(worker, &|out| out.extend_from_slice(&reply));
        }
        worker.buffers.return_reply(reply);
        if answer.close {
            self.closing.set(true);
        }
    }

    /// Parks a request and returns `None`, or returns the error for the client if it was parked for too long or too
    /// many bytes are parked.
    fn park_or_refuse(self: &Rc<Self>, worker: &Rc<Worker>, call: &CallContext<'_>) -> Option<&'static str> {
        let limits = &worker.config.limits;
        let since = self.parked_at.get();
        let expired = since.is_some_and(|tick| worker.clock.age(tick) >= limits.parked_for_max);
        let full = since.is_none() && worker.parking.bytes() + call.bytes.len() > limits.parked_worker_max;
        if expired {
            return Some("TRYAGAIN not executed: its slot was held for too long");
        }
        if full {
            return Some("TRYAGAIN not executed: too many requests wait for held slots");
        }
        if since.is_none() {
            self.parked_at.set(Some(worker.clock.tick()));
            worker.stats.parked.set(worker.stats.parked.get() + 1);
        }
        worker.parking.add(self.clone());
        None
    }
}
