//! One request of an operation to a server, and its reply. Knows nothing of what the request means.

use std::{cell::RefCell, rc::Rc, time::Duration};

use tokio::sync::oneshot::{self, error::RecvError};

use super::Operation;
use crate::{
    model::ids::{Epoch, SlotId},
    proxy::{
        backend::{Backend, InFlight, Requester, Unavailable},
        session::Session,
        worker::{TICK, Worker},
    },
};

/// Pause before a step is tried again for which a server's queue had no room.
const FULL_PAUSE: Duration = Duration::from_millis(10);

/// How often an operation waits for a connection that breaks again before it is used.
const CONNECTS_MAX: u32 = 8;

const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";

/// Which holds wait for a step, and which slots check 2 compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proxy) enum StepSlots {
    /// It concerns no slot.
    None,
    /// A slot, and its epoch when the step is sent.
    One(SlotId, Epoch),
    /// Every hold of the product waits for it, and does not cut it off: other steps of the operation may be executed
    /// already. Check 2 compares no epoch.
    All,
}

/// For how long a server may rightly leave a step unanswered. The request deadline counts from then on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proxy) enum Blocks {
    /// It answers at once.
    No,
    For(Duration),
    /// For ever.
    Unlimited,
}

/// Ticks for which a step may block; one that blocks for longer, more than six years, blocks for ever.
const BLOCKED_TICKS_MAX: u32 = u32::MAX / 2;

impl Blocks {
    /// The tick from which the deadline of a step that is sent at `tick` counts. `None`: it has none.
    fn due_from(self, tick: u32) -> Option<u32> {
        match self {
            Self::No => Some(tick),
            Self::Unlimited => None,
            Self::For(time) => {
                let ticks = u32::try_from(time.as_millis().div_ceil(TICK.as_millis())).ok()?;
                (ticks < BLOCKED_TICKS_MAX).then(|| tick.wrapping_add(ticks))
            }
        }
    }
}

/// A request of an operation.
#[derive(Clone, Copy, Debug)]
pub(in crate::proxy) struct StepRequest<'a> {
    pub(in crate::proxy) bytes: &'a [u8],
    pub(in crate::proxy) slots: StepSlots,
    pub(in crate::proxy) is_write: bool,
    pub(in crate::proxy) blocks: Blocks,
}

/// Why a step has no reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::proxy) enum StepError {
    /// It was not executed; the text is the error for the client.
    NotExecuted(String),
    /// A hold began before it was sent; it was not executed.
    CutOff,
    /// The queue of the server has no room now; it was not executed.
    Full,
    /// It was sent, and the server may have executed it; the text is the error for the client.
    Unknown(String),
    /// It was executed, and not confirmed by enough replicas; the text is the error for the client.
    Unconfirmed(String),
}

impl StepError {
    /// The error for the client.
    pub(in crate::proxy) fn text(&self) -> &str {
        match self {
            Self::NotExecuted(text) | Self::Unknown(text) | Self::Unconfirmed(text) => text,
            Self::CutOff => "TRYAGAIN not executed: a slot of the command moves",
            Self::Full => "TRYAGAIN not executed: too many requests wait for its server",
        }
    }
}

pub(in crate::proxy) type StepResult = Result<Vec<u8>, StepError>;

/// What waits for the reply to a step.
#[derive(Debug)]
pub(in crate::proxy) struct Step {
    session: Rc<Session>,
    slots: StepSlots,
    blocks: Blocks,
    /// The tick from which its deadline counts; `None`: it has none.
    due_from: Option<u32>,
    result: RefCell<Option<oneshot::Sender<StepResult>>>,
}

impl Step {
    pub(in crate::proxy) fn session(&self) -> &Rc<Session> {
        &self.session
    }

    /// Whether its slot still has the epoch under which it was sent; `same` compares.
    pub(in crate::proxy) fn is_current(&self, same: impl Fn(SlotId, Epoch) -> bool) -> bool {
        match self.slots {
            StepSlots::One(slot, epoch) => same(slot, epoch),
            StepSlots::None | StepSlots::All => true,
        }
    }

    /// Whether a hold of the slots for which `held` is true waits for it.
    pub(in crate::proxy) fn concerns(&self, held: &dyn Fn(SlotId) -> bool) -> bool {
        match self.slots {
            StepSlots::None => false,
            StepSlots::One(slot, _) => held(slot),
            StepSlots::All => true,
        }
    }

    /// Whether a hold that begins waits for it even if no byte of it is sent.
    pub(in crate::proxy) fn is_never_cut_off(&self) -> bool {
        self.slots == StepSlots::All
    }

    /// The tick from which its deadline counts; `None`: it has none.
    pub(in crate::proxy) fn due_from(&self) -> Option<u32> {
        self.due_from
    }

    /// Whether the server may rightly leave it unanswered for a while.
    pub(in crate::proxy) fn blocks(&self) -> bool {
        self.blocks != Blocks::No
    }

    pub(in crate::proxy) fn deliver(&self, reply: Vec<u8>) {
        self.end(Ok(reply));
    }

    /// `error` is the whole line; `sent`: the server may have executed the step.
    pub(in crate::proxy) fn fail(&self, sent: bool, error: &[u8]) {
        let text = text_of(error);
        self.end(Err(if sent { StepError::Unknown(text) } else { StepError::NotExecuted(text) }));
    }

    /// It was executed, and not confirmed by enough replicas; `error` is the whole line.
    pub(in crate::proxy) fn unconfirmed(&self, error: &[u8]) {
        self.end(Err(StepError::Unconfirmed(text_of(error))));
    }

    pub(in crate::proxy) fn cut_off(&self) {
        self.end(Err(StepError::CutOff));
    }

    fn end(&self, result: StepResult) {
        if let Some(sender) = self.result.borrow_mut().take() {
            // An error: the operation has ended, because its client is gone.
            let _ = sender.send(result);
        }
    }
}

/// The text of an error line.
fn text_of(error: &[u8]) -> String {
    String::from_utf8_lossy(error.strip_prefix(b"-").unwrap_or(error)).trim_end().to_owned()
}

/// Sends a request to `backend`, and returns what resolves to the reply. The caller has done check 1 in this turn, and has
/// looked up the route of its slots in it.
///
/// # Errors
/// Returns why the request was not sent: the server is down, or its queue has no room.
pub(in crate::proxy) fn send_step(
    worker: &Worker,
    session: &Rc<Session>,
    backend: &Backend,
    request: StepRequest<'_>,
) -> Result<oneshot::Receiver<StepResult>, StepError> {
    backend.available(worker).map_err(|error| match error {
        Unavailable::Down => StepError::NotExecuted(backend.refusal()),
        Unavailable::Full => StepError::Full,
    })?;
    let StepRequest { bytes, slots, is_write, blocks } = request;
    let (sender, result) = oneshot::channel();
    let tick = worker.clock.tick();
    let due_from = blocks.due_from(tick);
    let step = Step { session: session.clone(), slots, blocks, due_from, result: Some(sender).into() };
    let (slot, epoch) = match slots {
        StepSlots::One(slot, epoch) => (Some(slot), epoch),
        StepSlots::None | StepSlots::All => (None, Epoch(0)),
    };
    if is_write {
        session.note_written(backend);
    }
    backend.send(
        bytes,
        InFlight {
            requester: Requester::Step(Rc::new(step)),
            epoch,
            len: bytes.len().try_into().unwrap_or(u32::MAX),
            tick,
            generation: worker.routes.generation(),
            slot,
            is_write,
            command: None,
        },
    );
    Ok(result)
}

impl Operation {
    /// See [`send_step`].
    ///
    /// # Errors
    /// Returns why the request was not sent: the server is down, or its queue has no room.
    pub(in crate::proxy) fn send_request(
        &self,
        backend: &Backend,
        request: StepRequest<'_>,
    ) -> Result<oneshot::Receiver<StepResult>, StepError> {
        send_step(&self.worker, &self.session, backend, request)
    }

    /// The same for a request that the server answers at once.
    ///
    /// # Errors
    /// The same as [`send_request`](Self::send_request).
    pub(in crate::proxy) fn send(
        &self,
        backend: &Backend,
        bytes: &[u8],
        slots: StepSlots,
        is_write: bool,
    ) -> Result<oneshot::Receiver<StepResult>, StepError> {
        self.send_request(backend, StepRequest { bytes, slots, is_write, blocks: Blocks::No })
    }

    /// The run id of the process at the other end of `backend`. What is sent in the same turn is executed by this process or
    /// by none. Returns `None` after it has waited for the connection, so that the caller looks at everything again.
    ///
    /// # Errors
    /// Returns why there is no connection.
    pub(in crate::proxy) async fn process(&self, backend: &Backend) -> Result<Option<Rc<str>>, StepError> {
        if let Some(run_id) = backend.process_at_other_end() {
            self.connects.set(0);
            return Ok(Some(run_id));
        }
        self.connects.set(self.connects.get() + 1);
        if self.connects.get() > CONNECTS_MAX {
            return Err(StepError::NotExecuted(backend.refusal()));
        }
        match self.send(backend, PING, StepSlots::None, false) {
            Ok(result) => received(result).await.map(|_| None),
            Err(StepError::Full) => {
                self.wait_for_room().await;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Waits until it is worth while to send again what did not fit into a server's queue. A queue that does not move is
    /// dropped at the request deadline, so this ends.
    pub(in crate::proxy) async fn wait_for_room(&self) {
        tokio::time::sleep(FULL_PAUSE).await;
    }
}

/// Waits for the reply to a step.
///
/// # Errors
/// Returns why there is no reply.
pub(in crate::proxy) async fn received(result: oneshot::Receiver<StepResult>) -> StepResult {
    or_unknown(result.await)
}

/// What a result that was received is.
///
/// # Errors
/// Returns why there is no reply.
pub(in crate::proxy) fn or_unknown(result: Result<StepResult, RecvError>) -> StepResult {
    // Without a result, the session was closed or the worker ends.
    result.unwrap_or_else(|_| Err(StepError::Unknown("ERR outcome unknown: not answered".into())))
}
