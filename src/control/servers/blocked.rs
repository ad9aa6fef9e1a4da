//! Closes the connections of blocked clients that `plan::blocked` names: found by their name in CLIENT LIST, closed by
//! CLIENT KILL. One task per server. Decides nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};
use tracing::{debug, info};

use crate::{
    control::leadership::context::LeaderContext,
    counters,
    faults::{self, Rule},
    model::{
        ids::{HostPort, NodeId},
        names::blocked_name,
    },
    panics,
    plan::blocked::{BlockedFix, ClosedConnections, decide},
    redis::{Client, ClientListEntry, RedisError, Reply},
};

/// How long the connections of a server may take: thousands are listed and closed in less than a second.
const ACT_MAX: Duration = Duration::from_secs(5);
/// The pause before a server that did not answer is asked again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How many servers are asked at the same time.
const CONCURRENT_MAX: usize = 16;
/// How often connections are listed and closed before this fails: a stopped node opens no new ones.
const LISTINGS_MAX: u32 = 10;

/// The tasks, and what they have done. Belongs to one term; dropping it ends them.
#[derive(Debug, Default)]
pub struct BlockedConnections {
    tasks: JoinSet<(BlockedFix, Result<u64, String>)>,
    busy: BTreeSet<HostPort>,
    closed: ClosedConnections,
    /// When a server that did not answer may be asked again.
    not_before: BTreeMap<HostPort, Instant>,
}

impl BlockedConnections {
    /// Begins to close what is due.
    pub fn step(&mut self, ctx: &LeaderContext) {
        let now = Instant::now();
        while let Some(ended) = self.tasks.try_join_next() {
            let Some((fix, result)) = panics::pass_on(ended) else { continue };
            self.busy.remove(&fix.addr);
            match result {
                Ok(count) => {
                    self.closed.done(&fix);
                    counters::BLOCKED_CONNECTIONS_CLOSED.add(count);
                    if count > 0 {
                        let nodes: Vec<NodeId> = fix.nodes.keys().copied().collect();
                        info!(server = %fix.addr, ?nodes, count, "closed the connections of blocked clients of nodes without a lease");
                    }
                }
                Err(why) => {
                    debug!(server = %fix.addr, why, "connections of blocked clients could not be closed yet");
                    self.not_before.insert(fix.addr, now + AGAIN_AFTER);
                }
            }
        }
        self.not_before.retain(|_, at| *at > now);
        if faults::without(Rule::BlockedConnections) {
            return;
        }
        let state = ctx.consensus.state().borrow().clone();
        for fix in decide(&state, &ctx.leases.ended(ctx.fence.term()), &mut self.closed) {
            let waits = self.busy.contains(&fix.addr) || self.not_before.contains_key(&fix.addr);
            if waits || self.busy.len() >= CONCURRENT_MAX {
                continue;
            }
            self.busy.insert(fix.addr.clone());
            let ctx = ctx.clone();
            self.tasks.spawn(async move {
                let closed = timeout(ACT_MAX, close(&ctx, &fix)).await;
                (fix, closed.unwrap_or_else(|_| Err("it does not answer".into())))
            });
        }
    }
}

/// Closes the connections of a fix until none is left. Returns their number. Stops when a node serves again: its
/// connections are new ones.
///
/// # Errors
/// Returns why they are not known to be closed.
async fn close(ctx: &LeaderContext, fix: &BlockedFix) -> Result<u64, String> {
    let deadline = Instant::now() + ACT_MAX;
    let name = format!("pt:{}:blocked-closer:{}", ctx.cluster, ctx.me);
    let client = Client::connect_to_busy(&fix.addr, fix.credentials.as_ref(), &name, deadline).await;
    let mut client = client.map_err(|error| error.to_string())?;
    let mut closed = 0;
    for _ in 0..LISTINGS_MAX {
        let listed = client.ask(&[b"CLIENT", b"LIST"], deadline).await.map_err(|error| error.to_string())?;
        let Reply::Bulk(text) = listed else { return Err("the answer to CLIENT LIST is not a string".into()) };
        let ended = ctx.leases.ended(ctx.fence.term());
        let still = fix.nodes.iter().filter(|(node, ends_ns)| ended.get(node) == Some(ends_ns));
        let names: BTreeSet<String> = still.map(|(node, _)| blocked_name(ctx.cluster, *node)).collect();
        let listed = ClientListEntry::parse(&String::from_utf8_lossy(&text));
        let ids: Vec<u64> = listed.into_iter().filter(|seen| names.contains(&seen.name)).map(|seen| seen.id).collect();
        if ids.is_empty() {
            return Ok(closed);
        }
        closed += kill(&mut client, &ids, deadline).await.map_err(|error| error.to_string())?;
    }
    Err("it lists connections of blocked clients again and again".into())
}

/// Kills connections in one round trip. Returns how many there were.
async fn kill(client: &mut Client, ids: &[u64], deadline: Instant) -> Result<u64, RedisError> {
    let ids: Vec<String> = ids.iter().map(u64::to_string).collect();
    let kills: Vec<[&[u8]; 4]> = ids.iter().map(|id| [b"CLIENT".as_slice(), b"KILL", b"ID", id.as_bytes()]).collect();
    let commands: Vec<&[&[u8]]> = kills.iter().map(<[&[u8]; 4]>::as_slice).collect();
    let mut killed = 0;
    for reply in client.pipeline(&commands, deadline).await? {
        match reply {
            Reply::Error(text) => return Err(RedisError::of_answer(client.addr(), "CLIENT KILL", &text)),
            reply => killed += u64::from(reply.integer() == Some(1)),
        }
    }
    Ok(killed)
}
