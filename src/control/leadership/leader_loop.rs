//! The leader's loop: probes at the newest state, does what is to be done next, says what it waits for.
//! Carries no data from one activation to the next but tasks, which can be begun anew at any time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::Mutex, task::JoinHandle, time::Instant};
use tracing::{error, info, warn};

use super::{context::LeaderContext, leases::Leases, peers::Peers};
use crate::{
    consensus::{Consensus, Leadership, ProposeError},
    control::{
        failover::groups::{GroupController, of_product},
        servers::{authorizer::Authorizer, fence::Fence},
        slots::{assignment, job},
    },
    model::{
        change::{Change, NewMember},
        ids::{AssignmentId, NodeId, Term, Uuid},
        migration::Job,
        state::ClusterState,
    },
    plan::{leadership_transfer::TransferCandidates, membership},
};

/// Looked at even without news: leases end by themselves.
const PERIOD: Duration = Duration::from_millis(200);
/// A proposal that takes longer has lost its quorum; the next activation tries again.
const PROPOSE_WITHIN: Duration = Duration::from_secs(3);
/// Before it is handed over again: it may come back, and whoever got it may be no better.
const TRANSFER_AGAIN: Duration = Duration::from_secs(20);

/// What the loop works with. Cheap to clone.
#[derive(Clone)]
pub struct LeaderLoop {
    /// The log.
    pub consensus: Consensus,
    /// Leases and barriers.
    pub leases: Leases,
    /// Probes before a hold.
    pub peers: Peers,
    /// Which connections may change servers.
    pub authorizer: Authorizer,
    /// This node.
    pub me: NodeId,
    /// Port of the product `default` that the first change makes.
    pub default_port: u16,
}

impl LeaderLoop {
    /// Runs for as long as the node does. A panic in one activation is logged, and the next one comes.
    pub async fn run(self) {
        let mut leadership = self.consensus.leadership();
        let mut state = self.consensus.state();
        let mut term_tasks = TermTasks::default();
        let mut transferred: Option<Instant> = None;
        loop {
            let now = leadership.borrow_and_update().clone();
            state.borrow_and_update();
            if now.is_me {
                self.jobs(now.term, &mut term_tasks);
                let term = now.term;
                let mut activation = tokio::spawn(self.clone().activate(now, term_tasks.groups()));
                let ended = tokio::select! {
                    ended = &mut activation => ended,
                    // What was begun in a term ends with it, and not when a probe at everything happens to be over.
                    over = async { leadership.wait_for(|later| !later.is_me || later.term != term).await.map(drop) } => {
                        activation.abort();
                        term_tasks = TermTasks::default();
                        if over.is_err() { return }
                        continue;
                    }
                };
                match ended {
                    Ok(Some(transfer_candidates)) if transferred.is_none_or(|at| at.elapsed() >= TRANSFER_AGAIN) => {
                        transferred = Some(Instant::now());
                        self.transfer_leadership(transfer_candidates).await;
                    }
                    Ok(_) => {}
                    Err(panic) => error!(%panic, "a control loop failed; it is tried again"),
                }
            } else {
                term_tasks = TermTasks::default();
            }
            tokio::select! {
                () = tokio::time::sleep(PERIOD) => {}
                changed = leadership.changed() => if changed.is_err() { return },
                changed = state.changed() => if changed.is_err() { return },
            }
        }
    }

    async fn transfer_leadership(&self, TransferCandidates { nodes, why }: TransferCandidates) {
        info!(?nodes, %why, "the leadership is handed over to a node that reaches it");
        // Nothing is granted meanwhile. Two elections by default, and what is left of the leases bridges it if nobody takes over.
        let within = self.leases.timing().lease / 2;
        if !self.consensus.transfer_leadership_to(&nodes, within).await {
            warn!(?nodes, "nobody took the leadership over; this node goes on leading");
        }
    }

    /// One probe at everything that has no task of its own; promotions and servers get theirs here. Who had better lead, if
    /// anybody.
    async fn activate(
        self,
        leadership: Leadership,
        groups: Option<(LeaderContext, Arc<Mutex<GroupController>>)>,
    ) -> Option<TransferCandidates> {
        let state = self.consensus.state().borrow().clone();
        let mut waiting = Vec::new();
        if state.members.is_empty() {
            self.bootstrap().await;
            return None;
        }
        // First: clients of a group whose primary is gone wait for it.
        let mut transfer_candidates = None;
        if let Some((jobs, groups)) = groups {
            let mut groups = groups.lock().await;
            waiting.extend(groups.probe(&jobs).await);
            transfer_candidates = groups.transfer_candidates(&jobs);
        }
        if let Err(error) = self.membership(&state, &leadership).await {
            waiting.push(format!("the membership is to change, and could not: {error}"));
        }
        let (ready, why_not) = self.leases.removable(leadership.term);
        waiting.extend(why_not);
        for member in ready {
            // Raft lets it go first: a voter that is no member would still count for the quorum.
            if leadership.voters.contains(&member.id) || leadership.learners.contains(&member.id) {
                waiting.push(format!("node {} is leaving Raft's membership", member.id));
                continue;
            }
            let change = Change::FinishRemove { node: member.id, uuid: member.uuid, term: leadership.term };
            match self.propose(change).await {
                Ok(()) => info!(node = %member.id, "the node is removed"),
                Err(why) => waiting.push(format!("node {} is to be dropped: {why}", member.id)),
            }
        }
        for assignment in state.assignments.values() {
            let to = of_product(&state, (assignment.product, assignment.to));
            waiting.push(format!("assignment {} of {} slots to {to}", assignment.id, assignment.slots.len()));
        }
        let named = |job: &Job| match job {
            Job::Migration(_) => job.to_string(),
            Job::Sweep { product, group } => format!("the sweep of {}", of_product(&state, (*product, *group))),
        };
        waiting.extend(self.leases.view().borrow().jobs.iter().map(|(job, why)| format!("{}: {why}", named(job))));
        self.leases.waiting_on(waiting);
        transfer_candidates
    }

    /// The first change of a cluster: what Raft's first membership says, and the product `default`.
    async fn bootstrap(&self) {
        let members = self.consensus.raft_members();
        if let Err(why) = self.propose(Change::Bootstrap { members, port: self.default_port }).await {
            warn!(%why, "could not write the cluster's first change; trying again");
        }
    }

    async fn membership(&self, state: &ClusterState, leadership: &Leadership) -> Result<(), ProposeError> {
        let voters: BTreeSet<NodeId> = leadership.voters.iter().copied().collect();
        let Some(wanted) = membership::decide(state, &voters) else { return Ok(()) };
        let nodes = state.members.values().map(|m| {
            let node = NewMember {
                id: m.id,
                uuid: m.uuid,
                admin: m.admin.clone(),
                advertise: m.advertise.clone(),
                port_offset: m.port_offset,
            };
            (m.id, node)
        });
        if self.consensus.change_membership(wanted.voters.clone(), wanted.learners.clone(), nodes.collect()).await? {
            info!(voters = ?wanted.voters, learners = ?wanted.learners, "Raft's membership changes");
        }
        Ok(())
    }

    async fn propose(&self, change: Change) -> Result<(), String> {
        let id = Uuid(uuid::Uuid::new_v4().as_u128());
        match self.consensus.propose(id, change, PROPOSE_WITHIN).await {
            Ok(applied) => applied.result.map(|_| ()).map_err(|reject| reject.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Every open assignment and migration and every group with leftovers has one task, begun anew in each term.
    fn jobs(&self, term: Term, term_tasks: &mut TermTasks) {
        let state = self.consensus.state().borrow().clone();
        let Some(cluster) = self.consensus.cluster_id() else { return };
        if term_tasks.jobs.as_ref().is_none_or(|jobs| jobs.fence.term() != term) {
            *term_tasks = TermTasks::default();
            let fence = Fence::new(cluster, self.me, term, Arc::new(self.leases.quorum().clone()));
            term_tasks.jobs = Some(LeaderContext {
                consensus: self.consensus.clone(),
                leases: self.leases.clone(),
                peers: self.peers.clone(),
                authorizer: self.authorizer.clone(),
                fence,
                me: self.me,
                cluster,
            });
        }
        let TermTasks { jobs: Some(jobs), tasks, assigning, .. } = term_tasks else { return };
        assigning.retain(|id, task| state.assignments.contains_key(id) && !task.is_finished());
        for id in state.assignments.keys().copied() {
            assigning.entry(id).or_insert_with(|| tokio::spawn(assignment::run(jobs.clone(), id)));
        }
        tasks.retain(|_, task| !task.is_finished());
        let groups = state.products.values().flat_map(|p| p.groups.values().map(|g| (p.id, g)));
        let swept = groups.filter(|(p, g)| g.sweep.is_some() || !state.sweepable(*p, g.id).is_empty());
        let sweeps = swept.map(|(product, g)| Job::Sweep { product, group: g.id });
        for job in state.migrations.keys().map(|id| Job::Migration(*id)).chain(sweeps) {
            tasks.entry(job).or_insert_with(|| tokio::spawn(job::run(jobs.clone(), job)));
        }
    }
}

/// The tasks of one term's assignments, migrations, sweeps and groups, and what they share. Dropped, they end.
#[derive(Default)]
struct TermTasks {
    jobs: Option<LeaderContext>,
    tasks: BTreeMap<Job, JoinHandle<()>>,
    assigning: BTreeMap<AssignmentId, JoinHandle<()>>,
    groups: Arc<Mutex<GroupController>>,
}

impl TermTasks {
    /// What a probe at the groups needs, once the cluster has formed.
    fn groups(&self) -> Option<(LeaderContext, Arc<Mutex<GroupController>>)> {
        Some((self.jobs.clone()?, self.groups.clone()))
    }
}

impl Drop for TermTasks {
    fn drop(&mut self) {
        self.tasks.values().chain(self.assigning.values()).for_each(JoinHandle::abort);
    }
}
