//! Who else changes the role of a server: a Redis Sentinel, or another Pontoon cluster. Two managers of one server undo
//! each other's failovers. Knows nothing of groups.

use tokio::time::Instant;

use crate::{
    model::ids::{HostPort, Uuid},
    redis::{Client, ClientListEntry, RedisError, Reply, client::NAME_PREFIX},
};

/// The channel on which Sentinels find each other: each of them subscribes to it at every server that it monitors.
const SENTINEL_CHANNEL: &[u8] = b"__sentinel__:hello";
/// Hex digits of the id of a cluster.
const CLUSTER_LEN: usize = 32;

/// Why a server cannot be added, as text for the operator, if somebody else manages it now. What a server does not let
/// this user see does not count.
///
/// # Errors
/// No usable answers.
pub async fn rival(
    client: &mut Client,
    cluster: Option<Uuid>,
    deadline: Instant,
) -> Result<Option<String>, RedisError> {
    let commands: [&[&[u8]]; 2] =
        [&[b"PUBSUB", b"NUMSUB", SENTINEL_CHANNEL], &[b"CLIENT", b"LIST", b"TYPE", b"normal"]];
    let replies = client.pipeline(&commands, deadline).await?;
    let addr = client.addr();
    if let Some(Reply::Array(items)) = replies.first()
        && items.get(1).and_then(Reply::integer).is_some_and(|subscribers| subscribers > 0)
    {
        return Ok(Some(sentinel(addr)));
    }
    let Some(Reply::Bulk(text)) = replies.get(1) else { return Ok(None) };
    let clients = ClientListEntry::parse(&String::from_utf8_lossy(text));
    let own = cluster.map(|id| id.to_string());
    let other = clients.iter().filter_map(|seen| cluster_of(&seen.name)).find(|id| Some(*id) != own.as_deref());
    Ok(other.map(|id| another_cluster(addr, id)))
}

/// The cluster in the name of a connection of a node.
fn cluster_of(name: &str) -> Option<&str> {
    let (id, _) = name.strip_prefix(NAME_PREFIX)?.split_once(':')?;
    (id.len() == CLUSTER_LEN && id.bytes().all(|b| b.is_ascii_hexdigit())).then_some(id)
}

fn sentinel(addr: &HostPort) -> String {
    format!(
        "{addr} is monitored by a Redis Sentinel, which would change its role behind Pontoon's back; end that first \
         (SENTINEL REMOVE .. on every Sentinel), then try again"
    )
}

fn another_cluster(addr: &HostPort, cluster: &str) -> String {
    format!(
        "{addr} is used by another Pontoon cluster ({cluster}), whose nodes are connected to it; remove it from its group \
         there first (pontoon group remove-server, or group remove), then try again"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_are_known_by_the_names_of_their_connections() {
        let id = "00112233445566778899aabbccddeeff";
        for (name, of) in [
            (format!("pt:{id}:probe:1"), Some(id)),
            (format!("pt:{id}:run:m17.2"), Some(id)),
            ("pt:admission".into(), None),
            (format!("pt:{id}"), None),
            ("pt:short:probe:1".into(), None),
            (format!("app:{id}:x"), None),
            (String::new(), None),
        ] {
            assert_eq!(cluster_of(&name), of, "{name}");
        }
    }
}
