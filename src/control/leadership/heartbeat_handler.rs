//! The heartbeat handler of a leader, for one term: takes the content of heartbeats and decides the answers. It also
//! decides when a quorum confirmation is needed before the answer. Reads no clock, and knows nothing of how a quorum
//! confirms.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::view::{LeaderView, ListenerView, NodeView};
use crate::{
    model::{
        change::NewMember,
        cluster_secret::SecretReport,
        ids::{Epoch, HoldId, HostPort, Incarnation, NodeId, ProductId, Term, Uuid},
        migration::Job,
        route::Isolated,
        state::{ClusterState, Member},
    },
    plan::{
        closings::MemoryReport,
        lease::{LeaseDecision, LeaseTable},
        mover::MoverView,
        observation::ProbeReport,
        timing::Timing,
        waiting::{LastingWait, Wait},
    },
};

/// How long an admission may take, which is one entry of the log; after this time it is proposed again.
pub const ADMIT_WITHIN: Duration = Duration::from_secs(1);
/// How many starts are remembered while they wait for admission; more than a cluster has nodes.
const PENDING_MAX: usize = 1024;
/// How many heartbeats of the former start, beside those of a new one, prove that both are alive. Heartbeats that the
/// former start sent before it ended may be read late (a leader that was starved or stopped finds them in its sockets),
/// but then all at once.
const DUPLICATE_HEARTBEATS: u32 = 2;

/// The content of a heartbeat, checked.
#[derive(Clone, Debug)]
pub struct Heartbeat {
    /// The node, with its present address.
    pub node: NewMember,
    /// The start of its process.
    pub start: Uuid,
    /// Its incarnation, if it knows that this start was admitted.
    pub incarnation: Option<Incarnation>,
    /// The last log entry that it has applied.
    pub applied: Epoch,
    /// The route epoch that all its workers have reached.
    pub route_epoch: Epoch,
    /// The holds that it has acked.
    pub drained: BTreeSet<HoldId>,
    /// The holds that it has not acked, and what is in flight.
    pub waiting: BTreeMap<HoldId, String>,
    /// Its listeners.
    pub listeners: BTreeMap<ProductId, ListenerView>,
    /// The version of its program.
    pub version: String,
    /// It has stopped serving permanently.
    pub stopping: bool,
    /// The runs that it works on.
    pub movers: Vec<(Job, MoverView)>,
    /// Its reports about servers since its last heartbeat whose reports were kept.
    pub servers: Vec<(HostPort, ProbeReport)>,
    /// What its memory budget did to its clients.
    pub memory: MemoryReport,
    /// Its cluster secrets; `None`: a node of an earlier version.
    pub secrets: Option<SecretReport>,
}

/// The answer to a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grant {
    /// The node may serve for `length` after it sent the heartbeat, with route tables at `min_applied` or later.
    Lease {
        /// The lease as the node counts it.
        length: Duration,
        /// The required route epoch.
        min_applied: Epoch,
    },
    /// No lease now; why, for people.
    NotYet(String),
    /// This node does not lead: ask the leader.
    NotLeader,
    /// The cluster has removed this node, or is about to: stop serving.
    NotMember,
    /// Another process with this identity is alive.
    DuplicateNode,
}

/// What the caller does next with a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HandlerStep {
    /// Give this reply.
    Done(HandlerReply),
    /// Wait for a quorum confirmation that begins now, then call [`HeartbeatHandler::after_round`].
    Round(RoundPurpose),
}

/// The handler's decision on a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HandlerReply {
    /// The answer.
    Grant(Grant),
    /// Propose the admission of this start, and answer that it is not admitted yet.
    Admit,
}

/// What a quorum confirmation is needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoundPurpose {
    /// A lease for this incarnation.
    Lease(Incarnation),
    /// To order a node to stop.
    End,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct HeartbeatHandler {
    timing: Timing,
    table: Option<LeaseTable>,
    view: LeaderView,
    /// Starts that wait for an admission.
    pending: BTreeMap<Uuid, PendingAdmission>,
    /// What is in flight for open holds, by node.
    not_drained: BTreeMap<(HoldId, NodeId), String>,
    /// The nodes that Raft needs for its decisions.
    voters: BTreeSet<NodeId>,
}

/// A start that is not in the log yet.
#[derive(Clone, Copy, Debug)]
struct PendingAdmission {
    /// The node.
    node: NodeId,
    /// When its admission was last proposed.
    proposed_ns: Option<u64>,
    /// When a heartbeat of the former start was last counted; at first, when the first heartbeat of this start arrived.
    counted_ns: u64,
    /// How many heartbeats the former start has sent since; those that arrived together count once.
    former: u32,
}

/// The member that a heartbeat comes from.
#[must_use]
pub fn member<'a>(state: &'a ClusterState, heartbeat: &Heartbeat) -> Option<&'a Member> {
    state.members.get(&heartbeat.node.id).filter(|m| m.uuid == heartbeat.node.uuid)
}

impl HeartbeatHandler {
    /// A closed handler: this node does not lead.
    #[must_use]
    pub fn new(timing: Timing) -> Self {
        let (pending, not_drained, voters) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        Self { timing, table: None, view: LeaderView::default(), pending, not_drained, voters }
    }

    /// Opens the handler for `term`, empty unless it is open for that term already; `None`: closes it. The leader has
    /// applied an entry of the term by `now_ns`.
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

    /// Sets the nodes that Raft needs for its decisions. Call it before each step: a member that is being removed is
    /// ordered to stop only when Raft no longer needs it. Otherwise the remaining nodes might not be able to
    /// decide anything.
    pub fn set_voters(&mut self, voters: impl IntoIterator<Item = NodeId>) {
        self.voters = voters.into_iter().collect();
    }

    /// Leases and acks, while this node leads.
    #[must_use]
    pub fn table(&self) -> Option<&LeaseTable> {
        self.table.as_ref()
    }

    /// Leases and acks, if the handler is open for `term`.
    #[must_use]
    pub fn table_of(&self, term: Term) -> Option<&LeaseTable> {
        self.table.as_ref().filter(|table| table.term() == term)
    }

    /// The leader's view.
    #[must_use]
    pub fn view(&self) -> &LeaderView {
        &self.view
    }

    /// Sets what control loops wait for.
    pub fn waiting_on(&mut self, waiting: Vec<LastingWait>) {
        self.view.waiting_on = waiting;
    }

    /// Sets what the task of a job does or waits for; `None`: the job is over. Returns whether that has changed.
    pub fn job_waits(&mut self, job: Job, wait: Option<Wait>, now_ns: u64) -> bool {
        let before = self.view.jobs.get(&job);
        let now = wait.map(|wait| LastingWait::seen(wait, before, now_ns, self.view.since_ns));
        if before == now.as_ref() {
            return false;
        }
        match now {
            Some(now) => self.view.jobs.insert(job, now),
            None => self.view.jobs.remove(&job),
        };
        true
    }

    /// What is in flight for a hold, one text for each node that reported it.
    pub fn not_drained(&self, hold: HoldId) -> impl Iterator<Item = String> {
        let of_hold = self.not_drained.iter().filter(move |((id, _), _)| *id == hold);
        of_hold.map(|((_, node), what)| format!("node {node}: {what}"))
    }

    /// A heartbeat arrives. Its content counts immediately. A lease, and the order to stop, need a quorum confirmation
    /// first.
    pub fn arrives(&mut self, heartbeat: &Heartbeat, state: &ClusterState, now_ns: u64) -> HandlerStep {
        match self.record(heartbeat, state, now_ns) {
            // It has stopped serving: nothing can be granted, and nothing waits for the answer.
            Ok(_) | Err(HandlerReply::Admit) if heartbeat.stopping => HandlerStep::Done(not_yet("the node stops")),
            Ok(incarnation) => HandlerStep::Round(RoundPurpose::Lease(incarnation)),
            // These make the node stop. A former leader that has just woken up must not send them about a node it does
            // not know.
            Err(HandlerReply::Grant(Grant::NotMember | Grant::DuplicateNode)) if !heartbeat.stopping => {
                HandlerStep::Round(RoundPurpose::End)
            }
            Err(reply) => HandlerStep::Done(reply),
        }
    }

    /// Keeps the reports of a heartbeat, if it comes from the admitted start of a member: until the term ends, a later
    /// start of that node sends a heartbeat, or the log no longer names the server. Returns the term in which
    /// they are kept; `None`: they are not.
    pub fn keep_reports(&mut self, heartbeat: &Heartbeat, state: &ClusterState, now_ns: u64) -> Option<Term> {
        let term = self.view.term?;
        let admission = member(state, heartbeat)?.admitted.filter(|a| a.start == heartbeat.start)?;
        self.view.keep_reports(heartbeat.node.id, admission.incarnation, &heartbeat.servers, state, now_ns);
        Some(term)
    }

    /// The quorum confirmation that [`HeartbeatHandler::arrives`] asked for has succeeded: this node led in `term`
    /// throughout it. `state` is the newest.
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
            // Decided again: entries that this node applied in the meantime may change the decision.
            RoundPurpose::End => match self.record(heartbeat, state, now_ns) {
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

    /// Records the content of a heartbeat. `Ok`: it comes from the admitted start of a member.
    fn record(
        &mut self,
        heartbeat: &Heartbeat,
        state: &ClusterState,
        now_ns: u64,
    ) -> Result<Incarnation, HandlerReply> {
        if state.members.is_empty() {
            return Err(not_yet("the cluster is being formed"));
        }
        let Some(member) = member(state, heartbeat) else { return Err(HandlerReply::Grant(Grant::NotMember)) };
        let current = member.admitted.filter(|a| a.start == heartbeat.start);
        let Some(admission) = current else {
            if member.leaving.is_some() {
                return Err(self.admit_start_of_leaving(heartbeat, member, now_ns));
            }
            return Err(self.admit_start(heartbeat, member, now_ns));
        };
        if let Some(table) = &mut self.table {
            table.ack(member.id, admission.incarnation, &heartbeat.drained);
            if heartbeat.stopping {
                table.stopped(member.id, admission.incarnation);
            }
        }
        self.note(heartbeat, admission.incarnation, now_ns);
        if member.leaving.is_some() {
            // It stops serving, reports that with its last heartbeat, and is dropped only then.
            return Err(self.answer_to_leaving(member));
        }
        Ok(admission.incarnation)
    }

    /// The answer to a member that is being removed.
    fn answer_to_leaving(&self, member: &Member) -> HandlerReply {
        if self.voters.contains(&member.id) {
            return not_yet("it is being removed, and leaves Raft's voters first");
        }
        HandlerReply::Grant(Grant::NotMember)
    }

    fn note(&mut self, heartbeat: &Heartbeat, incarnation: Incarnation, now_ns: u64) {
        self.pending.remove(&heartbeat.start);
        let apart_ns = as_ns(self.timing.heartbeat) / 2;
        for pending in self.pending.values_mut().filter(|a| a.node == heartbeat.node.id) {
            if now_ns >= pending.counted_ns + apart_ns {
                pending.counted_ns = now_ns;
                pending.former += 1;
            }
        }
        self.not_drained.retain(|(_, node), _| *node != heartbeat.node.id);
        self.not_drained
            .extend(heartbeat.waiting.iter().map(|(hold, what)| ((*hold, heartbeat.node.id), what.clone())));
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
            heartbeat_ns: now_ns,
            lease_ends_ns: seen.lease_ends_ns,
            route_epoch: heartbeat.route_epoch,
            applied: heartbeat.applied,
            version: heartbeat.version.clone(),
            listeners: heartbeat.listeners.clone(),
            memory: heartbeat.memory,
            secrets: heartbeat.secrets.clone(),
        };
    }

    /// Decides about a start that is not the admitted one: the node was restarted, or its data directory was copied.
    /// The former start must have been silent for two heartbeats; if it still sends some, there is a duplicate node.
    fn admit_start(&mut self, heartbeat: &Heartbeat, member: &Member, now_ns: u64) -> HandlerReply {
        // A node may have applied its admission before the leader has: only a later admission replaces this start. That
        // later admission may belong to a start that has ended, whose heartbeats a stopped leader finds in its sockets
        // beside those of the one that is alive.
        let retired = heartbeat.incarnation.is_some_and(|own| member.admitted.is_some_and(|a| a.incarnation > own));
        if heartbeat.incarnation.is_some() && !retired {
            return not_yet("the leader has not applied the admission of this start yet");
        }
        if self.pending.len() >= PENDING_MAX {
            self.pending.clear();
        }
        let new = PendingAdmission { node: member.id, proposed_ns: None, counted_ns: now_ns, former: 0 };
        let pending = *self.pending.entry(heartbeat.start).or_insert(new);
        let proposed_ns = pending.proposed_ns;
        let silence_ns = 2 * as_ns(self.timing.heartbeat);
        let former =
            self.view.nodes.get(&member.id).filter(|v| member.admitted.is_some_and(|a| a.incarnation == v.incarnation));
        match former.map(|v| v.heartbeat_ns) {
            Some(_) if pending.former >= DUPLICATE_HEARTBEATS => HandlerReply::Grant(Grant::DuplicateNode),
            Some(heartbeat_ns) if now_ns < heartbeat_ns + silence_ns && !self.has_stopped(member) => {
                not_yet("waiting for the former start of this node to be silent")
            }
            None if retired && now_ns < pending.counted_ns + silence_ns => {
                not_yet("waiting for a heartbeat of the start that was admitted after this one")
            }
            _ if proposed_ns.is_some_and(|at| now_ns < at + as_ns(ADMIT_WITHIN)) => {
                not_yet("this start is being admitted")
            }
            _ => {
                self.pending.insert(heartbeat.start, PendingAdmission { proposed_ns: Some(now_ns), ..pending });
                HandlerReply::Admit
            }
        }
    }

    /// Decides about a new start of a node that is being removed: it is not admitted. When it could otherwise be
    /// admitted, the former start has ended. So the removal need not wait for a last heartbeat that was lost (with a
    /// product whose `isolated` is `serve` it would wait forever).
    fn admit_start_of_leaving(&mut self, heartbeat: &Heartbeat, member: &Member, now_ns: u64) -> HandlerReply {
        if !self.has_stopped(member) {
            match self.admit_start(heartbeat, member, now_ns) {
                HandlerReply::Admit => {}
                wait => return wait,
            }
            if let (Some(table), Some(former)) = (&mut self.table, member.admitted) {
                table.stopped(member.id, former.incarnation);
            }
        }
        self.answer_to_leaving(member)
    }

    fn has_stopped(&self, member: &Member) -> bool {
        let strictest = Isolated::Serve;
        self.table.as_ref().is_some_and(|t| t.has_stopped_serving(member, strictest, 0))
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
