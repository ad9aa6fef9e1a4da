//! Whether a session is idle: its client has sent nothing for the product's `idle-timeout`, or for the `timeout` that clients
//! have set, and nothing is owed to it. Knows nothing of when sessions are looked at.

use std::rc::Rc;

use super::Session;
use crate::proxy::{counters::count, worker::Worker};

impl Session {
    /// Closes it if it is idle. One that is at work counts as heard now, so that its time begins with its last reply.
    pub(in crate::proxy) fn close_if_idle(self: &Rc<Self>, worker: &Worker) {
        let max = self.product.own_settings.idle(self.product.routes.borrow().rules.idle_ms);
        if max.is_zero() || self.closing.get() || self.closed.get() {
            return;
        }
        if self.is_at_work() {
            self.heard_at.set(worker.clock.tick());
        } else if worker.clock.age(self.heard_at.get()) >= max {
            count(&worker.stats.idle_clients);
            self.close_when_answered();
        }
    }

    /// Whether a request is not answered, a reply is not written, or what the client sends is not read.
    fn is_at_work(&self) -> bool {
        let replies = self.replies.borrow();
        replies.waiting() > 0 || !replies.unsent().is_empty() || self.parked_at.get().is_some() || self.is_paused()
    }
}
