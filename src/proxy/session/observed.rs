//! How a request is handled while the clients of its product are paused (CLIENT PAUSE), or somebody watches them (MONITOR).
//! Without either, a request costs one branch. Knows nothing of what monitors get.

use std::rc::Rc;

use super::{Handled, Session};
use crate::{
    commands::{Args, Flags, Handling, ResolveError, Spec, TransactionCommand, resolve},
    model::route::ProductRoutes,
    proxy::{
        check::ServeCheck, client::Access, dispatch::CallContext, learnt::server_commands, pause::Paused,
        worker::Worker,
    },
};

impl Session {
    /// Handles a request while its product is observed.
    #[cold]
    pub(super) fn handle_observed(
        self: &Rc<Self>,
        worker: &Rc<Worker>,
        routes: &ProductRoutes,
        serve_check: ServeCheck,
        call: &CallContext<'_>,
    ) -> Handled {
        if self.has_to_wait(worker, call) {
            self.is_postponed.set(true);
            self.parked_at.set(Some(worker.clock.tick()));
            self.product.pause.add(self.clone());
            // As in Redis, it counts as blocked.
            self.product.usage(worker).block();
            return Handled::Parked;
        }
        let (refused, db) = (worker.stats.refused.get(), self.client.borrow().db);
        let handled = self.handle_now(worker, routes, serve_check, call);
        let is_done = matches!(handled, Handled::Done | Handled::LoggedOut);
        // As in Redis, what is refused is not shown, nor what is for operators.
        let is_refused = worker.stats.refused.get() != refused && !ends_or_begins_transaction(call);
        if is_done && !is_refused && !is_hidden(call) {
            self.product.monitors.show(worker, (db, self.addr), call);
        }
        handled
    }

    /// Whether a request waits for the end of the pause. As in Redis, one that is wrong is refused at once, and a pause of all
    /// requests concerns also CLIENT UNPAUSE.
    fn has_to_wait(&self, worker: &Worker, call: &CallContext<'_>) -> bool {
        let Some(paused) = self.product.pause.kind() else { return false };
        let (access, in_transaction_writes) = {
            let client = self.client.borrow();
            (client.access(), client.transaction.as_ref().is_some_and(|transaction| transaction.waits_for_pause()))
        };
        let (is_offered, may_write) = match resolve(call) {
            Ok(spec) => (is_offered(spec, access), may_write(spec, in_transaction_writes)),
            Err(ResolveError::WrongArity(_)) => (false, false),
            Err(_) => {
                let commands = server_commands(worker, &self.product);
                let command = commands.as_ref().and_then(|commands| commands.resolve(call, &mut Vec::new()));
                let command = command.and_then(Result::ok);
                (command.is_some() && access != Access::NotLoggedIn, command.is_some_and(|command| command.is_write()))
            }
        };
        is_offered && (paused == Paused::All || (may_write && !is_script_without_writes(call)))
    }

    /// The pause is over: the request that waited is handled.
    pub(in crate::proxy) fn end_postponement(&self) {
        self.is_postponed.set(false);
        // Its time under a hold, if there is one, begins now.
        self.parked_at.set(None);
        self.wake();
    }
}

/// Whether the command is executed for a client with this access.
fn is_offered(spec: &Spec, access: Access) -> bool {
    use crate::commands::Local;
    match spec.handling {
        Handling::Unsupported(_) | Handling::Refused(_) | Handling::Close(_) | Handling::Container => false,
        Handling::Local(Local::Auth | Local::Hello | Local::Quit | Local::Reset) => true,
        _ => access != Access::NotLoggedIn,
    }
}

/// Whether the command may change data. `transaction`: whether the open transaction may.
fn may_write(spec: &Spec, transaction: bool) -> bool {
    spec.flags.intersects(Flags::WRITE.union(Flags::MAY_REPLICATE))
        || (spec.handling == Handling::Transaction(TransactionCommand::Exec) && transaction)
}

/// Whether it is an EVAL whose script says that it changes nothing. (An EVALSHA does not say what its script says, and waits.)
pub(in crate::proxy) fn is_script_without_writes(call: &CallContext<'_>) -> bool {
    if call.len() < 2 || !call.get(0).eq_ignore_ascii_case(b"eval") {
        return false;
    }
    let first_line = call.get(1).split(|byte| *byte == b'\n').next().unwrap_or_default();
    first_line.starts_with(b"#!") && first_line.windows(9).any(|word| word == b"no-writes")
}

/// Whether it is a command of transactions: as in Redis, it counts as executed even if the answer is an error, so that a monitor
/// sees the EXEC to each MULTI.
fn ends_or_begins_transaction(call: &CallContext<'_>) -> bool {
    resolve(call).is_ok_and(|spec| matches!(spec.handling, Handling::Transaction(_)))
}

/// Whether MONITOR shows no such command, as in Redis.
fn is_hidden(call: &CallContext<'_>) -> bool {
    resolve(call).is_ok_and(|spec| spec.flags.intersects(Flags::ADMIN.union(Flags::SKIP_MONITOR)))
}
