//! What other threads ask of a worker's clients: to describe them, to close them, to let them wait.
//! Knows nothing of who asks.

use std::{cell::RefCell, rc::Rc};

use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep_until},
};

use super::Worker;
use crate::{
    model::ids::ProductId,
    proxy::{
        blocking::Unblock,
        client_view::{ClientFilter, ClientView},
        own_settings::OwnSetting,
        pause::Paused,
        product::ProductView,
        session::Session,
        slow_log::SlowRequest,
    },
};

/// Clients that are looked at in one turn: well below a millisecond.
const CLIENTS_PER_TURN: usize = 512;

/// Some clients of a worker, and the id from which on the next are.
#[derive(Debug)]
pub(in crate::proxy) struct ClientPage {
    pub(in crate::proxy) clients: Vec<ClientView>,
    /// `None`: there are no others.
    pub(in crate::proxy) next: Option<u64>,
}

impl Worker {
    /// Its place among the workers of the node, from 0.
    pub(in crate::proxy) fn index(&self) -> usize {
        self.index
    }

    /// Describes some of the clients that a filter means, from an id on.
    pub(in crate::proxy) fn describe_clients(&self, filter: &ClientFilter, from: u64) -> ClientPage {
        self.each_client(filter, from, |session| Some(session.describe(self)))
    }

    /// Closes some of the clients that a filter means, from an id on, and describes them. `asks`: the client that asks, which
    /// is not closed here, because it gets an answer first.
    pub(in crate::proxy) fn kill_clients(&self, filter: &ClientFilter, from: u64, asks: Option<u64>) -> ClientPage {
        self.each_client(filter, from, |session| {
            let view = session.describe(self);
            if asks != Some(session.id) {
                session.kill();
            }
            Some(view)
        })
    }

    fn each_client(
        &self,
        filter: &ClientFilter,
        from: u64,
        view: impl Fn(&Rc<Session>) -> Option<ClientView>,
    ) -> ClientPage {
        let sessions = self.sessions.borrow();
        let looked_at = sessions.range(from..).take(CLIENTS_PER_TURN).map(|(_, session)| session);
        let clients = looked_at.filter(|session| session.is_meant(self, filter)).filter_map(view).collect();
        let next = sessions.range(from..).nth(CLIENTS_PER_TURN).map(|(id, _)| *id);
        ClientPage { clients, next }
    }

    /// Ends the blocked call of a client, if it is one of the product. Returns whether it had one.
    pub(in crate::proxy) fn unblock(&self, client: u64, product: Option<ProductId>, how: Unblock) -> bool {
        let session = self.sessions.borrow().get(&client).cloned();
        session.is_some_and(|session| {
            let is_of_product = product.is_none_or(|product| session.product.routes.borrow().id == product);
            is_of_product && session.unblock(how)
        })
    }

    /// Lets requests of a product wait until a time.
    pub(in crate::proxy) fn pause(&self, product: ProductId, kind: Paused, until: Instant) {
        let Some(view) = self.routes.product(product) else { return };
        let until = view.pause.begin(kind, until);
        view.note_observers();
        let weak = Rc::downgrade(&view);
        view.pause_timer.set(tokio::task::spawn_local(async move {
            sleep_until(until).await;
            if let Some(view) = weak.upgrade() {
                view.end_pause();
            }
        }));
    }

    /// Ends a pause before its time.
    pub(in crate::proxy) fn unpause(&self, product: ProductId) {
        if let Some(view) = self.routes.product(product) {
            view.end_pause();
        }
    }

    /// Whether requests of a product that a pause would keep back were sent and are not answered.
    pub(in crate::proxy) fn has_in_flight(&self, product: ProductId, kind: Paused) -> bool {
        let Some(view) = self.routes.product(product) else { return false };
        view.backends_and_retired().iter().any(|backend| {
            let inflight = backend.inflight.borrow();
            // A blocked call waits for what others write, and is no reason to wait.
            inflight.iter().any(|entry| !entry.blocks() && (entry.is_write || kind == Paused::All))
        })
    }

    /// Lets a client see the requests of a product.
    pub(in crate::proxy) fn add_monitor(&self, product: ProductId, lines: mpsc::Sender<Vec<u8>>) {
        if let Some(view) = self.routes.product(product) {
            view.monitors.add(lines);
            view.note_observers();
        }
    }

    /// The newest requests of a product that took long, up to `max`.
    pub(in crate::proxy) fn slow_requests(&self, product: ProductId, max: usize) -> Vec<SlowRequest> {
        self.routes.product(product).map_or_else(Vec::new, |view| view.slow_log.newest(max))
    }
}

impl Worker {
    /// Changes settings for the clients of a product.
    pub(in crate::proxy) fn set_own(&self, product: ProductId, changes: &[(OwnSetting, i64)]) {
        if let Some(view) = self.routes.product(product) {
            changes.iter().for_each(|(setting, value)| view.own_settings.set(*setting, *value));
        }
    }

    /// Number of requests of a product that took long and are kept.
    pub(in crate::proxy) fn slow_log_len(&self, product: ProductId) -> usize {
        self.routes.product(product).map_or(0, |view| view.slow_log.len())
    }

    /// Forgets them.
    pub(in crate::proxy) fn clear_slow_log(&self, product: ProductId) {
        if let Some(view) = self.routes.product(product) {
            view.slow_log.clear();
        }
    }
}

/// The task that ends a pause. Another one takes its place.
#[derive(Debug, Default)]
pub(in crate::proxy) struct PauseTimer(RefCell<Option<JoinHandle<()>>>);

impl PauseTimer {
    fn set(&self, timer: JoinHandle<()>) {
        if let Some(before) = self.0.replace(Some(timer)) {
            before.abort();
        }
    }
}

impl ProductView {
    /// Ends the pause of its clients.
    fn end_pause(&self) {
        self.count_resumed(self.pause.end());
        self.note_observers();
    }
}
