//! What the API needs from the control plane: the log, the leader's view, and waiting for the effect of a change.
//! Knows nothing of gRPC, and decides nothing.

use std::{collections::BTreeMap, future::Future, pin::Pin, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use super::leadership::view::{LeaderView, NodeView};
use crate::{
    clock::boottime_ns,
    consensus::{Applied, Consensus, Leadership, ProposeError},
    model::{
        author::Author,
        change::Change,
        ids::{AssignmentId, Epoch, GroupId, MigrationId, NodeId, ProductId, PromotionId, Term, Uuid},
        migration::{EndPhase, MigrationPhase},
        state::{ClusterState, EndedAssignment},
    },
    wire::{caller::Caller, pb::raft::Header},
};

/// The replicated log as the API uses it. `consensus::Consensus` implements it; tests have a log of one node without a
/// disk.
pub trait Log: Send + Sync + 'static {
    /// The id of the cluster, once it has formed.
    fn cluster_id(&self) -> Option<Uuid>;
    /// The newest applied state.
    fn state(&self) -> watch::Receiver<Arc<ClusterState>>;
    /// Which node leads.
    fn leadership(&self) -> watch::Receiver<Leadership>;
    /// The header of a call from this node to another one.
    fn header_for(&self, to: NodeId, uuid: Uuid) -> Header;
    /// Checks the node that has forwarded a call, as its header names it: only members forward calls.
    ///
    /// # Errors
    /// Returns why it is refused, as text for the operator.
    fn admit_forwarder(&self, caller: Result<Caller, String>) -> Result<(), String>;
    /// Waits for the proof that this node leads: a majority of the voters has answered it since the call.
    fn confirm_leadership(
        &self,
        deadline: Duration,
    ) -> Pin<Box<dyn Future<Output = Result<Term, ProposeError>> + Send + '_>>;
    /// Appends a change that `author` asks for, if this node leads, and waits until it is applied here. Never forwards.
    fn propose(
        &self,
        id: Uuid,
        request_hash: u64,
        author: Author,
        change: Change,
        deadline: Duration,
    ) -> Pin<Box<dyn Future<Output = Result<Applied, ProposeError>> + Send + '_>>;
}

impl Log for Consensus {
    fn cluster_id(&self) -> Option<Uuid> {
        Self::cluster_id(self)
    }

    fn state(&self) -> watch::Receiver<Arc<ClusterState>> {
        Self::state(self)
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        Self::leadership(self)
    }

    fn header_for(&self, to: NodeId, uuid: Uuid) -> Header {
        Self::header_for(self, to, uuid)
    }

    fn admit_forwarder(&self, caller: Result<Caller, String>) -> Result<(), String> {
        self.callers().admit_member(caller).map(drop).map_err(|status| status.message().to_owned())
    }

    fn confirm_leadership(
        &self,
        deadline: Duration,
    ) -> Pin<Box<dyn Future<Output = Result<Term, ProposeError>> + Send + '_>> {
        Box::pin(self.confirm_leadership(deadline))
    }

    fn propose(
        &self,
        id: Uuid,
        request_hash: u64,
        author: Author,
        change: Change,
        deadline: Duration,
    ) -> Pin<Box<dyn Future<Output = Result<Applied, ProposeError>> + Send + '_>> {
        Box::pin(self.propose_request(id, request_hash, author, change, deadline))
    }
}

/// The control plane as the API uses it. Cheap to clone.
#[derive(Clone)]
pub struct Control {
    /// The log.
    pub log: Arc<dyn Log>,
    /// This node.
    pub me: NodeId,
    /// The leader's view; `term` is `None` unless this node leads.
    pub view: watch::Receiver<Arc<LeaderView>>,
    /// The length of a lease, with the allowed error of clocks added: after this time a silent node has stopped
    /// serving.
    pub lease: Duration,
}

/// Why a wait has ended without success. The change itself was made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WaitError {
    /// The deadline has passed; what is missing, for people.
    #[error("{0}")]
    Deadline(String),
    /// A node reports that it cannot bind the product's port; which and why, for people.
    #[error("{0}")]
    Listener(String),
    /// This node no longer leads, so it has no view of the nodes.
    #[error("this node is no longer the leader")]
    NotLeader,
}

/// How long a listener's error must last to count: a port may still belong to a process that is stopping, and the node
/// tries to bind it again every second.
const LISTENER_GRACE: Duration = Duration::from_millis(2500);
/// How often a wait checks its condition without news: that a node is silent causes no event.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Why a migration will not be done without an operator, if it will not: it is paused or was cancelled.
fn stopped(state: &ClusterState, id: MigrationId) -> Option<String> {
    if let Some(open) = state.migrations.get(&id) {
        let (why, paused) = (&open.why, open.phase == MigrationPhase::Paused);
        return paused.then(|| format!("migration {id} is paused: {why}; `pontoon migrate resume {id}` continues it"));
    }
    let end = state.ended_migrations.iter().find(|e| e.id == id)?;
    (end.end == EndPhase::Cancelled).then(|| format!("migration {id} was cancelled: {}", end.why))
}

/// How far the nodes have come with an epoch.
enum NodesProgress {
    /// All serve by the epoch; the texts name nodes that are not alive.
    Reached(Vec<String>),
    /// Not all, for this reason.
    Waiting(String),
    /// A listener has this error.
    Broken(String),
}

impl Control {
    /// Whether `view` is of a node that may be serving: it sent a heartbeat within a lease, or its lease may not have
    /// ended.
    #[must_use]
    pub fn alive(&self, view: &NodeView, now_ns: u64) -> bool {
        let lease = u64::try_from(self.lease.as_nanos()).unwrap_or(u64::MAX);
        now_ns < view.heartbeat_ns.saturating_add(lease) || now_ns < view.lease_ends_ns
    }

    /// Waits until every node that may be serving serves by `epoch` and, for a product, has bound its port.
    /// Returns texts about nodes whose lease has ended, which were not waited for.
    ///
    /// # Errors
    /// The deadline, with what is missing; a listener's error that lasts; the loss of leadership.
    pub async fn wait_epoch(
        &self,
        epoch: Epoch,
        product: Option<ProductId>,
        deadline: Instant,
    ) -> Result<Vec<String>, WaitError> {
        let (mut view, mut state) = (self.view.clone(), self.log.state());
        let began_ns = boottime_ns();
        let mut broken_since: Option<Instant> = None;
        loop {
            let progress = {
                let (view, state) = (view.borrow_and_update().clone(), state.borrow_and_update().clone());
                if view.term.is_none() {
                    return Err(WaitError::NotLeader);
                }
                self.progress(&state, &view, epoch, product, began_ns)
            };
            let missing = match progress {
                NodesProgress::Reached(notes) => return Ok(notes),
                NodesProgress::Waiting(why) => {
                    broken_since = None;
                    why
                }
                NodesProgress::Broken(why) => {
                    let since = *broken_since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= LISTENER_GRACE {
                        return Err(WaitError::Listener(why));
                    }
                    why
                }
            };
            if Instant::now() >= deadline {
                return Err(WaitError::Deadline(missing));
            }
            let next = deadline.min(Instant::now() + POLL_INTERVAL);
            // Whichever comes first; a closed channel means shutdown, and the deadline ends the wait.
            let _ = timeout_at(next, async {
                tokio::select! {
                    Ok(()) = view.changed() => {}
                    Ok(()) = state.changed() => {}
                    else => std::future::pending().await,
                }
            })
            .await;
        }
    }

    fn progress(
        &self,
        state: &ClusterState,
        view: &LeaderView,
        epoch: Epoch,
        product: Option<ProductId>,
        began_ns: u64,
    ) -> NodesProgress {
        let now = boottime_ns();
        let lease = u64::try_from(self.lease.as_nanos()).unwrap_or(u64::MAX);
        let product = product.filter(|id| state.products.contains_key(id));
        let mut silent = Vec::new();
        let mut waiting = None;
        for member in state.members.values().filter(|member| member.leaving.is_none()) {
            let id = member.id;
            // A node that sent this leader no heartbeat may have a lease of a former term, for one lease at most.
            let may_serve =
                view.nodes.get(&id).map_or(now < began_ns.saturating_add(lease), |seen| self.alive(seen, now));
            if !may_serve {
                silent.push(format!("node {id} ({}) is not alive and was not waited for", member.admin));
                continue;
            }
            let Some(seen) = view.nodes.get(&id) else {
                waiting.get_or_insert(format!("node {id} ({}) has sent no heartbeat yet", member.admin));
                continue;
            };
            let listener = product.and_then(|product| seen.listeners.get(&product));
            if let Some(bad) = listener.filter(|listener| !listener.error.is_empty()) {
                return NodesProgress::Broken(format!("node {id} cannot listen on {}: {}", bad.address, bad.error));
            }
            if seen.route_epoch < epoch {
                waiting.get_or_insert(format!("node {id} serves by epoch {}, not yet by {epoch}", seen.route_epoch));
            } else if product.is_some() && listener.is_none() {
                waiting.get_or_insert(format!("node {id} has not reported the product's port yet"));
            }
        }
        waiting.map_or(NodesProgress::Reached(silent), NodesProgress::Waiting)
    }

    /// Waits until an assignment has ended.
    ///
    /// # Errors
    /// The deadline, with what the control loops wait for.
    pub async fn wait_assignment(&self, id: AssignmentId, deadline: Instant) -> Result<EndedAssignment, WaitError> {
        let ended = |state: &ClusterState| {
            if let Some(ended) = state.ended_assignments.iter().find(|ended| ended.id == id) {
                return Some(ended.clone());
            }
            // It ended so long ago that the log does not remember how; it is only known that it is over.
            (!state.assignments.contains_key(&id)).then(|| EndedAssignment {
                id,
                at: state.applied,
                failed: Some("its end is not remembered".into()),
            })
        };
        let waiting = || {
            let state = self.log.state().borrow().clone();
            let slots = state.assignments.get(&id).map_or(0, |assignment| assignment.slots.len());
            format!("the assignment of {slots} slots has not ended{}", self.waiting_for(&format!("assignment {id}")))
        };
        self.wait_state(ended, deadline).await.ok_or_else(|| WaitError::Deadline(waiting()))
    }

    /// Waits until all of these migrations are done, or the first of them is cancelled or paused: `Err` says which and
    /// why.
    ///
    /// # Errors
    /// The deadline, with what is not done and why.
    pub async fn wait_migrations(
        &self,
        ids: &[MigrationId],
        deadline: Instant,
    ) -> Result<Result<(), String>, WaitError> {
        let settled = |state: &ClusterState| match ids.iter().find_map(|id| stopped(state, *id)) {
            Some(why) => Some(Err(why)),
            None => ids.iter().all(|id| !state.migrations.contains_key(id)).then_some(Ok(())),
        };
        let waiting = || {
            let state = self.log.state().borrow().clone();
            let open = ids.iter().filter_map(|id| state.migrations.get(id));
            let each = open.map(|m| format!("migration {} is {}", m.id, m.phase.name()));
            let waits: Vec<String> = ids.iter().map(|id| self.waiting_for(&format!("migration {id}"))).collect();
            each.collect::<Vec<_>>().join(", ") + &waits.concat()
        };
        self.wait_state(settled, deadline).await.ok_or_else(|| WaitError::Deadline(waiting()))
    }

    /// Waits until the servers of a group accept no former credentials any more.
    ///
    /// # Errors
    /// The deadline, with what the control loops wait for.
    pub async fn wait_former_removed(
        &self,
        (product, group): (ProductId, GroupId),
        deadline: Instant,
    ) -> Result<(), WaitError> {
        let removed = |state: &ClusterState| {
            let group = state.products.get(&product).and_then(|product| product.groups.get(&group));
            group.is_none_or(|group| group.former.is_none()).then_some(())
        };
        self.wait_state(removed, deadline).await.ok_or_else(|| {
            WaitError::Deadline(format!(
                "servers of group {group} still accept the former password{}",
                self.waiting_for(&format!("group {group}"))
            ))
        })
    }

    /// Waits until a migration has ended in whatever way.
    ///
    /// # Errors
    /// The deadline, with what is waited for.
    pub async fn wait_migration_over(&self, id: MigrationId, deadline: Instant) -> Result<(), WaitError> {
        let over = |state: &ClusterState| (!state.migrations.contains_key(&id)).then_some(());
        let waiting = || format!("migration {id} has not ended{}", self.waiting_for(&format!("migration {id}")));
        self.wait_state(over, deadline).await.ok_or_else(|| WaitError::Deadline(waiting()))
    }

    /// Waits until a promotion has ended. Returns `None` if the group has the new primary, otherwise why it has not.
    ///
    /// # Errors
    /// The deadline, with what is waited for.
    pub async fn wait_promotion(&self, id: PromotionId, deadline: Instant) -> Result<Option<String>, WaitError> {
        let ended = |state: &ClusterState| {
            if let Some(ended) = state.ended_promotions.iter().find(|ended| ended.promotion.id == id) {
                return Some(ended.failed.clone());
            }
            (!state.promotions.contains_key(&id)).then(|| Some("its end is not remembered".to_owned()))
        };
        let waiting = || {
            let state = self.log.state().borrow().clone();
            let how =
                if state.promotion_hold(id).is_some() { "its slots are held" } else { "its slots are not held now" };
            let group = state.promotions.get(&id).map(|promotion| promotion.group);
            let waits = group.map_or_else(String::new, |group| self.waiting_for(&format!("group {group}")));
            format!("promotion {id} has not ended, {how}{waits}")
        };
        self.wait_state(ended, deadline).await.ok_or_else(|| WaitError::Deadline(waiting()))
    }

    /// Waits until there is an event after this log index. `false`: not in time.
    pub async fn wait_event(&self, after: Epoch, deadline: Instant) -> bool {
        let new = |state: &ClusterState| state.events.back().filter(|e| e.index > after).map(|_| ());
        self.wait_state(new, deadline).await.is_some()
    }

    /// Waits until the member with this id and uuid is gone.
    ///
    /// # Errors
    /// The deadline, with what the control loops wait for.
    pub async fn wait_removed(&self, node: NodeId, uuid: Uuid, deadline: Instant) -> Result<(), WaitError> {
        let gone =
            |state: &ClusterState| state.members.get(&node).is_none_or(|member| member.uuid != uuid).then_some(());
        let waiting = || {
            let known = self.waiting_for(&format!("node {node}"));
            let voters = self.log.leadership().borrow().voters.clone();
            let rest = match known.is_empty() && voters.contains(&node) {
                true => {
                    let others = voters.iter().filter(|id| **id != node).map(ToString::to_string);
                    format!(
                        ": it is still a voter, until a majority of the others (node {}) has written that it is none; \
                         `pontoon status` shows which answer",
                        others.collect::<Vec<_>>().join(", ")
                    )
                }
                false => known,
            };
            format!("the removal of node {node} has not ended{rest}")
        };
        self.wait_state(gone, deadline).await.ok_or_else(|| WaitError::Deadline(waiting()))
    }

    /// Waits until this node has applied the log up to `index`. `false`: not in time.
    pub async fn wait_applied(&self, index: Epoch, deadline: Instant) -> bool {
        self.wait_state(|state| (state.applied >= index).then_some(()), deadline).await.is_some()
    }

    async fn wait_state<T>(&self, mut of: impl FnMut(&ClusterState) -> Option<T>, deadline: Instant) -> Option<T> {
        let mut state = self.log.state();
        loop {
            if let Some(found) = of(&state.borrow_and_update().clone()) {
                return Some(found);
            }
            match timeout_at(deadline, state.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return None,
            }
        }
    }

    /// What the leader's loops wait for that names this subject ("migration 17"), to be appended to a text: what else is
    /// waited for is another matter.
    fn waiting_for(&self, subject: &str) -> String {
        let ends = |rest: &str| !rest.starts_with(|c: char| c.is_ascii_digit());
        let names = |text: &String| text.match_indices(subject).any(|(at, found)| ends(&text[at + found.len()..]));
        let view = self.view.borrow();
        let now_ns = boottime_ns();
        let all: Vec<String> = view.waiting_on.iter().map(|wait| wait.text(now_ns)).filter(names).collect();
        if all.is_empty() { String::new() } else { format!(": {}", all.join("; ")) }
    }

    /// The leader's view of the nodes, if this node leads.
    #[must_use]
    pub fn nodes_seen(&self) -> Option<BTreeMap<NodeId, NodeView>> {
        let view = self.view.borrow();
        view.term.map(|_| view.nodes.clone())
    }
}
