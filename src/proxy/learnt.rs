//! What the proxy does with a command that the table does not have and servers do. The hot path never comes here.
//! Knows nothing of how servers are asked for their commands.

use std::sync::Arc;

use super::{
    check::ServeCheck,
    dispatch::{CallContext, Dispatch, DispatchTarget, RefusalReason, Scratch, any_server, forward, to_owner},
    product::ProductView,
    worker::Worker,
};
use crate::{
    commands::{Args, ResolveError, ServerCommands},
    model::route::ProductRoutes,
};

/// A decision, and whether the request needs a dedicated connection, because it may block the one that it is sent on.
pub(super) struct LearntDispatch {
    pub(super) decision: Dispatch,
    pub(super) dedicated: bool,
}

/// What the product's servers have. `None`: none was asked yet.
pub(super) fn server_commands(worker: &Worker, product: &ProductView) -> Option<Arc<ServerCommands>> {
    let id = product.routes.borrow().id;
    worker.config.commands.as_ref()?.borrow().get(&id).cloned()
}

/// Decides what the proxy does with `call`, which resolved to no command of the table because of `error`.
#[cold]
pub(super) fn dispatch_learnt(
    routes: &ProductRoutes,
    serve_check: ServeCheck,
    commands: Option<&ServerCommands>,
    (call, error): (&CallContext<'_>, ResolveError),
    scratch: &mut Scratch,
) -> LearntDispatch {
    let refuse = |reason| LearntDispatch { decision: Dispatch::Refuse(reason), dedicated: false };
    if let ResolveError::WrongArity(spec) = error {
        // The module refuses the call, in its own words.
        let differing = commands.and_then(ServerCommands::differing).filter(|_| spec.is_counted_by_module());
        if !differing.is_some_and(|differing| differing.arity_allows(spec, call.len())) {
            return refuse(RefusalReason::Unresolved(error));
        }
        let decision = match call.len() {
            0 | 1 => any_server(routes, serve_check, spec),
            _ => forward(routes, serve_check, routes.layout.slot(call.get(1)), spec),
        };
        return LearntDispatch { decision, dedicated: false };
    }
    let positions = scratch.positions();
    let command = match commands.and_then(|commands| commands.resolve(call, positions)) {
        None => return refuse(RefusalReason::Unresolved(error)),
        Some(Err(text)) => return refuse(RefusalReason::Learnt(text)),
        Some(Ok(command)) => command,
    };
    let mut slots = positions.iter().map(|at| routes.layout.slot(call.get(*at)));
    let Some(slot) = slots.next() else { return refuse(RefusalReason::Unresolved(error)) };
    if slots.any(|other| other != slot) {
        return refuse(RefusalReason::CrossSlot);
    }
    // Its reply may be about the server and not about the data, so it comes from the primary.
    let decision = to_owner(routes, serve_check, slot, |group, epoch| DispatchTarget {
        group,
        slot: Some(slot),
        epoch,
        is_write: command.is_write(),
        may_read_replica: false,
    });
    LearntDispatch { decision, dedicated: command.may_block() }
}
