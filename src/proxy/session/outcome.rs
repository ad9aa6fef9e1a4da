//! What became of a request, and where it is sent. Knows nothing of who decides.

use std::rc::Rc;

use crate::proxy::backend::Backend;

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proxy) enum Handled {
    /// It was sent, answered or refused.
    Done,
    /// It is parked: its slot is held. All requests behind it wait, too.
    Parked,
    /// It was answered, and the client has to log in again.
    LoggedOut,
    /// It waits for room in a server's queue, or for earlier requests on another connection; so do all behind it.
    Waiting,
}

/// Where a request is sent.
pub(in crate::proxy) enum SendTo {
    Backend(Rc<Backend>),
    /// No server; the error for the client.
    Refuse(String),
    /// Nowhere yet.
    Wait,
}
