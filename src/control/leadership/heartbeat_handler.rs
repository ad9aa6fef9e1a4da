//! The handler of a leader, one term long: what heartbeats say goes in, and what they are answered comes out. Says when a
//! quorum round has to lie between the two. Reads no clock and knows nothing of how quorum are made.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::view::{LeaderView, ListenerView, NodeView};
use crate::{
    model::{
        change::NewMember,
        ids::{Epoch, HoldId, HostPort, Incarnation, NodeId, ProductId, Term, Uuid},
        migration::Job,
        route::Isolated,
        state::{ClusterState, Member},
    },
    plan::{
        lease::{LeaseDecision, LeaseTable},
        mover::MoverView,
        observation::ProbeReport,
        timing::Timing,
    },
};

/// An admission is one entry of the log; a proposal of this age is made again.
pub const ADMIT_WITHIN: Duration = Duration::from_secs(1);
/// Starts remembered while they wait; more than a cluster has nodes.
const ARRIVING_MAX: usize = 1024;
/// So often a former start must speak beside a new one to be alive. What it had sent before it died may be read late
/// (a leader that was starved or stopped finds it in its sockets), but then all at once.
const DUPLICATE_HEARTBEATS: u32 = 2;

/// What a heartbeat says, checked.
#[derive(Clone, Debug)]
pub struct Heartbeat {
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
    /// What it has seen of servers since its last heartbeat that was kept.
    pub servers: Vec<(HostPort, ProbeReport)>,
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
    DuplicateNode,
}

/// What to do with a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HandlerStep {
    /// Nothing more has to be known.
    Done(HandlerReply),
    /// A quorum round that begins now, then [`HeartbeatHandler::after_round`].
    Round(RoundPurpose),
}

/// What a heartbeat comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HandlerReply {
    /// The answer.
    Grant(Grant),
    /// Propose the admission of this start, and answer that it is not admitted yet.
    Admit,
}

/// What a round is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoundPurpose {
    /// A lease for this incarnation.
    Lease(Incarnation),
    /// To tell a node that it must end.
    End,
}

/// The handler.
#[derive(Debug)]
pub struct HeartbeatHandler {
    timing: Timing,
    table: Option<LeaseTable>,
    view: LeaderView,
    /// Starts that wait for an admission.
    arriving: BTreeMap<Uuid, PendingAdmission>,
    /// What open holds wait for, by node.
    holding: BTreeMap<(HoldId, NodeId), String>,
    /// Whom Raft needs for its decisions.
    voters: BTreeSet<NodeId>,
}

/// A start that is not in the log yet.
#[derive(Clone, Copy, Debug)]
struct PendingAdmission {
    /// Of which node.
    node: NodeId,
    /// When its admission was last proposed.
    proposed_ns: Option<u64>,
    /// When the former start was last counted in `former`; at first, when this one was first heard.
    counted_ns: u64,
    /// How often the former start has spoken since, heartbeats that came together counted once.
    former: u32,
}

/// The member that a heartbeat comes from.
#[must_use]
pub fn member<'a>(state: &'a ClusterState, heartbeat: &Heartbeat) -> Option<&'a Member> {
    state.members.get(&heartbeat.node.id).filter(|m| m.uuid == heartbeat.node.uuid)
}

impl HeartbeatHandler {
    /// A closed one: this node does not lead.
    #[must_use]
    pub fn new(timing: Timing) -> Self {
        let (arriving, holding, voters) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        Self { timing, table: None, view: LeaderView::default(), arriving, holding, voters }
    }

    /// Makes it that of `term`, empty if it was another's; `None`: closes it. The leader has applied an entry of the term
    /// by `now_ns`.
    pub fn open(&mut self, term: Option<Term>, now_ns: u64) {
        if self.table.as_ref().map(LeaseTable::term) == term {
            return;
        }
        *self = Self {
            table: term.map(|term| LeaseTable::new(term, now_ns, self.timing)),
            view: LeaderView { term, since_ns: now_ns, ..LeaderView::default() },
            voters: std::mem::take(&mut self.voters),
            ..Self::new(self.timing)
        };
    }

    /// Whom Raft needs for its decisions. SaidUnused before each step: a member that is being removed is told to end only when
    /// Raft can do without it, or those that stay could neither decide that nor anything else.
    pub fn needed(&mut self, voters: impl IntoIterator<Item = NodeId>) {
        self.voters = voters.into_iter().collect();
    }

    /// Leases and acks, while this node leads.
    #[must_use]
    pub fn table(&self) -> Option<&LeaseTable> {
        self.table.as_ref()
    }

    /// The same, if the handler is that of `term`.
    #[must_use]
    pub fn table_of(&self, term: Term) -> Option<&LeaseTable> {
        self.table.as_ref().filter(|table| table.term() == term)
    }

    /// What the leader sees.
    #[must_use]
    pub fn view(&self) -> &LeaderView {
        &self.view
    }

    /// Shows what control loops wait for.
    pub fn waiting_on(&mut self, sentences: Vec<String>) {
        self.view.waiting_on = sentences;
    }

    /// Shows what the task of a job does or waits for; `None`: the job is over. Whether that is new.
    pub fn job_waits(&mut self, job: Job, why: Option<String>) -> bool {
        if self.view.jobs.get(&job) == why.as_ref() {
            return false;
        }
        match why {
            Some(why) => self.view.jobs.insert(job, why),
            None => self.view.jobs.remove(&job),
        };
        true
    }

    /// What a hold waits for, a sentence for each node that has said so.
    pub fn holding(&self, hold: HoldId) -> impl Iterator<Item = String> {
        let of_hold = self.holding.iter().filter(move |((id, _), _)| *id == hold);
        of_hold.map(|((_, node), what)| format!("node {node}: {what}"))
    }

    /// A heartbeat arrives. Its facts count at once; for what it is granted, or told to end for, a round is demanded.
    pub fn arrives(&mut self, heartbeat: &Heartbeat, state: &ClusterState, now_ns: u64) -> HandlerStep {
        match self.facts(heartbeat, state, now_ns) {
            // It serves no more: nothing can be granted, and nobody waits for the answer.
            Ok(_) | Err(HandlerReply::Admit) if heartbeat.stopping => HandlerStep::Done(not_yet("the node stops")),
            Ok(incarnation) => HandlerStep::Round(RoundPurpose::Lease(incarnation)),
            // These end the node. A leader of yesterday that has just woken up must not say so of one it never met.
            Err(HandlerReply::Grant(Grant::NotMember | Grant::DuplicateNode)) if !heartbeat.stopping => {
                HandlerStep::Round(RoundPurpose::End)
            }
            Err(reply) => HandlerStep::Done(reply),
        }
    }

    /// Keeps what a heartbeat says of servers, if it comes from the admitted start of a member: until the term ends, a later
    /// start of that node speaks, or the log names the server no more. The term in which it is kept; `None`: it is not.
    pub fn keep_reports(&mut self, heartbeat: &Heartbeat, state: &ClusterState, now_ns: u64) -> Option<Term> {
        let term = self.view.term?;
        let admission = member(state, heartbeat)?.admitted.filter(|a| a.start == heartbeat.start)?;
        self.view.keep_reports(heartbeat.node.id, admission.incarnation, &heartbeat.servers, state, now_ns);
        Some(term)
    }

    /// The round that [`HeartbeatHandler::arrives`] demanded is through: this node led in `term` throughout it. `state` is the newest.
    pub fn after_round(
        &mut self,
        heartbeat: &Heartbeat,
        asked: RoundPurpose,
        term: Term,
        state: &ClusterState,
        now_ns: u64,
    ) -> HandlerReply {
        if self.table.as_ref().is_none_or(|t| t.term() < term) {
            self.open(Some(term), now_ns);
        }
        let incarnation = match asked {
            RoundPurpose::Lease(incarnation) => incarnation,
            // Looked at again: what the round made this node apply may say otherwise.
            RoundPurpose::End => match self.facts(heartbeat, state, now_ns) {
                Ok(incarnation) => incarnation,
                Err(reply) => return reply,
            },
        };
        let Some(member) = member(state, heartbeat) else { return HandlerReply::Grant(Grant::NotMember) };
        let Some(table) = self.table.as_mut().filter(|t| t.term() == term) else {
            return HandlerReply::Grant(Grant::NotLeader);
        };
        match table.grant(member, incarnation, state, now_ns) {
            LeaseDecision::Lease(min_applied) => {
                if let Some(seen) = self.view.nodes.get_mut(&heartbeat.node.id) {
                    seen.lease_ends_ns = table.lease_ends_ns(heartbeat.node.id);
                }
                HandlerReply::Grant(Grant::Lease { length: self.timing.lease, min_applied })
            }
            LeaseDecision::NotYet(why) => not_yet(&why),
        }
    }

    /// Takes what a heartbeat says. `Ok`: it comes from the admitted start of a member.
    fn facts(&mut self, heartbeat: &Heartbeat, state: &ClusterState, now_ns: u64) -> Result<Incarnation, HandlerReply> {
        if state.members.is_empty() {
            return Err(not_yet("the cluster is being formed"));
        }
        let Some(member) = member(state, heartbeat) else { return Err(HandlerReply::Grant(Grant::NotMember)) };
        let current = member.admitted.filter(|a| a.start == heartbeat.start);
        let Some(admission) = current else {
            if member.leaving.is_some() {
                return Err(self.arrival_at_removal(heartbeat, member, now_ns));
            }
            return Err(self.arrival(heartbeat, member, now_ns));
        };
        if let Some(table) = &mut self.table {
            table.ack(member.id, admission.incarnation, &heartbeat.drained);
            if heartbeat.stopping {
                table.stopped(member.id, admission.incarnation);
            }
        }
        self.note(heartbeat, admission.incarnation, now_ns);
        if member.leaving.is_some() {
            // It stops serving, says so with its last heartbeat, and only then is dropped.
            return Err(self.end_of(member));
        }
        Ok(admission.incarnation)
    }

    /// What a member that is being removed is told.
    fn end_of(&self, member: &Member) -> HandlerReply {
        if self.voters.contains(&member.id) {
            return not_yet("it is being removed, and leaves Raft's voters first");
        }
        HandlerReply::Grant(Grant::NotMember)
    }

    fn note(&mut self, heartbeat: &Heartbeat, incarnation: Incarnation, now_ns: u64) {
        self.arriving.remove(&heartbeat.start);
        let apart_ns = as_ns(self.timing.heartbeat) / 2;
        for arriving in self.arriving.values_mut().filter(|a| a.node == heartbeat.node.id) {
            if now_ns >= arriving.counted_ns + apart_ns {
                arriving.counted_ns = now_ns;
                arriving.former += 1;
            }
        }
        self.holding.retain(|(_, node), _| *node != heartbeat.node.id);
        self.holding.extend(heartbeat.waiting.iter().map(|(hold, what)| ((*hold, heartbeat.node.id), what.clone())));
        self.view.movers.retain(|_, mover| mover.node != heartbeat.node.id);
        for (job, mover) in &heartbeat.movers {
            if self.view.movers.get(job).is_none_or(|known| known.run <= mover.run) {
                let mover = MoverView { node: heartbeat.node.id, incarnation, ..mover.clone() };
                self.view.movers.insert(*job, mover);
            }
        }
        let seen = self.view.nodes.entry(heartbeat.node.id).or_default();
        *seen = NodeView {
            incarnation,
            heard_ns: now_ns,
            lease_ends_ns: seen.lease_ends_ns,
            route_epoch: heartbeat.route_epoch,
            applied: heartbeat.applied,
            version: heartbeat.version.clone(),
            listeners: heartbeat.listeners.clone(),
        };
    }

    /// A start that is not the admitted one: the node was restarted, or its data directory was copied. The former start
    /// must have been silent for two heartbeats; when it goes on speaking, there are two.
    fn arrival(&mut self, heartbeat: &Heartbeat, member: &Member, now_ns: u64) -> HandlerReply {
        // A node may have applied its admission before the leader has: only a later one retires it. That may be of a start
        // that is over, whose heartbeats a stopped leader finds in its sockets beside those of the living one.
        let retired = heartbeat.incarnation.is_some_and(|own| member.admitted.is_some_and(|a| a.incarnation > own));
        if heartbeat.incarnation.is_some() && !retired {
            return not_yet("the leader has not applied the admission of this start yet");
        }
        if self.arriving.len() >= ARRIVING_MAX {
            self.arriving.clear();
        }
        let new = PendingAdmission { node: member.id, proposed_ns: None, counted_ns: now_ns, former: 0 };
        let arriving = *self.arriving.entry(heartbeat.start).or_insert(new);
        let proposed_ns = arriving.proposed_ns;
        let silence_ns = 2 * as_ns(self.timing.heartbeat);
        let former =
            self.view.nodes.get(&member.id).filter(|v| member.admitted.is_some_and(|a| a.incarnation == v.incarnation));
        match former.map(|v| v.heard_ns) {
            Some(_) if arriving.former >= DUPLICATE_HEARTBEATS => HandlerReply::Grant(Grant::DuplicateNode),
            Some(heard_ns) if now_ns < heard_ns + silence_ns && !self.has_stopped(member) => {
                not_yet("waiting for the former start of this node to be silent")
            }
            None if retired && now_ns < arriving.counted_ns + silence_ns => {
                not_yet("waiting for a sign of life of the start that was admitted after this one")
            }
            _ if proposed_ns.is_some_and(|at| now_ns < at + as_ns(ADMIT_WITHIN)) => {
                not_yet("this start is being admitted")
            }
            _ => {
                self.arriving.insert(heartbeat.start, PendingAdmission { proposed_ns: Some(now_ns), ..arriving });
                HandlerReply::Admit
            }
        }
    }

    /// A start of a node that is being removed: none is admitted any more. By what would admit it, the former one has ended;
    /// so the removal need not wait for a last word that was lost, which where a product is `serve` would be for ever.
    fn arrival_at_removal(&mut self, heartbeat: &Heartbeat, member: &Member, now_ns: u64) -> HandlerReply {
        if !self.has_stopped(member) {
            match self.arrival(heartbeat, member, now_ns) {
                HandlerReply::Admit => {}
                wait => return wait,
            }
            if let (Some(table), Some(former)) = (&mut self.table, member.admitted) {
                table.stopped(member.id, former.incarnation);
            }
        }
        self.end_of(member)
    }

    fn has_stopped(&self, member: &Member) -> bool {
        let strictest = Isolated::Serve;
        self.table.as_ref().is_some_and(|t| t.surely_silent(member, strictest, 0))
    }
}

fn not_yet(why: &str) -> HandlerReply {
    HandlerReply::Grant(Grant::NotYet(why.to_owned()))
}

fn as_ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
