//! The desk of a leader, one term long: what heartbeats say goes in, and what they are answered comes out. Says when a
//! quorum round has to lie between the two. Reads no clock and knows nothing of how rounds are made.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::status::{LeaderView, ListenerView, NodeView};
use crate::{
    model::{
        change::NewMember,
        ids::{Epoch, HoldId, HostPort, Incarnation, NodeId, ProductId, Term, Uuid},
        migration::Job,
        route::Isolated,
        state::{ClusterState, Member},
    },
    plan::{
        lease::{LeaseTable, Verdict},
        mover::MoverView,
        observation::Sight,
        timing::Timing,
    },
};

/// An admission is one entry of the log; a proposal of this age is made again.
pub const ADMIT_WITHIN: Duration = Duration::from_secs(1);
/// Starts remembered while they wait; more than a cluster has nodes.
const ARRIVING_MAX: usize = 1024;
/// So often a former start must speak beside a new one to be alive. What it had sent before it died may be read late
/// (a leader that was starved or stopped finds it in its sockets), but then all at once.
const TWIN_SPEAKS: u32 = 2;

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
    /// What it has seen of servers since its last heartbeat that was kept.
    pub servers: Vec<(HostPort, Sight)>,
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

/// What to do with a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing more has to be known.
    Done(Reply),
    /// A quorum round that begins now, then [`Desk::after_round`].
    Round(Asked),
}

/// What a heartbeat comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The answer.
    Grant(Grant),
    /// Propose the admission of this start, and answer that it is not admitted yet.
    Admit,
}

/// What a round is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// A lease for this incarnation.
    Lease(Incarnation),
    /// To tell a node that it must end.
    End,
}

/// The desk.
#[derive(Debug)]
pub struct Desk {
    timing: Timing,
    table: Option<LeaseTable>,
    view: LeaderView,
    /// Starts that wait for an admission.
    arriving: BTreeMap<Uuid, Arriving>,
    /// What open holds wait for, by node.
    holding: BTreeMap<(HoldId, NodeId), String>,
    /// Whom Raft needs for its decisions.
    voters: BTreeSet<NodeId>,
}

/// A start that is not in the log yet.
#[derive(Clone, Copy, Debug)]
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

/// The member that a heartbeat comes from.
#[must_use]
pub fn member<'a>(state: &'a ClusterState, beat: &Beat) -> Option<&'a Member> {
    state.members.get(&beat.node.id).filter(|m| m.uuid == beat.node.uuid)
}

impl Desk {
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

    /// Whom Raft needs for its decisions. Said before each step: a member that is being removed is told to end only when
    /// Raft can do without it, or those that stay could neither decide that nor anything else.
    pub fn needed(&mut self, voters: impl IntoIterator<Item = NodeId>) {
        self.voters = voters.into_iter().collect();
    }

    /// Leases and acks, while this node leads.
    #[must_use]
    pub fn table(&self) -> Option<&LeaseTable> {
        self.table.as_ref()
    }

    /// The same, if the desk is that of `term`.
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
    pub fn arrives(&mut self, beat: &Beat, state: &ClusterState, now_ns: u64) -> Step {
        match self.facts(beat, state, now_ns) {
            // It serves no more: nothing can be granted, and nobody waits for the answer.
            Ok(_) | Err(Reply::Admit) if beat.stopping => Step::Done(not_yet("the node stops")),
            Ok(incarnation) => Step::Round(Asked::Lease(incarnation)),
            // These end the node. A leader of yesterday that has just woken up must not say so of one it never met.
            Err(Reply::Grant(Grant::NotMember | Grant::Twin)) if !beat.stopping => Step::Round(Asked::End),
            Err(reply) => Step::Done(reply),
        }
    }

    /// Keeps what a heartbeat says of servers, if it comes from the admitted start of a member: until the term ends, a later
    /// start of that node speaks, or the log names the server no more. The term in which it is kept; `None`: it is not.
    pub fn keep_sights(&mut self, beat: &Beat, state: &ClusterState, now_ns: u64) -> Option<Term> {
        let term = self.view.term?;
        let admission = member(state, beat)?.admitted.filter(|a| a.start == beat.start)?;
        self.view.keep_sights(beat.node.id, admission.incarnation, &beat.servers, state, now_ns);
        Some(term)
    }

    /// The round that [`Desk::arrives`] demanded is through: this node led in `term` throughout it. `state` is the newest.
    pub fn after_round(&mut self, beat: &Beat, asked: Asked, term: Term, state: &ClusterState, now_ns: u64) -> Reply {
        if self.table.as_ref().is_none_or(|t| t.term() < term) {
            self.open(Some(term), now_ns);
        }
        let incarnation = match asked {
            Asked::Lease(incarnation) => incarnation,
            // Looked at again: what the round made this node apply may say otherwise.
            Asked::End => match self.facts(beat, state, now_ns) {
                Ok(incarnation) => incarnation,
                Err(reply) => return reply,
            },
        };
        let Some(member) = member(state, beat) else { return Reply::Grant(Grant::NotMember) };
        let Some(table) = self.table.as_mut().filter(|t| t.term() == term) else {
            return Reply::Grant(Grant::NotLeader);
        };
        match table.grant(member, incarnation, state, now_ns) {
            Verdict::Lease(min_applied) => {
                if let Some(seen) = self.view.nodes.get_mut(&beat.node.id) {
                    seen.lease_ends_ns = table.lease_ends_ns(beat.node.id);
                }
                Reply::Grant(Grant::Lease { length: self.timing.lease, min_applied })
            }
            Verdict::NotYet(why) => not_yet(&why),
        }
    }

    /// Takes what a heartbeat says. `Ok`: it comes from the admitted start of a member.
    fn facts(&mut self, beat: &Beat, state: &ClusterState, now_ns: u64) -> Result<Incarnation, Reply> {
        if state.members.is_empty() {
            return Err(not_yet("the cluster is being formed"));
        }
        let Some(member) = member(state, beat) else { return Err(Reply::Grant(Grant::NotMember)) };
        let current = member.admitted.filter(|a| a.start == beat.start);
        let Some(admission) = current else {
            if member.leaving.is_some() {
                return Err(self.arrival_at_removal(beat, member, now_ns));
            }
            return Err(self.arrival(beat, member, now_ns));
        };
        if let Some(table) = &mut self.table {
            table.ack(member.id, admission.incarnation, &beat.drained);
            if beat.stopping {
                table.stopped(member.id, admission.incarnation);
            }
        }
        self.note(beat, admission.incarnation, now_ns);
        if member.leaving.is_some() {
            // It stops serving, says so with its last heartbeat, and only then is dropped.
            return Err(self.end_of(member));
        }
        Ok(admission.incarnation)
    }

    /// What a member that is being removed is told.
    fn end_of(&self, member: &Member) -> Reply {
        if self.voters.contains(&member.id) {
            return not_yet("it is being removed, and leaves Raft's voters first");
        }
        Reply::Grant(Grant::NotMember)
    }

    fn note(&mut self, beat: &Beat, incarnation: Incarnation, now_ns: u64) {
        self.arriving.remove(&beat.start);
        let apart_ns = as_ns(self.timing.heartbeat) / 2;
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
    fn arrival(&mut self, beat: &Beat, member: &Member, now_ns: u64) -> Reply {
        // A node may have applied its admission before the leader has: only a later one retires it. That may be of a start
        // that is over, whose heartbeats a stopped leader finds in its sockets beside those of the living one.
        let retired = beat.incarnation.is_some_and(|own| member.admitted.is_some_and(|a| a.incarnation > own));
        if beat.incarnation.is_some() && !retired {
            return not_yet("the leader has not applied the admission of this start yet");
        }
        if self.arriving.len() >= ARRIVING_MAX {
            self.arriving.clear();
        }
        let new = Arriving { node: member.id, proposed_ns: None, counted_ns: now_ns, former: 0 };
        let arriving = *self.arriving.entry(beat.start).or_insert(new);
        let proposed_ns = arriving.proposed_ns;
        let silence_ns = 2 * as_ns(self.timing.heartbeat);
        let former =
            self.view.nodes.get(&member.id).filter(|v| member.admitted.is_some_and(|a| a.incarnation == v.incarnation));
        match former.map(|v| v.heard_ns) {
            Some(_) if arriving.former >= TWIN_SPEAKS => Reply::Grant(Grant::Twin),
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
                self.arriving.insert(beat.start, Arriving { proposed_ns: Some(now_ns), ..arriving });
                Reply::Admit
            }
        }
    }

    /// A start of a node that is being removed: none is admitted any more. By what would admit it, the former one has ended;
    /// so the removal need not wait for a last word that was lost, which where a product is `serve` would be for ever.
    fn arrival_at_removal(&mut self, beat: &Beat, member: &Member, now_ns: u64) -> Reply {
        if !self.has_stopped(member) {
            match self.arrival(beat, member, now_ns) {
                Reply::Admit => {}
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

fn not_yet(why: &str) -> Reply {
    Reply::Grant(Grant::NotYet(why.to_owned()))
}

fn as_ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
