//! The leader's desk: heartbeats come in, leases go out, and the view of who lives is kept for everyone else.
//! Decides nothing itself: `plan::lease` does, under one lock with the newest applied state.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::watch;
use tracing::{info, warn};

use super::{
    rounds::Rounds,
    status::{LeaderView, ListenerView, NodeView},
};
use crate::{
    clock::boottime_ns,
    consensus::Consensus,
    model::{
        change::{Change, NewMember},
        ids::{Epoch, HoldId, Incarnation, NodeId, ProductId, Term, Uuid},
        migration::Job,
        state::{ClusterState, Hold, Member},
    },
    plan::{
        lease::{Barrier, LeaseTable, Verdict},
        mover::MoverView,
        timing::Timing,
    },
};

/// An admission is one entry of the log.
const ADMIT_WITHIN: Duration = Duration::from_secs(1);
/// The same in nanoseconds: a proposal of this age is made again.
const ADMIT_WITHIN_NS: u64 = 1_000_000_000;

fn as_ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// What a heartbeat says, checked.
#[derive(Clone, Debug)]
pub struct Beat {
    /// Who, with its present address.
    pub node: NewMember,
    /// Which start of it.
    pub start: Uuid,
    /// As it knows it.
    pub incarnation: Option<Incarnation>,
    /// Last entry applied.
    pub applied: Epoch,
    /// What all its workers' tables have reached.
    pub route_epoch: Epoch,
    /// Holds it has acked.
    pub drained: BTreeSet<HoldId>,
    /// Holds it has not, and what is in flight.
    pub waiting: BTreeMap<HoldId, String>,
    /// Its listeners.
    pub listeners: BTreeMap<ProductId, ListenerView>,
    /// Version of its program.
    pub version: String,
    /// It has stopped serving, for good.
    pub stopping: bool,
    /// The runs it works on.
    pub movers: Vec<(Job, MoverView)>,
}

/// What a heartbeat is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grant {
    /// Serve until so long after the heartbeat was sent, with tables at this epoch or later.
    Lease {
        /// As the node counts it.
        length: Duration,
        /// Route epoch demanded.
        min_applied: Epoch,
    },
    /// No lease now; why.
    NotYet(String),
    /// Ask the leader.
    NotLeader,
    /// The cluster has removed this node, or is about to: stop serving.
    NotMember,
    /// Another process with this identity is alive.
    Twin,
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

#[derive(Default)]
struct Desk {
    table: Option<LeaseTable>,
    view: LeaderView,
    /// Starts that wait for an admission.
    arriving: BTreeMap<Uuid, Arriving>,
    /// What open holds wait for, by node.
    holding: BTreeMap<(HoldId, NodeId), String>,
}

impl Leases {
    /// A desk that follows leadership: it opens, empty, with every term in which this node leads.
    #[must_use]
    pub fn start(consensus: Consensus, timing: Timing) -> Self {
        let rounds = Rounds::start(consensus.clone(), timing.lease / 3);
        let (view, _) = watch::channel(Arc::new(LeaderView::default()));
        let leases = Self { consensus, rounds, timing, desk: Arc::default(), view: Arc::new(view) };
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
    pub async fn heartbeat(&self, beat: Beat) -> Grant {
        if !self.consensus.leadership().borrow().is_me {
            return Grant::NotLeader;
        }
        // Facts first: an ack shortens a hold, and needs no round.
        let mut facts = self.take_facts(&beat);
        if !beat.stopping && matches!(facts, Err(Refused::Answer(Grant::NotMember | Grant::Twin))) {
            // These end the node. A leader of yesterday that has just woken up must not say so of one it never met.
            if self.rounds.confirm().await.is_err() {
                return Grant::NotLeader;
            }
            facts = self.take_facts(&beat);
        }
        let incarnation = match facts {
            Ok(incarnation) => incarnation,
            Err(Refused::Answer(grant)) => return grant,
            Err(Refused::Admit) => {
                self.admit(&beat);
                return Grant::NotYet("this start is being admitted".into());
            }
        };
        if beat.stopping {
            return Grant::NotYet("the node stops".into());
        }
        let Ok(term) = self.rounds.confirm().await else { return Grant::NotLeader };
        self.grant(&beat, incarnation, term)
    }

    /// Whether the barrier of a hold has passed in `term`; also `Waiting` when this node does not lead in it any more.
    #[must_use]
    pub fn barrier(&self, hold: &Hold, term: Term) -> Barrier {
        let desk = self.desk();
        let state = self.state();
        let Some(table) = desk.table.as_ref().filter(|t| t.term() == term) else {
            return Barrier::Waiting(vec!["this node does not lead any more".into()]);
        };
        let mut barrier = table.barrier(hold, &state, boottime_ns());
        if let Barrier::Waiting(whom) = &mut barrier {
            let in_flight = desk.holding.iter().filter(|((id, _), _)| *id == hold.id);
            whom.extend(in_flight.map(|((_, node), what)| format!("node {node}: {what}")));
        }
        barrier
    }

    /// Members that may still serve slots of a product with this `isolated`.
    #[must_use]
    pub fn possible_servers(&self, isolated: crate::model::route::Isolated) -> Vec<Member> {
        let desk = self.desk();
        let state = self.state();
        let now = boottime_ns();
        let silent = |m: &Member| desk.table.as_ref().is_some_and(|t| t.surely_silent(m, isolated, now));
        state.members.values().filter(|m| !silent(m)).cloned().collect()
    }

    /// Members that are being removed and can be dropped now; what the others wait for.
    #[must_use]
    pub fn removable(&self, term: Term) -> (Vec<Member>, Vec<String>) {
        let desk = self.desk();
        let state = self.state();
        let Some(table) = desk.table.as_ref().filter(|t| t.term() == term) else { return Default::default() };
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
        let mut desk = self.desk();
        if desk.view.waiting_on != sentences {
            desk.view.waiting_on = sentences;
            self.view.send_replace(Arc::new(desk.view.clone()));
        }
    }

    /// Shows what the task of a job does or waits for; `None`: the job is over.
    pub fn job_waits(&self, job: Job, why: Option<String>) {
        let mut desk = self.desk();
        if desk.view.jobs.get(&job) == why.as_ref() {
            return;
        }
        match why {
            Some(why) => desk.view.jobs.insert(job, why),
            None => desk.view.jobs.remove(&job),
        };
        // Shown, but no news: else every task would wake all the others.
        self.view.send_if_modified(|view| {
            *view = Arc::new(desk.view.clone());
            false
        });
    }

    fn follow(&self, term: Option<Term>) {
        let mut desk = self.desk();
        self.open(&mut desk, term);
    }

    /// Makes the desk that of `term`, empty if it was another's.
    fn open(&self, desk: &mut Desk, term: Option<Term>) {
        if desk.table.as_ref().map(LeaseTable::term) == term {
            return;
        }
        *desk = Desk {
            table: term.map(|term| LeaseTable::new(term, boottime_ns(), self.timing)),
            view: LeaderView { term, ..LeaderView::default() },
            ..Desk::default()
        };
        if let Some(term) = term {
            info!(%term, "this node leads");
        }
        self.view.send_replace(Arc::new(desk.view.clone()));
    }

    fn take_facts(&self, beat: &Beat) -> Result<Incarnation, Refused> {
        let mut desk = self.desk();
        let state = self.state();
        let now = boottime_ns();
        if state.members.is_empty() {
            return Err(Refused::Answer(Grant::NotYet("the cluster is being formed".into())));
        }
        let member = state.members.get(&beat.node.id).filter(|m| m.uuid == beat.node.uuid);
        let Some(member) = member else { return Err(Refused::Answer(Grant::NotMember)) };
        // Raft finds a node that has moved from here on, before the log says where it is.
        self.consensus.learn_address(beat.node.uuid, beat.node.admin.clone());
        let current = member.admitted.filter(|a| a.start == beat.start);
        if current.is_none() && member.leaving.is_some() {
            // It was restarted while it was being removed: no start of it is admitted any more.
            return Err(Refused::Answer(Grant::NotMember));
        }
        let Some(admission) = current else { return Err(desk.arrival(beat, member, now, self.timing)) };
        if let Some(table) = &mut desk.table {
            table.ack(member.id, admission.incarnation, &beat.drained);
            if beat.stopping {
                table.stopped(member.id, admission.incarnation);
            }
        }
        desk.note(beat, admission.incarnation, now, self.timing);
        self.view.send_replace(Arc::new(desk.view.clone()));
        if member.leaving.is_some() {
            // It stops serving, says so with its last heartbeat, and only then is dropped.
            return Err(Refused::Answer(Grant::NotMember));
        }
        Ok(admission.incarnation)
    }

    fn grant(&self, beat: &Beat, incarnation: Incarnation, term: Term) -> Grant {
        let mut desk = self.desk();
        // Read under the lock: a hold that a barrier has judged on is seen here, or the lease below is seen there.
        let state = self.state();
        if !self.consensus.leadership().borrow().is_me {
            return Grant::NotLeader;
        }
        if desk.table.as_ref().is_none_or(|t| t.term() < term) {
            self.open(&mut desk, Some(term));
        }
        let Some(member) = state.members.get(&beat.node.id).filter(|m| m.uuid == beat.node.uuid) else {
            return Grant::NotMember;
        };
        let Desk { table, view, .. } = &mut *desk;
        let Some(table) = table.as_mut().filter(|t| t.term() == term) else { return Grant::NotLeader };
        match table.grant(member, incarnation, &state, boottime_ns()) {
            Verdict::Lease(min_applied) => {
                if let Some(seen) = view.nodes.get_mut(&beat.node.id) {
                    seen.lease_ends_ns = table.lease_ends_ns(beat.node.id);
                }
                self.view.send_replace(Arc::new(view.clone()));
                Grant::Lease { length: self.timing.lease, min_applied }
            }
            Verdict::NotYet(why) => Grant::NotYet(why),
        }
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

/// A start that is not in the log yet.
#[derive(Clone, Copy)]
struct Arriving {
    /// Of which node.
    node: NodeId,
    /// When its admission was last proposed.
    proposed_ns: Option<u64>,
    /// When the former start was last counted in `former`; at first, when this one was first heard.
    counted_ns: u64,
    /// How often the former start has spoken since, heartbeats that came together counted once.
    former: u32,
}

/// So often a former start must speak beside a new one to be alive. What it had sent before it died may be read late
/// (a leader that was starved or stopped finds it in its sockets), but then all at once.
const TWIN_SPEAKS: u32 = 2;

/// Why a heartbeat goes no further than its facts.
enum Refused {
    Answer(Grant),
    Admit,
}

impl Desk {
    fn note(&mut self, beat: &Beat, incarnation: Incarnation, now_ns: u64, timing: Timing) {
        self.arriving.remove(&beat.start);
        let apart_ns = as_ns(timing.heartbeat) / 2;
        for arriving in self.arriving.values_mut().filter(|a| a.node == beat.node.id) {
            if now_ns >= arriving.counted_ns + apart_ns {
                arriving.counted_ns = now_ns;
                arriving.former += 1;
            }
        }
        self.holding.retain(|(_, node), _| *node != beat.node.id);
        self.holding.extend(beat.waiting.iter().map(|(hold, what)| ((*hold, beat.node.id), what.clone())));
        self.view.movers.retain(|_, mover| mover.node != beat.node.id);
        for (job, mover) in &beat.movers {
            if self.view.movers.get(job).is_none_or(|known| known.run <= mover.run) {
                let mover = MoverView { node: beat.node.id, incarnation, ..mover.clone() };
                self.view.movers.insert(*job, mover);
            }
        }
        let seen = self.view.nodes.entry(beat.node.id).or_default();
        *seen = NodeView {
            incarnation,
            heard_ns: now_ns,
            lease_ends_ns: seen.lease_ends_ns,
            route_epoch: beat.route_epoch,
            applied: beat.applied,
            version: beat.version.clone(),
            listeners: beat.listeners.clone(),
        };
    }

    /// A start that is not the admitted one: the node was restarted, or its data directory was copied. The former start
    /// must have been silent for two heartbeats; when it goes on speaking, there are two.
    fn arrival(&mut self, beat: &Beat, member: &Member, now_ns: u64, timing: Timing) -> Refused {
        /// Starts remembered while they wait; more than a cluster has nodes.
        const ARRIVING_MAX: usize = 1024;
        if let Some(own) = beat.incarnation {
            // A node may have applied its admission before the leader has: only a later start retires one.
            return Refused::Answer(if member.admitted.is_some_and(|a| a.incarnation > own) {
                Grant::Twin
            } else {
                Grant::NotYet("the leader has not applied the admission of this start yet".into())
            });
        }
        if self.arriving.len() >= ARRIVING_MAX {
            self.arriving.clear();
        }
        let new = Arriving { node: member.id, proposed_ns: None, counted_ns: now_ns, former: 0 };
        let arriving = *self.arriving.entry(beat.start).or_insert(new);
        let proposed_ns = arriving.proposed_ns;
        let silence_ns = 2 * as_ns(timing.heartbeat);
        let former =
            self.view.nodes.get(&member.id).filter(|v| member.admitted.is_some_and(|a| a.incarnation == v.incarnation));
        match former.map(|v| v.heard_ns) {
            Some(_) if arriving.former >= TWIN_SPEAKS => Refused::Answer(Grant::Twin),
            Some(heard_ns) if now_ns < heard_ns + silence_ns && !self.has_stopped(member) => {
                Refused::Answer(Grant::NotYet("waiting for the former start of this node to be silent".into()))
            }
            _ if proposed_ns.is_some_and(|at| now_ns < at + ADMIT_WITHIN_NS) => {
                Refused::Answer(Grant::NotYet("this start is being admitted".into()))
            }
            _ => {
                self.arriving.insert(beat.start, Arriving { proposed_ns: Some(now_ns), ..arriving });
                Refused::Admit
            }
        }
    }

    fn has_stopped(&self, member: &Member) -> bool {
        let strictest = crate::model::route::Isolated::Serve;
        self.table.as_ref().is_some_and(|t| t.surely_silent(member, strictest, 0))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::model::{
        ids::HostPort,
        state::{Admission, Role},
    };

    const FORMER: Uuid = Uuid(1);
    const NEW: Uuid = Uuid(2);
    /// Half a heartbeat.
    const HALF: u64 = 250_000_000;

    fn member() -> Member {
        Member {
            id: NodeId(1),
            uuid: Uuid(9),
            admin: HostPort::parse("127.0.0.1:24101").unwrap(),
            advertise: "127.0.0.1".into(),
            port_offset: 1,
            role: Role::Auto,
            admitted: Some(Admission { start: FORMER, incarnation: Incarnation(5) }),
            leaving: None,
        }
    }

    fn beat(start: Uuid, incarnation: Option<u64>) -> Beat {
        let m = member();
        Beat {
            node: NewMember {
                id: m.id,
                uuid: m.uuid,
                admin: m.admin,
                advertise: m.advertise,
                port_offset: m.port_offset,
            },
            start,
            incarnation: incarnation.map(Incarnation),
            applied: Epoch(5),
            route_epoch: Epoch(5),
            drained: BTreeSet::new(),
            waiting: BTreeMap::new(),
            listeners: BTreeMap::new(),
            version: String::new(),
            stopping: false,
            movers: Vec::new(),
        }
    }

    fn former_speaks(desk: &mut Desk, now: u64) {
        desk.note(&beat(FORMER, Some(5)), Incarnation(5), now, Timing::default());
    }

    fn new_speaks(desk: &mut Desk, now: u64) -> &'static str {
        match desk.arrival(&beat(NEW, None), &member(), now, Timing::default()) {
            Refused::Admit => "admit",
            Refused::Answer(Grant::Twin) => "twin",
            Refused::Answer(_) => "wait",
        }
    }

    #[test]
    fn what_a_dead_start_had_sent_is_no_sign_of_life() {
        let mut desk = Desk::default();
        former_speaks(&mut desk, 0);
        assert_eq!(new_speaks(&mut desk, HALF), "wait");
        // The leader was starved: heartbeats of the dead start lie in its sockets, and are read in any order.
        for late in 1..5 {
            former_speaks(&mut desk, 4 * HALF + late);
        }
        assert_eq!(new_speaks(&mut desk, 4 * HALF + 9), "wait");
        assert_eq!(new_speaks(&mut desk, 9 * HALF), "admit");
        assert_eq!(new_speaks(&mut desk, 9 * HALF + 1), "wait");
    }

    #[test]
    fn a_start_beside_a_living_one_is_a_twin_and_never_admitted() {
        let mut desk = Desk::default();
        let mut last = "";
        for i in 0..6 {
            former_speaks(&mut desk, 2 * i * HALF);
            last = new_speaks(&mut desk, 2 * i * HALF + 1);
            assert_ne!(last, "admit");
        }
        assert_eq!(last, "twin");
    }
}
