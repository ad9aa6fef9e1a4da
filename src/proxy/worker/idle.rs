//! Rounds through the sessions of a worker, to close idle ones: a part of them at each tick, so that no tick is long.
//! Requests pay nothing. Knows nothing of what idle means.

use std::{cell::Cell, rc::Rc};

use super::Worker;
use crate::proxy::{product::ProductView, session::Session};

/// Ticks of a round: five seconds, half of the shortest `idle-timeout`. A client is closed at most this much later.
const TICKS_PER_ROUND: usize = 50;

/// Where the round is.
#[derive(Debug, Default)]
pub(super) struct IdleRound {
    /// Id of the session that is looked at next, or a smaller one.
    next: Cell<u64>,
}

impl Worker {
    /// Looks at the next sessions of the round, if a product closes idle clients.
    pub(super) fn close_idle(&self) {
        let closes_idle =
            |product: &ProductView| product.routes.borrow().rules.idle_ms > 0 || product.own_settings.closes_idle();
        if !self.routes.products().values().any(|product| closes_idle(product)) {
            return;
        }
        let sessions = self.sessions.borrow();
        let part = sessions.len().div_ceil(TICKS_PER_ROUND);
        let round = &self.idle_round.next;
        let looked_at: Vec<Rc<Session>> =
            sessions.range(round.get()..).take(part).map(|(_, session)| session.clone()).collect();
        // The round begins anew behind the last one.
        let full = looked_at.len() == part;
        round.set(looked_at.last().filter(|_| full).map_or(0, |last| last.id + 1));
        drop(sessions);
        looked_at.iter().for_each(|session| session.close_if_idle(self));
    }
}
