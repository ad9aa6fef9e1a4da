//! HIMPORT: the session keeps the fieldsets of its client, and each HIMPORT SET goes to the owner of its key between HIMPORT
//! PREPARE and DISCARD, as one block: nothing of a client stays on a connection that clients share. Knows nothing of what a
//! fieldset is.

use std::rc::Rc;

use super::{
    Block, Transaction,
    exec::{NO_TRANSACTIONS, Outcome},
};
use crate::{
    commands::{Args, HashImport, ResolveError, Spec},
    model::route::ProductRoutes,
    proxy::{
        backend::Requester,
        check::ServeCheck,
        client::ReplyMode,
        counters::count,
        dispatch::CallContext,
        fieldsets::Fieldset,
        learnt::server_commands,
        local,
        session::{Handled, Session},
        worker::Worker,
    },
    resp::write,
};

/// The error for HIMPORT SET while keys are watched: EXEC behind it would end the watch.
const WATCHING: &str = "ERR 'himport|set' is not executed between WATCH and MULTI by this proxy, not executed. Send it before \
    WATCH, or in the transaction";

impl Session {
    /// Carries out HIMPORT.
    #[cold]
    pub(in crate::proxy) fn import_hash(
        self: &Rc<Self>,
        worker: &Rc<Worker>,
        (routes, serve_check): (&ProductRoutes, ServeCheck),
        (command, spec): (HashImport, &'static Spec),
        call: &CallContext<'_>,
        mode: ReplyMode,
    ) -> Handled {
        self.import_waits.set(false);
        if let Some(error) = self.lacks_import(worker, spec, call) {
            self.refuse_request(worker, mode, &error);
            return Handled::Done;
        }
        if command == HashImport::Set {
            return self.import_set(worker, (routes, serve_check), call, mode);
        }
        let before = self.client.borrow().fieldsets.memory();
        let result = {
            let fieldsets = &mut self.client.borrow_mut().fieldsets;
            match command {
                HashImport::Discard => Ok(Some(usize::from(fieldsets.discard(call)))),
                HashImport::DiscardAll => Ok(Some(fieldsets.discard_all())),
                HashImport::Prepare | HashImport::Set => {
                    fieldsets.prepare(call, call.bytes.len(), worker.config.limits.fieldset_bytes_max).map(|()| None)
                }
            }
        };
        let now = self.client.borrow().fieldsets.memory();
        self.charge_split(worker, before, now);
        match result {
            Ok(Some(removed)) => self.answer_request(worker, mode, &|out| write::int(out, removed as i64)),
            Ok(None) => self.answer_request(worker, mode, &|out| write::simple(out, "OK")),
            Err(text) => {
                count(&worker.stats.fieldsets_refused);
                self.refuse_request(worker, mode, &text);
            }
        }
        Handled::Done
    }

    /// The error for a call if the servers do not have the command.
    pub(super) fn lacks_import(&self, worker: &Worker, spec: &Spec, call: &CallContext<'_>) -> Option<Vec<u8>> {
        let servers = server_commands(worker, &self.product);
        (!local::offers(servers.as_deref(), spec.name)).then(|| local::unresolved(&ResolveError::Unknown, call))
    }

    /// Lets the product's quota pay for what a fieldset adds to a call.
    pub(super) fn pay_for(&self, fieldset: &Fieldset) {
        if let Some(quota) = &*self.product.quota.borrow() {
            quota.charge(fieldset.len());
        }
    }

    fn import_set(
        self: &Rc<Self>,
        worker: &Rc<Worker>,
        (routes, serve_check): (&ProductRoutes, ServeCheck),
        call: &CallContext<'_>,
        mode: ReplyMode,
    ) -> Handled {
        if self.is_watching() {
            self.refuse_request(worker, mode, WATCHING);
            return Handled::Done;
        }
        let found = self.client.borrow().fieldsets.of_set(call);
        let fieldset = match found {
            Ok(fieldset) => fieldset,
            Err(text) => {
                self.refuse_request(worker, mode, text);
                return Handled::Done;
            }
        };
        let mut transaction = Transaction::new(None);
        transaction.slot = Some(routes.layout.slot(call.get(2)));
        transaction.is_write = true;
        transaction.push_import(&fieldset, call);
        match self.outcome(worker, routes, serve_check, &mut transaction) {
            // The transaction is made again when the request is handled again.
            Outcome::Wait => {
                self.import_waits.set(true);
                return Handled::Waiting;
            }
            Outcome::Held => match self.park_or_refuse(worker, call.bytes.len()) {
                None => return Handled::Parked,
                Some(text) => self.refuse_request(worker, mode, text),
            },
            Outcome::Abort(text) if text == NO_TRANSACTIONS => {
                self.refuse_request(worker, mode, &format!("ERR {text}"));
            }
            Outcome::Abort(text) => self.refuse_request(worker, mode, &text),
            // No keys are watched.
            Outcome::Nil => self.refuse_request(worker, mode, WATCHING),
            Outcome::Send(backend, target) => {
                self.count_request(worker, mode);
                count(&worker.stats.forwarded);
                self.pay_for(&fieldset);
                write::request(&mut transaction.requests, &[b"EXEC"]);
                let ticket = self.open(mode != ReplyMode::On, transaction.requests.len());
                if routes.reads.own_writes {
                    self.note_write(ticket);
                }
                let block = Rc::new(Block::import(self, ticket, &transaction));
                self.send(worker, &backend, &target, &transaction.requests, Requester::Block(block));
            }
        }
        Handled::Done
    }
}

impl Transaction {
    /// Adds HIMPORT SET, between HIMPORT PREPARE and DISCARD.
    pub(super) fn push_import(&mut self, fieldset: &Fieldset, call: &CallContext<'_>) {
        self.imports.push(self.len());
        self.sent += 3;
        self.requests.extend_from_slice(&fieldset.prepare);
        self.requests.extend_from_slice(call.bytes);
        self.requests.extend_from_slice(&fieldset.discard);
    }
}
