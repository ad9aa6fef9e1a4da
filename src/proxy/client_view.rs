//! What CLIENT LIST shows of a client, in the form of Redis, and which clients a call means.
//! Knows nothing of connections.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use crate::model::ids::ProductId;

/// A client, as CLIENT LIST shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientView {
    /// Unique in the cluster.
    pub id: u64,
    /// Its product.
    pub product: ProductId,
    /// Where it comes from.
    pub addr: SocketAddr,
    /// Where it is connected to.
    pub laddr: SocketAddr,
    /// Its file descriptor.
    pub fd: i32,
    /// As it has set it.
    pub name: String,
    /// Since it connected.
    pub age: Duration,
    /// Since it sent something.
    pub idle: Duration,
    /// Letters as in Redis.
    pub flags: String,
    /// Its database.
    pub db: u32,
    /// Commands of its transaction; `None`: it has none.
    pub queued: Option<usize>,
    /// Keys that it watches.
    pub watched: usize,
    /// Bytes of requests that are read and not executed.
    pub unread: usize,
    /// Bytes of memory for those, in use or not.
    pub unread_memory: usize,
    /// Bytes of the request that is being executed in several steps.
    pub arguments: usize,
    /// Bytes of its transaction.
    pub transaction: usize,
    /// Bytes of memory for replies.
    pub reply_memory: usize,
    /// Bytes of replies that are written next.
    pub reply_bytes: usize,
    /// Requests whose reply waits for another one before it.
    pub waiting: usize,
    /// Bytes of replies behind those that are written next.
    pub replies_behind: usize,
    /// Bytes of memory of the client.
    pub memory: usize,
    /// Whether the node waits until it can write to it.
    pub is_full: bool,
    /// Its last command; empty if it has sent none.
    pub command: &'static str,
    /// The user that it logged in as.
    pub user: String,
    /// 2 or 3.
    pub resp: u8,
    /// As its library has said.
    pub library: String,
    /// As its library has said.
    pub library_version: String,
    /// The thread of the proxy that serves it.
    pub thread: usize,
}

impl ClientView {
    /// The client has asked for this by a request of `len` bytes, which a Redis has not removed from its buffer yet.
    #[must_use]
    pub(super) fn with_own_request(mut self, len: usize) -> Self {
        self.unread += len;
        self
    }
}

impl fmt::Display for ClientView {
    /// A line of CLIENT LIST, without its end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "id={} addr={} laddr={} fd={} name={} age={} idle={} flags={} db={} sub=0 psub=0 ssub=0 multi={} watch={} \
             qbuf={} qbuf-free={} argv-mem={} multi-mem={} rbs={} rbp={} obl={} oll={} omem={} tot-mem={} events={} \
             cmd={} user={} redir=-1 resp={} lib-name={} lib-ver={} io-thread={}",
            self.id,
            self.addr,
            self.laddr,
            self.fd,
            self.name,
            self.age.as_secs(),
            self.idle.as_secs(),
            self.flags,
            self.db,
            self.queued.map_or(-1, |n| n as i64),
            self.watched,
            self.unread,
            self.unread_memory.saturating_sub(self.unread),
            self.arguments,
            self.transaction,
            self.reply_memory,
            self.reply_memory,
            self.reply_bytes,
            self.waiting,
            self.replies_behind,
            self.memory,
            if self.is_full { "rw" } else { "r" },
            if self.command.is_empty() { "NULL" } else { self.command },
            self.user,
            self.resp,
            self.library,
            self.library_version,
            self.thread,
        )
    }
}

/// The kinds of clients that Redis distinguishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientKind {
    /// All clients of a proxy.
    Normal,
    /// A primary that replicates to the server, which no client of a proxy is.
    Primary,
    /// A replica, which no client of a proxy is.
    Replica,
    /// One that has subscribed to channels, which no client of a proxy can yet.
    PubSub,
}

/// What a client must have to be meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientCondition {
    /// One of these ids.
    Ids(BTreeSet<u64>),
    /// This kind.
    Kind(ClientKind),
    /// This user.
    User(String),
    /// This address, written as in CLIENT LIST.
    Addr(String),
    /// This address of the node, written as in CLIENT LIST.
    Laddr(String),
    /// An address of this host.
    Ip(IpAddr),
    /// This name.
    Name(String),
    /// This age, or a greater one.
    MinAge(Duration),
}

/// Which clients of a node a call means: those for which all conditions hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientFilter {
    /// Only those of this product.
    pub product: Option<ProductId>,
    /// Not this one.
    pub except: Option<u64>,
    /// Each with whether it must not hold.
    conditions: Vec<(bool, ClientCondition)>,
}

/// What a filter has to know of a client.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClientFacts<'a> {
    pub(super) id: u64,
    pub(super) product: ProductId,
    pub(super) addr: SocketAddr,
    pub(super) laddr: SocketAddr,
    pub(super) age: Duration,
    pub(super) user: &'a str,
    pub(super) name: &'a str,
}

impl ClientFilter {
    /// Only those of a product.
    #[must_use]
    pub fn of(product: ProductId) -> Self {
        Self { product: Some(product), ..Self::default() }
    }

    /// Adds a condition, which must hold, or must not (`negated`). Of two of one kind the last counts, as in Redis.
    pub fn require(&mut self, negated: bool, condition: ClientCondition) {
        let kind = std::mem::discriminant(&condition);
        self.conditions.retain(|(not, other)| *not != negated || std::mem::discriminant(other) != kind);
        self.conditions.push((negated, condition));
    }

    /// Whether it has conditions.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.conditions.is_empty()
    }

    pub(super) fn means(&self, client: &ClientFacts<'_>) -> bool {
        self.product.is_none_or(|product| product == client.product)
            && self.except != Some(client.id)
            && self.conditions.iter().all(|(negated, condition)| condition.holds(client) != *negated)
    }
}

impl ClientCondition {
    fn holds(&self, client: &ClientFacts<'_>) -> bool {
        match self {
            Self::Ids(ids) => ids.contains(&client.id),
            Self::Kind(kind) => *kind == ClientKind::Normal,
            Self::User(user) => user == client.user,
            Self::Addr(addr) => is_address(client.addr, addr),
            Self::Laddr(addr) => is_address(client.laddr, addr),
            Self::Ip(ip) => client.addr.ip() == *ip,
            Self::Name(name) => name == client.name,
            Self::MinAge(age) => client.age >= *age,
        }
    }
}

/// Whether an address is written so. An IPv6 host may be without brackets, as Redis writes it.
fn is_address(addr: SocketAddr, text: &str) -> bool {
    text.parse::<SocketAddr>().is_ok_and(|given| given == addr)
        || text.rsplit_once(':').is_some_and(|(host, port)| {
            host.parse::<IpAddr>().is_ok_and(|host| host == addr.ip()) && port.parse() == Ok(addr.port())
        })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn conditions_as_a_table() {
        let facts = ClientFacts {
            id: 7,
            product: ProductId(1),
            addr: "10.0.0.1:5000".parse().unwrap(),
            laddr: "[::1]:6379".parse().unwrap(),
            age: Duration::from_secs(30),
            user: "default",
            name: "job",
        };
        let only = |negated, condition| {
            let mut filter = ClientFilter::of(ProductId(1));
            filter.require(negated, condition);
            filter.means(&facts)
        };
        for (condition, holds) in [
            (ClientCondition::Ids([6, 7].into()), true),
            (ClientCondition::Ids([6].into()), false),
            (ClientCondition::Kind(ClientKind::Normal), true),
            (ClientCondition::Kind(ClientKind::PubSub), false),
            (ClientCondition::User("default".into()), true),
            (ClientCondition::User("joe".into()), false),
            (ClientCondition::Addr("10.0.0.1:5000".into()), true),
            (ClientCondition::Addr("10.0.0.1:5001".into()), false),
            (ClientCondition::Addr("10.0.0.1".into()), false),
            (ClientCondition::Laddr("::1:6379".into()), true),
            (ClientCondition::Laddr("[::1]:6379".into()), true),
            (ClientCondition::Ip("10.0.0.1".parse().unwrap()), true),
            (ClientCondition::Ip("10.0.0.2".parse().unwrap()), false),
            (ClientCondition::Name("job".into()), true),
            (ClientCondition::MinAge(Duration::from_secs(30)), true),
            (ClientCondition::MinAge(Duration::from_secs(31)), false),
        ] {
            assert_eq!(only(false, condition.clone()), holds, "{condition:?}");
            assert_eq!(only(true, condition.clone()), !holds, "not {condition:?}");
        }
        assert!(!ClientFilter::of(ProductId(2)).means(&facts), "another product");
        assert!(!ClientFilter { except: Some(7), ..ClientFilter::default() }.means(&facts));
        let mut last = ClientFilter::default();
        last.require(false, ClientCondition::Ids([1].into()));
        last.require(false, ClientCondition::Ids([7].into()));
        assert!(last.means(&facts), "the last of a kind counts");
    }
}
