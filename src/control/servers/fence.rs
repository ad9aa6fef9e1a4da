//! The connection fence (serving.md, "Acts on servers"): the leader's own connections to servers, opened by its rules, and
//! the closing of a run's connections, whose answers are the proof that nothing of that run is executed any more.
//! Knows nothing of what runs do, nor of why one is closed.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, timeout_at};
use tracing::{debug, info};

use crate::{
    control::leadership::quorum::QuorumConfirmer,
    model::{
        ids::{HostPort, NodeId, Term, Uuid},
        secret::Credentials,
    },
    redis::{Client, RedisError, Reply},
};

/// Servers whose control connections are kept: a cluster has hundreds of groups at most, and one that is dropped is opened anew.
const CONNECTIONS_MAX: usize = 1024;
/// A run that still shows connections after so many listings does something that is not understood; it is tried again later.
const LISTINGS_MAX: u32 = 10;

/// Where to act, and how to log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlTarget {
    /// The server.
    pub addr: HostPort,
    /// Of its group.
    pub credentials: Option<Credentials>,
}

/// Tells whether this node still leads, by a quorum round that begins after the call. `QuorumConfirmer` is the one that runs.
pub trait ConfirmLeadership: Send + Sync + 'static {
    /// The term in which this node led throughout the round; else why not.
    fn confirm(&self) -> Pin<Box<dyn Future<Output = Result<Term, String>> + Send + '_>>;
}

impl ConfirmLeadership for QuorumConfirmer {
    fn confirm(&self) -> Pin<Box<dyn Future<Output = Result<Term, String>> + Send + '_>> {
        Box::pin(async { Self::confirm(self).await.map_err(|error| error.to_string()) })
    }
}

/// Why an act was not done, or is not known to be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FenceError {
    /// Another node leads, or this one in another term.
    #[error("this node may not act on {addr}: {why}")]
    NotLeader {
        /// Where.
        addr: HostPort,
        /// From the round, or from the server.
        why: String,
    },
    /// The server gave no usable answer.
    #[error(transparent)]
    Server(#[from] RedisError),
    /// It is not what it was chosen for; nothing was done.
    #[error("{addr}: {why}")]
    Refused {
        /// Where.
        addr: HostPort,
        /// What is wrong with it.
        why: String,
    },
    /// The server answers, and what it shows is not what it should be.
    #[error("{addr} {why}")]
    Unexpected {
        /// Where.
        addr: HostPort,
        /// What is odd.
        why: String,
    },
}

/// What closing a run took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunClosed {
    /// Connections that were there and are not any more.
    pub killed: u32,
    /// From the call to the last answer.
    pub took: Duration,
}

/// The leader's control connections in one term, at most one per server. Cheap to clone; the connections end with the last clone.
#[derive(Clone)]
pub struct Fence {
    cluster: Uuid,
    me: NodeId,
    term: Term,
    confirm: Arc<dyn ConfirmLeadership>,
    places: Arc<Mutex<BTreeMap<HostPort, ControlConnection>>>,
}

type ControlConnection = Arc<tokio::sync::Mutex<Option<Client>>>;

impl Fence {
    /// For the leader of `term`; no connection is opened before it is used.
    #[must_use]
    pub fn new(cluster: Uuid, me: NodeId, term: Term, confirm: Arc<dyn ConfirmLeadership>) -> Self {
        Self { cluster, me, term, confirm, places: Arc::default() }
    }

    /// The term it acts in.
    #[must_use]
    pub fn term(&self) -> Term {
        self.term
    }

    /// Makes sure that there is a control connection, and that the server answers on it: for what must not wait for a connect.
    ///
    /// # Errors
    /// See [`FenceError`].
    pub async fn warm(&self, at: &ControlTarget, deadline: Instant) -> Result<Duration, FenceError> {
        let began = Instant::now();
        let ping = async |client: &mut Client| {
            client.ask(&[b"PING"], deadline).await?;
            Ok(())
        };
        self.with(at, deadline, ping).await?;
        Ok(began.elapsed())
    }

    /// Closes all connections whose name starts with `name` (a run's name, or the prefix of all runs of a job). The caller has
    /// marked them closed, so that none is authorized from now on. `known`: their ids as far as they were reported, which are
    /// tried first. When this returns `Ok`, nothing that such a connection sent is executed any more.
    ///
    /// # Errors
    /// See [`FenceError`]; then it is not known which of them are closed.
    pub async fn close(
        &self,
        at: &ControlTarget,
        name: &str,
        known: &[u64],
        deadline: Instant,
    ) -> Result<RunClosed, FenceError> {
        let began = Instant::now();
        let killed = self.with(at, deadline, async |client| kill_named(client, name, known, deadline).await).await?;
        Ok(RunClosed { killed, took: began.elapsed() })
    }

    /// Uses the control connection, opening it if needed. One user at a time; a connection that failed, or whose user went
    /// away in the middle, is not used again.
    pub(in crate::control) async fn with<T>(
        &self,
        at: &ControlTarget,
        deadline: Instant,
        act: impl AsyncFnOnce(&mut Client) -> Result<T, FenceError>,
    ) -> Result<T, FenceError> {
        let place = self.place(&at.addr);
        let late = || RedisError::Timeout { addr: at.addr.clone(), command: "a control connection's turn".into() };
        let mut place = timeout_at(deadline, place.lock()).await.map_err(|_| late())?;
        let mut client = match place.take() {
            Some(client) => client,
            None => self.open(at, deadline).await?,
        };
        let done = act(&mut client).await;
        if !matches!(&done, Err(FenceError::Server(error)) if !matches!(error, RedisError::Refused { .. })) {
            *place = Some(client);
        }
        done
    }

    fn place(&self, addr: &HostPort) -> ControlConnection {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if places.len() >= CONNECTIONS_MAX && !places.contains_key(addr) {
            places.clear();
        }
        places.entry(addr.clone()).or_default().clone()
    }

    /// Rules 1, 2, 3 and 5: named and known to the server, then confirmed by a round, then every other control connection of
    /// this cluster is killed; only then is it used.
    async fn open(&self, at: &ControlTarget, deadline: Instant) -> Result<Client, FenceError> {
        let not_leader = |why: String| FenceError::NotLeader { addr: at.addr.clone(), why };
        let name = format!("{}{}:{}", control_prefix(self.cluster), self.me, self.term);
        let mut client = Client::connect(&at.addr, at.credentials.as_ref(), &name, deadline).await?;
        // `connect` forgives a server that does not take the name; here the name is the point.
        let own = client.ask(&[b"CLIENT", b"ID"], deadline).await?.integer().unwrap_or_default();
        let listed = list(&mut client, deadline).await?;
        if !listed.iter().any(|seen| i64::try_from(seen.id) == Ok(own) && seen.name == name) {
            let why = "does not show our connection under its name in CLIENT LIST; let the user run CLIENT (ACL SETUSER ... +client)";
            return Err(FenceError::Unexpected { addr: at.addr.clone(), why: why.into() });
        }
        let confirmed = timeout_at(deadline, self.confirm.confirm()).await;
        let term = confirmed.map_err(|_| not_leader("no quorum answered in time".into()))?.map_err(not_leader)?;
        if term != self.term {
            return Err(not_leader(format!("it leads in term {term}, and this is an act of term {}", self.term)));
        }
        for _ in 0..LISTINGS_MAX {
            // Listed again: one that was named since is older than our round or not authorized yet; either way it ends here.
            let listed = list(&mut client, deadline).await?;
            let prefix = control_prefix(self.cluster);
            let others: Vec<_> = listed
                .iter()
                .filter(|seen| i64::try_from(seen.id) != Ok(own))
                .filter_map(|seen| Some((seen.id, seen.name.strip_prefix(prefix.as_str())?)))
                .collect();
            if let Some((_, name)) = others.iter().find(|(_, name)| term_of(name).is_some_and(|t| t > self.term)) {
                return Err(not_leader(format!("a later leader is there ({name})")));
            }
            if others.is_empty() {
                debug!(addr = %at.addr, term = %self.term, "a control connection is open");
                return Ok(client);
            }
            let ids: Vec<u64> = others.iter().map(|(id, _)| *id).collect();
            info!(addr = %at.addr, ?ids, "control connections of before are closed");
            kill(&mut client, &ids, deadline).await?;
        }
        Err(FenceError::Unexpected {
            addr: at.addr.clone(),
            why: "shows new control connections of ours again and again".into(),
        })
    }
}

/// Start of the names of all control connections of a cluster.
fn control_prefix(cluster: Uuid) -> String {
    format!("pt:{cluster}:ctl:")
}

/// The term in what follows the prefix: `<node>:<term>`.
fn term_of(rest: &str) -> Option<Term> {
    rest.split_once(':')?.1.parse().ok().map(Term)
}

/// Kills by the ids that are known, then by the list until it shows none. How many were killed.
async fn kill_named(client: &mut Client, name: &str, known: &[u64], deadline: Instant) -> Result<u32, FenceError> {
    let mut ids = known.to_vec();
    let mut killed = 0;
    for _ in 0..LISTINGS_MAX {
        let (gone, listed) = kill_and_list(client, &ids, deadline).await?;
        killed += gone;
        ids = listed.into_iter().filter(|seen| seen.name.starts_with(name)).map(|seen| seen.id).collect();
        if ids.is_empty() {
            return Ok(killed);
        }
    }
    Err(FenceError::Unexpected {
        addr: client.addr().clone(),
        why: format!("goes on showing connections named {name} after they were killed"),
    })
}

async fn kill(client: &mut Client, ids: &[u64], deadline: Instant) -> Result<u32, FenceError> {
    kill_and_list(client, ids, deadline).await.map(|(killed, _)| killed)
}

async fn list(client: &mut Client, deadline: Instant) -> Result<Vec<ClientListEntry>, FenceError> {
    kill_and_list(client, &[], deadline).await.map(|(_, listed)| listed)
}

/// One round trip: the kills, and the list behind them.
async fn kill_and_list(
    client: &mut Client,
    ids: &[u64],
    deadline: Instant,
) -> Result<(u32, Vec<ClientListEntry>), FenceError> {
    let ids: Vec<String> = ids.iter().map(u64::to_string).collect();
    let kills: Vec<[&[u8]; 4]> = ids.iter().map(|id| [b"CLIENT".as_slice(), b"KILL", b"ID", id.as_bytes()]).collect();
    let mut commands: Vec<&[&[u8]]> = kills.iter().map(<[&[u8]; 4]>::as_slice).collect();
    commands.push(&[b"CLIENT", b"LIST"]);
    let mut replies = client.pipeline(&commands, deadline).await?;
    let answered = |text: &str| RedisError::of_answer(client.addr(), "CLIENT", text);
    let listed = match replies.pop() {
        Some(Reply::Bulk(text)) => ClientListEntry::parse(&String::from_utf8_lossy(&text)),
        Some(Reply::Error(text)) => return Err(answered(&text).into()),
        _ => {
            return Err(
                RedisError::Protocol { addr: client.addr().clone(), why: "CLIENT LIST is no text".into() }.into()
            );
        }
    };
    let mut killed = 0;
    for reply in &replies {
        match reply {
            Reply::Error(text) => return Err(answered(text).into()),
            reply => killed += u32::from(reply.integer() == Some(1)),
        }
    }
    Ok((killed, listed))
}

/// A line of CLIENT LIST.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ClientListEntry {
    id: u64,
    name: String,
}

impl ClientListEntry {
    /// Lines without an id are passed over; there are none.
    fn parse(text: &str) -> Vec<Self> {
        text.lines()
            .filter_map(|line| {
                let field = |name: &str| line.split(' ').find_map(|part| part.strip_prefix(name));
                Some(Self { id: field("id=")?.parse().ok()?, name: field("name=").unwrap_or_default().to_owned() })
            })
            .collect()
    }
}
