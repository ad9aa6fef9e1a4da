//! Calls of scripts and functions: sees to it that the server has what is called. Knows nothing of how the cluster keeps it.

use std::rc::Rc;

use super::{
    Session,
    outcome::{Handled, SendTo},
};
use crate::{
    commands::{Args, Handling, ScriptCall, resolve},
    model::{route::ProductRoutes, script::ScriptDigest},
    proxy::{
        backend::Backend,
        client::ReplyMode,
        dispatch::{CallContext, DispatchTarget},
        operation::{Operation, call_after_loading, repeat_with_body},
        replies::Ticket,
        scripts::{ScriptKey, ScriptToLoad},
        worker::Worker,
    },
    resp::request::{RequestScanner, Scanned},
};

/// Bytes of an EVALSHA that are kept so that it can be repeated; larger ones are not repeated. As much as a session may have
/// without being counted.
const REPEATED_MAX: usize = 16 * 1024;

/// A copy of the last EVALSHA of a session.
#[derive(Debug)]
pub(super) struct ScriptCallCopy {
    ticket: Ticket,
    bytes: Vec<u8>,
}

impl Session {
    /// Sends a call of a script or function to the server that `target` names.
    #[inline]
    pub(super) fn call_script(
        self: &Rc<Self>,
        worker: &Rc<Worker>,
        routes: &ProductRoutes,
        (target, kind): (&DispatchTarget, ScriptCall),
        call: &CallContext<'_>,
        mode: ReplyMode,
    ) -> Handled {
        let muted = mode != ReplyMode::On;
        let backend = match self.choose_backend(worker, routes, target, call.bytes.len()) {
            SendTo::Backend(backend) => backend,
            SendTo::Refuse(text) => {
                self.refuse_request(worker, mode, &text);
                return Handled::Done;
            }
            SendTo::Wait => return Handled::Waiting,
        };
        match kind {
            ScriptCall::Body => {
                worker.seen_bodies.note(&worker.bodies, routes.id, ScriptDigest::of(call.get(1)), call.get(1))
            }
            ScriptCall::Digest => {
                if let Some(script) = self.script_to_load(worker, &backend, call) {
                    backend.load_script(worker, self, &script);
                } else if self.asks_for_script(worker, &backend, call) {
                    return Handled::Waiting;
                }
            }
            // A replica has the libraries of its primary.
            ScriptCall::Function if !backend.replica && self.may_lack_libraries(&backend) => {
                if !self.is_settled() {
                    return Handled::Waiting;
                }
                self.count_request(worker, mode);
                let addr = backend.addr.clone();
                Operation::start(worker, self, call, muted, |operation| call_after_loading(operation, addr));
                return Handled::Done;
            }
            ScriptCall::Function => {}
        }
        self.count_request(worker, mode);
        let ticket = self.forward(worker, routes, &backend, target, call, muted);
        if kind == ScriptCall::Digest && !backend.replica {
            self.keep_script_call(worker, ticket, call.bytes);
        }
        Handled::Done
    }

    /// The script that has to be loaded on a connection before this EVALSHA is sent there. `None`: the server surely has it,
    /// or nobody knows its body.
    #[inline]
    pub(in crate::proxy) fn script_to_load(
        &self,
        worker: &Worker,
        backend: &Backend,
        call: &CallContext<'_>,
    ) -> Option<ScriptToLoad> {
        let digest = ScriptDigest::parse(call.get(1))?;
        if backend.scripts.has(&digest) { None } else { self.known_script(worker, digest) }
    }

    /// Whether an EVALSHA has to wait until other nodes have said whether they know the script. The session is woken then.
    #[inline]
    pub(in crate::proxy) fn asks_for_script(
        self: &Rc<Self>,
        worker: &Rc<Worker>,
        backend: &Backend,
        call: &CallContext<'_>,
    ) -> bool {
        match ScriptDigest::parse(call.get(1)) {
            Some(digest) if !backend.scripts.has(&digest) => self.asks_nodes(worker, digest),
            _ => false,
        }
    }

    #[cold]
    fn asks_nodes(self: &Rc<Self>, worker: &Rc<Worker>, digest: ScriptDigest) -> bool {
        let product = self.product.routes.borrow().id;
        self.known_script(worker, digest).is_none() && worker.asked_bodies.must_wait(worker, self, (product, digest))
    }

    /// A script whose body the node knows.
    #[cold]
    fn known_script(&self, worker: &Worker, digest: ScriptDigest) -> Option<ScriptToLoad> {
        let product = self.product.routes.borrow().id;
        let body = self.product.scripts.body(&digest).or_else(|| worker.bodies.get(product, &digest))?;
        Some(ScriptToLoad { digest, body })
    }

    /// The same as in [`call_script`](Self::call_script), for a request that is sent again, or is part of a transaction.
    pub(in crate::proxy) fn load_script_of(self: &Rc<Self>, worker: &Worker, backend: &Backend, request: &[u8]) {
        let script = with_digest_call(request, |call| self.script_to_load(worker, backend, call));
        if let Some(script) = script.flatten() {
            backend.load_script(worker, self, &script);
        }
    }

    /// The same as [`asks_for_script`](Self::asks_for_script), for a request of a transaction. Returns what is asked for.
    pub(in crate::proxy) fn asks_for_script_of(
        self: &Rc<Self>,
        worker: &Rc<Worker>,
        backend: &Backend,
        request: &[u8],
    ) -> Option<ScriptKey> {
        let asked = with_digest_call(request, |call| {
            let digest = ScriptDigest::parse(call.get(1))?;
            self.asks_for_script(worker, backend, call).then(|| (self.product.routes.borrow().id, digest))
        });
        asked.flatten()
    }

    /// Whether a primary may lack libraries of the catalogue. None were loaded: not the cluster's business.
    #[inline]
    pub(in crate::proxy) fn may_lack_libraries(&self, backend: &Backend) -> bool {
        backend.scripts.libraries() < self.product.scripts.libraries_at()
    }

    fn keep_script_call(&self, worker: &Worker, ticket: Ticket, request: &[u8]) {
        if request.len() > REPEATED_MAX {
            return;
        }
        let mut kept = self.script_call.borrow_mut();
        let copy = kept.get_or_insert_with(|| ScriptCallCopy { ticket, bytes: worker.buffers.take_reply() });
        copy.ticket = ticket;
        copy.bytes.clear();
        copy.bytes.extend_from_slice(request);
    }

    /// All its requests are answered.
    #[inline]
    pub(super) fn forget_script_call(&self, worker: &Worker) {
        if let Some(copy) = self.script_call.borrow_mut().take() {
            worker.buffers.return_reply(copy.bytes);
        }
    }

    /// Repeats an EVALSHA with the body, since `backend` has answered it with `reply`: it lacks the script. Returns false if
    /// that is not possible: the body is not known, or the session has sent something behind it, which may be executed already.
    pub(in crate::proxy) fn repeat_script(
        self: &Rc<Self>,
        worker: &Worker,
        backend: &Backend,
        ticket: Ticket,
        reply: &[u8],
    ) -> bool {
        backend.scripts.lost();
        let of_ticket = |copy: &mut ScriptCallCopy| copy.ticket == ticket;
        let Some(copy) = self.script_call.borrow_mut().take_if(of_ticket) else { return false };
        let last = !self.is_closed() && !self.alone.get() && self.replies.borrow().is_last(ticket);
        let mut scanner = RequestScanner::default();
        if !last || !matches!(scanner.scan(&copy.bytes), Ok(Scanned::Request(_))) {
            return false;
        }
        let call = CallContext { bytes: &copy.bytes, args: scanner.args() };
        let digest = ScriptDigest::parse(call.get(1));
        if let Some(digest) = digest {
            worker.asked_bodies.is_missing(&(self.product.routes.borrow().id, digest));
        }
        let script = digest.and_then(|digest| self.known_script(worker, digest));
        let (Some(script), Some(worker)) = (script, worker.weak_self.upgrade()) else { return false };
        let (addr, reply) = (backend.addr.clone(), reply.to_vec());
        Operation::resume(&worker, self, &call, ticket, |operation| repeat_with_body(operation, addr, script, reply));
        true
    }
}

/// What `of` returns for a request that is a call of a script by its digest.
fn with_digest_call<T>(request: &[u8], of: impl FnOnce(&CallContext<'_>) -> T) -> Option<T> {
    let mut scanner = RequestScanner::default();
    if !matches!(scanner.scan(request), Ok(Scanned::Request(_))) {
        return None;
    }
    let call = CallContext { bytes: request, args: scanner.args() };
    let by_digest = resolve(&call).is_ok_and(|spec| spec.handling == Handling::Script(ScriptCall::Digest));
    by_digest.then(|| of(&call))
}
