//! Lasting channels to other nodes, by address. Knows nothing of what is called over them.
//!
//! Raft, the calls beside Raft and the forwarded calls of operators each have a cache of their own, and so their own
//! connections: a large answer to an operator must not delay a Raft message.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tonic::transport::{Channel, Endpoint};

/// Channels that one cache keeps. A cluster has tens of nodes; addresses that are not in use any more leave channels
/// behind.
const CHANNELS_MAX: usize = 256;

/// How the channels of a cache behave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelSettings {
    /// How long a TCP connect may take.
    pub connect_max: Duration,
    /// HTTP/2 pings find a peer that has vanished: the interval between two, and how long the answer may take.
    pub keep_alive: Duration,
    /// Whether pings are sent while no call is open.
    pub keep_alive_while_idle: bool,
}

/// Channels by address. Cheap to clone; clones share the channels.
#[derive(Clone, Debug)]
pub struct Channels {
    settings: ChannelSettings,
    source: Option<IpAddr>,
    kept: Arc<Mutex<RecentlyUsed<Channel>>>,
}

impl Channels {
    /// No channel is opened before it is used.
    #[must_use]
    pub fn new(settings: ChannelSettings) -> Self {
        Self { settings, source: None, kept: Arc::new(Mutex::new(RecentlyUsed::new(CHANNELS_MAX))) }
    }

    /// Channels opened from now on come from this address of the machine; `None`: the system chooses it.
    #[must_use]
    pub fn calling_from(self, source: Option<IpAddr>) -> Self {
        Self { source, ..self }
    }

    /// The channel to a node. It connects with the first call.
    ///
    /// # Errors
    /// Returns why `admin` is not an address, as text for the operator.
    pub fn to(&self, admin: &str) -> Result<Channel, String> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get_or_make(admin, || {
            let ChannelSettings { connect_max, keep_alive, keep_alive_while_idle } = self.settings;
            let endpoint = Endpoint::from_shared(format!("http://{admin}"))
                .map_err(|error| format!("'{admin}' is not an address: {error}"))?
                .connect_timeout(connect_max)
                .local_address(self.source)
                .tcp_nodelay(true)
                .http2_keep_alive_interval(keep_alive)
                .keep_alive_timeout(keep_alive)
                .keep_alive_while_idle(keep_alive_while_idle);
            Ok(endpoint.connect_lazy())
        })
    }
}

/// Values by key, at most `max`: a new one evicts the one whose last use is the longest ago.
#[derive(Debug)]
struct RecentlyUsed<V> {
    max: usize,
    /// Counts uses, for their order.
    uses: u64,
    values: BTreeMap<String, (u64, V)>,
}

impl<V: Clone> RecentlyUsed<V> {
    fn new(max: usize) -> Self {
        Self { max, uses: 0, values: BTreeMap::new() }
    }

    fn get_or_make<E>(&mut self, key: &str, make: impl FnOnce() -> Result<V, E>) -> Result<V, E> {
        self.uses += 1;
        if let Some((last_use, value)) = self.values.get_mut(key) {
            *last_use = self.uses;
            return Ok(value.clone());
        }
        let made = make()?;
        if self.values.len() >= self.max {
            let oldest = self.values.iter().min_by_key(|(_, (last_use, _))| *last_use).map(|(key, _)| key.clone());
            oldest.map(|key| self.values.remove(&key));
        }
        self.values.insert(key.to_owned(), (self.uses, made.clone()));
        Ok(made)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_value_that_was_not_used_for_the_longest_time_is_evicted() {
        // Keys in the order of their use, and what a cache of three keeps.
        let table = [
            ("a", "a"),
            ("abc", "abc"),
            ("abcd", "bcd"),
            ("abcad", "acd"),
            ("abcabd", "abd"),
            ("abcdef", "def"),
            ("aaaabcd", "bcd"),
            ("abcdabcd", "bcd"),
        ];
        for (uses, kept) in table {
            let mut cache = RecentlyUsed::new(3);
            for key in uses.chars() {
                assert_eq!(cache.get_or_make(&key.to_string(), || Ok::<_, ()>(key)), Ok(key), "{uses}");
            }
            assert_eq!(cache.values.into_keys().collect::<String>(), kept, "{uses}");
        }
    }

    #[test]
    fn a_value_is_made_once_and_a_failure_evicts_nothing() {
        let mut cache = RecentlyUsed::new(1);
        assert_eq!(cache.get_or_make("a", || Ok::<_, ()>(1)), Ok(1));
        assert_eq!(cache.get_or_make("a", || Ok::<_, ()>(2)), Ok(1));
        assert_eq!(cache.get_or_make("b", || Err(())), Err(()));
        assert_eq!(cache.get_or_make("a", || Ok::<_, ()>(3)), Ok(1));
    }

    #[tokio::test]
    async fn clones_share_channels_and_bad_addresses_are_refused() {
        let second = Duration::from_secs(1);
        let settings = ChannelSettings { connect_max: second, keep_alive: second, keep_alive_while_idle: false };
        let channels = Channels::new(settings);
        channels.clone().to("127.0.0.1:24101").unwrap();
        assert_eq!(channels.kept.lock().unwrap().values.len(), 1);
        let why = channels.to("not an address").unwrap_err();
        assert!(why.starts_with("'not an address' is not an address"), "{why}");
    }
}
