//! The leader's loop: with each activation it reads the newest state, does what is due, and shows what it waits for.
//! From one activation to the next it keeps only tasks, which can be started again at any time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::Mutex, task::JoinHandle, time::Instant};
use tracing::{info, warn};

use super::{
    context::LeaderContext,
    leases::Leases,
    node_notes::NodeNotes,
    peers::Peers,
    waits::{Waits, not_written},
};
use crate::{
    clock::boottime_ns,
    consensus::{Consensus, Leadership, ProposeError},
    control::{
        failover::{group_name::group_name, groups::GroupController},
        servers::{authorizer::Authorizer, blocked::BlockedConnections, fence::Fence},
        slots::{assignment, job},
    },
    counters, faults, files,
    model::{
        change::{Bootstrap, Change, FinishRemove, NewMember, NoteMembership},
        ids::{AssignmentId, NodeId, Term, Uuid},
        migration::Job,
        state::ClusterState,
    },
    panics,
    plan::{
        leadership_transfer::{TransferCandidates, without_files},
        membership,
        waiting::{Wait, WaitTimes},
    },
};

/// The interval between activations without news: the end of a lease causes no event.
const PERIOD: Duration = Duration::from_millis(200);
/// How long a proposal may take: one that takes longer has lost its quorum, and the next activation tries again.
const PROPOSE_WITHIN: Duration = Duration::from_secs(3);
/// A leader without a file descriptor transfers the leadership after this time: a burst of connections is shorter, and a
/// dead primary waits as long.
const WITHOUT_FILES: Duration = Duration::from_secs(2);
/// The pause between two leadership transfers: the leadership may come back, and the new leader may be no better.
const TRANSFER_INTERVAL: Duration = Duration::from_secs(20);

/// What the loop needs. Cheap to clone.
#[derive(Clone)]
pub struct LeaderLoop {
    /// The log.
    pub consensus: Consensus,
    /// Leases and barriers.
    pub leases: Leases,
    /// Calls to other nodes.
    pub peers: Peers,
    /// The authorized connections.
    pub authorizer: Authorizer,
    /// This node.
    pub me: NodeId,
    /// The port of the product `default`, which the first change creates.
    pub default_port: u16,
}

impl LeaderLoop {
    /// Runs for as long as the node does.
    ///
    /// # Panics
    /// When an activation or a task of the term panics, so that the node ends: a leader that goes on without a part
    /// of its loop looks healthy, and keeps the leadership from a node that works completely.
    pub async fn run(self) {
        let mut leadership = self.consensus.leadership();
        let mut state = self.consensus.state();
        let mut term_tasks = TermTasks::default();
        let mut transferred: Option<Instant> = None;
        let mut files_watch = FilesWatch::default();
        loop {
            let now = leadership.borrow_and_update().clone();
            state.borrow_and_update();
            if now.is_me {
                self.begin_tasks(now.term, &mut term_tasks).await;
                let (term, voters) = (now.term, now.voters.iter().copied().collect());
                let mut activation = {
                    let activation = self.clone().activate(now, term_tasks.controllers());
                    tokio::spawn(faults::or_panic("leader-activation", activation))
                };
                let ended = tokio::select! {
                    ended = &mut activation => ended,
                    // The tasks of a term end with the term, and not only when an activation is over.
                    over = async { leadership.wait_for(|now| !now.is_me || now.term != term).await.map(drop) } => {
                        activation.abort();
                        term_tasks = TermTasks::default();
                        if over.is_err() { return }
                        continue;
                    }
                };
                let candidates = panics::pass_on(ended).flatten();
                if let Some(transfer_candidates) =
                    candidates.or_else(|| files_watch.transfer_candidates(&voters, self.me))
                    && transferred.is_none_or(|at| at.elapsed() >= TRANSFER_INTERVAL)
                {
                    transferred = Some(Instant::now());
                    self.transfer_leadership(transfer_candidates).await;
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
        info!(?nodes, %why, "the leadership is transferred");
        // No lease is granted in the meantime. This is the time of two elections by default, and the rest of the leases
        // covers it if no node takes over.
        let within = self.leases.timing().lease / 2;
        if !self.consensus.transfer_leadership_to(&nodes, within).await {
            warn!(?nodes, "no node took over the leadership; this node still leads");
        }
    }

    /// One activation: everything that has no task of its own. (Promotions and servers get their tasks here.) Returns
    /// the nodes that should lead instead, if there are any.
    async fn activate(
        self,
        leadership: Leadership,
        controllers: Option<(LeaderContext, Arc<Mutex<Controllers>>)>,
    ) -> Option<TransferCandidates> {
        let state = self.consensus.state().borrow().clone();
        let mut waiting = Vec::new();
        if state.members.is_empty() {
            self.bootstrap().await;
            return None;
        }
        // First, since clients of a group whose primary is down wait for it.
        let mut transfer_candidates = None;
        if let Some((context, controllers)) = &controllers {
            let Controllers { groups, node_notes, blocked, .. } = &mut *controllers.lock().await;
            blocked.step(context);
            waiting.extend(groups.step(context).await);
            transfer_candidates = groups.transfer_candidates(context);
            let view = self.leases.view().borrow().clone();
            node_notes.write(context, &view.nodes).await;
        }
        if let Err(error) = self.membership(&state, &leadership).await {
            let ends_when = "a majority of the voters answers; it is tried again several times a second";
            let wait = Wait::new("Raft's membership could not be changed yet", ends_when);
            waiting.push(wait.with_detail(format!(": {error}")));
        }
        self.note_membership(&state).await;
        let (ready, why_not) = self.leases.removable(leadership.term);
        waiting.extend(why_not);
        for member in ready {
            // Raft's membership drops it first: a voter that is not a member would still count for the quorum.
            if leadership.voters.contains(&member.id) || leadership.learners.contains(&member.id) {
                let what = format!("node {} is leaving Raft's membership", member.id);
                waiting
                    .push(Wait::new(what, "a majority of the voters has written that, within a second if they answer"));
                continue;
            }
            let change =
                Change::FinishRemove(FinishRemove { node: member.id, uuid: member.uuid, term: leadership.term });
            match self.propose(change).await {
                Ok(()) => info!(node = %member.id, "the node is removed"),
                Err(why) => {
                    waiting.push(not_written(format!("node {} could not be dropped yet", member.id), &why));
                }
            }
        }
        if let Some((_, controllers)) = &controllers {
            self.show_waiting(&state, waiting, &mut *controllers.lock().await);
        }
        transfer_candidates
    }

    /// Publishes what is waited for: by this activation, and by the tasks of assignments, migrations and sweeps.
    fn show_waiting(&self, state: &ClusterState, mut waiting: Vec<Wait>, controllers: &mut Controllers) {
        for assignment in state.assignments.values() {
            let (id, slots) = (assignment.id, assignment.slots.len());
            let name = match assignment.to {
                Some(to) => {
                    format!("assignment {id} of {slots} slots to {}", group_name(state, (assignment.product, to)))
                }
                None => format!("assignment {id}, which releases {slots} slots"),
            };
            waiting.push(controllers.assignment_waits.of(id).of(&name));
        }
        let mut waiting = controllers.wait_times.update(waiting, boottime_ns());
        let named = |job: &Job| match job {
            Job::Migration(_) => job.to_string(),
            Job::Sweep { product, group } => format!("the sweep of {}", group_name(state, (*product, *group))),
        };
        waiting.extend(self.leases.view().borrow().jobs.iter().map(|(job, wait)| wait.clone().of(&named(job))));
        self.leases.waiting_on(waiting);
    }

    /// Proposes the first change of a cluster: the members of Raft's first membership, and the product `default`.
    async fn bootstrap(&self) {
        let members = self.consensus.raft_members();
        if let Err(why) = self.propose(Change::Bootstrap(Bootstrap { members, port: self.default_port })).await {
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

    /// Notes a change of Raft's membership, which has an entry of its own without an event.
    async fn note_membership(&self, state: &ClusterState) {
        let Some(membership) = self.consensus.settled_membership() else { return };
        if membership == state.raft_membership {
            return;
        }
        if let Err(why) = self.propose(Change::NoteMembership(NoteMembership { membership })).await {
            warn!(%why, "an event about Raft's membership could not be written; it is tried again");
        }
    }

    async fn propose(&self, change: Change) -> Result<(), String> {
        let id = Uuid(uuid::Uuid::new_v4().as_u128());
        match self.consensus.propose(id, change, PROPOSE_WITHIN).await {
            Ok(applied) => applied.result.map(|_| ()).map_err(|reject| reject.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Begins one task for each open assignment and migration and for each group with leftovers, again in each term.
    async fn begin_tasks(&self, term: Term, term_tasks: &mut TermTasks) {
        let state = self.consensus.state().borrow().clone();
        let Some(cluster) = self.consensus.cluster_id() else { return };
        if term_tasks.context.as_ref().is_none_or(|context| context.fence.term() != term) {
            *term_tasks = TermTasks::default();
            let fence = Fence::new(cluster, self.me, term, Arc::new(self.leases.quorum().clone()));
            term_tasks.context = Some(LeaderContext {
                consensus: self.consensus.clone(),
                leases: self.leases.clone(),
                peers: self.peers.clone(),
                authorizer: self.authorizer.clone(),
                fence,
                me: self.me,
                cluster,
            });
        }
        let TermTasks { context: Some(context), tasks, assignments, controllers } = term_tasks else { return };
        // A task ends when its assignment has ended; its handle stays until then, so that a panic is not lost.
        panics::reap(assignments).await;
        let waits = controllers.lock().await.assignment_waits.clone();
        for id in state.assignments.keys().copied() {
            let run = || faults::or_panic("assignment", assignment::run(context.clone(), id, waits.clone()));
            assignments.entry(id).or_insert_with(|| tokio::spawn(run()));
        }
        panics::reap(tasks).await;
        let groups = state.products.values().flat_map(|p| p.groups.values().map(|g| (p.id, g)));
        let swept = groups.filter(|(p, g)| g.sweep.is_some() || !state.sweepable(*p, g.id).is_empty());
        let sweeps = swept.map(|(product, g)| Job::Sweep { product, group: g.id });
        for job in state.migrations.keys().map(|id| Job::Migration(*id)).chain(sweeps) {
            tasks.entry(job).or_insert_with(|| tokio::spawn(faults::or_panic("job", job::run(context.clone(), job))));
        }
    }
}

/// For how long this node has had no file descriptor left.
#[derive(Default)]
struct FilesWatch {
    since: Option<Instant>,
}

impl FilesWatch {
    /// The nodes that should lead instead, if there has been no descriptor for [`WITHOUT_FILES`].
    fn transfer_candidates(&mut self, voters: &BTreeSet<NodeId>, me: NodeId) -> Option<TransferCandidates> {
        if files::is_one_left() {
            self.since = None;
            return None;
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        if since.elapsed() < WITHOUT_FILES {
            return None;
        }
        counters::TRANSFERS_WITHOUT_FILES.increment();
        without_files(voters, me)
    }
}

/// The tasks of one term (assignments, migrations, sweeps, groups) and what they share. Dropping it ends them.
#[derive(Default)]
struct TermTasks {
    context: Option<LeaderContext>,
    tasks: BTreeMap<Job, JoinHandle<()>>,
    assignments: BTreeMap<AssignmentId, JoinHandle<()>>,
    controllers: Arc<Mutex<Controllers>>,
}

/// What the activations of a term do for groups and nodes, and what they keep for the next activation.
#[derive(Default)]
struct Controllers {
    groups: GroupController,
    node_notes: NodeNotes,
    blocked: BlockedConnections,
    assignment_waits: Waits<AssignmentId>,
    wait_times: WaitTimes,
}

impl TermTasks {
    /// What an activation needs for groups and nodes, once the cluster has formed.
    fn controllers(&self) -> Option<(LeaderContext, Arc<Mutex<Controllers>>)> {
        Some((self.context.clone()?, self.controllers.clone()))
    }
}

impl Drop for TermTasks {
    fn drop(&mut self) {
        self.tasks.values().chain(self.assignments.values()).for_each(JoinHandle::abort);
    }
}
