//! The logins of a worker's clients: who has not logged in in time, and whose credentials are no longer valid.
//! Knows nothing of passwords.

use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    rc::Rc,
};

use super::Worker;
use crate::{
    model::ids::ProductId,
    proxy::{counters::count, product::ProductView, session::Session},
};

/// The clients that must log in, in the order in which they connected: the tick of that, and their ids. They stay in the
/// queue until their time is over, also when they have logged in or left; an entry has 16 bytes.
#[derive(Debug, Default)]
pub(super) struct AwaitedLogins(RefCell<VecDeque<(u32, u64)>>);

impl Worker {
    /// Gives a new client its time to log in.
    pub(in crate::proxy) fn await_login(&self, session: &Session) {
        self.awaited_logins.0.borrow_mut().push_back((self.clock.tick(), session.id));
    }

    /// Closes the clients that have not logged in in time.
    pub(super) fn close_overdue_logins(&self) {
        let mut awaited = self.awaited_logins.0.borrow_mut();
        while let Some((since, id)) = awaited.front().copied()
            && self.clock.age(since) >= self.config.limits.login_deadline
        {
            awaited.pop_front();
            let session = self.sessions.borrow().get(&id).cloned();
            if let Some(session) = session {
                session.close_if_overdue(self);
            }
        }
    }

    /// Closes the clients of a product whose credentials are no longer valid. Of a product without a password, also those
    /// that have not logged in: they may come from other machines, and the product is now on loopback only.
    pub(super) fn close_outdated_logins(&self, view: &Rc<ProductView>) {
        let routes = view.routes.borrow();
        let mut closed = 0;
        for session in self.sessions.borrow().values().filter(|s| Rc::ptr_eq(&s.product, view)) {
            let stays = match session.client.borrow().login {
                Some(version) => routes.auth.is_valid(version),
                None => routes.auth.is_required(),
            };
            if !stays && !session.is_closed() {
                count(&self.stats.outdated_logins);
                closed += 1;
                session.kill();
            }
        }
        if closed > 0 {
            tracing::info!(product = %routes.name, clients = closed, worker = self.index,
                "closed the clients that logged in with credentials that are no longer valid");
        }
    }

    /// How many clients are logged in with former credentials, of each product that has some.
    pub(super) fn former_logins(&self) -> BTreeMap<ProductId, usize> {
        let products = self.routes.products();
        let rotating = products.iter().filter(|(_, view)| view.routes.borrow().auth.former.is_some());
        rotating
            .map(|(id, view)| {
                let routes = view.routes.borrow();
                let is_former = |session: &&Rc<Session>| {
                    let login = session.client.borrow().login;
                    Rc::ptr_eq(&session.product, view) && login.is_some_and(|version| routes.auth.is_former(version))
                };
                (*id, self.sessions.borrow().values().filter(is_former).count())
            })
            .collect()
    }
}
