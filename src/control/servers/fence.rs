//! The connection fence (docs/design/serving.md): the leader's control connections to servers, opened by its rules, and
//! the closing of a run's connections. The server's answers prove that it executes nothing more of that run.
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
    redis::{Client, ClientListEntry, RedisError, Reply},
};

/// How many control connections are kept: a cluster has hundreds of groups at most, and a dropped connection is opened
/// again.
const CONNECTIONS_MAX: usize = 1024;
/// How often connections are listed and killed before this fails: a run that still has some then opens new ones faster
/// than they can be killed. The caller tries again later.
const LISTINGS_MAX: u32 = 10;

/// A server, and how to log in there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlTarget {
    /// The server.
    pub addr: HostPort,
    /// The credentials of its group.
    pub credentials: Option<Credentials>,
}

/// Quorum confirmation that begins after the call. `QuorumConfirmer` implements it; tests have others.
pub trait ConfirmLeadership: Send + Sync + 'static {
    /// The term in which this node led throughout the confirmation; `Err`: why it is not confirmed, for people.
    fn confirm(&self) -> Pin<Box<dyn Future<Output = Result<Term, String>> + Send + '_>>;
}

impl ConfirmLeadership for QuorumConfirmer {
    fn confirm(&self) -> Pin<Box<dyn Future<Output = Result<Term, String>> + Send + '_>> {
        Box::pin(async { Self::confirm(self).await.map_err(|error| error.to_string()) })
    }
}

/// Why something was not done at a server, or is not known to be done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FenceError {
    /// Another node leads, or this one in another term.
    #[error("this node may not act on {addr}: {why}")]
    NotLeader {
        /// The server.
        addr: HostPort,
        /// What the quorum confirmation or the server answered.
        why: String,
    },
    /// The server gave no usable answer.
    #[error(transparent)]
    Server(#[from] RedisError),
    /// The server does not meet the conditions; nothing was done.
    #[error("{addr}: {why}")]
    Refused {
        /// The server.
        addr: HostPort,
        /// The condition that it does not meet.
        why: String,
    },
    /// The server is not in the state that it should be in after a command.
    #[error("{addr} {why}")]
    Unexpected {
        /// The server.
        addr: HostPort,
        /// What is unexpected, as a predicate without its subject, the server.
        why: String,
    },
}

/// The result of closing a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunClosed {
    /// How many connections were killed.
    pub killed: u32,
    /// The time from the call to the last answer.
    pub took: Duration,
}

/// The leader's control connections in one term, at most one per server. Cheap to clone; the connections end with the
/// last clone.
#[derive(Clone)]
pub struct Fence {
    cluster: Uuid,
    me: NodeId,
    term: Term,
    confirm: Arc<dyn ConfirmLeadership>,
    connections: Arc<Mutex<BTreeMap<HostPort, ControlConnection>>>,
}

type ControlConnection = Arc<tokio::sync::Mutex<Option<Client>>>;

impl Fence {
    /// The fence of the leader of `term`. It opens no connection before it is used.
    #[must_use]
    pub fn new(cluster: Uuid, me: NodeId, term: Term, confirm: Arc<dyn ConfirmLeadership>) -> Self {
        Self { cluster, me, term, confirm, connections: Arc::default() }
    }

    /// The term to which it belongs.
    #[must_use]
    pub fn term(&self) -> Term {
        self.term
    }

    /// Opens the control connection if there is none, and sends PING over it, so that a later command need not wait for
    /// a connect. Returns how long this took.
    ///
    /// # Errors
    /// See [`FenceError`].
    pub async fn ping(&self, at: &ControlTarget, deadline: Instant) -> Result<Duration, FenceError> {
        let began = Instant::now();
        let ping = async |client: &mut Client| {
            match client.ask(&[b"PING"], deadline).await {
                // A primary that cannot write to its disk refuses PING, too, and executes all other commands here.
                Err(RedisError::Refused { text, .. }) if text.starts_with("MISCONF") => Ok(()),
                answer => answer.map(|_| ()).map_err(FenceError::from),
            }
        };
        self.with(at, deadline, ping).await?;
        Ok(began.elapsed())
    }

    /// Closes all connections whose name starts with `name` (a run's name, or the prefix of all runs of a job). The
    /// caller has marked them closed before, so that no new one is authorized. `known`: the ids that were reported for
    /// them, which are killed first. After `Ok` the server executes nothing more that such a connection has sent.
    ///
    /// # Errors
    /// See [`FenceError`]; then it is not known which connections are closed.
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

    /// Uses the control connection, and opens it if there is none. One caller at a time uses it; a connection that
    /// failed, or whose caller was cancelled, is not used again.
    pub(in crate::control) async fn with<T>(
        &self,
        at: &ControlTarget,
        deadline: Instant,
        act: impl AsyncFnOnce(&mut Client) -> Result<T, FenceError>,
    ) -> Result<T, FenceError> {
        let connection = self.connection(&at.addr);
        let late = || RedisError::Timeout { addr: at.addr.clone(), command: "a free control connection".into() };
        let mut connection = timeout_at(deadline, connection.lock()).await.map_err(|_| late())?;
        let mut client = match connection.take() {
            Some(client) => client,
            None => self.open(at, deadline).await?,
        };
        let done = act(&mut client).await;
        if !matches!(&done, Err(FenceError::Server(error)) if !matches!(error, RedisError::Refused { .. })) {
            *connection = Some(client);
        }
        done
    }

    fn connection(&self, addr: &HostPort) -> ControlConnection {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        if connections.len() >= CONNECTIONS_MAX && !connections.contains_key(addr) {
            connections.clear();
        }
        connections.entry(addr.clone()).or_default().clone()
    }

    /// Opens a control connection: it is named, and listed by the server under that name; then a quorum confirms that
    /// this node leads; then every other control connection of this cluster is killed. Only then it is used.
    async fn open(&self, at: &ControlTarget, deadline: Instant) -> Result<Client, FenceError> {
        let not_leader = |why: String| FenceError::NotLeader { addr: at.addr.clone(), why };
        let name = format!("{}{}:{}", control_prefix(self.cluster), self.me, self.term);
        let mut client = Client::connect(&at.addr, at.credentials.as_ref(), &name, deadline).await?;
        // `connect` succeeds also when the server rejects the name; here the name is required.
        let own = client.ask(&[b"CLIENT", b"ID"], deadline).await?.integer().unwrap_or_default();
        let listed = list(&mut client, deadline).await?;
        if !listed.iter().any(|seen| i64::try_from(seen.id) == Ok(own) && seen.name == name) {
            let why = "does not list Pontoon's connection under its name in CLIENT LIST; allow the user CLIENT \
                       (ACL SETUSER ... +client, then ACL SAVE or CONFIG REWRITE)";
            return Err(FenceError::Unexpected { addr: at.addr.clone(), why: why.into() });
        }
        let confirmed = timeout_at(deadline, self.confirm.confirm()).await;
        let term = confirmed.map_err(|_| not_leader("no quorum answered in time".into()))?.map_err(not_leader)?;
        if term != self.term {
            return Err(not_leader(format!("it leads in term {term}, and this action began in term {}", self.term)));
        }
        for _ in 0..LISTINGS_MAX {
            // Listed again: a connection that was named in the meantime is either older than the confirmation or has
            // not been confirmed yet. It is killed in both cases.
            let listed = list(&mut client, deadline).await?;
            let prefix = control_prefix(self.cluster);
            let others: Vec<_> = listed
                .iter()
                .filter(|seen| i64::try_from(seen.id) != Ok(own))
                .filter_map(|seen| Some((seen.id, seen.name.strip_prefix(prefix.as_str())?)))
                .collect();
            if let Some((_, name)) = others.iter().find(|(_, name)| term_of(name).is_some_and(|t| t > self.term)) {
                return Err(not_leader(format!("a later leader has a control connection there ({name})")));
            }
            if others.is_empty() {
                debug!(addr = %at.addr, term = %self.term, "a control connection is open");
                return Ok(client);
            }
            let ids: Vec<u64> = others.iter().map(|(id, _)| *id).collect();
            info!(addr = %at.addr, ?ids, "earlier control connections are closed");
            kill(&mut client, &ids, deadline).await?;
        }
        Err(FenceError::Unexpected {
            addr: at.addr.clone(),
            why: "lists new control connections of this cluster again and again".into(),
        })
    }
}

/// The prefix of the names of all control connections of a cluster.
fn control_prefix(cluster: Uuid) -> String {
    format!("pt:{cluster}:ctl:")
}

/// The term in the rest of a name after the prefix: `<node>:<term>`.
fn term_of(rest: &str) -> Option<Term> {
    rest.split_once(':')?.1.parse().ok().map(Term)
}

/// Kills connections by the ids that are known, then by the list until it has none. Returns how many were killed.
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
        why: format!("still lists connections named {name} after they were killed"),
    })
}

async fn kill(client: &mut Client, ids: &[u64], deadline: Instant) -> Result<u32, FenceError> {
    kill_and_list(client, ids, deadline).await.map(|(killed, _)| killed)
}

async fn list(client: &mut Client, deadline: Instant) -> Result<Vec<ClientListEntry>, FenceError> {
    kill_and_list(client, &[], deadline).await.map(|(_, listed)| listed)
}

/// Kills connections and lists the rest, in one round trip.
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
            return Err(RedisError::Protocol {
                addr: client.addr().clone(),
                why: "the answer to CLIENT LIST is not a string".into(),
            }
            .into());
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
