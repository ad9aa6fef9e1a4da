//! A leader's tasks for assignments: carries out what the real `plan::assignment` decides, as
//! src/control/slots/assignment.rs does.
//! Knows nothing of whether it still leads: the rules must ensure that.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    invariants::Registers,
    leader::{Lead, Tag},
    network::Ns,
    node::NodeEvent,
    world::World,
};
use pontoon::{
    control::leadership::context::BARRIER_POLL_INTERVAL,
    model::{
        change::{Change, FinishAssign},
        ids::{AssignmentId, NodeId},
        outcome::Outcome,
        state::ClusterState,
    },
    plan::{
        assignment::{AssignmentMemory, AssignmentObservation, AssignmentStep, SlotScan, next},
        lease::Barrier,
        liveness::Watchers,
        observation::Observation,
    },
};

/// A clock that counts in whole nanoseconds may read a little less than the time that was waited for.
const CLOCK_GRAIN: Ns = 1_000;

/// One assignment's task.
#[derive(Default)]
pub struct AssignmentTask {
    memory: AssignmentMemory,
    /// The number of what it waits for.
    serial: u64,
    awaits: Awaited,
}

/// What a task waits for.
#[derive(Default)]
enum Awaited {
    /// News, or the time that a `TaskWake` reports.
    #[default]
    News,
    /// Answers of these nodes, or the ping timeout.
    Pings(BTreeSet<usize>),
    /// The result of a change.
    Proposal(Box<Change>),
}

impl World {
    /// Every open assignment has one task; each that waits for news decides what is to be done now.
    pub fn step_assignments(&mut self, node: usize) {
        if !self.nodes[node].up || self.nodes[node].paused {
            return;
        }
        let state = self.state(node);
        let Some(lead) = &mut self.nodes[node].lead else { return };
        lead.tasks.retain(|id, _| state.assignments.contains_key(id));
        for id in state.assignments.keys() {
            lead.tasks.entry(*id).or_default();
        }
        let waits = |task: &AssignmentTask| matches!(task.awaits, Awaited::News);
        let idle: Vec<AssignmentId> = lead.tasks.iter().filter(|(_, t)| waits(t)).map(|(id, _)| *id).collect();
        for id in idle {
            self.step_assignment(node, id);
        }
    }

    /// Decides and carries out until the task has to wait.
    fn step_assignment(&mut self, node: usize, id: AssignmentId) {
        let state = self.state(node);
        loop {
            let now = self.local(node);
            let Some(step) = self.decide_assignment(node, id, &state) else { return };
            let awaits = match step {
                AssignmentStep::Over => return self.end_assignment_task(node, id),
                // Slots are registers here, and move with their values: there is never a key to be found.
                AssignmentStep::Scan(_) => {
                    if let Some(task) = self.assignment_task(node, id) {
                        task.memory.scanned(now, SlotScan::Empty);
                    }
                    continue;
                }
                AssignmentStep::EmptyPrimary(_) | AssignmentStep::CheckPrimary(_) => {
                    unreachable!("a product in mode store reinstates nothing")
                }
                AssignmentStep::Wait { until_ns, .. } => {
                    let left = self.nodes[node].clock.lasts(until_ns.saturating_sub(now)) + CLOCK_GRAIN;
                    let holds = self.assignment_task(node, id).is_some_and(|task| task.memory.hold().is_some());
                    let left = if holds { left.min(BARRIER_POLL_INTERVAL.as_nanos() as Ns) } else { left };
                    let serial = self.next_serial(node, id, Awaited::News);
                    self.at_node(node, left, NodeEvent::TaskWake { serial });
                    return;
                }
                AssignmentStep::Preflight { isolated } => {
                    let table = self.nodes[node].lead.as_ref().and_then(|lead| lead.heartbeat_handler.table());
                    let silent = |m: &&_| table.is_some_and(|t| t.has_stopped_serving(m, isolated, now));
                    let possible = state.members.values().filter(|m| !silent(m));
                    Awaited::Pings(possible.map(|m| m.id.0 as usize - 1).collect())
                }
                AssignmentStep::Propose(change) => Awaited::Proposal(Box::new(change)),
            };
            match awaits {
                Awaited::News => {}
                Awaited::Pings(servers) => {
                    let serial = self.next_serial(node, id, Awaited::Pings(servers.clone()));
                    for server in servers {
                        self.send(node, server, NodeEvent::Ping { from: node, nonce: serial });
                    }
                    let patience = self.nodes[node].clock.lasts(self.timing.ping_timeout.as_nanos() as Ns);
                    self.at_node(node, patience, NodeEvent::TaskWake { serial });
                }
                Awaited::Proposal(change) => {
                    let copied = self.copied_by(node, &state, &change);
                    let serial = self.next_serial(node, id, Awaited::Proposal(change.clone()));
                    self.wants(node, *change, Tag::Task(serial), copied);
                }
            }
            return;
        }
    }

    fn decide_assignment(&mut self, node: usize, id: AssignmentId, state: &ClusterState) -> Option<AssignmentStep> {
        let (now_ns, timing, rules) = (self.local(node), self.timing, self.rules);
        let Lead { tasks, heartbeat_handler, term, .. } = self.nodes[node].lead.as_mut()?;
        let memory = &mut tasks.get_mut(&id)?.memory;
        let hold = memory.hold().and_then(|hold| state.holds.get(&hold));
        let barrier = hold.and_then(|hold| match rules.barrier {
            true => Some(heartbeat_handler.table()?.barrier(hold, state, now_ns)),
            false => Some(Barrier::Passed),
        });
        let servers = Observation::new();
        let watchers = Watchers::new(&servers, BTreeSet::new());
        let seen = AssignmentObservation {
            state,
            term: *term,
            now_ns,
            barrier: barrier.as_ref(),
            servers: &servers,
            watchers: &watchers,
            timing,
        };
        memory.observe(&seen, id);
        Some(next(&seen, memory, id))
    }

    /// The values that move with the slots of a `FinishAssign`; of another change none.
    fn copied_by(&mut self, node: usize, state: &ClusterState, change: &Change) -> Registers {
        let Change::FinishAssign(FinishAssign { hold, .. }) = change else { return Registers::new() };
        self.seen.silent += u64::from((0..self.nodes.len()).any(|n| self.nodes[n].cut || self.nodes[n].paused));
        self.note(format_args!("node {}: the barrier of hold {hold} has passed", node + 1));
        let Some(hold) = state.holds.get(hold) else { return Registers::new() };
        hold.slots.iter().filter_map(|s| Some((s.0, *self.servers[self.owner(*s)].get(&s.0)?))).collect()
    }

    /// The task waits for this from now on; the number that names it.
    fn next_serial(&mut self, node: usize, id: AssignmentId, awaits: Awaited) -> u64 {
        let serial = self.rng.u64(1..);
        if let Some(task) = self.assignment_task(node, id) {
            (task.serial, task.awaits) = (serial, awaits);
        }
        serial
    }

    fn assignment_task(&mut self, node: usize, id: AssignmentId) -> Option<&mut AssignmentTask> {
        self.nodes[node].lead.as_mut()?.tasks.get_mut(&id)
    }

    fn end_assignment_task(&mut self, node: usize, id: AssignmentId) {
        if let Some(lead) = &mut self.nodes[node].lead {
            lead.tasks.remove(&id);
        }
    }

    fn task_that_awaits(&mut self, node: usize, serial: u64) -> Option<(AssignmentId, &mut AssignmentTask)> {
        let lead = self.nodes[node].lead.as_mut()?;
        lead.tasks.iter_mut().find(|(_, task)| task.serial == serial).map(|(id, task)| (*id, task))
    }

    pub fn ping_answered(&mut self, node: usize, from: usize, nonce: u64) {
        let Some((id, task)) = self.task_that_awaits(node, nonce) else { return };
        let Awaited::Pings(silent) = &mut task.awaits else { return };
        silent.remove(&from);
        if silent.is_empty() {
            self.preflight_ends(node, id);
        }
    }

    fn preflight_ends(&mut self, node: usize, id: AssignmentId) {
        let (now, timing) = (self.local(node), self.timing);
        let Some(task) = self.assignment_task(node, id) else { return };
        task.serial = 0;
        if let Awaited::Pings(silent) = std::mem::take(&mut task.awaits) {
            let silent = silent.into_iter().map(|n| NodeId(n as u64 + 1)).collect();
            task.memory.preflighted(now, Ok(silent), timing);
        }
        self.step_assignment(node, id);
    }

    pub fn task_wakes(&mut self, node: usize, serial: u64) {
        let Some((id, task)) = self.task_that_awaits(node, serial) else { return };
        match task.awaits {
            Awaited::News => self.step_assignment(node, id),
            Awaited::Pings(_) => self.preflight_ends(node, id),
            Awaited::Proposal(_) => {}
        }
    }

    /// What came of a proposal; `Err(None)`: this is unknown, so the task begins anew or another leader does.
    pub fn proposal_ends(&mut self, node: usize, tag: Tag, result: Result<Outcome, Option<String>>) {
        let serial = match tag {
            Tag::None => return,
            Tag::Job(serial) => return self.job_proposed(node, serial, result),
            Tag::Task(serial) => serial,
        };
        let (now, timing) = (self.local(node), self.timing);
        let Some((id, task)) = self.task_that_awaits(node, serial) else { return };
        let result = match &result {
            Ok(outcome) => Ok(outcome),
            Err(Some(why)) => Err(why.clone()),
            Err(None) => return self.end_assignment_task(node, id),
        };
        task.serial = 0;
        if let Awaited::Proposal(change) = std::mem::take(&mut task.awaits) {
            task.memory.proposed(now, &change, result, timing);
        }
        self.step_assignment(node, id);
    }
}

/// The tasks of a leader's assignments.
pub type AssignmentTasks = BTreeMap<AssignmentId, AssignmentTask>;
