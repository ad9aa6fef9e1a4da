//! A log in memory, shared by several "nodes" of which one leads.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use pontoon::{
    clock::{boottime_ns, wall_ms},
    consensus::{Applied, Leadership, ProposeError},
    control::{
        handle::{Control, Log},
        leadership::view::{LeaderView, NodeView},
    },
    model::{
        apply::{apply, first_index},
        author::Author,
        change::{Bootstrap, Change, NewMember},
        ids::{Epoch, HostPort, NodeId, Term, Uuid},
        state::{ClusterState, Entry, Position},
    },
    wire::{caller::Caller, pb::raft::Header},
};
use tokio::sync::watch;

/// What all nodes share.
pub struct Shared {
    entries: Mutex<u64>,
    state: watch::Sender<Arc<ClusterState>>,
    /// Number of proposals whose answers are lost after they were applied: outcome unknown.
    pub lose_answers: AtomicUsize,
    pub proposals: AtomicUsize,
}

impl Shared {
    pub fn new(members: &[(u64, &str)]) -> Arc<Self> {
        let shared = Arc::new(Self {
            entries: Mutex::new(0),
            state: watch::channel(Arc::default()).0,
            lose_answers: AtomicUsize::new(0),
            proposals: AtomicUsize::new(0),
        });
        let members = members.iter().map(|(id, admin)| member(*id, admin)).collect();
        shared.append(Uuid(1), Change::Bootstrap(Bootstrap { members, port: 7000 })).result.unwrap();
        shared
    }

    pub fn append(&self, id: Uuid, change: Change) -> Applied {
        self.append_request(id, 0, Author::default(), change)
    }

    fn append_request(&self, id: Uuid, request_hash: u64, author: Author, change: Change) -> Applied {
        let mut entries = self.entries.lock().unwrap();
        *entries += 1;
        let index = Epoch(*entries);
        let mut state = ClusterState::clone(&self.state.borrow());
        let result = apply(
            &mut state,
            &Entry { id, request_hash, at_ms: wall_ms(), author, change },
            Position { index, term: Term(1) },
        );
        let index = first_index(&state, id).unwrap_or(index);
        self.state.send_replace(Arc::new(state));
        Applied { index, result }
    }

    pub fn state(&self) -> Arc<ClusterState> {
        self.state.borrow().clone()
    }

    pub fn changed(&self) -> watch::Receiver<Arc<ClusterState>> {
        self.state.subscribe()
    }
}

pub fn member(id: u64, admin: &str) -> NewMember {
    let admin = HostPort::parse(admin).unwrap();
    NewMember {
        id: NodeId(id),
        uuid: Uuid(u128::from(id) + 100),
        advertise: admin.host().into(),
        admin,
        port_offset: 0,
    }
}

/// One node's view of the log.
pub struct NodeLog {
    me: u64,
    shared: Arc<Shared>,
    pub leadership: watch::Sender<Leadership>,
    /// Whether a majority confirms that this node leads, if it believes so.
    pub confirmed: AtomicBool,
}

impl Log for NodeLog {
    fn cluster_id(&self) -> Option<Uuid> {
        Some(Uuid(7))
    }

    fn state(&self) -> watch::Receiver<Arc<ClusterState>> {
        self.shared.state.subscribe()
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }

    fn header_for(&self, to: NodeId, uuid: Uuid) -> Header {
        let bytes = |uuid: Uuid| bytes::Bytes::from(uuid.0.to_be_bytes().to_vec());
        Header {
            cluster_id: bytes(Uuid(7)),
            from_id: self.me,
            from_uuid: bytes(Uuid(u128::from(self.me) + 100)),
            to_id: to.0,
            to_uuid: bytes(uuid),
            admitted: 0,
        }
    }

    fn admit_forwarder(&self, _caller: Result<Caller, String>) -> Result<(), String> {
        Ok(())
    }

    fn confirm_leadership(
        &self,
        _deadline: Duration,
    ) -> Pin<Box<dyn Future<Output = Result<Term, ProposeError>> + Send + '_>> {
        Box::pin(async move {
            let who = self.leadership.borrow().clone();
            if !who.is_me {
                return Err(ProposeError::NotLeader(who.leader));
            }
            if self.confirmed.load(Ordering::SeqCst) {
                Ok(who.term)
            } else {
                Err(ProposeError::Unknown("no quorum".into()))
            }
        })
    }

    fn propose(
        &self,
        id: Uuid,
        request_hash: u64,
        author: Author,
        change: Change,
        _deadline: Duration,
    ) -> Pin<Box<dyn Future<Output = Result<Applied, ProposeError>> + Send + '_>> {
        Box::pin(async move {
            let who = self.leadership.borrow().clone();
            if !who.is_me {
                return Err(ProposeError::NotLeader(who.leader));
            }
            self.shared.proposals.fetch_add(1, Ordering::SeqCst);
            let applied = self.shared.append_request(id, request_hash, author, change);
            let lose = |left: usize| left.checked_sub(1);
            match self.shared.lose_answers.fetch_update(Ordering::SeqCst, Ordering::SeqCst, lose) {
                Ok(_) => Err(ProposeError::Unknown("the answer was lost".into())),
                Err(_) => Ok(applied),
            }
        })
    }
}

/// A node's control handle, and what tests change.
pub struct Node {
    pub control: Control,
    pub log: Arc<NodeLog>,
    pub view: watch::Sender<Arc<LeaderView>>,
}

/// A short lease, so that a silent node soon counts as such.
pub const LEASE: Duration = Duration::from_millis(300);

impl Node {
    pub fn new(id: u64, shared: &Arc<Shared>) -> Self {
        let log = Arc::new(NodeLog {
            me: id,
            shared: shared.clone(),
            leadership: watch::channel(Leadership::default()).0,
            confirmed: AtomicBool::new(true),
        });
        let view = watch::channel(Arc::new(LeaderView::default())).0;
        let control = Control { log: log.clone(), me: NodeId(id), view: view.subscribe(), lease: LEASE };
        Self { control, log, view }
    }

    /// Sets the leader that this node knows.
    pub fn leader(&self, id: u64, admin: &str) {
        let is_me = self.control.me == NodeId(id);
        self.log.leadership.send_replace(Leadership {
            term: Term(1),
            leader: Some(NodeId(id)),
            leader_admin: Some(admin.to_owned()),
            leader_uuid: Some(Uuid(id.into())),
            is_me,
            voters: self.log.shared.state().members.keys().copied().collect(),
            learners: Vec::new(),
            settled: true,
        });
        if is_me {
            self.view.send_modify(|view| Arc::make_mut(view).term = Some(Term(1)));
        }
    }

    pub fn nobody_leads(&self) {
        self.log.leadership.send_replace(Leadership::default());
        self.view.send_modify(|view| Arc::make_mut(view).term = None);
    }

    /// A heartbeat of a node arrives now.
    pub fn heard(&self, id: u64, edit: impl FnOnce(&mut NodeView)) {
        self.view.send_modify(|view| {
            let seen = Arc::make_mut(view).nodes.entry(NodeId(id)).or_default();
            seen.heartbeat_ns = boottime_ns();
            seen.lease_ends_ns = seen.heartbeat_ns + LEASE.as_nanos() as u64;
            edit(seen);
        });
    }

    pub fn nodes(&self) -> BTreeMap<NodeId, NodeView> {
        self.view.borrow().nodes.clone()
    }
}
