//! Changes of voters after which the cluster would have no quorum: an operator must force them.
//! Knows nothing of which members vote; that is for `plan::membership`.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::{Instant, sleep};

use super::{Api, call::MutationCall, error::CallFailure};
use crate::{
    clock::boottime_ns,
    control::leadership::view::LeaderView,
    model::{apply, change::Change, ids::NodeId, state::ClusterState},
    plan::membership::{LostQuorum, loses_quorum, majority},
};

/// How often a new leader looks again which voters have sent it a heartbeat.
const POLL: Duration = Duration::from_millis(100);

impl Api {
    /// Refuses a change after which fewer than a majority of the voters would be alive. A new leader first waits for
    /// the heartbeats of those that are.
    ///
    /// # Errors
    /// [`CallFailure::Refused`] if the log would reject the change, or the quorum would be lost.
    pub(super) async fn keeps_quorum(&self, call: &MutationCall, change: &Change) -> Result<(), CallFailure> {
        // A repeat asks what became of the change.
        if self.recorded(call)?.is_some() {
            return Ok(());
        }
        let deadline = call.admission_deadline();
        loop {
            let state = self.state();
            let after = apply::after(&state, change)?;
            let voters: BTreeSet<NodeId> = self.control.log.leadership().borrow().voters.iter().copied().collect();
            let (view, now_ns) = (self.control.view.borrow().clone(), boottime_ns());
            let Some(lost) = loses_quorum(&state, &after, &voters, &self.heard(&view, &state, now_ns)) else {
                return Ok(());
            };
            let may_follow = view.is_early(self.control.lease, now_ns) && Instant::now() < deadline;
            if !may_follow {
                return Err(CallFailure::Refused(refusal(&lost)));
            }
            sleep(POLL).await;
        }
    }

    /// This node, and the members that sent it a heartbeat within a lease.
    fn heard(&self, view: &LeaderView, state: &ClusterState, now_ns: u64) -> BTreeSet<NodeId> {
        let seen = |id: &NodeId| view.nodes.get(id).is_some_and(|seen| self.control.alive(seen, now_ns));
        state.members.keys().copied().filter(|id| *id == self.control.me || seen(id)).collect()
    }
}

fn refusal(lost: &LostQuorum) -> String {
    let named = |nodes: &BTreeSet<NodeId>| nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let dead = lost.dead();
    let instead: Vec<String> = dead.iter().map(|id| format!("pontoon node remove {id}")).collect();
    format!(
        "the voters would be {}, of which {} must be alive, and {} {} not: nothing could be changed until they answer, and \
         products with isolated=refuse would not be served; start node {} again, or remove what is lost for good first \
         ({}), or --force",
        named(&lost.voters),
        majority(lost.voters.len()),
        named(&dead),
        if dead.len() == 1 { "is" } else { "are" },
        named(&dead),
        instead.join(", ")
    )
}
