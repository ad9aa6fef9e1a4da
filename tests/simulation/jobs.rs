//! A leader's tasks for migrations and sweeps: carries out what the real `plan::{migration, sweep, job, authorization}`
//! decide, as src/control/slots/job.rs and src/control/servers/{authorizer,fence}.rs do. Knows nothing of whether it
//! still leads: the rules must ensure that.

use std::collections::BTreeMap;

use super::{
    invariants::Registers,
    leader::Tag,
    mover_messages::News,
    network::{self, MS, Ns, SECOND},
    node::NodeEvent,
    store::Closing,
    world::{Event, PRODUCT, World},
};
use pontoon::{
    control::{
        leadership::{context::BARRIER_POLL_INTERVAL, heartbeat_handler::HeartbeatHandler},
        slots::job::{CLOSE_MAX, FINISH_GRACE},
    },
    model::{
        change::Change,
        ids::{HostPort, NodeId, Term},
        migration::{ConnectionId, Job},
        outcome::Outcome,
        state::ClusterState,
    },
    plan::{
        self,
        job::{JobObservation, JobStep, NodeObservation, SelectedEndpoints},
        job_memory::JobMemory,
        lease::Barrier,
    },
};

/// A sweep's quiet time is longer than a world: when a leader begins, all but this has passed already.
const QUIET: Ns = SECOND;

/// One job's task.
pub struct Carried {
    memory: JobMemory,
    /// What it waits for; 0: nothing.
    serial: u64,
    doing: Doing,
}

enum Doing {
    Nothing,
    SelectEndpoints,
    Preflight,
    Close(HostPort, u32),
    Finish(pontoon::model::ids::HoldId),
    Propose(Box<Change>, Ns),
}

/// A mover that asks for authorization.
#[derive(Clone)]
pub struct AuthorizationRequest {
    pub from: usize,
    pub job: Job,
    pub run: u32,
    pub server: HostPort,
    pub line: u64,
}

impl World {
    /// Every open job has one task; each that waits for news decides what is to be done now.
    pub fn step_jobs(&mut self, node: usize) {
        if !self.rules.migrations || !self.nodes[node].up || self.nodes[node].paused {
            return;
        }
        let (state, now) = (self.state(node), self.local(node));
        let Some(lead) = &mut self.nodes[node].lead else { return };
        let sweeps = state.products[&PRODUCT]
            .groups
            .values()
            .filter(|g| g.sweep.is_some() || !state.sweepable(PRODUCT, g.id).is_empty());
        let sweeps = sweeps.map(|g| Job::Sweep { product: PRODUCT, group: g.id });
        let open: Vec<Job> = state.migrations.keys().map(|id| Job::Migration(*id)).chain(sweeps).collect();
        for job in &open {
            lead.jobs.entry(*job).or_insert_with(|| {
                let quiet = plan::sweep::QUIET_NS - QUIET;
                let since = if matches!(job, Job::Sweep { .. }) { now - quiet } else { now };
                Carried { memory: JobMemory::new(since), serial: 0, doing: Doing::Nothing }
            });
        }
        let idle: Vec<Job> =
            lead.jobs.iter().filter(|(_, c)| matches!(c.doing, Doing::Nothing)).map(|(j, _)| *j).collect();
        for job in idle {
            self.step(node, job, &state);
        }
    }

    fn decide(&mut self, node: usize, job: Job, state: &ClusterState) -> Option<JobStep> {
        let (now, me, rules, timing) = (self.local(node), self.member_id(node), self.rules, self.timing);
        let lead = self.nodes[node].lead.as_mut()?;
        let heartbeat_handler: &HeartbeatHandler = &lead.heartbeat_handler;
        let view = heartbeat_handler.view();
        let observed = |n: &pontoon::control::leadership::view::NodeView| NodeObservation {
            incarnation: n.incarnation,
            heartbeat_ns: n.heartbeat_ns,
            applied: n.applied,
        };
        let nodes: BTreeMap<NodeId, NodeObservation> = view.nodes.iter().map(|(id, n)| (*id, observed(n))).collect();
        let hold = match job {
            Job::Migration(id) => state.migrations.get(&id).and_then(|m| m.hold()).and_then(|h| state.holds.get(&h)),
            Job::Sweep { .. } => None,
        };
        let mut barrier = hold.and_then(|hold| Some(heartbeat_handler.table()?.barrier(hold, state, now)));
        if barrier.is_some() && !rules.barrier {
            barrier = Some(Barrier::Passed);
        }
        let seen = JobObservation {
            state,
            term: lead.term,
            me,
            now_ns: now,
            nodes: &nodes,
            mover: view.movers.get(&job),
            barrier: barrier.as_ref(),
            timing,
        };
        let memory = &mut lead.jobs.get_mut(&job)?.memory;
        if let Job::Sweep { .. } = job {
            // Slots that it sees for the first time count as unchanged for most of the quiet time.
            let since = now.saturating_sub(plan::sweep::QUIET_NS - QUIET);
            memory.observe(&JobObservation { now_ns: since, ..seen }, job);
        }
        memory.observe(&seen, job);
        Some(match job {
            Job::Migration(id) => plan::migration::next(&seen, memory, id),
            Job::Sweep { product, group } => plan::sweep::next(&seen, memory, product, group),
        })
    }

    fn step(&mut self, node: usize, job: Job, state: &ClusterState) {
        let Some(step) = self.decide(node, job, state) else { return };
        let serial = self.rng.u64(1..);
        let (now, boot) = (self.local(node), self.nodes[node].boot);
        let delay = network::message(&mut self.rng);
        let doing = match step {
            JobStep::Over => {
                if let Some(lead) = &mut self.nodes[node].lead {
                    lead.jobs.remove(&job);
                }
                return;
            }
            JobStep::Wait { .. } => {
                let held = self.carried(node, job).is_some_and(|c| c.memory.hold.is_some());
                let Some(lead) = &mut self.nodes[node].lead else { return };
                if held && !std::mem::replace(&mut lead.barriers_scheduled, true) {
                    self.at_node(node, BARRIER_POLL_INTERVAL.as_nanos() as Ns, NodeEvent::EvaluateBarriers);
                }
                return;
            }
            JobStep::SelectEndpoints | JobStep::Preflight => {
                self.at_node(node, delay, NodeEvent::Probed { serial });
                if step == JobStep::SelectEndpoints { Doing::SelectEndpoints } else { Doing::Preflight }
            }
            JobStep::Close { server, runs, .. } => {
                // Marked before anything is killed.
                let Some(lead) = &mut self.nodes[node].lead else { return };
                let _ = lead.authorizations.close(state, job, runs);
                let (term, place) = (lead.term, Self::place(&server));
                let closing =
                    Closing { node, boot, term, serial, server: place.0, which: place.1, job, confirmed: false };
                self.schedule(delay, Event::Control(Box::new(closing)));
                let patience = self.nodes[node].clock.lasts(CLOSE_MAX.as_nanos() as Ns);
                let late = Err("no answer in time".into());
                self.at_node(node, patience, NodeEvent::Closed { serial, result: late });
                Doing::Close(server, runs)
            }
            JobStep::Finish { hold, run, node: worker, by_ns } => {
                let within = by_ns.saturating_sub(now);
                let news = News::Finish { serial, leader: node, hold, within };
                self.send(node, worker.0 as usize - 1, NodeEvent::Mover { job, run, news });
                let patience = self.nodes[node].clock.lasts(within + FINISH_GRACE.as_nanos() as Ns);
                let late = Err("no answer in time".into());
                self.at_node(node, patience, NodeEvent::Finished { serial, result: late });
                Doing::Finish(hold)
            }
            JobStep::Propose(change) => {
                self.wants(node, change.clone(), Tag::Job(serial), Registers::new());
                Doing::Propose(Box::new(change), now)
            }
        };
        if let Some(carried) = self.carried(node, job) {
            (carried.serial, carried.doing) = (serial, doing);
        }
    }

    fn carried(&mut self, node: usize, job: Job) -> Option<&mut Carried> {
        self.nodes[node].lead.as_mut()?.jobs.get_mut(&job)
    }

    /// The task that waits for this, which waits no more.
    fn awaited(&mut self, node: usize, serial: u64) -> Option<(Job, Doing)> {
        let lead = self.nodes[node].lead.as_mut()?;
        let (job, carried) = lead.jobs.iter_mut().find(|(_, c)| c.serial == serial)?;
        carried.serial = 0;
        Some((*job, std::mem::replace(&mut carried.doing, Doing::Nothing)))
    }

    /// An endpoint selection or a preflight has ended. It only chooses the moment, so here it may know more than a real
    /// one.
    pub fn probed(&mut self, node: usize, serial: u64) {
        let Some((job, doing)) = self.awaited(node, serial) else { return };
        let (now, state) = (self.local(node), self.state(node));
        let Job::Migration(id) = job else { return };
        let Some(migration) = state.migrations.get(&id) else { return };
        let (from, to) = (migration.from, migration.to);
        let groups = &state.products[&PRODUCT].groups;
        let there = [from, to].map(|g| groups[&g].servers[0].addr.clone());
        let all = there.iter().all(|addr| self.serves(Self::place(addr)));
        if matches!(doing, Doing::SelectEndpoints) {
            // After a failover the old primary is between the two for a moment.
            let servers = &groups[&from].servers;
            let feed = if self.rng.bool() { servers.last() } else { servers.first() }.unwrap().addr.clone();
            let group_epochs = [from, to].map(|g| (g, groups[&g].epoch)).into();
            let found = SelectedEndpoints { feed, target: there[1].clone(), group_epochs };
            let found = if all { Ok(found) } else { Err("a primary is not there".to_owned()) };
            if let Some(carried) = self.carried(node, job) {
                carried.memory.endpoints_selected(now, found);
            }
        } else {
            let silent = (0..self.nodes.len()).any(|n| {
                let there = self.nodes[n].up && !self.nodes[n].paused && !self.nodes[n].cut;
                let member = state.members.get(&self.member_id(n));
                let isolated = state.products[&PRODUCT].isolated;
                let table = self.nodes[node].lead.as_ref().and_then(|l| l.heartbeat_handler.table());
                !there && member.is_some_and(|m| !table.is_some_and(|t| t.has_stopped_serving(m, isolated, now)))
            });
            // A fault may begin right after a preflight, so a few wrong answers find more.
            let well = (all && !silent) || self.rng.u8(0..10) == 0;
            let result = if well { Ok(()) } else { Err("a node does not answer".to_owned()) };
            if let Some(carried) = self.carried(node, job) {
                carried.memory.preflighted(now, result);
            }
        }
        self.step_jobs(node);
    }

    pub fn job_closed(&mut self, node: usize, serial: u64, result: Result<(), String>) {
        let Some((job, Doing::Close(server, runs))) = self.awaited(node, serial) else { return };
        let (now, timing) = (self.local(node), self.timing);
        self.note(format_args!("node {}: runs of {job} up to {runs} closed at {server}: {result:?}", node + 1));
        if let Some(carried) = self.carried(node, job) {
            carried.memory.closed(now, server, runs, result, timing);
        }
        self.step_jobs(node);
    }

    pub fn job_finished(&mut self, node: usize, serial: u64, result: Result<(), String>) {
        let Some((job, Doing::Finish(hold))) = self.awaited(node, serial) else { return };
        self.note(format_args!("node {}: {job} finished: {result:?}", node + 1));
        if let Some(carried) = self.carried(node, job) {
            carried.memory.finished(
                hold,
                result.map(|()| pontoon::model::promotion::ReplicationOffset { replid: "ab".into(), offset: 0 }),
            );
        }
        self.step_jobs(node);
    }

    pub fn job_proposed(&mut self, node: usize, serial: u64, result: Result<Outcome, Option<String>>) {
        let Some((job, Doing::Propose(change, asked))) = self.awaited(node, serial) else { return };
        let (now, timing) = (self.local(node), self.timing);
        let result = match &result {
            Ok(outcome) => Ok(outcome),
            Err(Some(why)) => Err(why.clone()),
            Err(None) => {
                // The outcome is unknown: the task ends, and another one begins.
                if let Some(lead) = &mut self.nodes[node].lead {
                    lead.jobs.remove(&job);
                }
                return;
            }
        };
        if let Some(carried) = self.carried(node, job) {
            carried.memory.proposed((asked, now), &change, result, timing);
        }
        self.step_jobs(node);
    }

    // Authorizations.

    /// A mover names its connection. The quorum confirmation begins after that.
    pub fn authorize(&mut self, node: usize, asking: AuthorizationRequest) {
        let boot = self.nodes[node].boot;
        let Some(term) = self.nodes[node].lead.as_ref().map(|l| l.term) else {
            return self.authorized(node, &asking, Err(None));
        };
        let delay = network::message(&mut self.rng);
        self.schedule(delay, Event::AuthorizationRound { node, boot, term, asking: Box::new(asking) });
    }

    pub fn authorization_round(&mut self, node: usize, boot: u32, term: Term, asking: AuthorizationRequest) {
        let proof = if self.nodes[node].boot == boot { self.quorum_round(node, term) } else { None };
        let delay = network::message(&mut self.rng);
        let what = NodeEvent::AuthorizationRoundEnd { term, proof, asking: Box::new(asking) };
        self.schedule(delay, Event::Node { node, boot, from: None, what });
    }

    pub fn authorization_round_ends(
        &mut self,
        node: usize,
        term: Term,
        proof: Option<usize>,
        asking: Box<AuthorizationRequest>,
    ) {
        let leads = self.nodes[node].lead.as_ref().is_some_and(|l| l.term == term);
        match proof {
            Some(index) if leads && self.nodes[node].applied < index => {
                self.at_node(node, MS, NodeEvent::AuthorizationRoundEnd { term, proof, asking });
            }
            Some(_) if leads => self.decides(node, &asking),
            _ => self.authorized(node, &asking, Err(None)),
        }
    }

    fn decides(&mut self, node: usize, asking: &AuthorizationRequest) {
        let (state, worker) = (self.state(node), self.member_id(asking.from));
        let Some(lead) = &mut self.nodes[node].lead else { return };
        let connection = ConnectionId { server: asking.server.clone(), client_id: asking.line };
        let result = lead.authorizations.authorize(&state, (asking.job, asking.run), worker, &[connection]);
        self.authorized(node, asking, result.map_err(Some));
    }

    fn authorized(&mut self, node: usize, asking: &AuthorizationRequest, result: Result<(), Option<String>>) {
        let news = News::Authorized(result);
        self.send(node, asking.from, NodeEvent::Mover { job: asking.job, run: asking.run, news });
    }
}
