//! Calls to the leader: one channel per address, which is kept; with the cluster secret, and marked so that there is
//! one hop only.
//! Knows nothing of what the calls mean.

use std::{net::IpAddr, sync::Arc, time::Duration};

use tonic::{
    Request, Status,
    metadata::MetadataValue,
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};

use super::error::CallFailure;
use crate::{
    control::handle::Log,
    wire::{
        auth::{ClientAuth, ClusterSecret},
        caller::{Caller, NodeAuth},
        channels::{ChannelSettings, Channels},
        pb::{admin::admin_client::AdminClient, raft::Header},
    },
};

/// Metadata of a call that another node has forwarded: it is not forwarded again.
pub const FORWARDED: &str = "x-pontoon-forwarded";
/// A TCP connect on a working network takes milliseconds. A leader that is paused or cut off is noticed within twice
/// the keep-alive time while a call is open.
const CHANNELS: ChannelSettings = ChannelSettings {
    connect_max: Duration::from_secs(1),
    keep_alive: Duration::from_secs(2),
    keep_alive_while_idle: false,
};
/// Largest answer taken: 128 products or 16384 slot ranges are below 4 MB.
const ANSWER_MAX: usize = 8 << 20;

/// A client of another node's admin service.
pub type Client = AdminClient<InterceptedService<Channel, NodeAuth>>;

/// Clients of the nodes that lead or have led. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Leaders {
    secret: ClusterSecret,
    channels: Channels,
}

impl Leaders {
    /// Opens no connection before the first call.
    #[must_use]
    pub fn new(secret: ClusterSecret) -> Self {
        Self { secret, channels: Channels::new(CHANNELS) }
    }

    /// What callers have proven to be, see [`ClusterSecret::actor`].
    #[must_use]
    pub fn actor(&self) -> &'static str {
        self.secret.actor()
    }

    /// The IP address of this machine that calls come from; `None`: as the system chooses.
    #[must_use]
    pub fn calling_from(self, source: Option<IpAddr>) -> Self {
        Self { channels: self.channels.calling_from(source), ..self }
    }

    /// The client of the node at `admin`, which must be the one that the header names.
    ///
    /// # Errors
    /// INTERNAL if `admin` is not an address.
    pub fn client(&self, admin: &str, header: Header) -> Result<Client, Status> {
        let channel = self.channels.to(admin).map_err(Status::internal)?;
        let auth = NodeAuth { secret: ClientAuth(self.secret.clone()), header: Some(header) };
        Ok(AdminClient::with_interceptor(channel, auth).max_decoding_message_size(ANSWER_MAX))
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

/// Checks calls that say that they were forwarded: only members forward calls. A call of an operator passes.
#[derive(Clone)]
pub struct ForwardedAuth(pub Arc<dyn Log>);

impl Interceptor for ForwardedAuth {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        if was_forwarded(&request)
            && let Err(refused) = self.0.admit_forwarder(Caller::of(request.metadata()))
        {
            return Err(CallFailure::NotLeader(format!("{refused}; not executed")).into());
        }
        Ok(request)
    }
}
