//! The handle on the replicated log: open, propose, confirm, stop. Its other methods are in `membership.rs` and
//! `transfer.rs`.
//! Knows nothing of what a change means, nor of sled.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use openraft::{
    SnapshotPolicy,
    error::{CheckIsLeaderError, ClientWriteError, Fatal, InitializeError, RaftError},
};
use tokio::{
    sync::{Mutex, watch},
    time::{Instant, timeout, timeout_at},
};

use super::{
    Applied, ConsensusConfig, Leadership, OpenError, ProposeError,
    callers::Callers,
    checks::TERM_MAX,
    compaction,
    disk::{Disk, ENTRY_MAX},
    incoming::IncomingSnapshot,
    log_store::{LogStore, blocking},
    membership,
    network::{Network, PeerIdentity},
    service::RaftService,
    state_machine::StateMachine,
    types::{Proposal, Raft, RaftNode},
    watcher,
};
use crate::{
    clock,
    model::{
        author::Author,
        change::{Change, NewMember},
        ids::{HostPort, NodeId, Term, Uuid},
        state::{ClusterState, Entry},
    },
    wire::{
        entry,
        hash::change_hash,
        pb::raft::{Header, raft_server::RaftServer},
    },
};

/// How long a piece of a snapshot (512 KB) may take until it is accepted.
const PIECE_DEADLINE: Duration = Duration::from_secs(5);
/// Bytes of a piece of a snapshot; the receiver accepts twice as many.
const PIECE: u64 = 512 << 10;
/// How much of the log is kept. Tests keep less.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RetainedState {
    /// A snapshot is made after this number of entries: replaying them takes well below a second.
    pub snapshot_every: u64,
    /// Entries kept below a snapshot, so that a follower that was away for a moment needs no snapshot.
    pub entries: u64,
    /// Bytes of appended entries after which a snapshot is made and nothing is kept below it: scripts may have half a
    /// megabyte each.
    pub bytes: u64,
}

impl Default for RetainedState {
    fn default() -> Self {
        Self { snapshot_every: 5000, entries: 1000, bytes: 64 << 20 }
    }
}

/// This node's part of the Raft group. Cheap to clone; all methods can be called from any task.
#[derive(Clone)]
pub struct Consensus {
    pub(super) inner: Arc<ConsensusInner>,
}

pub(super) struct ConsensusInner {
    pub(super) raft: Raft,
    disk: Arc<Disk>,
    pub(super) me: Arc<PeerIdentity>,
    pub(super) network: Network,
    pub(super) election_max: Duration,
    state: watch::Receiver<Arc<ClusterState>>,
    leadership: watch::Receiver<Leadership>,
    stopped: watch::Receiver<Option<String>>,
    /// Set permanently when this node stops: nothing is proposed or confirmed here afterwards.
    pub(super) stopping: AtomicBool,
    /// Set while the leadership is transferred: nothing is proposed or confirmed here meanwhile.
    pub(super) transferring: AtomicBool,
    callers: Callers,
    turn: Arc<Mutex<()>>,
    incoming: Arc<Mutex<IncomingSnapshot>>,
}

impl std::fmt::Debug for Consensus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Consensus").field("me", &self.inner.me).finish_non_exhaustive()
    }
}

impl Consensus {
    /// Opens or creates the store and starts Raft. Entries that were known to be committed are applied when this
    /// returns. A pristine node stays silent until `initialize` or the first call of a cluster that knows its uuid.
    ///
    /// # Errors
    /// The log is damaged, behind its witness, or another node's. The text says what to do.
    pub async fn open(config: ConsensusConfig) -> Result<Self, OpenError> {
        Self::open_keeping(config, RetainedState::default()).await
    }

    pub(crate) async fn open_keeping(config: ConsensusConfig, keep: RetainedState) -> Result<Self, OpenError> {
        let (publish, state) = watch::channel(Arc::new(ClusterState::default()));
        let data_dir = config.data_dir.clone();
        let opened = tokio::task::spawn_blocking(move || {
            let disk = Arc::new(Disk::open(&data_dir)?);
            let machine = StateMachine::load(disk.clone(), publish).map_err(OpenError)?;
            let named = membership::id_in_log(&disk, machine.membership(), disk.facts().uuid).map_err(OpenError)?;
            Ok::<_, OpenError>((disk, machine, named))
        });
        let (disk, machine, named) =
            opened.await.map_err(|e| OpenError(format!("the log cannot be opened: {e}")))??;
        let facts = disk.facts();
        if facts.uuid != config.me.uuid {
            return Err(OpenError(format!(
                "the data directory {} belongs to the node with uuid {}, not {}",
                config.data_dir.display(),
                facts.uuid,
                config.me.uuid
            )));
        }
        if let Some(named) = named.filter(|named| *named != config.me.id.0) {
            return Err(OpenError(format!(
                "the data directory {} belongs to node {named}, and this process was started as node {}: start it with --id \
                 {named}, or with the data directory of node {}. Two nodes must not share one",
                config.data_dir.display(),
                config.me.id,
                config.me.id
            )));
        }
        // A cluster id without a log is left by a bootstrap or a first call that was interrupted.
        let pristine = facts.vote.is_none() && disk.ends().last.is_none();
        if !pristine && facts.cluster_id.is_none() {
            return Err(super::disk::remedy(&config.data_dir, "there is a log, and no cluster it belongs to"));
        }
        let (voted, last) = (facts.vote.map(|v| v.leader_id.term), disk.ends().last.map(|l| l.leader_id.term));
        if let Some(term) = voted.max(last).filter(|term| *term > TERM_MAX) {
            return Err(OpenError(exhausted(&config.data_dir, config.me.id, term)));
        }
        let id = config.me.id.0;
        let cluster = if pristine { None } else { facts.cluster_id };
        let me = Arc::new(PeerIdentity { id, uuid: facts.uuid, cluster: cluster.into() });
        let network = Network::new(me.clone(), config.secret.clone(), config.source, state.clone());
        let millis = |d: Duration| d.as_millis() as u64;
        let raft_config = openraft::Config {
            cluster_name: "pontoon".into(),
            heartbeat_interval: millis(config.timing.heartbeat),
            election_timeout_min: millis(config.timing.election_min),
            election_timeout_max: millis(config.timing.election_max),
            install_snapshot_timeout: millis(PIECE_DEADLINE),
            snapshot_policy: SnapshotPolicy::LogsSinceLast(keep.snapshot_every),
            max_in_snapshot_log_to_keep: keep.entries,
            replication_lag_threshold: keep.snapshot_every,
            snapshot_max_chunk_size: PIECE,
            ..Default::default()
        };
        let raft_config = raft_config.validate().map_err(|e| OpenError(format!("Raft's timing is impossible: {e}")))?;
        let store = LogStore { disk: disk.clone(), node: id };
        let raft = Raft::new(id, Arc::new(raft_config), network.clone(), store, machine).await;
        let raft = raft.map_err(|e| OpenError(format!("Raft cannot start: {e}")))?;
        let callers = Callers {
            me: me.clone(),
            state: state.clone(),
            metrics: raft.metrics(),
            refused: Arc::default(),
            remembered: Arc::default(),
        };
        compaction::spawn(raft.clone(), disk.clone(), keep.bytes);
        let (leadership, stopped) = watcher::spawn(id, raft.metrics(), network.clone());
        let inner = ConsensusInner {
            raft,
            disk,
            me,
            network,
            election_max: config.timing.election_max,
            state,
            leadership,
            stopped,
            stopping: AtomicBool::new(false),
            transferring: AtomicBool::new(false),
            callers,
            turn: Arc::default(),
            incoming: Arc::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Whether the node belongs to no cluster: it has no log and no vote.
    #[must_use]
    pub fn is_pristine(&self) -> bool {
        self.inner.me.cluster().is_none()
    }

    /// The cluster this node belongs to.
    #[must_use]
    pub fn cluster_id(&self) -> Option<Uuid> {
        self.inner.me.cluster()
    }

    /// Newest applied state; a new value after every applied batch.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<Arc<ClusterState>> {
        self.inner.state.clone()
    }

    /// The leadership, as this node knows it.
    #[must_use]
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.inner.leadership.clone()
    }

    /// The nodes of Raft's membership, ascending by id. Before the first change there is no other list of members.
    #[must_use]
    pub fn raft_members(&self) -> Vec<NewMember> {
        let metrics = self.inner.raft.metrics().borrow().clone();
        metrics.membership_config.nodes().filter_map(|(id, node)| node.member(*id)).collect()
    }

    /// `Some` with the reason when the log has stopped for good although nobody asked it to (full disk, failed disk).
    /// The process should log it and end: acknowledged entries are on disk, and no more entries will be.
    #[must_use]
    pub fn stopped(&self) -> watch::Receiver<Option<String>> {
        self.inner.stopped.clone()
    }

    /// Forms the cluster: writes its id and its first membership, in which all members are voters. Called on the node
    /// with the lowest id of a set of pristine peers.
    ///
    /// # Errors
    /// The node is not pristine, is not among the members, or the disk failed; as text for the operator.
    pub async fn initialize(&self, cluster_id: Uuid, members: Vec<NewMember>) -> Result<(), String> {
        let me = &self.inner.me;
        if let Some(own) = me.cluster() {
            return Err(format!("node {} belongs to cluster {own} already", me.id));
        }
        if !members.iter().any(|m| m.id.0 == me.id && m.uuid == me.uuid) {
            return Err(format!("node {} with uuid {} is not among the first members", me.id, me.uuid));
        }
        blocking(&self.inner.disk, move |d| d.set_cluster(cluster_id)).await?;
        me.set_cluster(cluster_id);
        let nodes: BTreeMap<u64, RaftNode> = members.iter().map(|m| (m.id.0, RaftNode::of(m))).collect();
        self.inner.raft.initialize(nodes).await.map_err(|e| match e {
            RaftError::APIError(InitializeError::NotAllowed(_)) => {
                format!("node {} has a log or a vote already; the cluster was begun before", me.id)
            }
            RaftError::APIError(InitializeError::NotInMembers(_)) => {
                format!("node {} is not among the first members", me.id)
            }
            RaftError::Fatal(f) => format!("the log has stopped: {f}"),
        })
    }

    /// Appends a change of its own at this node, which must lead, and waits until it is applied here. Never forwards.
    ///
    /// # Errors
    /// See [`ProposeError`]. Only after `Unknown` the change may have been executed, or may be executed later.
    pub async fn propose(&self, id: Uuid, change: Change, deadline: Duration) -> Result<Applied, ProposeError> {
        let me = NodeId(self.inner.me.id);
        self.propose_request(id, change_hash(&change), Author::Leader(me), change, deadline).await
    }

    /// Like [`Self::propose`], for a change that `author` asks for by a request with this hash
    /// (`wire::hash::request_hash`).
    ///
    /// # Errors
    /// As [`Self::propose`].
    pub async fn propose_request(
        &self,
        id: Uuid,
        request_hash: u64,
        author: Author,
        change: Change,
        deadline: Duration,
    ) -> Result<Applied, ProposeError> {
        if self.is_stopping_or_transferring() {
            return Err(ProposeError::NotLeader(None));
        }
        let entry = Entry { id, request_hash, at_ms: clock::wall_ms(), author, change };
        let size = entry::encode_entry(&entry).len();
        if size > ENTRY_MAX {
            return Err(ProposeError::TooLarge { size, limit: ENTRY_MAX });
        }
        let proposal = Proposal::new(entry);
        let appended = proposal.flag();
        let answer = self.inner.raft.client_write_ff(proposal).await.map_err(|e| self.fatal(&e))?;
        let may_be_appended = || appended.load(Ordering::Acquire);
        match timeout(deadline, answer).await {
            Ok(Ok(Ok(done))) => done.data.0.ok_or_else(|| ProposeError::Unknown("the answer is empty".into())),
            Ok(Ok(Err(ClientWriteError::ForwardToLeader(to)))) if !may_be_appended() => {
                Err(ProposeError::NotLeader(to.leader_id.map(NodeId)))
            }
            Ok(Ok(Err(_))) => Err(ProposeError::Unknown("this node lost its leadership meanwhile".into())),
            Ok(Err(_)) if !may_be_appended() => Err(self.fatal(&Fatal::Stopped)),
            Ok(Err(_)) => Err(ProposeError::Unknown("the log of this node stopped meanwhile".into())),
            // Also if it is not appended yet: it is in Raft's queue.
            Err(_) => Err(ProposeError::Unknown(format!(
                "no majority of the voters had it after {} ms",
                deadline.as_millis()
            ))),
        }
    }

    /// Makes a quorum round that begins after this call. Returns the term in which this node led throughout; everything
    /// that was committed before the call is applied here then.
    ///
    /// # Errors
    /// See [`ProposeError`]; nothing is appended. `Unknown`: no quorum answered in time.
    pub async fn confirm_leadership(&self, deadline: Duration) -> Result<Term, ProposeError> {
        if self.is_stopping_or_transferring() {
            return Err(ProposeError::NotLeader(None));
        }
        let end = Instant::now() + deadline;
        let late = |_| ProposeError::Unknown(format!("no quorum answered within {} ms", deadline.as_millis()));
        let round = async {
            let before = self.leading_term().await?;
            self.inner.raft.ensure_linearizable().await.map_err(|e| match e {
                RaftError::APIError(CheckIsLeaderError::ForwardToLeader(to)) => {
                    ProposeError::NotLeader(to.leader_id.map(NodeId))
                }
                RaftError::APIError(CheckIsLeaderError::QuorumNotEnough(q)) => {
                    ProposeError::Unknown(format!("only nodes {:?} answered, which is no quorum", q.got))
                }
                RaftError::Fatal(f) => self.fatal(&f),
            })?;
            let after = self.leading_term().await?;
            if before == after { Ok(before) } else { Err(ProposeError::NotLeader(None)) }
        };
        timeout_at(end, round).await.map_err(late)?
    }

    /// The term in which this node leads, as far as it knows.
    async fn leading_term(&self) -> Result<Term, ProposeError> {
        let vote = self.inner.raft.with_raft_state(|s| *s.vote_ref()).await.map_err(|e| self.fatal(&e))?;
        if vote.committed && vote.leader_id.node_id == self.inner.me.id {
            return Ok(Term(vote.leader_id.term));
        }
        Err(ProposeError::NotLeader(vote.committed.then_some(NodeId(vote.leader_id.node_id))))
    }

    /// Notes the address of a node, learned from its heartbeat, before the log has it.
    pub fn learn_address(&self, uuid: Uuid, admin: HostPort) {
        self.inner.network.learn(uuid, &admin);
    }

    /// The tonic service to mount on the admin port, without auth.
    #[must_use]
    pub fn service(&self) -> RaftServer<RaftService> {
        RaftServer::new(RaftService {
            raft: self.inner.raft.clone(),
            disk: self.inner.disk.clone(),
            callers: self.inner.callers.clone(),
            turn: self.inner.turn.clone(),
            incoming: self.inner.incoming.clone(),
        })
    }

    /// The check of callers, for the other calls between nodes.
    #[must_use]
    pub fn callers(&self) -> Callers {
        self.inner.callers.clone()
    }

    /// What a caller of this node has proven to be, for events.
    #[must_use]
    pub fn actor(&self) -> &'static str {
        self.inner.network.actor()
    }

    /// The header of a call from this node to another one.
    #[must_use]
    pub fn header_for(&self, to: NodeId, uuid: Uuid) -> Header {
        self.inner.network.header(to.0, uuid)
    }

    /// Whether this node proposes and confirms nothing now: it stops, or transfers the leadership.
    pub(super) fn is_stopping_or_transferring(&self) -> bool {
        self.inner.stopping.load(Ordering::Acquire) || self.inner.transferring.load(Ordering::Acquire)
    }

    /// Stops Raft and closes the store. The handle answers `Stopped` from then on.
    pub async fn shutdown(&self) {
        self.inner.stopping.store(true, Ordering::Release);
        if let Err(error) = self.inner.raft.shutdown().await {
            tracing::warn!(%error, "Raft did not stop cleanly; nothing acknowledged is lost");
        }
        let closed = blocking(&self.inner.disk, |d| {
            d.close();
            Ok(())
        });
        if let Err(error) = closed.await {
            tracing::warn!(error, "the log was not closed cleanly; nothing acknowledged is lost");
        }
    }

    /// The error for a log that has stopped, with the reason if it is known.
    pub(super) fn fatal(&self, error: &Fatal<u64>) -> ProposeError {
        let why = self.inner.stopped.borrow().clone();
        ProposeError::Stopped(why.unwrap_or_else(|| error.to_string()))
    }

    /// openraft's handle, for tests.
    #[cfg(test)]
    pub(crate) fn raft(&self) -> &Raft {
        &self.inner.raft
    }
}

/// The error for a term that no election can follow.
fn exhausted(data_dir: &Path, node: NodeId, term: u64) -> String {
    let dir = data_dir.display();
    format!(
        "the log in {dir} names term {term}, which no elections explain: a process that is no node of this cluster called \
         this one, or the data is damaged. No entry is lost. If other nodes are alive and serve: run `pontoon node remove \
         {node}` there, move this directory away, and start this node with --join. If none is: run `pontoon recover \
         --data-dir {dir} --from-survivor --the-others-are-gone` for the node with the newest log, which gives its log a \
         term that can go on. Change the cluster secret"
    )
}
