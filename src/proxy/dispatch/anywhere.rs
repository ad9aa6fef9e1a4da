//! Calls that any server may answer: those without keys, and some of which every server says that they are invalid.
//! Knows nothing of how keys are looked for.

use super::{Dispatch, DispatchTarget, RefusalReason};
use crate::{
    commands::{InvalidCall, Spec},
    model::{ids::Epoch, route::ProductRoutes},
    proxy::check::ServeCheck,
};

/// Forwards a call without keys.
pub(in crate::proxy) fn any_server(routes: &ProductRoutes, serve_check: ServeCheck, spec: &Spec) -> Dispatch {
    if serve_check != ServeCheck::Open {
        return Dispatch::Refuse(RefusalReason::ServeCheck(serve_check));
    }
    if routes.groups.is_empty() {
        return Dispatch::Refuse(RefusalReason::NoServers);
    }
    Dispatch::Forward(DispatchTarget {
        group: 0,
        slot: None,
        epoch: Epoch(0),
        is_write: spec.is_write(),
        may_read_replica: false,
    })
}

/// Refuses the call because of `error`, or has a server refuse it, if the text depends on the server's version.
#[cold]
pub(super) fn invalid(routes: &ProductRoutes, serve_check: ServeCheck, spec: &Spec, error: InvalidCall) -> Dispatch {
    match error.has_other_texts() {
        true => any_server(routes, serve_check, spec),
        false => Dispatch::Refuse(RefusalReason::Invalid(error)),
    }
}
