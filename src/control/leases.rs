//! The leader's leases at work: heartbeats come in, go over the desk and through a quorum round, and are answered; the view
//! of who lives is kept for everyone else. Decides nothing itself: `desk` and `plan::lease` do.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;
use tracing::{info, warn};

pub use super::desk::{Beat, Grant};
use super::{
    desk::{self, ADMIT_WITHIN, Desk, Reply, Step},
    rounds::Rounds,
    status::LeaderView,
};
use crate::{
    clock::boottime_ns,
    consensus::Consensus,
    model::{
        change::Change,
        ids::{NodeId, Term, Uuid},
        migration::Job,
        route::Isolated,
        state::{ClusterState, Hold, Member},
    },
    plan::{lease::Barrier, observation::Observation, timing::Timing},
};

/// What a heartbeat is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// A lease, or why there is none.
    pub grant: Grant,
    /// In which term's desk its sights of servers were kept; `None`: they were not.
    pub sights_kept_in: Option<Term>,
}

impl From<Grant> for Answer {
    fn from(grant: Grant) -> Self {
        Self { grant, sights_kept_in: None }
    }
}

/// The leader's desk. Cheap to clone; on other nodes it only refuses.
#[derive(Clone)]
pub struct Leases {
    consensus: Consensus,
    rounds: Rounds,
    timing: Timing,
    desk: Arc<Mutex<Desk>>,
    view: Arc<watch::Sender<Arc<LeaderView>>>,
}

impl Leases {
    /// A desk that follows leadership: it opens, empty, with every term in which this node leads.
    #[must_use]
    pub fn start(consensus: Consensus, timing: Timing) -> Self {
        let rounds = Rounds::start(consensus.clone(), timing.lease / 3);
        let (view, _) = watch::channel(Arc::new(LeaderView::default()));
        let desk = Arc::new(Mutex::new(Desk::new(timing)));
        let leases = Self { consensus, rounds, timing, desk, view: Arc::new(view) };
        let following = leases.clone();
        tokio::spawn(async move {
            let mut leadership = following.consensus.leadership();
            loop {
                let now = leadership.borrow_and_update().clone();
                following.follow(now.is_me.then_some(now.term));
                if leadership.changed().await.is_err() {
                    return;
                }
            }
        });
        leases
    }

    /// What the leader sees; empty elsewhere.
    #[must_use]
    pub fn view(&self) -> watch::Receiver<Arc<LeaderView>> {
        self.view.subscribe()
    }

    /// Quorum rounds of this node.
    #[must_use]
    pub fn rounds(&self) -> &Rounds {
        &self.rounds
    }

    /// The numbers in force.
    #[must_use]
    pub fn timing(&self) -> Timing {
        self.timing
    }

    /// Takes a heartbeat and answers it, after a quorum round that began after it arrived.
    pub async fn heartbeat(&self, beat: Beat) -> Answer {
        if !self.consensus.leadership().borrow().is_me {
            return Grant::NotLeader.into();
        }
        let (step, sights_kept_in) = self.on_desk(|desk, state| {
            if desk::member(state, &beat).is_some() {
                // Raft finds a node that has moved from here on, before the log says where it is.
                self.consensus.learn_address(beat.node.uuid, beat.node.admin.clone());
            }
            let now_ns = boottime_ns();
            (desk.arrives(&beat, state, now_ns), desk.keep_sights(&beat, state, now_ns))
        });
        let reply = match step {
            Step::Done(reply) => reply,
            Step::Round(asked) => {
                let Ok(term) = self.rounds.confirm().await else { return Grant::NotLeader.into() };
                self.on_desk(|desk, state| {
                    if !self.consensus.leadership().borrow().is_me {
                        return Reply::Grant(Grant::NotLeader);
                    }
                    desk.after_round(&beat, asked, term, state, boottime_ns())
                })
            }
        };
        let grant = match reply {
            Reply::Grant(grant) => grant,
            Reply::Admit => {
                self.admit(&beat);
                Grant::NotYet("this start is being admitted".into())
            }
        };
        Answer { grant, sights_kept_in }
    }

    /// What nodes have reported of servers in this term, with its age at `now_ns` (`CLOCK_BOOTTIME`); empty elsewhere.
    #[must_use]
    pub fn observation(&self, now_ns: u64) -> Observation {
        let view = self.view.borrow().clone();
        view.observation(now_ns)
    }

    /// Voters that are alive at `now_ns`: heard within a lease, or all while this node has not led for so long.
    #[must_use]
    pub fn alive_voters(&self, now_ns: u64) -> BTreeSet<NodeId> {
        let voters = self.consensus.leadership().borrow().voters.clone();
        let view = self.view.borrow().clone();
        view.alive(voters, self.timing.lease_at_leader(), now_ns)
    }

    /// Whether the barrier of a hold has passed in `term`; also `Waiting` when this node does not lead in it any more.
    #[must_use]
    pub fn barrier(&self, hold: &Hold, term: Term) -> Barrier {
        let desk = self.desk();
        let state = self.state();
        let Some(table) = desk.table_of(term) else {
            return Barrier::Waiting(vec!["this node does not lead any more".into()]);
        };
        let mut barrier = table.barrier(hold, &state, boottime_ns());
        if let Barrier::Waiting(whom) = &mut barrier {
            whom.extend(desk.holding(hold.id));
        }
        barrier
    }

    /// Members that may still serve slots of a product with this `isolated`.
    #[must_use]
    pub fn possible_servers(&self, isolated: Isolated) -> Vec<Member> {
        let desk = self.desk();
        let state = self.state();
        let now = boottime_ns();
        let silent = |m: &Member| desk.table().is_some_and(|t| t.surely_silent(m, isolated, now));
        state.members.values().filter(|m| !silent(m)).cloned().collect()
    }

    /// Members that are being removed and can be dropped now; what the others wait for.
    #[must_use]
    pub fn removable(&self, term: Term) -> (Vec<Member>, Vec<String>) {
        let desk = self.desk();
        let state = self.state();
        let Some(table) = desk.table_of(term) else { return Default::default() };
        let (mut ready, mut waiting) = (Vec::new(), Vec::new());
        for member in state.members.values().filter(|m| m.leaving.is_some()) {
            match table.removable(member, &state, boottime_ns()) {
                Ok(()) => ready.push(member.clone()),
                Err(why) => waiting.push(why),
            }
        }
        (ready, waiting)
    }

    /// Shows what control loops wait for.
    pub fn waiting_on(&self, sentences: Vec<String>) {
        self.on_desk(|desk, _| desk.waiting_on(sentences));
    }

    /// Shows what the task of a job does or waits for; `None`: the job is over.
    pub fn job_waits(&self, job: Job, why: Option<String>) {
        let mut desk = self.desk();
        if !desk.job_waits(job, why) {
            return;
        }
        // Shown, but no news: else every task would wake all the others.
        self.view.send_if_modified(|view| {
            *view = Arc::new(desk.view().clone());
            false
        });
    }

    fn follow(&self, term: Option<Term>) {
        self.on_desk(|desk, _| desk.open(term, boottime_ns()));
    }

    /// One step of the desk, with the state read under its lock: a hold that a barrier has judged on is seen by the grant
    /// that comes after, or the lease is seen by the barrier. What has changed is shown.
    fn on_desk<T>(&self, step: impl FnOnce(&mut Desk, &ClusterState) -> T) -> T {
        let mut desk = self.desk();
        let state = self.state();
        {
            let leadership = self.consensus.leadership();
            let leadership = leadership.borrow();
            // A membership that is not committed may be undone, or has to be committed by those that it drops.
            let undecided = state.members.keys().filter(|_| !leadership.settled);
            desk.needed(leadership.voters.iter().chain(undecided).copied());
        }
        let done = step(&mut desk, &state);
        let shown = self.view.borrow().clone();
        if *shown != *desk.view() {
            if let Some(term) = desk.view().term.filter(|term| shown.term != Some(*term)) {
                info!(%term, "this node leads");
            }
            self.view.send_replace(Arc::new(desk.view().clone()));
        }
        done
    }

    /// Proposes the admission of a start; the node's next heartbeats find it in the log.
    fn admit(&self, beat: &Beat) {
        let (consensus, member, start) = (self.consensus.clone(), beat.node.clone(), beat.start);
        tokio::spawn(async move {
            let node = member.id;
            let id = Uuid(uuid::Uuid::new_v4().as_u128());
            match consensus.propose(id, Change::Admit { member, start }, ADMIT_WITHIN).await {
                Ok(applied) => match applied.result {
                    Ok(_) => info!(%node, "a start of the node is admitted"),
                    Err(reject) => warn!(%node, %reject, "a start of the node is not admitted"),
                },
                Err(error) => warn!(%node, %error, "could not admit a start of the node"),
            }
        });
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> Arc<ClusterState> {
        self.consensus.state().borrow().clone()
    }
}
