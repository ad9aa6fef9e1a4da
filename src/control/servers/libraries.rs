//! Brings the libraries of functions at primaries to what their product's catalogue says: after a change, when a primary is
//! new or has another process, and again and again, since a change may have failed at some. One task per server.
//! Decides nothing; `plan::libraries` does.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, LazyLock, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::{Mutex, OwnedMutexGuard},
    task::JoinSet,
    time::{Instant, timeout},
};
use tracing::{info, warn};

use crate::{
    control::leadership::context::LeaderContext,
    model::{
        ids::{Epoch, HostPort},
        script::ScriptCatalogue,
        secret::Credentials,
        state::ClusterState,
    },
    panics,
    plan::libraries::{Libraries, LibraryFix, LibraryTarget, fixes, missing},
    redis::{Client, RedisError, Reply},
};

/// How long one server may take for all its answers: a library is compiled when it is loaded.
pub const ACT_MAX: Duration = Duration::from_secs(3);
/// The pause after a server could not be brought to the catalogue.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// How often a server is asked without a reason: somebody may have changed it, or a node that was behind.
const ASK_INTERVAL: Duration = Duration::from_secs(30);
/// How many servers are asked at the same time.
const CONCURRENT_MAX: usize = 16;

/// Those whose turn it is to change the libraries of a server, by server.
static TURNS: LazyLock<std::sync::Mutex<BTreeMap<HostPort, Arc<Mutex<()>>>>> = LazyLock::new(Default::default);

/// The right to change the libraries of one server. Two that compare a server with the catalogue at the same time, one of them
/// with an older version, would undo what the other has done, or fail because it is done.
#[derive(Debug)]
pub struct Turn {
    _guard: OwnedMutexGuard<()>,
}

impl Turn {
    /// Waits until no other task changes the libraries of this server. A turn lasts at most twice [`ACT_MAX`].
    pub async fn at(addr: &HostPort) -> Self {
        let of_server = {
            let mut turns = TURNS.lock().unwrap_or_else(PoisonError::into_inner);
            // Nobody waits for the others.
            turns.retain(|other, turn| other == addr || Arc::strong_count(turn) > 1);
            turns.entry(addr.clone()).or_default().clone()
        };
        Self { _guard: of_server.lock_owned().await }
    }
}

/// Connects to a server as the control user. `name`: of the connection.
///
/// # Errors
/// As [`Client::connect`].
pub async fn open(
    addr: &HostPort,
    credentials: Option<&Credentials>,
    name: &str,
    deadline: Instant,
) -> Result<Client, RedisError> {
    Client::connect(addr, credentials, name, deadline).await
}

/// The libraries of a server. One that has no functions (Redis 6) has none.
///
/// # Errors
/// As [`Client::ask`].
pub async fn list(client: &mut Client, deadline: Instant) -> Result<Libraries, RedisError> {
    let reply = match client.ask(&[b"FUNCTION", b"LIST", b"WITHCODE"], deadline).await {
        Err(RedisError::Refused { text, .. }) if text.contains("unknown command") => return Ok(Libraries::new()),
        other => other?,
    };
    let malformed =
        || RedisError::Protocol { addr: client.addr().clone(), why: "FUNCTION LIST has an unknown form".to_owned() };
    let one = |item: &Reply| Some((field(item, "library_name")?.text()?.to_owned(), code(item)?));
    reply.items().ok_or_else(malformed)?.iter().map(|item| one(item).ok_or_else(malformed)).collect()
}

fn code(item: &Reply) -> Option<Bytes> {
    match field(item, "library_code")? {
        Reply::Bulk(code) => Some(code.clone()),
        _ => None,
    }
}

/// A field of a map in RESP2.
fn field<'a>(map: &'a Reply, name: &str) -> Option<&'a Reply> {
    map.items()?.chunks_exact(2).find(|pair| pair[0].text() == Some(name)).map(|pair| &pair[1])
}

/// Makes the libraries of a server those of the catalogue. Returns what it had, and how many things had to be done.
///
/// # Errors
/// As [`Client::ask`]; the first error, after everything was tried.
pub async fn make_equal(
    client: &mut Client,
    catalogue: &ScriptCatalogue,
    deadline: Instant,
) -> Result<(Libraries, usize), RedisError> {
    let present = list(client, deadline).await?;
    let todo = fixes(catalogue, &present);
    let mut failed = None;
    for fix in &todo {
        let done = match fix {
            LibraryFix::Delete(name) => client.ask(&[b"FUNCTION", b"DELETE", name.as_bytes()], deadline).await,
            LibraryFix::Load(code) => client.ask(&[b"FUNCTION", b"LOAD", b"REPLACE", code], deadline).await,
        };
        match done {
            Err(error) if !error.answered() => return Err(error),
            Err(error) => failed = failed.or(Some(error)),
            Ok(_) => {}
        }
    }
    failed.map_or(Ok((present, todo.len())), Err)
}

/// Loads the libraries of the catalogue that a server lacks, and changes no others. Returns their number.
///
/// # Errors
/// As [`make_equal`].
pub async fn load_missing(
    client: &mut Client,
    catalogue: &ScriptCatalogue,
    deadline: Instant,
) -> Result<usize, RedisError> {
    let present = list(client, deadline).await?;
    let mut loaded = 0;
    for code in missing(catalogue, &present) {
        match client.ask(&[b"FUNCTION", b"LOAD", &code], deadline).await {
            Ok(_) => loaded += 1,
            // Another node was faster.
            Err(RedisError::Refused { text, .. }) if text.contains("already exists") => {}
            Err(error) => return Err(error),
        }
    }
    Ok(loaded)
}

/// What was last done at a server: for which version of the catalogue and which process, when, and whether it worked.
#[derive(Debug)]
struct LastTime {
    version: (Epoch, String),
    at: Instant,
    failed: bool,
}

/// What a task has done: the primary, the version and process that it was for, and how many libraries it loaded.
type Done = (HostPort, (Epoch, String), Result<usize, String>);

/// The work at the primaries in one term. Dropping it ends the work.
#[derive(Debug, Default)]
pub struct LibraryController {
    tasks: JoinSet<Done>,
    busy: BTreeSet<HostPort>,
    last: BTreeMap<HostPort, LastTime>,
}

impl LibraryController {
    /// Begins what is due.
    pub fn step(&mut self, ctx: &LeaderContext, targets: Vec<LibraryTarget>) {
        let now = Instant::now();
        while let Some(ended) = self.tasks.try_join_next() {
            let Some((addr, version, result)) = panics::pass_on(ended) else { continue };
            self.busy.remove(&addr);
            match &result {
                Ok(0) => {}
                Ok(done) => info!(%addr, done, "libraries of functions were made those of the catalogue"),
                Err(why) => warn!(%addr, %why, "libraries of functions differ from the catalogue; it is tried again"),
            }
            self.last.insert(addr, LastTime { version, at: now, failed: result.is_err() });
        }
        let wanted: BTreeSet<&HostPort> = targets.iter().map(|target| &target.addr).collect();
        self.last.retain(|addr, _| wanted.contains(addr));
        let due = |target: &LibraryTarget| match self.last.get(&target.addr) {
            None => true,
            Some(last) if last.failed => now >= last.at + RETRY_PAUSE,
            Some(last) => last.version != version(target) || now >= last.at + ASK_INTERVAL,
        };
        let due: Vec<_> = targets.iter().filter(|t| due(t) && !self.busy.contains(&t.addr)).cloned().collect();
        for target in due.into_iter().take(CONCURRENT_MAX.saturating_sub(self.busy.len())) {
            self.busy.insert(target.addr.clone());
            let (name, state) = (connection_name(ctx), ctx.consensus.state());
            self.tasks.spawn(async move {
                let _turn = Turn::at(&target.addr).await;
                // The catalogue may have changed while others had their turn.
                let newest = newest(&state.borrow(), &target);
                let Some(target) = newest else {
                    return (target.addr.clone(), version(&target), Err("it is not a primary any more".into()));
                };
                let done = timeout(ACT_MAX, act(&target, &name)).await;
                let done = done.unwrap_or_else(|_| Err("it does not answer".into()));
                (target.addr.clone(), version(&target), done)
            });
        }
    }
}

fn connection_name(ctx: &LeaderContext) -> String {
    format!("pt:{}:libraries:{}", ctx.cluster, ctx.me)
}

/// The target with the catalogue as it is now. `None`: the server is no primary of its group any more.
fn newest(state: &ClusterState, target: &LibraryTarget) -> Option<LibraryTarget> {
    let product = state.products.values().find(|product| {
        let primary = product.groups.get(&target.group).and_then(|group| group.servers.first());
        primary.is_some_and(|primary| primary.addr == target.addr)
    })?;
    Some(LibraryTarget { catalogue: product.scripts.clone(), ..target.clone() })
}

fn version(target: &LibraryTarget) -> (Epoch, String) {
    (target.catalogue.libraries_at, target.run_id.clone())
}

/// Returns how much had to be done.
///
/// # Errors
/// Returns why it failed, as text for the operator.
async fn act(target: &LibraryTarget, name: &str) -> Result<usize, String> {
    let deadline = Instant::now() + ACT_MAX;
    let mut client =
        open(&target.addr, target.credentials.as_ref(), name, deadline).await.map_err(|e| e.to_string())?;
    let done = make_equal(&mut client, &target.catalogue, deadline).await;
    done.map(|(_, done)| done).map_err(|error| error.to_string())
}
