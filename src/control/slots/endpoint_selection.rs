//! Endpoint selection: probes the servers of a migration's groups before an attempt, checks that the primaries are
//! primaries, and chooses the server that the copy reads from. Only reads; knows nothing of what is copied.

use tokio::{task::JoinSet, time::Instant};

use crate::{
    model::{
        ids::{HostPort, MigrationId},
        secret::Credentials,
        state::{ClusterState, Group},
    },
    plan::job::SelectedEndpoints,
    redis::{Client, Info, RedisError, Role},
};

/// The name of the connections, for people who list a server's clients.
const NAME: &str = "pt:select_endpoints";
/// How many bytes a replica may lag to be chosen: with more it must catch up first; a healthy one lags a few KB.
const LAG_MAX: i64 = 64 << 20;

/// Probes the servers of both groups, and chooses which of them the copy uses.
///
/// # Errors
/// Which primary cannot be used, and why, as text for the operator.
pub async fn select_endpoints(
    state: &ClusterState,
    id: MigrationId,
    deadline: Instant,
) -> Result<SelectedEndpoints, String> {
    let open = state.migrations.get(&id).ok_or("the migration is over")?;
    let product = state.products.get(&open.product).ok_or("the product is gone")?;
    let group = |id| product.groups.get(&id).ok_or_else(|| format!("group {id} is gone"));
    let (from, to) = (group(open.from)?, group(open.to)?);
    let (source, target) = tokio::join!(primary(from, deadline), primary(to, deadline));
    let ((source, seen), (target, _)) = (source?, target?);
    let feed = replica(from, &seen, deadline).await.unwrap_or(source);
    Ok(SelectedEndpoints { feed, target, group_epochs: [(from.id, from.epoch), (to.id, to.epoch)].into() })
}

/// A server's role and replication id.
struct ReplicationInfo {
    role: Role,
    replid: String,
}

async fn ask(
    addr: &HostPort,
    credentials: Option<&Credentials>,
    deadline: Instant,
) -> Result<ReplicationInfo, RedisError> {
    let mut client = Client::connect(addr, credentials, NAME, deadline).await?;
    let role = client.role(deadline).await?;
    let info: Info = client.info("replication", deadline).await?;
    Ok(ReplicationInfo { role, replid: info.get("master_replid").unwrap_or_default().to_owned() })
}

/// The primary of a group and its status.
///
/// # Errors
/// That it does not answer or is not a primary, as text for the operator.
async fn primary(group: &Group, deadline: Instant) -> Result<(HostPort, ReplicationInfo), String> {
    let addr = group.servers.first().map(|s| s.addr.clone()).ok_or_else(|| format!("group {} is empty", group.id))?;
    let seen = ask(&addr, group.credentials.as_ref(), deadline).await.map_err(|error| error.to_string())?;
    match &seen.role {
        Role::Primary { .. } => Ok((addr, seen)),
        Role::Replica { host, port, .. } => Err(format!(
            "{addr}, primary of group {}, is a replica of {host}:{port}, and nothing can be copied to or from a \
             replica there",
            group.id
        )),
        Role::Sentinel => Err(format!("{addr} is a Sentinel and has no data")),
    }
}

/// Of the replicas that are in sync with the primary, the one with the highest offset: reading from it costs the
/// primary nothing.
async fn replica(group: &Group, primary: &ReplicationInfo, deadline: Instant) -> Option<HostPort> {
    let Role::Primary { offset: newest, .. } = primary.role else { return None };
    let mut asked = JoinSet::new();
    for server in group.servers.iter().skip(1) {
        let (addr, credentials) = (server.addr.clone(), group.credentials.clone());
        asked.spawn(async move {
            let seen = ask(&addr, credentials.as_ref(), deadline).await;
            (addr, seen)
        });
    }
    let mut best: Option<(i64, HostPort)> = None;
    while let Some(answer) = asked.join_next().await {
        let Ok((addr, Ok(seen))) = answer else { continue };
        let Role::Replica { link, offset, .. } = seen.role else { continue };
        let usable = link == "connected" && seen.replid == primary.replid && newest.saturating_sub(offset) <= LAG_MAX;
        if usable && best.as_ref().is_none_or(|(highest, _)| offset > *highest) {
            best = Some((offset, addr));
        }
    }
    best.map(|(_, addr)| addr)
}
