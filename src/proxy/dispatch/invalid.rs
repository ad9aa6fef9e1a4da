//! What becomes of a call in which no keys are found. Knows nothing of how they are looked for.

use super::{Dispatch, RefusalReason, any_server};
use crate::{
    commands::{InvalidCall, Spec},
    model::route::ProductRoutes,
    proxy::check::ServeCheck,
};

/// Refuses the call because of `error`, or has a server refuse it, if the text depends on the server's version.
#[cold]
pub(super) fn invalid(routes: &ProductRoutes, serve_check: ServeCheck, spec: &Spec, error: InvalidCall) -> Dispatch {
    match error.has_other_texts() {
        true => any_server(routes, serve_check, spec),
        false => Dispatch::Refuse(RefusalReason::Invalid(error)),
    }
}
