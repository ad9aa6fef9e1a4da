//! What a client may do before it has logged in: how much it may send and get, how long it may take, and how often it may
//! fail. Strangers then cost little memory and time. Knows nothing of passwords.

use std::{cell::Cell, rc::Rc};

use super::Session;
use crate::{
    proxy::{counters::count, worker::Worker},
    resp::write,
};

/// Bytes that a client may send before it has logged in: several times the longest login, and what client libraries
/// send around it.
const RECEIVED_MAX: usize = 16 * 1024;

/// Bytes of replies that it gets: about a hundred errors.
const REPLIED_MAX: usize = 4 * 1024;

/// Of these bytes, those for the last reply, which may repeat 128 bytes of the client's, and for the reason why it is
/// closed.
const LAST_REPLIES: usize = 1024;

/// What a client has done before it has logged in.
#[derive(Debug, Default)]
pub(super) struct PreLogin {
    /// Bytes of requests that were handled.
    received: Cell<usize>,
    /// Bytes of the replies to them.
    replied: Cell<usize>,
    /// Logins that failed.
    failed: Cell<u32>,
    /// Whether it has logged in once: there is no deadline any more.
    has_logged_in: Cell<bool>,
}

impl PreLogin {
    /// Records that the client has logged in.
    pub(super) fn note_login(&self) {
        self.received.set(0);
        self.replied.set(0);
        self.failed.set(0);
        self.has_logged_in.set(true);
    }

    /// Counts a request that was no login, and its reply. Returns whether the client may go on.
    pub(super) fn admits(&self, request: usize, reply: usize) -> bool {
        self.received.set(self.received.get() + request);
        self.replied.set(self.replied.get() + reply);
        self.received.get() <= RECEIVED_MAX && self.replied.get() <= REPLIED_MAX - LAST_REPLIES
    }

    /// Counts a failed login. Returns whether the client may try again.
    fn admits_failure(&self, max: u32) -> bool {
        self.failed.set(self.failed.get() + 1);
        self.failed.get() < max
    }
}

impl Session {
    /// Closes it when its replies are written, because it has sent or got as much as a client may before its login.
    #[cold]
    pub(super) fn close_before_login(&self, worker: &Worker) {
        count(&worker.stats.strangers_closed);
        self.answer(worker, &|out| {
            write::error(out, "NOAUTH the connection is closed: too many requests before a login")
        });
        self.closing.set(true);
    }

    /// Closes it if it has not logged in yet; its time is over.
    pub(in crate::proxy) fn close_if_overdue(&self, worker: &Worker) {
        if self.pre_login.has_logged_in.get() || self.closed.get() {
            return;
        }
        let within = worker.config.limits.login_deadline;
        self.close_stranger(worker, &format!("no login within {within:?}"));
    }

    /// Closes it, because a limit of clients is reached and it has not logged in.
    #[cold]
    pub(super) fn close_for_another(&self, worker: &Worker) {
        self.close_stranger(worker, "too many clients, and it has not logged in");
    }

    fn close_stranger(&self, worker: &Worker, why: &str) {
        count(&worker.stats.strangers_closed);
        let idle = {
            let replies = self.replies.borrow();
            replies.waiting() == 0 && replies.unsent().is_empty()
        };
        if idle && let Some(writer) = &*self.writer.borrow() {
            let mut text = Vec::new();
            write::error(&mut text, &format!("NOAUTH the connection is closed: {why}"));
            // Without asking whether the socket takes it, which is not known yet of one that was just accepted. A client
            // that leaves no room for it does not wait for it.
            let _ = socket2::SockRef::from(writer.as_ref()).send(&text);
        }
        self.kill();
    }

    /// Answers a failed login after a delay, in which nothing else of the client is handled. Only who fails waits: many
    /// clients may share an address with one that guesses. A client that has not logged in is closed after some failures.
    #[cold]
    pub(super) fn answer_failed_login(self: &Rc<Self>, worker: &Rc<Worker>, muted: bool, reply: Vec<u8>) {
        let limits = &worker.config.limits;
        {
            let routes = self.product.routes.borrow();
            worker.shared.note_failed_login((routes.id, &routes.name), self.addr.ip());
        }
        if self.client.borrow().login.is_none() && !self.pre_login.admits_failure(limits.failed_logins_max) {
            count(&worker.stats.strangers_closed);
            self.closing.set(true);
        }
        let ticket = self.open(muted, 0);
        self.alone.set(true);
        let (session, worker, delay) = (self.clone(), worker.clone(), limits.failed_login_delay);
        tokio::task::spawn_local(async move {
            tokio::time::sleep(delay).await;
            session.alone.set(false);
            session.complete(&worker, ticket, &reply, 0);
            worker.buffers.return_reply(reply);
            worker.flush_replied();
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_replies_and_failures_have_limits() {
        let client = PreLogin::default();
        assert!(client.admits(RECEIVED_MAX, REPLIED_MAX - LAST_REPLIES) && !client.admits(1, 0));
        client.note_login();
        assert!(client.admits(1, REPLIED_MAX - LAST_REPLIES) && !client.admits(1, 1));
        assert!(client.admits_failure(3) && client.admits_failure(3) && !client.admits_failure(3));
        client.note_login();
        assert!(client.admits(1, 1) && client.admits_failure(3), "after a login it begins anew");
    }
}
