//! How the requests of a client that has not logged in are read: in a loop of their own, so that a request of one that has
//! logged in pays nothing for the limits before a login.

use std::rc::Rc;

use super::{ScanStop, SessionTask};
use crate::{
    model::route::ProductRoutes,
    proxy::{check::ServeCheck, worker::Worker},
    resp::limits::REQUEST_MAX_BEFORE_LOGIN,
};

/// Bytes that are read at once from a client that has not logged in: a login.
pub(super) const READ_BEFORE_LOGIN: usize = REQUEST_MAX_BEFORE_LOGIN;

impl SessionTask {
    /// Handles the requests of a client that has not logged in, up to its login, without the quota: strangers cannot use up
    /// that of others. Returns the number of bytes handled and, unless it has logged in, why the scan stopped.
    #[cold]
    pub(super) fn work_before_login(
        &mut self,
        worker: &Rc<Worker>,
        routes: &ProductRoutes,
        serve_check: ServeCheck,
        bytes: &[u8],
    ) -> (usize, Option<ScanStop>) {
        let session = self.session.clone();
        let mut at = 0;
        while !session.saturated(worker) {
            let unread = session.unread();
            let (len, stop) = self.next(worker, routes, serve_check, None, &bytes[at..]);
            at += len;
            if session.client.borrow().login.is_some() {
                session.pre_login.note_login();
                self.place.note_login();
                self.scanner.set_before_login(false);
                return (at, stop);
            }
            if !session.closing.get() && !session.pre_login.admits(len, session.unread() - unread) {
                session.close_before_login(worker);
            }
            match stop {
                Some(ScanStop::TurnOver) | None if !session.closing.get() => {}
                Some(stop) => return (at, Some(stop)),
                None => break,
            }
        }
        (at, Some(ScanStop::AtLimit))
    }
}
