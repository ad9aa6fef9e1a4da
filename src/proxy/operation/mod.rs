//! Operations: requests that a node executes in several steps, such as commands over all groups and commands that wait.
//! The session handles no other request before its operation is answered. Knows nothing of what the steps mean.

mod all_groups;
mod debug;
mod forward;
mod functions;
mod histogram;
mod info;
mod key_scan;
mod local;
mod node;
mod one_server;
mod primaries;
mod scripts;
mod step;
mod texts;

use std::{
    cell::{Cell, RefCell},
    future::Future,
    rc::Rc,
};

use tokio::time::{Instant, timeout_at};

pub(super) use all_groups::run as run_over_all_groups;
pub(super) use functions::{call_after_loading, load_libraries};
pub(super) use key_scan::run as scan_key;
pub(super) use local::run as run_local;
pub(super) use node::{describe as describe_clients, kill as kill_clients, run as run_at_node};
pub(super) use scripts::{repeat_with_body, run as run_about_scripts};
pub(super) use step::{Blocks, Step, StepError, StepRequest, StepResult, StepSlots, or_unknown, received, send_step};

use super::{
    counters::count,
    dispatch::{CallContext, RefusalReason},
    replies::Ticket,
    session::{PARKED_TOO_LONG, PARKED_TOO_MUCH, Session},
    worker::Worker,
};
use crate::{
    commands::{Flags, Handling, NodeCommand, Spec, resolve},
    model::route::ProductRoutes,
    proxy::check::ServeCheck,
    resp::{request::Arg, write},
};

/// A request that is executed in several steps. Its session is `alone` until it is answered.
#[derive(Debug)]
pub(super) struct Operation {
    pub(super) worker: Rc<Worker>,
    pub(super) session: Rc<Session>,
    ticket: Ticket,
    bytes: Vec<u8>,
    args: Vec<Arg>,
    /// Bytes that are charged to the session.
    charged: Cell<usize>,
    /// How often in a row it has waited for a connection.
    connects: Cell<u32>,
    started: Instant,
    /// Bytes that the session counts as queued until the request is answered.
    queued: usize,
    /// Of a command of a transaction: where its reply goes.
    within: Option<Rc<RefCell<Vec<u8>>>>,
}

impl Operation {
    /// Starts the operation `run` for a request. The caller has made sure that its order with earlier requests of the
    /// session is kept ([`Session::is_settled`]); later ones are not handled before it is answered.
    pub(super) fn start<F: Future<Output = ()> + 'static>(
        worker: &Rc<Worker>,
        session: &Rc<Session>,
        call: &CallContext<'_>,
        muted: bool,
        run: impl FnOnce(Self) -> F,
    ) -> Ticket {
        // Its bytes are charged below, not counted as queued.
        let ticket = session.open(muted, 0);
        Self::begin(worker, session, call, (ticket, 0), run);
        ticket
    }

    /// Goes on with a request of the session that was sent already, and of which nothing was executed. Nothing was sent behind
    /// it.
    pub(super) fn resume<F: Future<Output = ()> + 'static>(
        worker: &Rc<Worker>,
        session: &Rc<Session>,
        call: &CallContext<'_>,
        ticket: Ticket,
        run: impl FnOnce(Self) -> F,
    ) {
        Self::begin(worker, session, call, (ticket, call.bytes.len()), run);
    }

    fn begin<F: Future<Output = ()> + 'static>(
        worker: &Rc<Worker>,
        session: &Rc<Session>,
        call: &CallContext<'_>,
        (ticket, queued): (Ticket, usize),
        run: impl FnOnce(Self) -> F,
    ) {
        session.alone.set(true);
        let operation = Self::new(worker, session, call, (ticket, queued), None);
        // A panic ends the session and nothing else; see `drop`.
        tokio::task::spawn_local(run(operation));
    }

    /// An operation for a command of a transaction, and where its reply will be. `ticket`: of EXEC, which the caller answers.
    pub(super) fn within(
        worker: &Rc<Worker>,
        session: &Rc<Session>,
        call: &CallContext<'_>,
        ticket: Ticket,
    ) -> (Self, Rc<RefCell<Vec<u8>>>) {
        let reply = Rc::new(RefCell::new(Vec::new()));
        (Self::new(worker, session, call, (ticket, 0), Some(Rc::clone(&reply))), reply)
    }

    fn new(
        worker: &Rc<Worker>,
        session: &Rc<Session>,
        call: &CallContext<'_>,
        (ticket, queued): (Ticket, usize),
        within: Option<Rc<RefCell<Vec<u8>>>>,
    ) -> Self {
        let operation = Self {
            worker: worker.clone(),
            session: session.clone(),
            ticket,
            bytes: call.bytes.to_vec(),
            args: call.args.to_vec(),
            charged: Cell::new(0),
            connects: Cell::new(0),
            started: Instant::now(),
            queued,
            within,
        };
        operation.charge(0);
        operation
    }

    /// Whether it is a command of a transaction.
    pub(super) fn is_within(&self) -> bool {
        self.within.is_some()
    }

    /// The request.
    pub(super) fn call(&self) -> CallContext<'_> {
        CallContext { bytes: &self.bytes, args: &self.args }
    }

    /// Charges its memory to the session; `more`: bytes besides the request.
    pub(super) fn charge(&self, more: usize) {
        let now = self.bytes.len() + self.args.len() * size_of::<Arg>() + more;
        self.session.charge_split(&self.worker, self.charged.replace(now), now);
    }

    /// Whether this many bytes may be kept for its reply. If they are too many, its client is closed.
    pub(super) fn may_keep(&self, bytes: usize) -> bool {
        if bytes > self.worker.config.limits.reply_max && !self.session.is_closed() {
            self.session.close_for_reply(&self.worker, bytes);
        }
        !self.session.is_closed()
    }

    /// Answers the request, and lets the session go on.
    pub(super) fn finish(self, reply: &[u8]) {
        if let Some(within) = &self.within {
            *within.borrow_mut() = reply.to_vec();
            return;
        }
        let queued = self.queued;
        self.session.note_error_of_last(&self.worker, reply);
        self.finish_with(|session, worker, ticket| session.complete(worker, ticket, reply, queued));
    }

    /// The same; `answer` gives the reply to the session.
    pub(super) fn finish_with(self, answer: impl FnOnce(Rc<Session>, &Worker, Ticket)) {
        self.note_if_slow();
        self.session.alone.set(false);
        answer(self.session.clone(), &self.worker, self.ticket);
        self.worker.flush_replied();
    }

    /// Puts it into the slow log, if it took long. A blocked call is not slow, and as in Redis, what it waited is not counted.
    fn note_if_slow(&self) {
        let took = self.started.elapsed();
        let limit = self.session.product.own_settings.slow_request(self.worker.config.limits.slow_request);
        let is_slow = limit.is_some_and(|limit| took >= limit);
        let waits = |spec: &Spec| {
            spec.flags.contains(Flags::BLOCKING)
                || matches!(spec.handling, Handling::Node(NodeCommand::ClientPause) | Handling::WaitReplicas)
        };
        if is_slow && !resolve(&self.call()).is_ok_and(waits) {
            self.session.note_slow(&self.worker, &self.call(), took);
        }
    }

    /// Answers the request with an error; `text` is without `-` and the end of the line.
    pub(super) fn refuse(self, text: &str) {
        let mut error = Vec::new();
        write::error(&mut error, text);
        self.finish(&error);
    }

    /// The routes of the product at this moment.
    pub(super) fn routes(&self) -> std::sync::Arc<ProductRoutes> {
        self.session.product.routes.borrow().clone()
    }

    /// Check 1.
    ///
    /// # Errors
    /// Returns the text for the client if the node may not serve now.
    pub(super) fn may_serve(&self) -> Result<(), String> {
        let isolated = self.session.product.routes.borrow().isolated;
        match self.worker.begin_batch(isolated) {
            ServeCheck::Open => Ok(()),
            closed => Err(RefusalReason::ServeCheck(closed).to_string()),
        }
    }

    /// Waits until no hold of the product is open, as [`park`](Self::park) does. A step for all slots is sent in the same
    /// turn: then it was executed before each hold that begins later, and a change that a hold has protected is in the routes
    /// of this node when the reply passes check 2 (decision 0027).
    ///
    /// # Errors
    /// The same as [`park`](Self::park).
    pub(super) async fn wait_for_holds(&self, deadline: &mut Option<Instant>) -> Result<(), &'static str> {
        loop {
            let product = self.session.product.routes.borrow().id;
            if !self.worker.holds.borrow().concern(product) {
                return Ok(());
            }
            self.park(deadline).await?;
        }
    }

    /// Waits for other routes, until `deadline`. Returns whether there are.
    pub(super) async fn wait_for_routes(&self, deadline: Instant) -> bool {
        timeout_at(deadline, self.worker.parking.released()).await.is_ok()
    }

    /// Waits until a hold has ended, up to `deadline`, which the first call sets.
    ///
    /// # Errors
    /// Returns the text for the client if the request may not be parked any longer, or at all.
    pub(super) async fn park(&self, deadline: &mut Option<Instant>) -> Result<(), &'static str> {
        let (limits, parking) = (&self.worker.config.limits, &self.worker.parking);
        let len = self.bytes.len();
        if deadline.is_none() && parking.bytes() + len > limits.parked_worker_max {
            return Err(PARKED_TOO_MUCH);
        }
        if deadline.is_none() {
            count(&self.worker.stats.parked);
        }
        let until = *deadline.get_or_insert_with(|| Instant::now() + limits.parked_for_max);
        parking.count(0, len);
        let ended = timeout_at(until, parking.released()).await;
        parking.count(len, 0);
        ended.map_err(|_| PARKED_TOO_LONG)
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        self.session.charge_split(&self.worker, self.charged.get(), 0);
        // The task panicked, or the worker ends: nothing else would let the session go on.
        if self.session.alone.get() && self.within.is_none() {
            self.session.kill();
        }
    }
}

impl Session {
    /// Whether all earlier requests are answered. If not, none is handled until they are: nothing orders the connections
    /// of an operation with those of earlier requests.
    pub(super) fn is_settled(&self) -> bool {
        let settled = self.waiting() == 0;
        if !settled {
            self.settle();
        }
        settled
    }
}
