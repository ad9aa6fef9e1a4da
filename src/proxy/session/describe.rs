//! What CLIENT LIST shows of a session. Knows nothing of who asks.

use super::Session;
use crate::{
    model::auth::ProductAuth,
    proxy::{
        client::ClientState,
        client_view::{ClientFacts, ClientFilter, ClientView},
        worker::Worker,
    },
    resp::write::Version,
};

/// The user of clients that have not logged in, as in Redis.
const DEFAULT_USER: &str = "default";

impl Session {
    /// Whether a filter means it.
    pub(in crate::proxy) fn is_meant(&self, worker: &Worker, filter: &ClientFilter) -> bool {
        let (client, routes) = (self.client.borrow(), self.product.routes.borrow());
        !self.closed.get()
            && filter.means(&ClientFacts {
                id: self.id,
                product: routes.id,
                addr: self.addr,
                laddr: self.laddr,
                age: worker.clock.age(self.connected_at),
                user: user(&client, &routes.auth),
                name: &client.name,
            })
    }

    /// What CLIENT LIST shows of it.
    pub(in crate::proxy) fn describe(&self, worker: &Worker) -> ClientView {
        let (client, routes) = (self.client.borrow(), self.product.routes.borrow());
        let replies = self.replies.borrow();
        let transaction = client.transaction.as_ref();
        let transaction_memory = transaction.map_or(0, |transaction| transaction.memory());
        let reply_bytes = replies.unsent().len();
        ClientView {
            id: self.id,
            product: routes.id,
            addr: self.addr,
            laddr: self.laddr,
            fd: self.fd,
            name: client.name.clone(),
            age: worker.clock.age(self.connected_at),
            idle: worker.clock.age(self.heard_at.get()),
            flags: self.flags(&client),
            db: client.db,
            queued: transaction.map(|transaction| transaction.len()),
            watched: self.watch.borrow().as_ref().map_or(0, |watch| watch.keys()),
            unread: self.unread.get(),
            unread_memory: self.memory.unread_requests.get(),
            // A transaction is charged, too.
            arguments: self.memory.charged_steps().saturating_sub(transaction_memory),
            transaction: transaction_memory,
            reply_memory: replies.memory(),
            reply_bytes,
            waiting: replies.waiting(),
            replies_behind: replies.held() - reply_bytes,
            memory: size_of::<Self>()
                + self.memory.unread_requests.get()
                + self.memory.charged_steps()
                + replies.memory(),
            is_full: self.blocked.get(),
            command: self.number.get().map_or("", |number| number.spec().name),
            user: user(&client, &routes.auth).to_owned(),
            resp: if client.version == Version::Resp3 { 3 } else { 2 },
            library: client.library.clone(),
            library_version: client.library_version.clone(),
            thread: worker.index(),
        }
    }

    /// The letters of Redis. (Redis, `catClientInfoString`.)
    fn flags(&self, client: &ClientState) -> String {
        let flags: String = [
            (self.is_monitor.get(), 'O'),
            (client.transaction.is_some(), 'x'),
            (self.blocked_call.borrow().is_some() || self.is_postponed.get(), 'b'),
            (self.closing.get(), 'c'),
            (client.no_evict, 'e'),
            (client.no_touch, 'T'),
        ]
        .iter()
        .filter_map(|(is_set, letter)| is_set.then_some(*letter))
        .collect();
        if flags.is_empty() { "N".into() } else { flags }
    }
}

/// The user that a client has logged in as.
fn user<'a>(client: &ClientState, auth: &'a ProductAuth) -> &'a str {
    let former = auth.former.as_ref().filter(|former| client.login == Some(former.version));
    let credentials = match former {
        Some(former) => Some(&former.credentials),
        None => auth.credentials.as_ref().filter(|_| client.login.is_some()),
    };
    credentials.map_or(DEFAULT_USER, |credentials| credentials.user())
}
