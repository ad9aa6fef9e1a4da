//! Split commands with many keys: they are executed in sections, each a scatter-gather in a turn of its own, so that
//! other clients get their turns in between. The session reads nothing until the last section is answered.
//! Knows nothing of how a section is sent and merged.

use std::{cell::Cell, rc::Rc, time::Duration};

use tokio::{sync::oneshot, time::Instant};

use super::{Merged, NotStarted, Parts, ScatterGather, Whole, array_header, choose_backends};
use crate::{
    commands::{Args, Spec, Split},
    proxy::{
        backend_set::BackendSet,
        check::ServeCheck,
        dispatch::{CallContext, KeyRoute, RefusalReason, SECTION_KEYS},
        pieces::Pieces,
        replies::Ticket,
        session::{PARKED_TOO_LONG, PARKED_TOO_MUCH, Session},
        worker::{TaskKind, Worker},
    },
    resp::{request::Arg, write},
};

/// Pause before a section is tried again for which a server's queue had no room.
const FULL_PAUSE: Duration = Duration::from_millis(10);

/// A split command with more than [`SECTION_KEYS`] keys in several slots.
pub(in crate::proxy) struct LargeSplit {
    worker: Rc<Worker>,
    session: Rc<Session>,
    backend_set: Rc<BackendSet>,
    ticket: Ticket,
    kind: Split,
    spec: &'static Spec,
    bytes: Vec<u8>,
    args: Vec<Arg>,
    /// Bytes that are charged to the session.
    charged: Cell<usize>,
}

/// What became of a section.
enum Section {
    Sent(oneshot::Receiver<Merged>),
    /// One of its slots is held.
    Held,
    /// The queue of a server has no room.
    Full,
    /// Nothing of it was sent; the text is the error for the client.
    Refused(String),
}

impl LargeSplit {
    /// Starts the command. The session must not handle another request before it is answered.
    pub(in crate::proxy) fn start(
        worker: &Rc<Worker>,
        session: &Rc<Session>,
        call: &CallContext<'_>,
        (kind, spec, muted): (Split, &'static Spec, bool),
    ) {
        // Its bytes count as those of a split command, not as queued ones.
        let ticket = session.open(muted, 0);
        if session.product.routes.borrow().reads.own_writes && spec.is_write() {
            session.note_write(ticket);
        }
        worker.stats.large_splits.set(worker.stats.large_splits.get() + 1);
        session.alone.set(true);
        let large = Self {
            worker: worker.clone(),
            session: session.clone(),
            backend_set: session.backend_set(),
            ticket,
            kind,
            spec,
            bytes: call.bytes.to_vec(),
            args: call.args.to_vec(),
            charged: Cell::new(0),
        };
        large.charge(0);
        // Its panic ends the session and nothing else; see `drop`.
        tokio::task::spawn_local(large.run());
    }

    /// Charges its memory to the session; `values`: bytes of the replies so far.
    fn charge(&self, values: usize) {
        let now = self.bytes.len() + self.args.len() * size_of::<Arg>() + values;
        self.session.charge_split(&self.worker, self.charged.replace(now), now);
    }

    async fn run(self) {
        let mut total = Merged::default();
        // The reply to MGET.
        let mut values = Pieces::default();
        let product = self.session.product.routes.borrow().id;
        let width = if self.kind == Split::Mset { 2 } else { 1 };
        let keys: Vec<usize> = (1..self.args.len()).step_by(width).collect();
        if self.kind == Split::Mget {
            values.append(&array_header(keys.len()));
        }
        for section in keys.chunks(SECTION_KEYS) {
            if self.session.is_closed() {
                return;
            }
            self.worker.turns.turn(TaskKind::Session(product)).await;
            let mut merged = self.execute(section).await;
            total.executed += merged.executed;
            total.sum = total.sum.saturating_add(merged.sum);
            if let Some(error) = merged.error.take() {
                total.note_error(&error);
                break;
            }
            merged.append_values(&mut values);
            self.charge(values.memory());
        }
        self.session.alone.set(false);
        let session = self.session.clone();
        if total.error.is_none() && self.kind == Split::Mget {
            session.complete_in_pieces(&self.worker, self.ticket, values, 0);
        } else {
            let reply = total.reply(self.kind, self.spec.is_write());
            session.complete(&self.worker, self.ticket, &reply, 0);
        }
        self.worker.flush_replied();
    }

    /// Sends one section, after the end of holds that concern it, and waits for its replies.
    async fn execute(&self, keys: &[usize]) -> Merged {
        let limits = &self.worker.config.limits;
        let parking = &self.worker.parking;
        let mut until: Option<Instant> = None;
        loop {
            if self.session.is_closed() {
                return Merged::of_error(b"-ERR not executed: the client is gone\r\n");
            }
            let released = parking.released();
            let text = match self.send(keys) {
                Section::Sent(result) => {
                    // Without a result, the session was closed or the worker ends.
                    return result
                        .await
                        .unwrap_or_else(|_| Merged::of_error(b"-ERR outcome unknown: not answered\r\n"));
                }
                Section::Refused(text) => text,
                Section::Full => {
                    // A queue that does not move is dropped at the request deadline, so this ends.
                    tokio::time::sleep(FULL_PAUSE).await;
                    continue;
                }
                Section::Held if until.is_none() && parking.bytes() + self.bytes.len() > limits.parked_worker_max => {
                    PARKED_TOO_MUCH.to_owned()
                }
                Section::Held => {
                    let deadline = *until.get_or_insert_with(|| Instant::now() + limits.parked_for_max);
                    parking.count(0, self.bytes.len());
                    let ended = tokio::time::timeout_at(deadline, released).await;
                    parking.count(self.bytes.len(), 0);
                    if ended.is_ok() {
                        continue;
                    }
                    PARKED_TOO_LONG.to_owned()
                }
            };
            let mut error = Vec::new();
            write::error(&mut error, &text);
            return Merged::of_error(&error);
        }
    }

    /// Sends one section by the routes of this moment.
    fn send(&self, keys: &[usize]) -> Section {
        let routes = self.session.product.routes.borrow();
        let serve_check = self.worker.begin_batch(routes.isolated);
        if serve_check != ServeCheck::Open {
            return Section::Refused(RefusalReason::ServeCheck(serve_check).to_string());
        }
        let call = CallContext { bytes: &self.bytes, args: &self.args };
        let mut of_keys = Vec::with_capacity(keys.len());
        for &arg in keys {
            let slot = routes.layout.slot(call.get(arg));
            let route = &routes.slots[usize::from(slot.0)];
            match route.group {
                _ if route.hold.0 != 0 => return Section::Held,
                Some(group) => of_keys.push(KeyRoute { arg, slot, epoch: route.epoch, group }),
                None => return Section::Refused(RefusalReason::Unassigned(slot).to_string()),
            }
        }
        let parts = Parts::new(&of_keys);
        let chosen = choose_backends(
            &self.worker,
            &self.session,
            &self.backend_set,
            self.spec,
            &parts.groups,
            (&routes, &of_keys),
        );
        let backends = match chosen {
            Ok(backends) => backends,
            Err(NotStarted::Full) => return Section::Full,
            Err(NotStarted::NoDedicated) => {
                return Section::Refused(self.session.product.too_many_dedicated(&self.worker));
            }
            Err(NotStarted::Refuse(text)) => return Section::Refused(text),
        };
        let (sender, result) = oneshot::channel();
        let whole = Whole::Section(Some(sender).into());
        let kind = (self.kind, self.spec.is_write());
        ScatterGather::send(&self.worker, &self.session, &call, kind, (&of_keys, parts), &backends, whole);
        Section::Sent(result)
    }
}

impl Drop for LargeSplit {
    fn drop(&mut self) {
        self.session.charge_split(&self.worker, self.charged.get(), 0);
        // The task panicked, or the worker ends: nothing else would let the session go on.
        if self.session.alone.get() {
            self.session.kill();
        }
    }
}
