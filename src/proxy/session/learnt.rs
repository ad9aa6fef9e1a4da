//! Handles a request whose command the table does not have: it is sent, parked or refused by what the servers say of it.
//! The hot path never comes here. Knows nothing of what they say.

use std::rc::Rc;

use super::{
    Session,
    outcome::{Handled, SendTo},
};
use crate::{
    commands::ResolveError,
    model::route::ProductRoutes,
    proxy::{
        check::ServeCheck,
        client::ReplyMode,
        dispatch::{CallContext, Dispatch, DispatchTarget, RefusalReason, Scratch},
        learnt::{LearntDispatch, dispatch_learnt, server_commands},
        local,
        worker::Worker,
    },
};

impl Session {
    /// Handles a request that resolved to no command of the table because of `error`.
    #[cold]
    pub(super) fn handle_learnt(
        self: &Rc<Self>,
        worker: &Rc<Worker>,
        (routes, serve_check): (&ProductRoutes, ServeCheck),
        (call, error): (&CallContext<'_>, ResolveError),
        mode: ReplyMode,
        scratch: &mut Scratch,
    ) -> Handled {
        let commands = server_commands(worker, &self.product);
        let LearntDispatch { decision, dedicated } =
            dispatch_learnt(routes, serve_check, commands.as_deref(), (call, error), scratch);
        let refusal = match decision {
            Dispatch::Forward(target) => {
                if !dedicated {
                    return self.forward_plain(worker, routes, &target, call, mode);
                }
                match self.choose_dedicated(worker, &target) {
                    SendTo::Wait => return Handled::Waiting,
                    SendTo::Refuse(text) => text.into_bytes(),
                    SendTo::Backend(backend) => {
                        self.count_request(worker, mode);
                        self.forward(worker, routes, &backend, &target, call, mode != ReplyMode::On);
                        return Handled::Done;
                    }
                }
            }
            Dispatch::Held => match self.park_or_refuse(worker, call.bytes.len()) {
                None => return Handled::Parked,
                Some(text) => text.as_bytes().to_vec(),
            },
            Dispatch::Refuse(RefusalReason::Unresolved(error)) => local::unresolved(&error, call),
            Dispatch::Refuse(refusal) => refusal.to_string().into_bytes(),
            other => {
                debug_assert!(false, "no decision about a learnt command: {other:?}");
                local::unresolved(&error, call)
            }
        };
        self.refuse_request(worker, mode, &refusal);
        Handled::Done
    }

    /// The session's dedicated connection to the owner of the request, which may block it.
    fn choose_dedicated(self: &Rc<Self>, worker: &Rc<Worker>, target: &DispatchTarget) -> SendTo {
        self.use_dedicated(worker);
        if self.settling.get() {
            return SendTo::Wait;
        }
        let Some(backend) = self.backend_set().backend(worker, &self.product, target.group) else {
            self.use_shared();
            return SendTo::Refuse(self.product.too_many_dedicated(worker));
        };
        self.if_available(worker, backend)
    }
}
