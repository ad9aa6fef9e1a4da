//! Queues the commands of a transaction, with the checks that Redis does before it answers QUEUED.
//! Knows nothing of how a transaction is executed.

use std::{cell::RefCell, rc::Rc};

use super::{LocalCall, NodeCall, Transaction};
use crate::{
    commands::{
        Args, Flags, Handling, HashImport, InvalidCall, KeysError, Local, ResolveError, ScriptCall, Spec,
        TransactionCommand, resolve_numbered,
    },
    model::{ids::SlotId, route::ProductRoutes, scan_cursor::canonical_cursor},
    proxy::{
        check::ServeCheck,
        client::ReplyMode,
        counters::count,
        dispatch::{CallContext, LOCAL_ARGS_MAX, RefusalReason},
        fieldsets::Fieldset,
        learnt::server_commands,
        local,
        session::{Handled, Session, is_script_without_writes},
        worker::Worker,
    },
    resp::{number, write},
};

/// The error for a transaction that needs the control user, as which no script may run.
const SELECT_AND_SCRIPT: &str = "ERR a transaction that selects another database runs no scripts and functions, not \
    executed. Send SELECT before MULTI";

const NOT_ALLOWED: &str = "ERR Command not allowed inside a transaction";

const EXEC: Handling = Handling::Transaction(TransactionCommand::Exec);

/// How a command of a transaction is queued.
enum Queued {
    /// It is sent to the owner of the slot.
    ForServer(Option<SlotId>),
    /// SELECT of a database of the product.
    Select(u32),
    /// HIMPORT SET, sent to the owner of the slot.
    Import(Option<SlotId>, Rc<Fieldset>),
    /// The node answers it when the transaction is executed.
    ForNode(NodeCall),
    /// Its reply is this error.
    Failed(&'static str),
}

impl Session {
    /// Begins a transaction, or ends one without executing it, or watches keys. `spec`: of the command.
    #[cold]
    pub(in crate::proxy) fn transact(
        self: &Rc<Self>,
        worker: &Rc<Worker>,
        routes: &ProductRoutes,
        serve_check: ServeCheck,
        (command, spec): (TransactionCommand, &'static Spec),
        call: &CallContext<'_>,
        mode: ReplyMode,
    ) -> Handled {
        let in_transaction = self.client.borrow().transaction.is_some();
        if in_transaction && self.refuses(spec) {
            return self.refuse_in_transaction(worker, mode, NOT_ALLOWED);
        }
        match command {
            TransactionCommand::Exec if in_transaction => return self.exec(worker, routes, serve_check, mode),
            TransactionCommand::Watch if !in_transaction => {
                return self.watch(worker, routes, serve_check, call, mode);
            }
            TransactionCommand::Unwatch if !in_transaction => {
                self.end_watch();
                self.answer_request(worker, mode, &|out| write::simple(out, "OK"));
            }
            TransactionCommand::Unwatch => return self.queue(worker, routes, spec, call, mode),
            TransactionCommand::Multi if !in_transaction => {
                self.client.borrow_mut().transaction =
                    Some(Box::new(Transaction::new(server_commands(worker, &self.product))));
                self.answer_request(worker, mode, &|out| write::simple(out, "OK"));
            }
            TransactionCommand::Discard if in_transaction => {
                self.end_transaction(worker);
                self.end_watch();
                self.answer_request(worker, mode, &|out| write::simple(out, "OK"));
            }
            TransactionCommand::Exec => self.refuse_request(worker, mode, "ERR EXEC without MULTI"),
            TransactionCommand::Discard => self.refuse_request(worker, mode, "ERR DISCARD without MULTI"),
            // These two do not end the transaction. (Redis, `multi.c`.)
            TransactionCommand::Multi => self.refuse_request(worker, mode, "ERR MULTI calls can not be nested"),
            TransactionCommand::Watch => self.refuse_request(worker, mode, "ERR WATCH inside MULTI is not allowed"),
        }
        Handled::Done
    }

    /// Handles a request while a transaction is open: queues it, or ends the transaction.
    #[cold]
    pub(in crate::proxy) fn handle_in_transaction(
        self: &Rc<Self>,
        worker: &Rc<Worker>,
        routes: &ProductRoutes,
        serve_check: ServeCheck,
        call: &CallContext<'_>,
        mode: ReplyMode,
    ) -> Handled {
        let (resolved, number) = resolve_numbered(call);
        self.set_number(number);
        let spec = match resolved {
            Ok(spec) => spec,
            Err(ResolveError::WrongArity(spec)) if spec.handling == EXEC => {
                // (Redis, `rejectCommand`.)
                self.end_transaction(worker);
                self.end_watch();
                self.refuse_request(worker, mode, &local::unresolved(&ResolveError::WrongArity(spec), call));
                return Handled::Done;
            }
            // A module counts the arguments itself, when the command is executed.
            Err(ResolveError::WrongArity(spec))
                if spec.is_counted_by_module() && self.allows(spec, call) == Some(true) =>
            {
                spec
            }
            Err(error) => return self.refuse_in_transaction(worker, mode, &local::unresolved(&error, call)),
        };
        match spec.handling {
            Handling::Transaction(command) => self.transact(worker, routes, serve_check, (command, spec), call, mode),
            // As in Redis, a transaction does not queue QUIT and RESET.
            Handling::Local(local @ (Local::Quit | Local::Reset)) => {
                self.end_transaction(worker);
                self.count_request(worker, mode);
                self.answer_locally(worker, routes, local, call, mode != ReplyMode::On)
            }
            Handling::Close(why) => {
                self.close_with(worker, mode, why);
                Handled::Done
            }
            _ if self.allows(spec, call) == Some(false) => {
                self.refuse_in_transaction(worker, mode, &format!("ERR {}", ResolveError::WrongArity(spec)))
            }
            _ => self.queue(worker, routes, spec, call, mode),
        }
    }

    /// Whether the servers refuse the command between MULTI and EXEC, if that is known.
    fn refuses(&self, spec: &Spec) -> bool {
        let client = self.client.borrow();
        let differing = client.transaction.as_ref().and_then(|transaction| transaction.differing());
        differing.is_some_and(|differing| differing.is_refused_in_transactions(spec))
    }

    /// Whether the servers accept the number of arguments. `None`: not known.
    fn allows(&self, spec: &Spec, call: &CallContext<'_>) -> Option<bool> {
        let client = self.client.borrow();
        let differing = client.transaction.as_ref().and_then(|transaction| transaction.differing());
        differing.map(|differing| differing.arity_allows(spec, call.args.len()))
    }

    /// Queues a command, or refuses it, so that EXEC executes nothing.
    fn queue(
        self: &Rc<Self>,
        worker: &Rc<Worker>,
        routes: &ProductRoutes,
        spec: &'static Spec,
        call: &CallContext<'_>,
        mode: ReplyMode,
    ) -> Handled {
        if let Handling::HashImport(_) = spec.handling
            && let Some(error) = self.lacks_import(worker, spec, call)
        {
            return self.refuse_in_transaction(worker, mode, &error);
        }
        let queued = match check(routes, spec, call, worker) {
            Ok(queued) => queued,
            Err(text) => return self.refuse_in_transaction(worker, mode, &text),
        };
        let mut client = self.client.borrow_mut();
        let db = client.db;
        let Some(transaction) = &client.transaction else { return Handled::Done };
        // Without a change, the server is not asked to select.
        let queued = match queued {
            Queued::Select(to) if transaction.db.is_none() && to == db => {
                Queued::ForNode(NodeCall::Local(Local::Select))
            }
            Queued::ForServer(slot) if spec.handling == Handling::HashImport(HashImport::Set) => {
                match client.fieldsets.of_set(call) {
                    Ok(fieldset) => {
                        if !transaction.refused {
                            self.pay_for(&fieldset);
                        }
                        Queued::Import(slot, fieldset)
                    }
                    Err(text) => Queued::Failed(text),
                }
            }
            queued => queued,
        };
        let Some(transaction) = &mut client.transaction else { return Handled::Done };
        if transaction.refused {
            // Nothing of it is executed, so it need not be kept.
            drop(client);
            self.answer_request(worker, mode, &|out| write::simple(out, "QUEUED"));
            return Handled::Done;
        }
        if let Err(text) = transaction.add(worker, spec, call, queued) {
            drop(client);
            return self.refuse_in_transaction(worker, mode, &text);
        }
        let (before, now) = (transaction.charged, transaction.memory());
        transaction.charged = now;
        drop(client);
        if before != now {
            self.charge_split(worker, before, now);
        }
        self.answer_request(worker, mode, &|out| write::simple(out, "QUEUED"));
        Handled::Done
    }

    /// Refuses a command of a transaction: EXEC will execute nothing.
    fn refuse_in_transaction(&self, worker: &Worker, mode: ReplyMode, text: &(impl AsRef<[u8]> + ?Sized)) -> Handled {
        if let Some(transaction) = &mut self.client.borrow_mut().transaction {
            transaction.refused = true;
        }
        self.refuse_request(worker, mode, text);
        Handled::Done
    }

    /// Ends the transaction, if there is one, without executing it.
    pub(in crate::proxy) fn end_transaction(&self, worker: &Worker) {
        let transaction = self.client.borrow_mut().transaction.take();
        if let Some(transaction) = transaction {
            self.charge_split(worker, transaction.charged, 0);
        }
    }
}

/// The error for a command that changes the settings of the connection.
fn before_multi(spec: &Spec) -> String {
    format!("ERR '{}' is not executed in a transaction by this proxy. Send it before MULTI", spec.name)
}

/// How a command is queued.
///
/// # Errors
/// Returns the error for the client if it cannot be a part of a transaction.
fn check(
    routes: &ProductRoutes,
    spec: &'static Spec,
    call: &CallContext<'_>,
    worker: &Worker,
) -> Result<Queued, String> {
    if spec.flags.contains(Flags::NO_MULTI) {
        return Err(NOT_ALLOWED.into());
    }
    match spec.handling {
        Handling::Database if spec.leaves_databases(call, routes.databases) => {
            Err(RefusalReason::Invalid(InvalidCall::Database).to_string())
        }
        // Its cursor has a mark of a process, which only the node can read.
        Handling::Cursor if canonical_cursor(call.get(2)).is_some_and(|cursor| cursor != 0) => Err(format!(
            "ERR '{}' with another cursor than 0 is not executed in a transaction by this proxy. Send it without MULTI",
            spec.name
        )),
        Handling::Slot | Handling::Cursor | Handling::Database | Handling::Split(_) | Handling::Script(_) => {
            of_slot(routes, spec, call)
        }
        Handling::HashImport(HashImport::Set) => of_slot(routes, spec, call),
        // HIMPORT SET needs them when it is queued.
        Handling::HashImport(_) => Err(before_multi(spec)),
        // It does not wait there, as in Redis.
        Handling::WaitReplicas | Handling::AnyServer => Ok(Queued::ForServer(None)),
        Handling::Local(_) if call.args.len() > LOCAL_ARGS_MAX => {
            count(&worker.stats.long_local_commands);
            Err(RefusalReason::TooManyArguments(spec.name).to_string())
        }
        // The delay of a failed login would hold up the whole transaction, or be missing.
        Handling::Local(Local::Auth | Local::Hello) => Err(before_multi(spec)),
        // The node answers another number with the error, in its place.
        Handling::Local(Local::Select) => {
            let db = number::parse(call.get(1)).and_then(|db| u32::try_from(db).ok());
            Ok(db
                .filter(|db| *db < routes.databases)
                .map_or(Queued::ForNode(NodeCall::Local(Local::Select)), Queued::Select))
        }
        Handling::Local(local) => Ok(Queued::ForNode(NodeCall::Local(local))),
        Handling::Node(_) if call.args.len() > LOCAL_ARGS_MAX => {
            count(&worker.stats.long_local_commands);
            Err(RefusalReason::TooManyArguments(spec.name).to_string())
        }
        Handling::Node(command) => Ok(Queued::ForNode(NodeCall::OfNode(command))),
        // Inside a transaction it does nothing, as in Redis.
        Handling::Transaction(_) => Ok(Queued::ForServer(None)),
        Handling::AllGroups(_) | Handling::Scripts(_) => Err(format!(
            "ERR '{}' concerns all groups of the product and is not executed in a transaction, which runs in one group. \
             Call it without MULTI",
            spec.name
        )),
        Handling::Unsupported(why) | Handling::Refused(why) => {
            Err(RefusalReason::NotOffered { name: spec.name, why }.to_string())
        }
        Handling::Container | Handling::Close(_) => Err(RefusalReason::Invalid(InvalidCall::Syntax).to_string()),
    }
}

/// A command with keys: they all belong to one slot.
fn of_slot(routes: &ProductRoutes, spec: &'static Spec, call: &CallContext<'_>) -> Result<Queued, String> {
    if routes.rules.scripts_off && spec.runs_script() {
        return Err(RefusalReason::ScriptsOff(spec.name).to_string());
    }
    // A module refuses it, wherever it is executed.
    if !spec.arity_allows(call.args.len()) {
        return Ok(Queued::ForServer(None));
    }
    if spec.is_single_key_at_1() {
        return Ok(Queued::ForServer(Some(routes.layout.slot(call.get(1)))));
    }
    let mut positions = Vec::new();
    match spec.routing_keys(call, &mut positions) {
        Ok(()) => {}
        Err(error @ KeysError::Pattern) => {
            return Err(RefusalReason::Invalid(InvalidCall::new(spec, call, error)).to_string());
        }
        // It is a script without keys, or the server refuses it when the transaction is executed.
        Err(_) => return Ok(Queued::ForServer(None)),
    }
    let mut slots = positions.iter().map(|arg| routes.layout.slot(call.get(*arg)));
    let first = slots.next();
    match first {
        Some(first) if slots.any(|slot| slot != first) => Err(RefusalReason::CrossSlot.to_string()),
        first => Ok(Queued::ForServer(first)),
    }
}

impl Transaction {
    /// Notes the slot of a command.
    ///
    /// # Errors
    /// Returns the error for the client if the commands before it have another one.
    fn belong_to(&mut self, slot: Option<SlotId>) -> Result<(), String> {
        if let (Some(slot), Some(other)) = (slot, self.slot)
            && slot != other
        {
            return Err(RefusalReason::CrossSlot.to_string());
        }
        self.slot = self.slot.or(slot);
        Ok(())
    }

    /// Adds a command.
    ///
    /// # Errors
    /// Returns the error for the client: another slot, or too much is queued.
    fn add(
        &mut self,
        worker: &Worker,
        spec: &'static Spec,
        call: &CallContext<'_>,
        queued: Queued,
    ) -> Result<(), String> {
        let limits = &worker.config.limits;
        if self.len() >= limits.transaction_commands_max {
            count(&worker.stats.transactions_refused);
            return Err(format!(
                "ERR a transaction has at most {} commands (proxy.transaction_commands_max), not executed. Use several",
                limits.transaction_commands_max
            ));
        }
        let added = call.bytes.len()
            + match &queued {
                Queued::Import(_, fieldset) => fieldset.len(),
                _ => 0,
            };
        if self.bytes() + added > limits.transaction_bytes_max {
            count(&worker.stats.transactions_refused);
            return Err(format!(
                "ERR a transaction has at most {} bytes (proxy.transaction_bytes_max), not executed. Use several",
                limits.transaction_bytes_max
            ));
        }
        match queued {
            Queued::ForNode(command) => {
                let request = call.bytes.to_vec();
                self.local.push(LocalCall { place: self.len(), command, request, reply: RefCell::default() });
            }
            Queued::Failed(text) => {
                let mut reply = Vec::new();
                write::error(&mut reply, text);
                let (place, command) = (self.len(), NodeCall::Answered);
                let request = call.bytes.to_vec();
                self.local.push(LocalCall { place, command, request, reply: RefCell::new(reply) });
            }
            Queued::Import(slot, fieldset) => {
                self.belong_to(slot)?;
                self.is_write = true;
                self.waits_for_pause = true;
                self.push_import(&fieldset, call);
            }
            Queued::Select(_) if self.runs_script => return Err(SELECT_AND_SCRIPT.into()),
            Queued::Select(db) => {
                self.db = Some(db);
                self.sent += 1;
                self.requests.extend_from_slice(call.bytes);
            }
            Queued::ForServer(_) if self.db.is_some() && spec.runs_script() => {
                return Err(SELECT_AND_SCRIPT.into());
            }
            Queued::ForServer(slot) => {
                self.belong_to(slot)?;
                self.is_write |= spec.is_write();
                self.waits_for_pause |= spec.needs_primary() && !is_script_without_writes(call);
                self.runs_script |= spec.runs_script();
                self.calls_function |= spec.handling == Handling::Script(ScriptCall::Function);
                self.sent += 1;
                let from = self.requests.len();
                self.requests.extend_from_slice(call.bytes);
                if spec.handling == Handling::Script(ScriptCall::Digest) {
                    self.script_calls.push(from..self.requests.len());
                }
            }
        }
        Ok(())
    }
}
