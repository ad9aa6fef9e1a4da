//! The log as Raft provides it: terms with at most one leader, entries in one order, quorum rounds that prove
//! leadership.
//! Knows nothing of votes and of followers' logs. A deposed leader does not know it yet.

use std::{
    collections::{BTreeSet, VecDeque},
    rc::Rc,
};

use pontoon::{
    model::{
        apply::{apply, note_applied},
        change::{Change, FinishAssign},
        check::check,
        ids::{Epoch, SlotId, Term, Uuid},
        outcome::Outcome,
        route::RouteTable,
        state::{ClusterState, Entry, Position},
    },
    plan::membership,
};

use super::{
    leader::Tag,
    network::{self, MS, Ns, SECOND, spread},
    node::NodeEvent,
    world::{Event, PRODUCT, World},
};

/// `control::leadership::context::PROPOSE_WITHIN`.
const PROPOSE_WITHIN: Ns = 3 * SECOND;
const HEARTBEAT: Ns = 100 * MS;

/// The state after an entry, and the route table that workers derive from it. `apply` has the same result on every
/// node, so it runs once.
pub struct Moment {
    pub state: Rc<ClusterState>,
    pub table: Rc<RouteTable>,
    pub result: Result<Outcome, String>,
}

/// The committed log and who may append to it.
pub struct Raft {
    /// By log index.
    pub log: Vec<Moment>,
    pub term: Term,
    pub leader: Option<usize>,
    /// Index of the first entry of the term.
    pub term_begins: usize,
    /// The voters. Both halves of a membership change are one step here.
    pub voters: BTreeSet<usize>,
    /// What the leader has appended, in which term, and what is not committed yet.
    waiting: VecDeque<(Term, Proposal)>,
    /// When the leader last had a quorum, and how long the others wait for it.
    leader_seen: Ns,
    patience: Ns,
}

impl Raft {
    pub fn new(nodes: usize) -> Self {
        let first = Moment { state: Rc::default(), table: Rc::default(), result: Ok(Outcome::Done) };
        let voters = (0..nodes).collect();
        Self {
            log: vec![first],
            term: Term(1),
            leader: None,
            term_begins: 0,
            voters,
            waiting: VecDeque::new(),
            leader_seen: 0,
            patience: 0,
        }
    }

    pub fn last(&self) -> usize {
        self.log.len() - 1
    }
}

/// A change on its way into the log.
#[derive(Clone)]
pub struct Proposal {
    pub change: Change,
    pub tag: Tag,
    /// The copied values; they count if the change is accepted.
    pub copied: super::invariants::Registers,
}

impl World {
    /// Whether a voter and a majority of the voters reach each other.
    pub fn has_quorum(&self, node: usize) -> bool {
        self.raft.voters.contains(&node) && self.reaches_most(node, &self.raft.voters)
    }

    fn reaches_most(&self, node: usize, voters: &BTreeSet<usize>) -> bool {
        let talks = |n: usize| self.nodes[n].up && !self.nodes[n].cut;
        let there = voters.iter().filter(|n| **n == node || talks(**n) && !self.nodes[**n].paused).count();
        talks(node) && 2 * there > voters.len()
    }

    /// A leader changes Raft's voters to those of the log, as `Consensus::change_membership` does: a majority of the
    /// old and one of the new voters must agree. A leader that is not a voter any more has ended its term.
    pub fn change_voters(&mut self, node: usize, term: Term, voters: BTreeSet<usize>) {
        let leads = self.raft.leader == Some(node) && self.raft.term == term && self.has_quorum(node);
        if !leads || self.raft.voters == voters || !self.reaches_most(node, &voters) {
            return;
        }
        self.note(format_args!("term {term}: the voters are {:?}", voters.iter().map(|n| n + 1).collect::<Vec<_>>()));
        self.raft.voters = voters;
        self.commit_nothing();
    }

    /// The voters that the log requires, if they differ from the present ones.
    pub fn voters_wanted(&self, state: &ClusterState) -> Option<BTreeSet<usize>> {
        let now = self.voters();
        let wanted = membership::decide(state, &now).filter(|wanted| wanted.voters != now)?;
        Some(wanted.voters.iter().map(|id| id.0 as usize - 1).collect())
    }

    /// Every 100 ms: nodes that lag learn of the newest entry; a leader without a quorum is replaced.
    pub fn raft_tick(&mut self) {
        self.schedule(HEARTBEAT, Event::RaftTick);
        for node in 0..self.nodes.len() {
            if self.nodes[node].up && !self.nodes[node].cut && self.nodes[node].applied < self.raft.last() {
                self.announce_entry(node);
            }
            if self.rng.u8(0..4) == 0 {
                self.announce_leader(node);
            }
        }
        self.commit_waiting();
        for node in 0..self.nodes.len() {
            self.drive(node);
            self.step_jobs(node);
        }
        let works = self.raft.leader.is_some_and(|l| !self.nodes[l].paused && self.has_quorum(l));
        if works {
            self.raft.leader_seen = self.now;
            self.raft.patience = self.rng.u64(300..700) * MS;
        } else if self.now > self.raft.leader_seen + self.raft.patience {
            self.elect();
        }
    }

    /// A node that is up begins a new term, if it reaches a majority.
    pub fn elect(&mut self) {
        let able: Vec<usize> =
            (0..self.nodes.len()).filter(|n| !self.nodes[*n].paused && self.has_quorum(*n)).collect();
        let Some(leader) = self.rng.choice(able) else { return };
        self.seen.elections += 1;
        self.keep_appended(leader);
        self.raft.term = Term(self.raft.term.0 + 1);
        self.raft.leader = Some(leader);
        self.raft.leader_seen = self.now;
        let term = self.raft.term;
        self.note(format_args!("term {term} of node {}", leader + 1));
        self.commit_nothing();
        self.raft.term_begins = self.raft.last();
        for node in 0..self.nodes.len() {
            self.announce_leader(node);
        }
    }

    /// Entries that were appended and not committed survive on the nodes that have them: a leader that is elected again
    /// has all of them, another one those that reached it. They are committed now, as entries of their own terms; with
    /// another leader no proposer waits for them.
    fn keep_appended(&mut self, leader: usize) {
        let kept = match self.raft.leader {
            Some(former) if former == leader => self.raft.waiting.len(),
            Some(former) if !self.nodes[former].cut => self.rng.usize(0..=self.raft.waiting.len()),
            Some(_) | None => 0,
        };
        let again = self.raft.leader == Some(leader);
        let waiting: Vec<(Term, Proposal)> = self.raft.waiting.drain(..).take(kept).collect();
        for (term, proposal) in waiting {
            let tag = if again { proposal.tag } else { Tag::None };
            self.commit_proposal(leader, term, Proposal { tag, ..proposal });
        }
    }

    /// An entry of Raft's own.
    fn commit_nothing(&mut self) {
        let before = &self.raft.log[self.raft.last()];
        let (mut state, table) = ((*before.state).clone(), before.table.clone());
        note_applied(&mut state, Epoch(self.raft.log.len() as u64));
        self.commit(Moment { state: Rc::new(state), table, result: Ok(Outcome::Done) });
    }

    /// A node learns which node leads, unless it is cut off.
    fn announce_leader(&mut self, node: usize) {
        let Some(leader) = self.raft.leader else { return };
        if self.nodes[node].cut && node != leader {
            return;
        }
        let what = NodeEvent::Leads { leader, term: self.raft.term, from: self.raft.term_begins };
        let delay = network::message(&mut self.rng);
        self.at_node(node, delay, what);
    }

    fn announce_entry(&mut self, node: usize) {
        let delay = network::apply(&mut self.rng);
        let upto = self.raft.last();
        self.at_node(node, delay, NodeEvent::Apply { upto });
    }

    pub fn commit(&mut self, moment: Moment) {
        self.raft.log.push(moment);
        for node in 0..self.nodes.len() {
            if !self.nodes[node].cut {
                self.announce_entry(node);
            }
        }
    }

    /// An entry is committed: the real `apply` decides what it does.
    pub fn append(&mut self, change: Change, term: Term) -> Result<Outcome, String> {
        let index = self.raft.log.len() as u64;
        let before = &self.raft.log[self.raft.last()];
        let mut state = (*before.state).clone();
        let entry =
            Entry { id: Uuid(u128::from(index)), request_hash: 0, at_ms: 0, author: Default::default(), change };
        let at = Position { index: Epoch(index), term };
        let result = apply(&mut state, &entry, at).map_err(|reject| reject.to_string());
        let table = if state.route_epoch == before.state.route_epoch {
            before.table.clone()
        } else {
            Rc::new(RouteTable::derive_from(&state, &before.state, &before.table))
        };
        // A refused change leaves the state as it was.
        let found = if result.is_ok() { check(&state) } else { Vec::new() };
        if !found.is_empty() {
            self.violated(format!("entry {index}: {found:?}"));
        }
        self.note(format_args!("entry {index} term {}: {:?} -> {result:?}", at.term, entry.change));
        self.commit(Moment { state: Rc::new(state), table, result: result.clone() });
        result
    }

    /// Asks a node's own Raft to append. This may come late, and in another term than intended.
    pub fn propose(&mut self, node: usize, proposal: Proposal) {
        let tag = proposal.tag;
        if self.raft.leader != Some(node) {
            self.at_node(node, MS, NodeEvent::ProposalFailed { tag });
            return;
        }
        self.raft.waiting.push_back((self.raft.term, proposal));
        self.commit_waiting();
        if tag != Tag::None && self.raft.waiting.iter().any(|(_, p)| p.tag == tag) {
            let patience = self.nodes[node].clock.lasts(PROPOSE_WITHIN);
            self.at_node(node, patience, NodeEvent::ProposalLate { tag });
        }
    }

    /// The proposer stops waiting for an entry that is not committed. The entry itself stays in the log.
    pub fn proposal_is_late(&mut self, node: usize, tag: Tag) {
        let waiting = self.raft.waiting.iter_mut().find(|(_, p)| p.tag == tag);
        if let Some((_, proposal)) = waiting {
            proposal.tag = Tag::None;
            self.proposal_ends(node, tag, Err(None));
        }
    }

    /// Commits what the leader has appended, in its order, if it has a quorum.
    pub fn commit_waiting(&mut self) {
        let Some(leader) = self.raft.leader else { return };
        while self.has_quorum(leader) {
            let Some((term, proposal)) = self.raft.waiting.pop_front() else { return };
            self.commit_proposal(leader, term, proposal);
        }
    }

    fn commit_proposal(&mut self, node: usize, term: Term, proposal: Proposal) {
        let Proposal { change, tag, copied } = proposal;
        let finishes = matches!(change, Change::FinishAssign(_));
        let moving = self.moving(&change);
        let released = matches!(change, Change::Release(_));
        let before = self.raft.last();
        let result = self.append(change.clone(), term);
        if result.is_ok() {
            self.check_servers(&change, before);
        }
        if result.is_ok() && finishes {
            self.seen.moved += 1;
            self.install(&moving, &copied);
        }
        self.seen.released += u64::from(released && result.is_ok());
        let index = self.raft.last();
        self.nodes[node].proposed.push((index, tag));
    }

    /// Slots that a FinishAssign would move, with their present owners.
    fn moving(&self, change: &Change) -> Vec<(u16, usize)> {
        let Change::FinishAssign(FinishAssign { assignment, .. }) = change else { return Vec::new() };
        let state = &self.raft.log[self.raft.last()].state;
        let Some(assignment) = state.assignments.get(assignment) else { return Vec::new() };
        assignment.slots.iter().map(|s| (s.0, self.owner(*s))).collect()
    }

    /// Index of the server that owns a slot by the newest entry.
    pub fn owner(&self, slot: SlotId) -> usize {
        let state = &self.raft.log[self.raft.last()].state;
        let owner = state.products[&PRODUCT].slots[usize::from(slot.0)].owner.unwrap();
        usize::from(owner.0 as u16) - 1
    }

    /// Gives the copied values to the new owner, and removes them from the former one.
    fn install(&mut self, moving: &[(u16, usize)], copied: &super::invariants::Registers) {
        for (slot, from) in moving {
            self.servers[*from].remove(slot);
            let to = self.owner(SlotId(*slot));
            match copied.get(slot) {
                Some(version) => self.servers[to].insert(*slot, *version),
                None => self.servers[to].remove(slot),
            };
            if let Err(why) = self.invariants.moved(*slot, copied) {
                self.violated(why);
            }
        }
    }

    /// A quorum round: whether it proves that the node led in `term` at this moment, and what it must have applied.
    pub fn quorum_round(&mut self, node: usize, term: Term) -> Option<usize> {
        let proves = self.raft.leader == Some(node) && self.raft.term == term && self.has_quorum(node);
        proves.then(|| self.raft.last())
    }

    /// How long a fault lasts.
    pub fn fault_length(&mut self) -> Ns {
        spread(&mut self.rng, 30 * MS, 7 * SECOND)
    }
}
