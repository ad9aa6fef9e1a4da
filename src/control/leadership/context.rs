//! What all tasks of one of the leader's terms share, and the two things that each of them does with the log: to append a change
//! in that term, and to wait for a hold's barrier. Knows nothing of what any task is for.

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

/// A proposal that takes longer has lost its quorum, and with it the term.
const PROPOSE_WITHIN: Duration = Duration::from_secs(3);
/// How often a barrier is probed at beside news: lets a lease end unnoticed for no longer than this.
pub const BARRIER_POLL_INTERVAL: Duration = Duration::from_millis(5);

/// What the tasks work with. Cheap to clone.
#[derive(Clone)]
pub struct LeaderContext {
    /// The log.
    pub consensus: Consensus,
    /// Barriers, and what the leader sees.
    pub leases: Leases,
    /// Probes, and calls to workers.
    pub peers: Peers,
    /// Which connections are authorized.
    pub authorizer: Authorizer,
    /// The leader's connections in this term.
    pub fence: Fence,
    /// This node.
    pub me: NodeId,
    /// The cluster, for the names of connections.
    pub cluster: Uuid,
}

/// Why a change of a task was not made, or is not known to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProposalFailure {
    /// Leadership or the quorum is gone. Whoever leads next finds in the log what came of it.
    Gone,
    /// The log refused it: a sentence.
    Refused(String),
}

/// Why a barrier was not passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BarrierFailure {
    /// Leadership or the hold is gone.
    Gone,
    /// Who had not held when the time was over, and why: a list.
    Late(String),
}

impl LeaderContext {
    /// Whether this node still leads, in the term that the tasks are of. By its own last word: no proof.
    #[must_use]
    pub fn leads(&self) -> bool {
        let leadership = self.consensus.leadership().borrow().clone();
        leadership.is_me && leadership.term == self.fence.term()
    }

    /// Appends a change and waits until it is applied: where, and what came of it.
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

    /// The same in any term, for what the next probe tries again if it did not come to be.
    ///
    /// # Errors
    /// A sentence: it was refused, or nobody knows yet what came of it.
    pub async fn propose(&self, change: Change) -> Result<(), String> {
        let id = Uuid(uuid::Uuid::new_v4().as_u128());
        let applied = self.consensus.propose(id, change, PROPOSE_WITHIN).await.map_err(|error| error.to_string())?;
        applied.result.map(|_| ()).map_err(|reject| reject.to_string())
    }

    /// PromotionWaits until every node holds, or is surely out of lease; `waiting` is told for whom.
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
            let whom = match self.leases.barrier(state.holds.get(&hold).ok_or(BarrierFailure::Gone)?, self.fence.term())
            {
                Barrier::Passed => return Ok(()),
                Barrier::Waiting(whom) => whom.join("; "),
            };
            if Instant::now() >= end {
                return Err(BarrierFailure::Late(whom));
            }
            waiting(&whom);
            let _ = timeout(BARRIER_POLL_INTERVAL, view.changed()).await;
        }
    }
}

/// Waits until the state or the leader's view changes, or until `until_ns` (`CLOCK_BOOTTIME`). While a hold is open it returns
/// after [`BARRIER_POLL_INTERVAL`] at the latest, since the end of a lease changes neither.
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
