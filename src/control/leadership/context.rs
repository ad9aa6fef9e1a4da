//! What all tasks of one term of the leader share, and what each of them does with it: append a change in that term,
//! wait for a hold's barrier, wait for news. Knows nothing of what the tasks are for.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use super::{leases::Leases, peers::Peers, view::LeaderView};
use crate::{
    clock::boottime_ns,
    consensus::Consensus,
    control::servers::{authorizer::Authorizer, fence::Fence},
    faults::{self, Rule},
    model::{
        change::Change,
        ids::{Epoch, HoldId, NodeId, Uuid},
        outcome::Outcome,
        state::ClusterState,
    },
    plan::lease::Barrier,
};

/// How long a proposal may take: one that takes longer has lost its quorum, and with it the term.
const PROPOSE_WITHIN: Duration = Duration::from_secs(3);
/// How often a barrier is evaluated without news: the end of a lease causes no event, and is noticed after this time at
/// most.
pub const BARRIER_POLL_INTERVAL: Duration = Duration::from_millis(5);

/// What the tasks of one term share. Cheap to clone.
#[derive(Clone)]
pub struct LeaderContext {
    /// The log.
    pub consensus: Consensus,
    /// Barriers, and what the leader observes.
    pub leases: Leases,
    /// Calls to other nodes.
    pub peers: Peers,
    /// The authorized connections.
    pub authorizer: Authorizer,
    /// The leader's control connections in this term.
    pub fence: Fence,
    /// This node.
    pub me: NodeId,
    /// The cluster, for the names of connections.
    pub cluster: Uuid,
}

/// Why a change was not made, or is not known to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProposalFailure {
    /// Leadership or the quorum is gone. The next leader finds in the log whether the change was made.
    Gone,
    /// The log refused it; why, for people.
    Refused(String),
}

/// Why a barrier did not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BarrierFailure {
    /// Leadership or the hold is gone.
    Gone,
    /// The nodes that the barrier still waited for at the end, with the reasons, for people.
    Late(String),
}

impl LeaderContext {
    /// Whether this node leads in the term of these tasks, as far as it knows; no proof.
    #[must_use]
    pub fn leads(&self) -> bool {
        let leadership = self.consensus.leadership().borrow().clone();
        leadership.is_me && leadership.term == self.fence.term()
    }

    /// Appends a change in this term and waits until it is applied. Returns its log index and its outcome.
    ///
    /// # Errors
    /// See [`ProposalFailure`].
    pub async fn make(&self, change: Change) -> Result<(Epoch, Outcome), ProposalFailure> {
        if !self.leads() {
            return Err(ProposalFailure::Gone);
        }
        let id = Uuid(uuid::Uuid::new_v4().as_u128());
        let Ok(applied) = self.consensus.propose(id, change, PROPOSE_WITHIN).await else {
            return Err(ProposalFailure::Gone);
        };
        let outcome = applied.result.map_err(|reject| ProposalFailure::Refused(reject.to_string()))?;
        Ok((applied.index, outcome))
    }

    /// Appends a change in whatever term this node leads, for changes that the next activation proposes again if
    /// necessary.
    ///
    /// # Errors
    /// Why the change was refused, or is not known to be made, as text for people.
    pub async fn propose(&self, change: Change) -> Result<(), String> {
        let id = Uuid(uuid::Uuid::new_v4().as_u128());
        let applied = self.consensus.propose(id, change, PROPOSE_WITHIN).await.map_err(|error| error.to_string())?;
        applied.result.map(|_| ()).map_err(|reject| reject.to_string())
    }

    /// Waits until the barrier of a hold has passed, until `end` at most. Calls `waiting` with the nodes that it waits
    /// for.
    ///
    /// # Errors
    /// See [`BarrierFailure`].
    pub async fn barrier(
        &self,
        hold: HoldId,
        end: Instant,
        waiting: impl Fn(&str) + Send,
    ) -> Result<(), BarrierFailure> {
        if faults::without(Rule::Barrier) {
            return Ok(());
        }
        let mut view = self.leases.view();
        loop {
            view.borrow_and_update();
            if !self.leads() {
                return Err(BarrierFailure::Gone);
            }
            let state = self.consensus.state().borrow().clone();
            let hold = state.holds.get(&hold).ok_or(BarrierFailure::Gone)?;
            let nodes = match self.leases.barrier(hold, self.fence.term()) {
                Barrier::Passed => return Ok(()),
                Barrier::Waiting(nodes) => nodes.join("; "),
            };
            if Instant::now() >= end {
                return Err(BarrierFailure::Late(nodes));
            }
            waiting(&nodes);
            let _ = timeout(BARRIER_POLL_INTERVAL, view.changed()).await;
        }
    }
}

/// Waits until the state or the leader's view changes, or until `until_ns` (`CLOCK_BOOTTIME`). While a hold is open it
/// returns after [`BARRIER_POLL_INTERVAL`] at the latest, since the end of a lease changes neither.
pub async fn wait_for_news(
    state: &mut watch::Receiver<Arc<ClusterState>>,
    view: &mut watch::Receiver<Arc<LeaderView>>,
    until_ns: u64,
    hold_is_open: bool,
) {
    let left = Duration::from_nanos(until_ns.saturating_sub(boottime_ns()));
    let left = if hold_is_open { left.min(BARRIER_POLL_INTERVAL) } else { left };
    let _ = timeout(left, async {
        tokio::select! {
            Ok(()) = state.changed() => {}
            Ok(()) = view.changed() => {}
            else => std::future::pending().await,
        }
    })
    .await;
}
