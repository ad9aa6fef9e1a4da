//! Answers heartbeats: passes each one to the heartbeat handler, waits for the quorum confirmation, and returns the
//! answer. Publishes the leader's view for everything else. Decides nothing itself: `heartbeat_handler` and
//! `plan::lease` do.

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;
use tracing::{info, warn};

use super::{
    heartbeat_handler::{self, ADMIT_WITHIN, HandlerReply, HandlerStep, HeartbeatHandler},
    quorum::QuorumConfirmer,
    view::LeaderView,
};
pub use crate::control::leadership::heartbeat_handler::{Grant, Heartbeat};
use crate::{
    clock::boottime_ns,
    consensus::Consensus,
    model::{
        change::{Admit, Change},
        ids::{Epoch, NodeId, Term, Uuid},
        migration::Job,
        route::Isolated,
        state::{ClusterState, Hold, Member},
    },
    plan::{
        lease::Barrier,
        observation::Observation,
        timing::Timing,
        waiting::{LastingWait, Wait},
    },
};

/// The answer to a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// A lease, or why there is none.
    pub grant: Grant,
    /// The term in which its reports about servers were kept; `None`: they were not.
    pub reports_kept_in: Option<Term>,
}

impl From<Grant> for Answer {
    fn from(grant: Grant) -> Self {
        Self { grant, reports_kept_in: None }
    }
}

/// A task that leases need.
pub type LeaseTask = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The leader's heartbeat handler, shared. Cheap to clone; on other nodes it only refuses.
#[derive(Clone)]
pub struct Leases {
    consensus: Consensus,
    quorum: QuorumConfirmer,
    timing: Timing,
    handler: Arc<Mutex<HeartbeatHandler>>,
    view: Arc<watch::Sender<Arc<LeaderView>>>,
}

impl Leases {
    /// A handler, and the tasks that it needs, by name. One follows leadership: the handler opens, empty, with every
    /// term in which this node leads. The other runs quorum rounds.
    #[must_use]
    pub fn new(consensus: Consensus, timing: Timing) -> (Self, [(&'static str, LeaseTask); 2]) {
        let (quorum, rounds) = QuorumConfirmer::new(consensus.clone(), timing.lease / 3);
        let (view, _) = watch::channel(Arc::new(LeaderView::default()));
        let handler = Arc::new(Mutex::new(HeartbeatHandler::new(timing)));
        let leases = Self { consensus, quorum, timing, handler, view: Arc::new(view) };
        let tasks: [(_, LeaseTask); 2] =
            [("leases", Box::pin(leases.clone().follow_leadership())), ("quorum-rounds", Box::pin(rounds))];
        (leases, tasks)
    }

    async fn follow_leadership(self) {
        let mut leadership = self.consensus.leadership();
        loop {
            let now = leadership.borrow_and_update().clone();
            self.follow(now.is_me.then_some(now.term));
            if leadership.changed().await.is_err() {
                return;
            }
        }
    }

    /// The leader's view; empty on other nodes.
    #[must_use]
    pub fn view(&self) -> watch::Receiver<Arc<LeaderView>> {
        self.view.subscribe()
    }

    /// The quorum confirmation of this node.
    #[must_use]
    pub fn quorum(&self) -> &QuorumConfirmer {
        &self.quorum
    }

    /// The times in force.
    #[must_use]
    pub fn timing(&self) -> Timing {
        self.timing
    }

    /// Answers a heartbeat, after a quorum confirmation that began after it arrived.
    pub async fn heartbeat(&self, heartbeat: Heartbeat) -> Answer {
        if !self.consensus.leadership().borrow().is_me {
            return Grant::NotLeader.into();
        }
        let (step, reports_kept_in) = self.with_handler(|handler, state| {
            if heartbeat_handler::member(state, &heartbeat).is_some() {
                // From here on Raft finds a node whose address changed, before the log has the new address.
                self.consensus.learn_address(heartbeat.node.uuid, heartbeat.node.admin.clone());
            }
            let now_ns = boottime_ns();
            (handler.arrives(&heartbeat, state, now_ns), handler.keep_reports(&heartbeat, state, now_ns))
        });
        let reply = match step {
            HandlerStep::Done(reply) => reply,
            HandlerStep::Round(asked) => {
                let Ok(term) = self.quorum.confirm().await else { return Grant::NotLeader.into() };
                self.with_handler(|handler, state| {
                    if !self.consensus.leadership().borrow().is_me {
                        return HandlerReply::Grant(Grant::NotLeader);
                    }
                    handler.after_round(&heartbeat, asked, term, state, boottime_ns())
                })
            }
        };
        let grant = match reply {
            HandlerReply::Grant(grant) => grant,
            HandlerReply::Admit => {
                self.admit(&heartbeat);
                Grant::NotYet("this start is being admitted".into())
            }
        };
        Answer { grant, reports_kept_in }
    }

    /// What nodes reported about servers in this term, with its age at `now_ns` (`CLOCK_BOOTTIME`); empty on other
    /// nodes.
    #[must_use]
    pub fn observation(&self, now_ns: u64) -> Observation {
        let view = self.view.borrow().clone();
        view.observation(now_ns)
    }

    /// The voters that are alive at `now_ns`: those that sent a heartbeat within a lease; all while this node has not
    /// led for that long.
    #[must_use]
    pub fn alive_voters(&self, now_ns: u64) -> BTreeSet<NodeId> {
        let voters = self.consensus.leadership().borrow().voters.clone();
        let view = self.view.borrow().clone();
        view.alive(voters, self.timing.lease_at_leader(), now_ns)
    }

    /// A node that may be serving and has not reported that it serves by `epoch`.
    #[must_use]
    pub fn behind(&self, epoch: Epoch) -> Option<NodeId> {
        let members: Vec<NodeId> = self.state().members.keys().copied().collect();
        let view = self.view.borrow().clone();
        let alive = view.alive(members, self.timing.lease_at_leader(), boottime_ns());
        alive.into_iter().find(|id| view.nodes.get(id).is_none_or(|seen| seen.route_epoch < epoch))
    }

    /// Whether the barrier of a hold has passed in `term`. `Waiting` also when this node no longer leads in that term.
    #[must_use]
    pub fn barrier(&self, hold: &Hold, term: Term) -> Barrier {
        let handler = self.handler();
        let state = self.state();
        let Some(table) = handler.table_of(term) else {
            return Barrier::Waiting(vec!["this node no longer leads".into()]);
        };
        let mut barrier = table.barrier(hold, &state, boottime_ns());
        if let Barrier::Waiting(nodes) = &mut barrier {
            nodes.extend(handler.not_drained(hold.id));
        }
        barrier
    }

    /// The possible servers of a product with this `isolated`.
    #[must_use]
    pub fn possible_servers(&self, isolated: Isolated) -> Vec<Member> {
        let handler = self.handler();
        let state = self.state();
        let now = boottime_ns();
        let silent = |m: &Member| handler.table().is_some_and(|t| t.has_stopped_serving(m, isolated, now));
        state.members.values().filter(|m| !silent(m)).cloned().collect()
    }

    /// Of the members that are being removed, those that can be dropped now, and what the others wait for.
    #[must_use]
    pub fn removable(&self, term: Term) -> (Vec<Member>, Vec<Wait>) {
        let handler = self.handler();
        let state = self.state();
        let Some(table) = handler.table_of(term) else { return Default::default() };
        let (mut ready, mut waiting) = (Vec::new(), Vec::new());
        for member in state.members.values().filter(|m| m.leaving.is_some()) {
            match table.removable(member, &state, boottime_ns()) {
                Ok(()) => ready.push(member.clone()),
                Err(wait) => waiting.push(wait),
            }
        }
        (ready, waiting)
    }

    /// The nodes whose last lease has provably ended, with the time of its end, if this node leads in `term`.
    #[must_use]
    pub fn ended(&self, term: Term) -> BTreeMap<NodeId, u64> {
        let handler = self.handler();
        handler.table_of(term).map(|table| table.ended(&self.state(), boottime_ns())).unwrap_or_default()
    }

    /// Publishes what control loops wait for.
    pub fn waiting_on(&self, waiting: Vec<LastingWait>) {
        self.with_handler(|handler, _| handler.waiting_on(waiting));
    }

    /// Publishes what the task of a job does or waits for; `None`: the job is over.
    pub fn job_waits(&self, job: Job, wait: Option<Wait>) {
        let mut handler = self.handler();
        if !handler.job_waits(job, wait, boottime_ns()) {
            return;
        }
        // Published without a notification: otherwise every task would wake all the others.
        self.view.send_if_modified(|view| {
            *view = Arc::new(handler.view().clone());
            false
        });
    }

    fn follow(&self, term: Option<Term>) {
        self.with_handler(|handler, _| handler.open(term, boottime_ns()));
    }

    /// One step of the handler, with the state read under its lock: so either a grant sees the hold whose barrier was
    /// evaluated before, or the barrier sees the lease. Publishes the view if it has changed.
    fn with_handler<T>(&self, step: impl FnOnce(&mut HeartbeatHandler, &ClusterState) -> T) -> T {
        let mut handler = self.handler();
        let state = self.state();
        {
            let leadership = self.consensus.leadership();
            let leadership = leadership.borrow();
            // A membership that is not committed may be undone, or may have to be committed by the nodes that it drops.
            let undecided = state.members.keys().filter(|_| !leadership.settled);
            handler.set_voters(leadership.voters.iter().chain(undecided).copied());
        }
        let done = step(&mut handler, &state);
        let shown = self.view.borrow().clone();
        if *shown != *handler.view() {
            if let Some(term) = handler.view().term.filter(|term| shown.term != Some(*term)) {
                info!(%term, "this node leads");
            }
            self.view.send_replace(Arc::new(handler.view().clone()));
        }
        done
    }

    /// Proposes the admission of an incarnation; the node's next heartbeats find it in the log.
    fn admit(&self, heartbeat: &Heartbeat) {
        let (consensus, member, start) = (self.consensus.clone(), heartbeat.node.clone(), heartbeat.start);
        tokio::spawn(async move {
            let node = member.id;
            let id = Uuid(uuid::Uuid::new_v4().as_u128());
            match consensus.propose(id, Change::Admit(Admit { member, start }), ADMIT_WITHIN).await {
                Ok(applied) => match applied.result {
                    Ok(_) => info!(%node, "an incarnation of the node is admitted"),
                    Err(reject) => warn!(%node, %reject, "an incarnation of the node was not admitted"),
                },
                Err(error) => warn!(%node, %error, "an incarnation of the node could not be admitted yet"),
            }
        });
    }

    fn handler(&self) -> MutexGuard<'_, HeartbeatHandler> {
        self.handler.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> Arc<ClusterState> {
        self.consensus.state().borrow().clone()
    }
}
