//! The scripts that other nodes have seen in an EVAL: finds the body of one that a client of this node calls by its
//! digest, and has them forgotten with a SCRIPT FLUSH. Knows nothing of what servers have.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tracing::info;

use crate::{
    control::leadership::peers::{PeerAddress, Peers},
    model::{
        ids::{NodeId, ProductId},
        script::ScriptDigest,
        state::ClusterState,
    },
    panics,
    proxy::BodyRequest,
};

/// How long other nodes may take: clients wait for them.
const ANSWER_MAX: Duration = Duration::from_millis(250);

/// Requests that are carried out at the same time.
const CONCURRENT_MAX: usize = 64;

/// Runs until the proxy has ended.
pub async fn run(
    me: NodeId,
    state: watch::Receiver<Arc<ClusterState>>,
    peers: Peers,
    mut requests: mpsc::Receiver<BodyRequest>,
) {
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            request = requests.recv(), if tasks.len() < CONCURRENT_MAX => {
                let Some(request) = request else { return };
                let others = others(&state.borrow(), me);
                tasks.spawn(carry_out(peers.clone(), others, request));
            }
            Some(ended) = tasks.join_next() => panics::pass_on(ended).unwrap_or_default(),
        }
    }
}

fn others(state: &ClusterState, me: NodeId) -> Vec<PeerAddress> {
    state.members.values().filter(|member| member.id != me).map(PeerAddress::of).collect()
}

async fn carry_out(peers: Peers, others: Vec<PeerAddress>, request: BodyRequest) {
    // An error of a reply: the worker has ended.
    match request {
        BodyRequest::Find { product, digest, reply } => {
            let _ = reply.send(find(&peers, others, (product, digest)).await);
        }
        BodyRequest::Forget { product, reply } => {
            // Twice: a node that was told first may have asked one that was told last.
            for _ in 0..2 {
                forget(&peers, &others, product).await;
            }
            let _ = reply.send(());
        }
    }
}

/// Tells all at the same time.
async fn forget(peers: &Peers, others: &[PeerAddress], product: ProductId) {
    let mut told = JoinSet::new();
    for node in others {
        let (peers, node) = (peers.clone(), node.clone());
        told.spawn(async move { peers.forget_scripts(&node, product, ANSWER_MAX).await });
    }
    while let Some(ended) = told.join_next().await {
        if let Some(Err(status)) = panics::pass_on(ended) {
            info!(%product, error = status.message(), "a node may not have forgotten scripts");
        }
    }
}

/// Asks all at the same time. The first that knows it is enough.
async fn find(peers: &Peers, others: Vec<PeerAddress>, script: (ProductId, ScriptDigest)) -> Option<Bytes> {
    let mut asked = JoinSet::new();
    for node in others {
        let peers = peers.clone();
        asked.spawn(async move { peers.find_script(&node, script, ANSWER_MAX).await });
    }
    while let Some(answered) = asked.join_next().await {
        // A node that does not answer, or is of an earlier version, knows nothing.
        let body = panics::pass_on(answered).and_then(Result::ok).flatten();
        // What a node sends is executed: it must be what was asked for.
        if let Some(body) = body.filter(|body| ScriptDigest::of(body) == script.1) {
            return Some(body);
        }
    }
    None
}
