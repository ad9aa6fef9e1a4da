//! What a session does with one request: dispatches it, and sends, parks, answers or refuses it.
//! Knows nothing of how requests are read; `task` reads them.

use std::{cell::RefMut, rc::Rc};

use super::{
    Session,
    outcome::{Handled, SendTo},
};
use crate::{
    commands::{Local, ResolveError, Spec, Split},
    model::route::ProductRoutes,
    proxy::{
        backend::{Requester, Unavailable},
        blocking::{delay_client, run_blocking, wait_for_replicas},
        check::ServeCheck,
        client::{Access, ReplyMode},
        counters::count,
        dispatch::{CallContext, Dispatch, KeyRoute, RefusalReason, Scratch, dispatch},
        gather::{LargeSplit, NotStarted, ScatterGather},
        learnt::{dispatch_learnt, server_commands},
        local,
        operation::{Operation, run_about_scripts, run_at_node, run_local, run_over_all_groups, scan_key},
        replies::Ticket,
        worker::Worker,
    },
    resp::{
        request::{RequestScanner, Scanned},
        write::{self, Version},
    },
};

/// The error for a request that was parked for the longest time allowed.
pub(in crate::proxy) const PARKED_TOO_LONG: &str = "TRYAGAIN not executed: its slot was held for too long";
/// The error for a request that is not parked, because too many bytes are.
pub(in crate::proxy) const PARKED_TOO_MUCH: &str = "TRYAGAIN not executed: too many requests wait for held slots";

/// The error for a request that has waited too long for the product's quota.
const OVER_QUOTA: &str = "TRYAGAIN not executed: the product uses all of its quota on this node (ops-max, bytes-max)";

/// A request of which the server cannot have received everything when a hold began. It is sent again when the hold
/// ends.
#[derive(Debug)]
pub(in crate::proxy) struct CutOff {
    pub(in crate::proxy) session: Rc<Session>,
    pub(in crate::proxy) ticket: Ticket,
    pub(in crate::proxy) bytes: Vec<u8>,
    /// Those of its connection: the session may have changed its own since.
    pub(in crate::proxy) db: u32,
    pub(in crate::proxy) version: Version,
    /// The tick at which it was cut off.
    pub(in crate::proxy) since: u32,
}

impl Session {
    /// Handles one request. What is not on the way of a plain request is in functions of its own.
    #[inline(always)]
    pub(super) fn handle(
        self: &Rc<Self>,
        worker: &Rc<Worker>,
        routes: &ProductRoutes,
        serve_check: ServeCheck,
        call: &CallContext<'_>,
    ) -> Handled {
        if self.product.is_observed.get() {
            return self.handle_observed(worker, routes, serve_check, call);
        }
        self.handle_now(worker, routes, serve_check, call)
    }

    /// The same, whoever observes the product.
    #[inline(always)]
    pub(super) fn handle_now(
        self: &Rc<Self>,
        worker: &Rc<Worker>,
        routes: &ProductRoutes,
        serve_check: ServeCheck,
        call: &CallContext<'_>,
    ) -> Handled {
        if call.args.is_empty() {
            return Handled::Done;
        }
        let (access, mode) = {
            let client = self.client.borrow();
            (client.access(), client.replies)
        };
        if access == Access::InTransaction {
            return self.handle_in_transaction(worker, routes, serve_check, call, mode);
        }
        let mut scratch = worker.buffers.dispatch.borrow_mut();
        let decision = dispatch(routes, serve_check, access, call, &mut scratch);
        self.number.set(scratch.number);
        match decision {
            Dispatch::Forward(target) => {
                drop(scratch);
                self.forward_plain(worker, routes, &target, call, mode)
            }
            decision => self.carry_out(worker, (routes, serve_check), decision, call, (access, mode), scratch),
        }
    }

    /// Carries out a decision about a request that is not forwarded whole.
    #[inline(never)]
    fn carry_out(
        self: &Rc<Self>,
        worker: &Rc<Worker>,
        (routes, serve_check): (&ProductRoutes, ServeCheck),
        decision: Dispatch,
        call: &CallContext<'_>,
        (access, mode): (Access, ReplyMode),
        mut scratch: RefMut<'_, Scratch>,
    ) -> Handled {
        let muted = mode != ReplyMode::On;
        match decision {
            // Not reached: `handle_now` forwards it.
            Dispatch::Forward(target) => return self.forward_plain(worker, routes, &target, call, mode),
            Dispatch::Script { target, kind } => {
                drop(scratch);
                return self.call_script(worker, routes, (&target, kind), call, mode);
            }
            Dispatch::Split { kind, spec } => {
                return self.split(worker, call, (kind, spec, mode), (routes, &scratch.keys));
            }
            Dispatch::Held => match self.park_or_refuse(worker, call.bytes.len()) {
                None => return Handled::Parked,
                Some(text) => self.refuse_request(worker, mode, text),
            },
            Dispatch::LargeSplit { kind, spec } => {
                if self.needs_choice(worker, call.bytes.len()) && !self.choose_connections(worker, call.bytes.len()) {
                    return Handled::Waiting;
                }
                self.count_request(worker, mode);
                count(&worker.stats.forwarded);
                LargeSplit::start(worker, self, call, (kind, spec, muted));
            }
            Dispatch::Scripts(command) => {
                if !self.is_settled() {
                    return Handled::Waiting;
                }
                self.count_request(worker, mode);
                count(&worker.stats.forwarded);
                Operation::start(worker, self, call, muted, |operation| run_about_scripts(operation, command));
            }
            Dispatch::HashImport(command, spec) => {
                drop(scratch);
                return self.import_hash(worker, (routes, serve_check), (command, spec), call, mode);
            }
            Dispatch::AllGroups(_) | Dispatch::KeyScan(_) | Dispatch::Node(_) if !self.is_settled() => {
                return Handled::Waiting;
            }
            Dispatch::AllGroups(kind) => {
                self.count_request(worker, mode);
                count(&worker.stats.forwarded);
                Operation::start(worker, self, call, muted, |operation| run_over_all_groups(operation, kind));
            }
            Dispatch::Node(command) => {
                self.count_request(worker, mode);
                Operation::start(worker, self, call, muted, |operation| run_at_node(operation, command));
            }
            Dispatch::KeyScan(slot) => {
                self.count_request(worker, mode);
                count(&worker.stats.forwarded);
                Operation::start(worker, self, call, muted, |operation| scan_key(operation, slot));
            }
            Dispatch::Blocking { spec, slot } => {
                if !self.is_settled() {
                    return Handled::Waiting;
                }
                self.count_request(worker, mode);
                count(&worker.stats.forwarded);
                let run = |operation| run_blocking(operation, spec, slot);
                let ticket = Operation::start(worker, self, call, muted, run);
                if routes.reads.own_writes && spec.is_write() {
                    self.note_write(ticket);
                }
            }
            // The servers do not have it, and the error repeats the call.
            Dispatch::WaitReplicas { spec }
                if server_commands(worker, &self.product).is_some_and(|commands| !commands.has(spec.name)) =>
            {
                self.refuse_request(worker, mode, &local::unresolved(&ResolveError::Unknown, call));
            }
            Dispatch::WaitReplicas { spec } => {
                if !self.is_settled() {
                    return Handled::Waiting;
                }
                self.count_request(worker, mode);
                Operation::start(worker, self, call, muted, |operation| wait_for_replicas(operation, spec));
            }
            Dispatch::Local(local) if local::asks_servers(local, call) => {
                if !self.is_settled() {
                    return Handled::Waiting;
                }
                self.count_request(worker, mode);
                if local::is_sleep(local, call) {
                    Operation::start(worker, self, call, muted, delay_client);
                } else {
                    Operation::start(worker, self, call, muted, |operation| run_local(operation, local));
                }
            }
            Dispatch::Local(local) => {
                self.count_request(worker, mode);
                return self.answer_locally(worker, routes, local, call, muted);
            }
            Dispatch::Refuse(RefusalReason::Unresolved(error)) if access == Access::Open => {
                return self.handle_learnt(worker, (routes, serve_check), (call, error), mode, &mut scratch);
            }
            Dispatch::Refuse(RefusalReason::Unresolved(error)) => {
                self.refuse_request(worker, mode, &local::unresolved(&error, call));
            }
            Dispatch::Refuse(refusal) => {
                if matches!(refusal, RefusalReason::TooManyArguments(_)) {
                    count(&worker.stats.long_local_commands);
                }
                self.refuse_request(worker, mode, &refusal.to_string());
            }
            Dispatch::Transaction(command, spec) => {
                drop(scratch);
                return self.transact(worker, routes, serve_check, (command, spec), call, mode);
            }
            Dispatch::Close(why) => self.close_with(worker, mode, why),
        }
        Handled::Done
    }

    /// Starts a split command.
    #[inline]
    fn split(
        self: &Rc<Self>,
        worker: &Rc<Worker>,
        call: &CallContext<'_>,
        (kind, spec, mode): (Split, &Spec, ReplyMode),
        routes: (&ProductRoutes, &[KeyRoute]),
    ) -> Handled {
        if self.needs_choice(worker, call.bytes.len()) && !self.choose_connections(worker, call.bytes.len()) {
            return Handled::Waiting;
        }
        let muted = mode != ReplyMode::On;
        match ScatterGather::start(worker, self, &self.backend_set(), call, (kind, spec, muted), routes) {
            Ok(()) => {
                self.count_request(worker, mode);
                count(&worker.stats.forwarded);
            }
            Err(NotStarted::Full) => return Handled::Waiting,
            Err(NotStarted::Refuse(text)) => self.refuse_request(worker, mode, &text),
            Err(NotStarted::NoDedicated) => match self.without_dedicated(worker, call.bytes.len()) {
                SendTo::Refuse(text) => self.refuse_request(worker, mode, &text),
                SendTo::Backend(_) | SendTo::Wait => return Handled::Waiting,
            },
        }
        Handled::Done
    }

    /// Answers with an error, and closes the connection.
    #[cold]
    pub(in crate::proxy) fn close_with(&self, worker: &Worker, mode: ReplyMode, why: &str) {
        self.count_request(worker, mode);
        self.refuse(worker, false, &format!("ERR {why}"));
        self.closing.set(true);
    }

    /// Answers a request.
    pub(in crate::proxy) fn answer_request(&self, worker: &Worker, mode: ReplyMode, text: &dyn Fn(&mut Vec<u8>)) {
        self.count_request(worker, mode);
        if mode == ReplyMode::On {
            self.answer(worker, text);
        }
    }

    /// Refuses a request that has waited too long for the product's quota.
    #[cold]
    pub(super) fn refuse_over_quota(&self, worker: &Worker) {
        count(&worker.stats.over_quota);
        self.import_waits.set(false);
        self.number.set(None);
        let mode = self.client.borrow().replies;
        self.refuse_request(worker, mode, OVER_QUOTA);
    }

    /// Refuses a request.
    pub(in crate::proxy) fn refuse_request(
        &self,
        worker: &Worker,
        mode: ReplyMode,
        text: &(impl AsRef<[u8]> + ?Sized),
    ) {
        if let Some(command) = self.number.get() {
            self.product.usage(worker).reject(command);
        }
        self.request_done(worker, mode);
        self.refuse(worker, mode != ReplyMode::On, text);
    }

    /// Counts a request that does not wait any more, and is not refused.
    #[inline(always)]
    pub(in crate::proxy) fn count_request(&self, worker: &Worker, mode: ReplyMode) {
        self.product.usage(worker).call(self.number.get());
        self.request_done(worker, mode);
    }

    /// `CLIENT REPLY SKIP` concerns only one request.
    #[inline]
    fn request_done(&self, worker: &Worker, mode: ReplyMode) {
        count(&worker.stats.requests);
        if mode == ReplyMode::SkipNext {
            self.client.borrow_mut().replies = ReplyMode::On;
        }
    }

    /// Sends a request that a hold has cut off. Returns false if its slot is still held.
    pub(in crate::proxy) fn resend(self: &Rc<Self>, worker: &Rc<Worker>, request: &CutOff) -> bool {
        let fail = |text: &str| {
            let mut error = Vec::new();
            write::error(&mut error, text);
            self.clone().complete(worker, request.ticket, &error, request.bytes.len());
            true
        };
        if self.closed.get() {
            return true;
        }
        let routes = self.product.routes.borrow().clone();
        let mut scanner = RequestScanner::default();
        if !matches!(scanner.scan(&request.bytes), Ok(Scanned::Request(_))) {
            debug_assert!(false, "what was sent is a request");
            return fail("ERR the request could not be repeated, not executed");
        }
        let call = CallContext { bytes: &request.bytes, args: scanner.args() };
        let serve_check = worker.serve_check(&self.product);
        let scratch = &mut worker.buffers.dispatch.borrow_mut();
        let decision = match dispatch(&routes, serve_check, Access::Open, &call, scratch) {
            Dispatch::Refuse(RefusalReason::Unresolved(error)) => {
                let commands = server_commands(worker, &self.product);
                dispatch_learnt(&routes, serve_check, commands.as_deref(), (&call, error), scratch).decision
            }
            other => other,
        };
        match decision {
            Dispatch::Held if worker.clock.age(request.since) < worker.config.limits.parked_for_max => false,
            Dispatch::Held => fail(PARKED_TOO_LONG),
            Dispatch::Forward(target) | Dispatch::Script { target, .. } => {
                let own = self.backend_set();
                let fits = own.db == request.db && own.version == request.version;
                let backend_set = if fits { own } else { self.product.backend_set(request.db, request.version) };
                let backend = backend_set.backend(worker, &self.product, target.group);
                match backend.filter(|backend| backend.available(worker) != Err(Unavailable::Down)) {
                    Some(backend) => {
                        let requester = Requester::Session(self.clone(), request.ticket);
                        self.load_script_of(worker, &backend, &request.bytes);
                        self.send(worker, &backend, &target, &request.bytes, requester);
                        true
                    }
                    None => fail("TRYAGAIN not executed: its slot moved, and the server there is not available"),
                }
            }
            Dispatch::Refuse(refusal) => fail(&refusal.to_string()),
            // The routes have changed so much that a command of one server has become one of several.
            Dispatch::Split { .. }
            | Dispatch::LargeSplit { .. }
            | Dispatch::Scripts(_)
            | Dispatch::HashImport(..)
            | Dispatch::AllGroups(_)
            | Dispatch::KeyScan(_)
            | Dispatch::Node(_)
            | Dispatch::Blocking { .. }
            | Dispatch::WaitReplicas { .. }
            | Dispatch::Transaction(..)
            | Dispatch::Local(_)
            | Dispatch::Close(_) => fail("TRYAGAIN not executed: its slot moved before it could be sent"),
        }
    }

    /// Answers a request with an error.
    pub(super) fn refuse(&self, worker: &Worker, muted: bool, text: &(impl AsRef<[u8]> + ?Sized)) {
        worker.stats.refused.set(worker.stats.refused.get() + 1);
        self.product.usage(worker).count_error(text.as_ref());
        if !muted {
            self.answer(worker, &|out| write::error(out, text));
        }
    }

    pub(in crate::proxy) fn answer_locally(
        self: &Rc<Self>,
        worker: &Rc<Worker>,
        routes: &ProductRoutes,
        local: Local,
        call: &CallContext<'_>,
        muted: bool,
    ) -> Handled {
        let mut reply = worker.buffers.take_reply();
        let answer = local::answer(worker, self, routes, local, call, &mut reply);
        self.note_error(worker, self.number.get(), &reply);
        if answer.failed_login {
            self.answer_failed_login(worker, muted, reply);
            return Handled::Done;
        }
        // `CLIENT REPLY ON` is answered although replies were off; OFF and SKIP are not answered although replies were
        // on.
        let silent = match answer.mode_changed {
            true => self.client.borrow().replies != ReplyMode::On,
            false => muted,
        };
        if !silent {
            self.answer(worker, &|out| out.extend_from_slice(&reply));
        }
        self.answered_in_turn.set(self.answered_in_turn.get() + reply.len());
        worker.buffers.return_reply(reply);
        if answer.close {
            self.closing.set(true);
        }
        if answer.logged_out { Handled::LoggedOut } else { Handled::Done }
    }

    /// Parks a request and returns `None`, or returns the error for the client if it was parked for too long or too
    /// many bytes are parked.
    pub(in crate::proxy) fn park_or_refuse(self: &Rc<Self>, worker: &Rc<Worker>, len: usize) -> Option<&'static str> {
        let limits = &worker.config.limits;
        let since = self.parked_at.get();
        let expired = since.is_some_and(|tick| worker.clock.age(tick) >= limits.parked_for_max);
        let full = since.is_none() && worker.parking.bytes() + len > limits.parked_worker_max;
        if expired {
            return Some(PARKED_TOO_LONG);
        }
        if full {
            return Some(PARKED_TOO_MUCH);
        }
        if since.is_none() {
            self.parked_at.set(Some(worker.clock.tick()));
            count(&worker.stats.parked);
        }
        worker.parking.add(self.clone());
        None
    }
}
