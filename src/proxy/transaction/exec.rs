//! EXEC: sends a transaction to the owner of its slot, as soon as the slot is not held.
//! Knows nothing of what the server replies.

use std::{cell::Cell, rc::Rc};

use super::{
    Block, LibraryLoading, LocalCall, Transaction,
    block::abort_text,
    probe::Supported,
    splice::{Parts, splice},
};
use crate::{
    model::{
        ids::{Epoch, SlotId},
        route::ProductRoutes,
    },
    proxy::{
        backend::{Backend, Requester},
        backend_set::BackendSet,
        check::ServeCheck,
        client::ReplyMode,
        counters::count,
        dedicated::DedicatedUse,
        dispatch::{DispatchTarget, RefusalReason},
        operation::load_libraries,
        scripts::ScriptKey,
        session::{Handled, SendTo, Session},
        worker::Worker,
    },
    resp::write,
};

/// The answer to EXEC of a transaction in which a command was refused. (Redis, `multi.c`.)
const REFUSED: &str = "EXECABORT Transaction discarded because of previous errors.";

/// Why a transaction is not executed at a server.
pub(super) const NO_TRANSACTIONS: &str = "its server does not allow MULTI and EXEC, not executed. They must not be renamed, and the \
    user of the group needs both";

/// Why a transaction is not executed over the connection that has the watch.
const OTHER_SETTINGS: &str = "the database or the protocol is changed after WATCH, not executed. Send SELECT and HELLO \
    before WATCH";

/// Why a transaction with a function is not executed.
const NO_LIBRARIES: &str = "TRYAGAIN the libraries of functions could not be loaded at its server, not executed";

/// Whether a server has the libraries of the catalogue.
enum Libraries {
    There,
    Loading,
    Missing,
}

/// What becomes of a transaction.
pub(super) enum Outcome {
    /// The client gets this error, and nothing was executed.
    Abort(String),
    /// A watched key may have changed.
    Nil,
    /// The slot is held.
    Held,
    Wait,
    Send(Rc<Backend>, DispatchTarget),
}

impl Session {
    /// Executes the transaction, if it can be sent now.
    pub(super) fn exec(
        self: &Rc<Self>,
        worker: &Rc<Worker>,
        routes: &ProductRoutes,
        serve_check: ServeCheck,
        mode: ReplyMode,
    ) -> Handled {
        let Some(mut transaction) = self.client.borrow_mut().transaction.take() else { return Handled::Done };
        if transaction.refused {
            self.end_watch();
            self.end_with(worker, &transaction, mode, REFUSED);
            return Handled::Done;
        }
        if transaction.sent == 0 && !self.is_watching() {
            self.charge_split(worker, transaction.charged, 0);
            self.count_request(worker, mode);
            if transaction.local.iter().any(LocalCall::asks) {
                let ticket = self.open(mode != ReplyMode::On, 0);
                Block::of(worker, self, ticket, *transaction).deliver(worker, b"*0\r\n", 0);
                return Handled::Done;
            }
            let mut empty = Vec::new();
            write::array(&mut empty, 0);
            let commands = transaction.len();
            let parts = Parts { local: transaction.local, imports: transaction.imports, commands };
            let reply = splice(worker, self, &empty, &parts).unwrap_or(empty);
            if mode == ReplyMode::On {
                self.answer(worker, &|out| out.extend_from_slice(&reply));
            }
            return Handled::Done;
        }
        match self.outcome(worker, routes, serve_check, &mut transaction) {
            Outcome::Wait => {
                self.client.borrow_mut().transaction = Some(transaction);
                return Handled::Waiting;
            }
            Outcome::Held => match self.park_or_refuse(worker, transaction.requests.len()) {
                None => {
                    self.client.borrow_mut().transaction = Some(transaction);
                    return Handled::Parked;
                }
                Some(text) => {
                    self.end_watch();
                    self.end_with(worker, &transaction, mode, &abort_text(text));
                }
            },
            Outcome::Abort(text) => {
                self.end_watch();
                self.end_with(worker, &transaction, mode, &abort_text(&text));
            }
            Outcome::Nil => {
                count(&worker.stats.transactions_unwatched);
                self.end_watch();
                self.charge_split(worker, transaction.charged, 0);
                let version = self.client.borrow().version;
                self.answer_request(worker, mode, &|out| write::null_array(out, version));
            }
            Outcome::Send(backend, target) => {
                self.count_request(worker, mode);
                count(&worker.stats.forwarded);
                count(&worker.stats.transactions);
                self.charge_split(worker, transaction.charged, 0);
                self.send_block(worker, routes, &backend, target, *transaction, mode != ReplyMode::On);
            }
        }
        Handled::Done
    }

    /// What becomes of a transaction now.
    pub(super) fn outcome(
        self: &Rc<Self>,
        worker: &Rc<Worker>,
        routes: &ProductRoutes,
        serve_check: ServeCheck,
        transaction: &mut Transaction,
    ) -> Outcome {
        let watched = self.watched();
        // Neither goes over the connection of the requests before.
        if (watched.is_some() || transaction.db.is_some()) && !self.is_settled() {
            return Outcome::Wait;
        }
        if serve_check != ServeCheck::Open {
            return Outcome::Abort(RefusalReason::ServeCheck(serve_check).to_string());
        }
        let slot = transaction.slot.or(watched.as_ref().map(|watched| watched.slot));
        if let (Some(slot), Some(watched)) = (transaction.slot, &watched)
            && slot != watched.slot
        {
            return Outcome::Abort(RefusalReason::CrossSlot.to_string());
        }
        let target = match slot.map(|slot| (slot, routes.slots[usize::from(slot.0)])) {
            Some((_, route)) if route.hold.0 != 0 => return Outcome::Held,
            Some((slot, route)) => match route.group {
                None => return Outcome::Abort(RefusalReason::Unassigned(slot).to_string()),
                Some(group) => target(group, Some(slot), route.epoch, transaction.is_write),
            },
            None if routes.groups.is_empty() => return Outcome::Abort(RefusalReason::NoServers.to_string()),
            None => target(0, None, Epoch(0), transaction.is_write),
        };
        let backend = match watched {
            Some(watched) if watched.epoch != target.epoch => return Outcome::Nil,
            Some(watched) => match watched.backend {
                None => return Outcome::Nil,
                Some(backend) if transaction.sent > 0 && !self.has_settings_of(&backend) => {
                    return Outcome::Abort(OTHER_SETTINGS.into());
                }
                Some(_) if transaction.db.is_some() => return Outcome::Abort(OTHER_SETTINGS.into()),
                Some(backend) => backend,
            },
            None if transaction.db.is_some() => match self.selecting_connection(worker, target.group) {
                Ok(backend) => backend,
                Err(text) => return Outcome::Abort(text),
            },
            None => match self.choose_backend(worker, routes, &target, transaction.requests.len()) {
                SendTo::Backend(backend) => backend,
                SendTo::Refuse(text) => return Outcome::Abort(text),
                SendTo::Wait => return Outcome::Wait,
            },
        };
        match backend.probe.supported(worker.clock.tick()) {
            Supported::Yes if self.asks_for_scripts(worker, &backend, transaction) => Outcome::Wait,
            Supported::Yes => match self.libraries_for(worker, &backend, transaction) {
                Libraries::There => Outcome::Send(backend, target),
                Libraries::Loading => Outcome::Wait,
                Libraries::Missing => Outcome::Abort(NO_LIBRARIES.into()),
            },
            Supported::NotAt(_) => {
                worker.report_data_user(&backend.addr);
                Outcome::Abort(NO_TRANSACTIONS.into())
            }
            Supported::Asked | Supported::Unknown => {
                self.ask_probe(worker, &backend);
                Outcome::Wait
            }
        }
    }

    /// Whether EXEC has to wait until other nodes have said whether they know scripts that it calls. They are asked once.
    fn asks_for_scripts(
        self: &Rc<Self>,
        worker: &Rc<Worker>,
        backend: &Backend,
        transaction: &mut Transaction,
    ) -> bool {
        let Transaction { asked, script_calls, requests, .. } = transaction;
        let asked = asked.get_or_insert_with(|| {
            let calls = script_calls.iter().map(|call| &requests[call.clone()]);
            let mut asked: Vec<ScriptKey> =
                calls.filter_map(|call| self.asks_for_script_of(worker, backend, call)).collect();
            asked.sort_unstable();
            asked.dedup();
            asked
        });
        asked.retain(|key| worker.asked_bodies.is_waiting(key));
        !asked.is_empty()
    }

    /// Whether the libraries that the server of a transaction may lack are there. Without its function, one command of the
    /// transaction would fail, and the others would be executed.
    fn libraries_for(
        self: &Rc<Self>,
        worker: &Rc<Worker>,
        backend: &Rc<Backend>,
        transaction: &mut Transaction,
    ) -> Libraries {
        // A replica has the libraries of its primary.
        if !transaction.calls_function || backend.replica || !self.may_lack_libraries(backend) {
            return Libraries::There;
        }
        if let Some(loading) = transaction.loading.as_ref().filter(|loading| loading.server == backend.addr) {
            return if loading.has_ended.get() { Libraries::Missing } else { Libraries::Loading };
        }
        let has_ended = Rc::<Cell<bool>>::default();
        transaction.loading = Some(LibraryLoading { server: backend.addr.clone(), has_ended: has_ended.clone() });
        let (worker, session, primary) = (worker.clone(), self.clone(), backend.addr.clone());
        tokio::task::spawn_local(async move {
            load_libraries(&worker, &session.product, primary).await;
            has_ended.set(true);
            session.wake();
        });
        Libraries::Loading
    }

    fn send_block(
        self: &Rc<Self>,
        worker: &Rc<Worker>,
        routes: &ProductRoutes,
        backend: &Backend,
        target: DispatchTarget,
        mut transaction: Transaction,
        muted: bool,
    ) {
        let mut requests = std::mem::take(&mut transaction.requests);
        for call in &transaction.script_calls {
            // In front of MULTI, on the same connection: without its script, one command of the transaction would fail, and
            // the others would be executed.
            self.load_script_of(worker, backend, &requests[call.clone()]);
        }
        write::request(&mut requests, &[b"EXEC"]);
        let ticket = self.open(muted, requests.len());
        if routes.reads.own_writes && target.is_write {
            self.note_write(ticket);
        }
        self.last_exec.set(Some(ticket));
        let block = Rc::new(Block::of(worker, self, ticket, transaction));
        self.send(worker, backend, &target, &requests, Requester::Block(block));
        self.watch_is_sent();
        if let Some(set) = self.probed_set.take() {
            // It has another database afterwards.
            set.close();
            self.settle();
        }
    }

    /// A connection for a transaction that selects databases. It is the control user's, since a data user may not select one.
    ///
    /// # Errors
    /// Returns the text for the client if there is none.
    fn selecting_connection(self: &Rc<Self>, worker: &Rc<Worker>, group: u16) -> Result<Rc<Backend>, String> {
        let (db, version) = {
            let client = self.client.borrow();
            (client.db, client.version)
        };
        let mut probed = self.probed_set.borrow_mut();
        let set = probed.get_or_insert_with(|| Rc::new(BackendSet::dedicated(db, version, DedicatedUse::Select)));
        let Some(backend) = set.backend(worker, &self.product, group) else {
            return Err(self.product.too_many_dedicated(worker));
        };
        backend.available(worker).map(|()| backend.clone()).map_err(|_| backend.refusal())
    }

    /// Wakes the session when it is known whether the server at the other end of `backend` executes transactions.
    pub(super) fn ask_probe(self: &Rc<Self>, worker: &Worker, backend: &Rc<Backend>) {
        let is_asked = backend.probe.supported(worker.clock.tick()) == Supported::Asked;
        backend.probe.wait(self);
        if is_asked {
            return;
        }
        let mut requests = Vec::new();
        write::request(&mut requests, &[b"MULTI"]);
        write::request(&mut requests, &[b"EXEC"]);
        let block = Rc::new(Block::probe(self, backend.clone()));
        let target = target(0, None, Epoch(0), false);
        self.send(worker, backend, &target, &requests, Requester::Block(block));
    }

    /// Whether its database and version are those of the connection.
    fn has_settings_of(&self, backend: &Backend) -> bool {
        let client = self.client.borrow();
        client.db == backend.db && client.version == backend.version
    }

    /// Ends a transaction that is not executed.
    fn end_with(&self, worker: &Worker, transaction: &Transaction, mode: ReplyMode, text: &str) {
        self.charge_split(worker, transaction.charged, 0);
        self.refuse_request(worker, mode, text);
    }
}

fn target(group: u16, slot: Option<SlotId>, epoch: Epoch, is_write: bool) -> DispatchTarget {
    DispatchTarget { group, slot, epoch, is_write, may_read_replica: false }
}
