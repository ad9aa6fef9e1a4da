//! What the admin port knows of the connection that a call came over. Each call carries it as an extension.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tonic::Request;

/// The connection of a call.
#[derive(Clone, Debug, Default)]
pub struct ConnectionInfo {
    /// Marks its accepted calls.
    pub mark: CallMark,
    /// Where it comes from; `None`: it ended before that could be asked.
    pub peer: Option<SocketAddr>,
}

/// IP address and port that a call comes from; empty: not known. An IPv4 address is one, also on an IPv6 listener.
#[must_use]
pub fn peer_address<T>(request: &Request<T>) -> String {
    let peer = request.extensions().get::<ConnectionInfo>().and_then(|connection| connection.peer);
    peer.map_or_else(String::new, |peer| SocketAddr::new(peer.ip().to_canonical(), peer.port()).to_string())
}

/// The mark of one connection: which of its port's accepted calls was its last one. Clones are the same mark.
#[derive(Clone, Debug, Default)]
pub struct CallMark {
    /// Accepted calls of the port.
    calls: Arc<AtomicU64>,
    /// The number of the last one on this connection; 0: there was none.
    last: Arc<AtomicU64>,
}

impl CallMark {
    /// The mark of another connection of the same port.
    #[must_use]
    pub fn of_another_connection(&self) -> Self {
        Self { calls: self.calls.clone(), last: Arc::default() }
    }

    /// The number of the last accepted call on the connection; `None`: there was none.
    #[must_use]
    pub fn last_call(&self) -> Option<u64> {
        Some(self.last.load(Ordering::Relaxed)).filter(|number| *number > 0)
    }

    /// A call on the connection was accepted.
    pub fn accepted(&self) {
        self.last.store(self.calls.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_address_of_a_call_is_that_of_its_connection() {
        let from = |peer: Option<&str>| {
            let mut request = Request::new(());
            let peer = peer.map(|text| text.parse().unwrap());
            request.extensions_mut().insert(ConnectionInfo { peer, ..ConnectionInfo::default() });
            peer_address(&request)
        };
        assert_eq!(from(Some("10.0.0.7:4711")), "10.0.0.7:4711");
        assert_eq!(from(Some("[::ffff:10.0.0.7]:4711")), "10.0.0.7:4711");
        assert_eq!(from(Some("[2001:db8::7]:4711")), "[2001:db8::7]:4711");
        assert_eq!(from(None), "");
        assert_eq!(peer_address(&Request::new(())), "");
    }
}
