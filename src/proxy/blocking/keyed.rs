//! A blocking command with keys, from its arrival to its answer: it is sent to the owner of its slot with the time that is
//! left, ended there for a hold, and sent again behind it. Decides nothing itself; `decision` does.

use std::{rc::Rc, time::Duration};

use tokio::{
    sync::oneshot,
    time::{Instant, sleep_until},
};

use super::{
    call::Registration,
    connection::{BlockedConnection, NotOpen, left_until},
    decision::{Effect, Facts, Interruption, LeaseState, Outcome, RouteState, Unblock, Verdict, interruption, verdict},
    request::BlockingRequest,
};
use crate::{
    commands::Spec,
    model::{
        ids::{Epoch, SlotId},
        route::{GroupRoute, ProductRoutes},
    },
    proxy::{
        backend::{Backend, is_nil},
        check::ServeCheck,
        counters::count,
        dispatch::RefusalReason,
        operation::{Blocks, Operation, StepError, StepRequest, StepResult, StepSlots, or_unknown, received},
        session::{PARKED_TOO_LONG, PARKED_TOO_MUCH},
    },
    resp::write::{self, Version},
};

/// Pauses before a call is sent again to a server that could not be reached: doubled from the minimum to the maximum. A new
/// route table ends them.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Time in which a server unblocks a call for which nobody waits any more; then its connection is closed.
const UNBLOCK_MAX: Duration = Duration::from_secs(1);

/// What a server answers to blocked calls when it becomes a replica.
const DEMOTED: &[u8] = b"-UNBLOCKED force unblock";

/// The error of CLIENT UNBLOCK for a call that is not at a server; the same as a server's.
pub(super) const UNBLOCKED: &str = "UNBLOCKED client unblocked via CLIENT UNBLOCK";

/// How a call ends for its client.
#[derive(Debug)]
enum Ended {
    Reply(Vec<u8>),
    Error(String),
    /// The client is closed without a reply.
    Close,
}

/// A call that was sent.
struct Sent {
    backend: Rc<Backend>,
    result: oneshot::Receiver<StepResult>,
}

/// What follows when a call has ended at a server.
enum After {
    Ended(Ended),
    Again,
    /// After a pause: the server or the connection is not as it should be.
    AgainLater,
}

/// What came of a try to send a call.
enum Attempt {
    Sent(Sent),
    /// Its slot is held.
    Held,
    /// The server cannot take it now; the error for the client if its time ends meanwhile.
    NotNow(String),
    /// The routes have changed meanwhile.
    Again,
}

/// Runs a blocking command whose keys have this slot.
pub(in crate::proxy) async fn run(operation: Operation, spec: &'static Spec, slot: SlotId) {
    let registration = Registration::new(&operation.worker, &operation.session, Some(slot));
    let mut keyed = Keyed {
        spec,
        slot,
        effect: if spec.is_write() { Effect::Pop } else { Effect::Read },
        request: BlockingRequest::new(spec, &operation.call()),
        started: Instant::now(),
        connection: BlockedConnection::new(&operation.worker, &operation.session),
        registration,
        nil: None,
        error: PARKED_TOO_LONG.to_owned(),
        was_sent: false,
        pause: PAUSE_MIN,
        operation: &operation,
    };
    let ended = match keyed.serve().await {
        Ok(ended) | Err(ended) => ended,
    };
    let Keyed { mut connection, registration, .. } = keyed;
    drop(registration);
    match ended {
        Ended::Reply(reply) => operation.finish(&reply),
        Ended::Error(text) => operation.refuse(&text),
        // It closes its session.
        Ended::Close => drop(operation),
    }
    connection.settle().await;
}

struct Keyed<'a> {
    operation: &'a Operation,
    spec: &'static Spec,
    slot: SlotId,
    effect: Effect,
    request: BlockingRequest,
    started: Instant,
    connection: BlockedConnection,
    registration: Registration,
    /// What a server has answered when it was asked to end the call: nothing has come up to then.
    nil: Option<Vec<u8>>,
    /// The error if the time ends before a server has answered.
    error: String,
    /// Whether it was sent before.
    was_sent: bool,
    /// Before the next try at a server that could not be reached.
    pause: Duration,
}

impl Keyed<'_> {
    /// Sends the call until it has ended. (Both cases are the end; `Err` is that of a wait elsewhere than at a server.)
    async fn serve(&mut self) -> Result<Ended, Ended> {
        loop {
            match self.try_to_send().await? {
                Attempt::Sent(Sent { backend, result }) => {
                    let (result, unblocked) = self.wait_at_server(result).await;
                    match self.after(&backend, result, unblocked) {
                        After::Ended(ended) => return Ok(ended),
                        After::Again => {}
                        After::AgainLater => self.pause().await?,
                    }
                }
                Attempt::Again => {}
                Attempt::Held => self.park().await?,
                Attempt::NotNow(text) => {
                    self.error = text;
                    self.pause().await?;
                }
            }
        }
    }

    /// Sends the call to the owner of its slot.
    async fn try_to_send(&mut self) -> Result<Attempt, Ended> {
        let routes = self.operation.routes();
        let group = match self.owner(&routes)? {
            Some(group) => group,
            None => return Ok(Attempt::Held),
        };
        let connect_deadline = self.operation.worker.config.limits.connect_deadline;
        let until = self.deadline(connect_deadline);
        let backend = {
            let Self { connection, registration, .. } = self;
            tokio::select! {
                opened = connection.open(group) => Some(opened),
                () = registration.call.changed() => None,
                () = at(until) => None,
            }
        };
        let backend = match backend {
            Some(Ok(backend)) => backend,
            Some(Err(NotOpen::Down(text))) => return Ok(Attempt::NotNow(text)),
            // It has a place already, and the one that it had is free soon.
            Some(Err(NotOpen::TooMany(text))) if self.was_sent => return Ok(Attempt::NotNow(text)),
            Some(Err(NotOpen::TooMany(text))) => return Err(Ended::Error(text)),
            None => {
                self.check_elsewhere(until, false)?;
                return Ok(Attempt::Again);
            }
        };
        self.check_elsewhere(until, false)?;
        // Nothing was awaited since: what is found here holds when the call is sent.
        let now = self.operation.routes();
        if self.owner(&now)?.is_none_or(|owner| owner.primary != backend.addr) {
            return Ok(Attempt::Again);
        }
        let epoch = now.slots[usize::from(self.slot.0)].epoch;
        if let Some(attempt) = self.resolve(&backend, epoch).await {
            return Ok(attempt);
        }
        Ok(self.send(&backend, epoch))
    }

    fn send(&mut self, backend: &Rc<Backend>, epoch: Epoch) -> Attempt {
        let left = left_until(self.deadline(Duration::ZERO));
        let call = self.operation.call();
        let rewritten = self.request.rewritten(&call, left);
        let step = StepRequest {
            bytes: rewritten.as_deref().unwrap_or(call.bytes),
            slots: StepSlots::One(self.slot, epoch),
            is_write: self.spec.is_write(),
            blocks: left.map_or(Blocks::Unlimited, Blocks::For),
        };
        match self.operation.send_request(backend, step) {
            Ok(result) => {
                self.was_sent = true;
                self.registration.call.sent(epoch);
                self.registration.count();
                Attempt::Sent(Sent { backend: backend.clone(), result })
            }
            Err(error) => Attempt::NotNow(error.text().to_owned()),
        }
    }

    /// Asks for the last ids of streams whose entries are awaited from now on, before the call is sent for the first time:
    /// what comes between two tries must not be missed.
    async fn resolve(&mut self, backend: &Rc<Backend>, epoch: Epoch) -> Option<Attempt> {
        let questions = self.request.questions(&self.operation.call());
        if questions.is_empty() {
            return None;
        }
        let mut results = Vec::with_capacity(questions.len());
        for question in &questions {
            let slots = StepSlots::One(self.slot, epoch);
            let step = StepRequest { bytes: question, slots, is_write: false, blocks: Blocks::No };
            match self.operation.send_request(backend, step) {
                Ok(result) => results.push(result),
                Err(error) => return Some(Attempt::NotNow(error.text().to_owned())),
            }
        }
        let mut answers = Vec::with_capacity(results.len());
        for result in results {
            match received(result).await {
                Ok(answer) => answers.push(answer),
                Err(error) => return Some(Attempt::NotNow(error.text().to_owned())),
            }
        }
        self.request.resolve(&answers);
        Some(Attempt::Again)
    }

    /// Waits for the reply, and ends the wait at the server when it must end. Returns also whether it did.
    async fn wait_at_server(&mut self, mut result: oneshot::Receiver<StepResult>) -> (StepResult, bool) {
        let mut since: Option<Instant> = None;
        let given_up = || Err(StepError::Unknown("ERR outcome unknown: the connection was closed".into()));
        loop {
            let facts = self.facts();
            let Self { connection, registration, .. } = self;
            let waited = match interruption(facts) {
                None => {
                    tokio::select! {
                        biased;
                        result = &mut result => Some(result),
                        () = registration.call.changed() => None,
                    }
                }
                Some(Interruption::Close) => {
                    connection.close();
                    return (given_up(), true);
                }
                Some(Interruption::Unblock(how)) => {
                    let since = *since.get_or_insert_with(Instant::now);
                    let for_nobody = facts.ending || facts.route == RouteState::Changed;
                    if for_nobody && since.elapsed() >= UNBLOCK_MAX {
                        connection.close();
                        return (given_up(), true);
                    }
                    tokio::select! {
                        biased;
                        result = &mut result => Some(result),
                        () = registration.call.changed() => None,
                        () = connection.unblock(how) => None,
                    }
                }
            };
            if let Some(result) = waited {
                return (or_unknown(result), since.is_some());
            }
        }
    }

    /// Decides about a call that has ended at a server.
    fn after(&mut self, backend: &Backend, result: StepResult, unblocked: bool) -> After {
        let facts = self.facts();
        let outcome = match &result {
            Ok(reply) if is_nil(reply) => Outcome::Nil,
            Ok(reply) if reply.starts_with(DEMOTED) => Outcome::Demoted,
            Ok(_) => Outcome::Reply,
            Err(StepError::NotExecuted(_) | StepError::CutOff | StepError::Full) => Outcome::NotExecuted,
            Err(StepError::Unconfirmed(_)) => Outcome::Unconfirmed,
            Err(StepError::Unknown(_)) => Outcome::Unknown,
        };
        let time_left = left_until(self.deadline(Duration::ZERO)).is_none_or(|left| !left.is_zero());
        let stats = &self.operation.worker.stats;
        if unblocked && outcome == Outcome::Nil && facts.route == RouteState::Held {
            count(&stats.blocked_by_holds);
        }
        let verdict = verdict(self.effect, outcome, facts, unblocked, time_left);
        tracing::trace!(server = %backend.addr, ?outcome, ?facts, unblocked, ?verdict, "a blocked call has ended");
        match (verdict, result) {
            (Verdict::Deliver, Ok(reply)) => After::Ended(Ended::Reply(reply)),
            (Verdict::Deliver, Err(error)) => After::Ended(Ended::Error(error.text().to_owned())),
            (Verdict::Again, Ok(reply)) if outcome == Outcome::Nil => {
                (self.nil, self.pause) = (Some(reply), PAUSE_MIN);
                After::Again
            }
            (Verdict::Again, Err(StepError::CutOff)) => After::Again,
            (Verdict::Again, Ok(_)) => After::AgainLater,
            (Verdict::Again, Err(error)) => {
                error.text().clone_into(&mut self.error);
                After::AgainLater
            }
            (Verdict::Lost, result) => {
                let text = result.err().map(|error| error.text().to_owned());
                After::Ended(self.lost(text.unwrap_or_else(no_lease)))
            }
            (Verdict::Drop, _) => After::Ended(Ended::Close),
        }
    }

    /// What the client gets when the outcome of its call is unknown, or it was blocked and can be no longer.
    fn lost(&self, text: String) -> Ended {
        count(&self.operation.worker.stats.blocked_lost);
        let errors = self.operation.session.product.routes.borrow().rules.blocked_errors;
        if errors { Ended::Error(text) } else { Ended::Close }
    }

    /// The group that owns the slot; `None`: it is held.
    ///
    /// # Errors
    /// Returns the end of the call if nothing may be sent.
    fn owner<'r>(&self, routes: &'r ProductRoutes) -> Result<Option<&'r GroupRoute>, Ended> {
        self.operation.may_serve().map_err(|text| self.no_lease(text))?;
        let route = &routes.slots[usize::from(self.slot.0)];
        if route.hold.0 != 0 {
            return Ok(None);
        }
        match route.group.and_then(|group| routes.groups.get(usize::from(group))) {
            Some(group) => Ok(Some(group)),
            None => Err(Ended::Error(RefusalReason::Unassigned(self.slot).to_string())),
        }
    }

    fn no_lease(&self, text: String) -> Ended {
        if self.was_sent { self.lost(text) } else { Ended::Error(text) }
    }

    fn facts(&self) -> Facts {
        let (call, session) = (&self.registration.call, &self.operation.session);
        let without = self.operation.worker.blocked_rules_disabled;
        Facts {
            closed: session.is_closed(),
            ending: call.has_client_ended() || session.is_closing(),
            unblock: call.unblock(),
            lease: if without.lease { LeaseState::Valid } else { call.lease(&self.operation.worker) },
            route: if without.hold { RouteState::Same } else { call.route() },
        }
    }

    /// When its time is over. `None`: never. One to which no server has answered yet may stay for `least`, so that its
    /// answer is true.
    fn deadline(&self, least: Duration) -> Option<Instant> {
        let deadline = self.started.checked_add(self.request.length()?)?;
        Some(if self.nil.is_some() { deadline } else { deadline.max(self.started + least) })
    }

    /// Whether the call has ended while it is at no server. `waits`: it waits for something that may take long. (Otherwise a
    /// client gets the element that is there, although it sends nothing more.)
    ///
    /// # Errors
    /// Returns how it has ended.
    fn check_elsewhere(&self, until: Option<Instant>, waits: bool) -> Result<(), Ended> {
        let facts = self.facts();
        if facts.closed || facts.ending && (waits || self.was_sent) {
            return Err(Ended::Close);
        }
        match facts.unblock {
            Some(Unblock::Timeout) => return Err(Ended::Reply(self.nil())),
            Some(Unblock::Error) => return Err(Ended::Error(UNBLOCKED.into())),
            None => {}
        }
        if facts.lease == LeaseState::Over {
            return Err(self.no_lease(no_lease()));
        }
        if until.is_some_and(|until| Instant::now() >= until) {
            return Err(match &self.nil {
                Some(nil) => Ended::Reply(nil.clone()),
                None => Ended::Error(self.error.clone()),
            });
        }
        Ok(())
    }

    /// The reply that says that nothing has come.
    fn nil(&self) -> Vec<u8> {
        self.nil.clone().unwrap_or_else(|| match self.operation.session.client.borrow().version {
            Version::Resp2 => b"*-1\r\n".to_vec(),
            Version::Resp3 => {
                let mut nil = Vec::new();
                write::null(&mut nil, Version::Resp3);
                nil
            }
        })
    }

    /// Waits before the next try, longer each time.
    async fn pause(&mut self) -> Result<(), Ended> {
        let pause = self.pause;
        self.pause = (pause * 2).min(PAUSE_MAX);
        let jitter = 0.5 + fastrand::f64() / 2.0;
        self.elsewhere(Some(pause.mul_f64(jitter)), self.deadline(Duration::ZERO)).await
    }

    /// Waits for the end of a hold.
    async fn park(&mut self) -> Result<(), Ended> {
        let (limits, parking) = (&self.operation.worker.config.limits, &self.operation.worker.parking);
        let len = self.operation.call().bytes.len();
        if parking.bytes() + len > limits.parked_worker_max {
            return Err(Ended::Error(PARKED_TOO_MUCH.to_owned()));
        }
        PARKED_TOO_LONG.clone_into(&mut self.error);
        parking.count(0, len);
        let ended = self.elsewhere(None, self.deadline(limits.parked_for_max)).await;
        parking.count(len, 0);
        ended
    }

    /// Waits until the routes may have changed, or for `pause`.
    ///
    /// # Errors
    /// Returns how the call has ended.
    async fn elsewhere(&self, pause: Option<Duration>, until: Option<Instant>) -> Result<(), Ended> {
        let pause = pause.map(|pause| Instant::now() + pause);
        loop {
            self.check_elsewhere(until, true)?;
            tokio::select! {
                // First, because a new table often changes something else, too, and it is announced only once.
                biased;
                () = self.operation.worker.parking.released() => return Ok(()),
                () = at(pause) => return Ok(()),
                () = at(until) => {}
                () = self.registration.call.changed() => {}
            }
        }
    }
}

/// What a client is told when the node may not serve.
fn no_lease() -> String {
    RefusalReason::ServeCheck(ServeCheck::NoLease).to_string()
}

/// Resolves at `time`. `None`: never.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
