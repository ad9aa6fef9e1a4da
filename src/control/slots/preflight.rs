//! Whether a hold would get through: every possible server answers, or is surely out of lease. No hold is opened to
//! discover a dead node. Knows nothing of what the hold is for.

use crate::{
    control::leadership::{leases::Leases, peers::Peers},
    model::{ids::NodeId, route::Isolated},
};

/// The nodes that may still serve slots of a product with this `isolated` and do not answer within the ping's time.
///
/// # Errors
/// A ping that could not be made at all.
pub async fn silent(leases: &Leases, peers: &Peers, isolated: Isolated) -> Result<Vec<NodeId>, String> {
    let max = leases.timing().ping_timeout;
    let pings: Vec<_> = leases
        .possible_servers(isolated)
        .into_iter()
        .map(|member| {
            let peers = peers.clone();
            tokio::spawn(async move { (member.id, peers.ping(member.admin.as_str(), max).await.is_ok()) })
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
