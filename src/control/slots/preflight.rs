//! The preflight of a hold: pings every possible server, so that no hold is opened only to discover a node that is
//! down.
//! Knows nothing of what the hold is for.

use crate::{
    control::leadership::{
        leases::Leases,
        peers::{PeerAddress, Peers},
    },
    model::{ids::NodeId, route::Isolated},
};

/// The possible servers of a product with this `isolated` that do not answer within the ping timeout.
///
/// # Errors
/// Returns why a ping's task failed, as text for the log; then nothing is known.
pub async fn silent(leases: &Leases, peers: &Peers, isolated: Isolated) -> Result<Vec<NodeId>, String> {
    let max = leases.timing().ping_timeout;
    let pings: Vec<_> = leases
        .possible_servers(isolated)
        .into_iter()
        .map(|member| {
            let peers = peers.clone();
            tokio::spawn(async move { (member.id, peers.ping(&PeerAddress::of(&member), max).await.is_ok()) })
        })
        .collect();
    let mut silent = Vec::new();
    for ping in pings {
        let (node, answered) = ping.await.map_err(|error| error.to_string())?;
        if !answered {
            silent.push(node);
        }
    }
    Ok(silent)
}
