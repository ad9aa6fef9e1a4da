//! Loads libraries of functions at a primary that lacks them, before a call of a client gets there: after a restart, or in a
//! group that is new. The leader does more, but not as soon. Nothing is replaced or deleted: this node may be behind.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::Instant,
};
use tracing::{info, warn};

use crate::{
    control::servers::libraries::{ACT_MAX, load_missing, open},
    model::{
        ids::{HostPort, NodeId, ProductId},
        state::ClusterState,
    },
    panics,
    proxy::{LibrariesLoaded, LibraryRequest},
    redis::RedisError,
};

/// After a failure, requests for a server are dropped for this time: calls go there without waiting.
const PAUSE: Duration = Duration::from_secs(1);

/// Where libraries are being loaded, with who waits for it.
type Waiting = BTreeMap<HostPort, Vec<oneshot::Sender<LibrariesLoaded>>>;

/// Runs until the proxy has ended.
pub async fn run(
    node: NodeId,
    state: watch::Receiver<Arc<ClusterState>>,
    mut requests: mpsc::Receiver<LibraryRequest>,
) {
    let mut tasks = JoinSet::new();
    let mut waiting = Waiting::new();
    let mut failed: BTreeMap<HostPort, Instant> = BTreeMap::new();
    loop {
        tokio::select! {
            request = requests.recv() => {
                let Some(LibraryRequest { product, server, reply }) = request else { return };
                failed.retain(|_, at| at.elapsed() < PAUSE);
                if failed.contains_key(&server) {
                    continue;
                }
                let (state, name) = (state.borrow().clone(), format!("pontoon:{node}:libraries"));
                waiting.entry(server.clone()).or_insert_with(|| {
                    tasks.spawn(async move {
                        let loaded = load(&state, product, &server, &name).await;
                        (server, loaded)
                    });
                    Vec::new()
                }).push(reply);
            }
            Some(ended) = tasks.join_next() => {
                let Some((server, result)) = panics::pass_on(ended) else { continue };
                let senders = waiting.remove(&server).unwrap_or_default();
                match result {
                    // An error: the client is gone.
                    Ok(loaded) => senders.into_iter().for_each(|sender| drop(sender.send(loaded.clone()))),
                    Err(why) => {
                        warn!(%server, why, "libraries of functions could not be loaded before a call");
                        failed.insert(server, Instant::now());
                    }
                }
            }
        }
    }
}

/// Loads what is missing.
///
/// # Errors
/// Returns why not, as text for the operator.
async fn load(
    state: &ClusterState,
    product: ProductId,
    server: &HostPort,
    name: &str,
) -> Result<LibrariesLoaded, String> {
    let product = state.products.get(&product).ok_or("the product was removed")?;
    let is_primary = |group: &&crate::model::state::Group| group.servers.first().is_some_and(|s| s.addr == *server);
    let group = product.groups.values().find(is_primary).ok_or("it is not a primary any more")?;
    let deadline = Instant::now() + ACT_MAX;
    let done = async {
        let mut client = open(server, group.credentials.as_ref(), name, deadline).await?;
        let run_id = client.info("server", deadline).await?.get("run_id").unwrap_or_default().to_owned();
        let loaded = load_missing(&mut client, &product.scripts, deadline).await?;
        Ok::<_, RedisError>((run_id, loaded))
    };
    let (run_id, loaded) = done.await.map_err(|error| error.to_string())?;
    if loaded > 0 {
        info!(%server, loaded, "libraries of functions that a primary lacked were loaded");
    }
    Ok(LibrariesLoaded { run_id, at: product.scripts.libraries_at })
}
