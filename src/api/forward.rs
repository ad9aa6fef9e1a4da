//! Calls to the leader: one channel per address, which is kept; with the cluster secret, and marked so that there is one hop only.
//! Knows nothing of what the calls mean.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tonic::{
    Request, Status,
    metadata::MetadataValue,
    service::interceptor::InterceptedService,
    transport::{Channel, Endpoint},
};

use crate::wire::{
    auth::{ClientAuth, ClusterSecret},
    pb::admin::admin_client::AdminClient,
};

/// Metadata of a call that another node has forwarded: it is not forwarded again.
pub const FORWARDED: &str = "x-pontoon-forwarded";
/// A TCP connect on a working network takes milliseconds.
const CONNECT_MAX: Duration = Duration::from_secs(1);
/// While a call is open, a leader that is paused or cut off is noticed within twice this time.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// Channels that are kept. Only voters lead, of which there are at most seven; the rest is for addresses that have changed.
const CHANNELS_MAX: usize = 16;
/// Largest answer that is accepted: 128 products or 16384 slot ranges are below 4 MB.
const ANSWER_MAX: usize = 8 << 20;

/// A client of another node's admin service.
pub type Client = AdminClient<InterceptedService<Channel, ClientAuth>>;

/// Clients of the nodes that lead or have led. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Leaders {
    secret: ClusterSecret,
    source: Option<IpAddr>,
    channels: Arc<Mutex<BTreeMap<String, Channel>>>,
}

impl Leaders {
    /// Opens no connection before the first call.
    #[must_use]
    pub fn new(secret: ClusterSecret) -> Self {
        Self { secret, source: None, channels: Arc::default() }
    }

    /// The IP address of this machine that calls come from; `None`: as the system chooses.
    #[must_use]
    pub fn calling_from(self, source: Option<IpAddr>) -> Self {
        Self { source, ..self }
    }

    /// The client of the node at `admin`.
    ///
    /// # Errors
    /// INTERNAL if `admin` is not an address.
    pub fn client(&self, admin: &str) -> Result<Client, Status> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        let channel = if let Some(channel) = channels.get(admin) {
            channel.clone()
        } else {
            if channels.len() >= CHANNELS_MAX {
                channels.clear();
            }
            let channel = Endpoint::from_shared(format!("http://{admin}"))
                .map_err(|error| Status::internal(format!("{admin} is not an address: {error}")))?
                .connect_timeout(CONNECT_MAX)
                .local_address(self.source)
                .tcp_nodelay(true)
                .http2_keep_alive_interval(KEEP_ALIVE)
                .keep_alive_timeout(KEEP_ALIVE)
                .connect_lazy();
            channels.insert(admin.to_owned(), channel.clone());
            channel
        };
        Ok(AdminClient::with_interceptor(channel, ClientAuth(self.secret.clone()))
            .max_decoding_message_size(ANSWER_MAX))
    }
}

/// A request that says it was forwarded, with its deadline.
pub fn forwarded<T>(message: T, within: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(within);
    request.metadata_mut().insert(FORWARDED, MetadataValue::from_static("1"));
    request
}

/// Whether another node has forwarded this call.
#[must_use]
pub fn was_forwarded<T>(request: &Request<T>) -> bool {
    request.metadata().contains_key(FORWARDED)
}
