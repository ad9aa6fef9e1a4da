//! Split commands with many keys: they are executed in sections, each a scatter-gather in a turn of its own, so that
//! other clients get their turns in between. The session reads nothing until the last section is answered.
//! Knows nothing of how a section is sent and merged.

use std::rc::Rc;

use tokio::sync::oneshot;

use super::{Merged, NotStarted, Parts, ScatterGather, Whole, array_header, choose_backends};
use crate::{
    commands::{Args, Spec, Split},
    proxy::{
        backend_set::BackendSet,
        dispatch::{CallContext, KeyRoute, RefusalReason, SECTION_KEYS},
        operation::Operation,
        pieces::Pieces,
        session::Session,
        worker::{TaskKind, Worker},
    },
    resp::write,
};

/// A split command with more than [`SECTION_KEYS`] keys in several slots.
pub(in crate::proxy) struct LargeSplit {
    operation: Operation,
    backend_set: Rc<BackendSet>,
    kind: Split,
    spec: &'static Spec,
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
        worker.stats.large_splits.set(worker.stats.large_splits.get() + 1);
        let backend_set = session.backend_set();
        let ticket = Operation::start(worker, session, call, muted, move |operation| {
            Self { operation, backend_set, kind, spec }.run()
        });
        if session.product.routes.borrow().reads.own_writes && spec.is_write() {
            session.note_write(ticket);
        }
    }

    async fn run(self) {
        let mut total = Merged::default();
        // The reply to MGET.
        let mut values = Pieces::default();
        let operation = &self.operation;
        let product = operation.session.product.routes.borrow().id;
        let mut keys = Vec::new();
        // The dispatch has found them before.
        if self.spec.keys(&operation.call(), &mut keys).is_err() {
            return self.operation.refuse("ERR syntax error");
        }
        if self.kind == Split::Mget {
            values.append(&array_header(keys.len()));
        }
        for section in keys.chunks(SECTION_KEYS) {
            if operation.session.is_closed() {
                return;
            }
            operation.worker.turns.turn(TaskKind::Session(product)).await;
            let mut merged = self.execute(section).await;
            total.executed += merged.executed;
            total.sum = total.sum.saturating_add(merged.sum);
            if let Some(error) = merged.error.take() {
                total.note_error(&error);
                break;
            }
            merged.append_values(&mut values);
            operation.charge(values.memory());
        }
        if total.error.is_none() && self.kind == Split::Mget {
            self.operation.finish_with(|session, worker, ticket| session.complete_in_pieces(worker, ticket, values, 0));
        } else {
            let reply = total.reply(self.kind, self.spec.is_write());
            self.operation.finish(&reply);
        }
    }

    /// Sends one section, after the end of holds that concern it, and waits for its replies.
    async fn execute(&self, keys: &[usize]) -> Merged {
        let mut until = None;
        loop {
            if self.operation.session.is_closed() {
                return Merged::of_error(b"-ERR not executed: the client is gone\r\n");
            }
            let text = match self.send(keys) {
                Section::Sent(result) => {
                    // Without a result, the session was closed or the worker ends.
                    return result
                        .await
                        .unwrap_or_else(|_| Merged::of_error(b"-ERR outcome unknown: not answered\r\n"));
                }
                Section::Refused(text) => text,
                Section::Full => {
                    self.operation.wait_for_room().await;
                    continue;
                }
                Section::Held => match self.operation.park(&mut until).await {
                    Ok(()) => continue,
                    Err(text) => text.to_owned(),
                },
            };
            let mut error = Vec::new();
            write::error(&mut error, &text);
            return Merged::of_error(&error);
        }
    }

    /// Sends one section by the routes of this moment.
    fn send(&self, keys: &[usize]) -> Section {
        let Operation { worker, session, .. } = &self.operation;
        if let Err(text) = self.operation.may_serve() {
            return Section::Refused(text);
        }
        let routes = session.product.routes.borrow();
        let call = self.operation.call();
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
        let chosen = choose_backends(worker, session, &self.backend_set, self.spec, &parts.groups, (&routes, &of_keys));
        let backends = match chosen {
            Ok(backends) => backends,
            Err(NotStarted::Full) => return Section::Full,
            Err(NotStarted::NoDedicated) => {
                return Section::Refused(session.product.too_many_dedicated(worker));
            }
            Err(NotStarted::Refuse(text)) => return Section::Refused(text),
        };
        let (sender, result) = oneshot::channel();
        let whole = Whole::Section(Some(sender).into());
        let kind = (self.kind, self.spec.is_write());
        ScatterGather::send(worker, session, &call, kind, (&of_keys, parts), &backends, whole);
        Section::Sent(result)
    }
}
