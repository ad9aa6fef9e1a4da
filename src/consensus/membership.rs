//! Changes of Raft's membership: a part of the handle.
//! Knows nothing of which nodes should be voters.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use openraft::{
    ChangeMembers, EntryPayload, RaftMetrics, ServerState,
    error::{ClientWriteError, RaftError},
};
use tokio::time::timeout;

use super::{
    Consensus, ProposeError,
    disk::{Disk, Failure},
    types::{Membership, RaftNode, StoredMembership},
};
use crate::model::{
    change::NewMember,
    ids::{NodeId, Uuid},
    state::RaftMembership,
};

/// A change of membership is two entries; when they are not committed by then, the outcome is unknown.
const MEMBERSHIP_DEADLINE: Duration = Duration::from_secs(10);
/// openraft's metrics follow a commit at once. If they do not, a step is repeated, which is harmless.
const METRICS_DEADLINE: Duration = Duration::from_millis(500);
/// A learner becomes a voter when it lacks no more than this number of entries: a commit might have to wait for a
/// slower one.
const CAUGHT_UP: u64 = 200;

/// The next step from Raft's membership to the requested one.
enum MembershipStep {
    /// The membership is the requested one.
    Done,
    /// A new voter has to catch up first.
    CatchUp,
    /// This change is safe now.
    Change(ChangeMembers<u64, RaftNode>),
}

impl Consensus {
    /// Brings Raft's membership one safe step nearer to the requested one. `Ok(false)`: it is the requested one
    /// already. `Ok(true)`: a step was made, or a new voter has to catch up first; call again. For the leader only.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub async fn change_membership(
        &self,
        voters: BTreeSet<NodeId>,
        learners: BTreeSet<NodeId>,
        nodes: BTreeMap<NodeId, NewMember>,
    ) -> Result<bool, ProposeError> {
        if self.is_stopping_or_transferring() {
            return Err(ProposeError::NotLeader(None));
        }
        let metrics = self.inner.raft.metrics().borrow().clone();
        if metrics.state != ServerState::Leader {
            return Err(ProposeError::NotLeader(metrics.current_leader.map(NodeId)));
        }
        let wanted: BTreeSet<u64> = voters.iter().map(|n| n.0).collect();
        let all: BTreeMap<u64, RaftNode> = nodes
            .iter()
            .filter(|(id, _)| voters.contains(id) || learners.contains(id))
            .map(|(id, m)| (id.0, RaftNode::of(m)))
            .collect();
        if wanted.is_empty() || wanted.iter().any(|id| !all.contains_key(id)) {
            return Err(ProposeError::Unknown(
                "a membership without voters, or with one whose address is not known".into(),
            ));
        }
        let change = match next_step(&metrics, &wanted, &all) {
            MembershipStep::Done => return Ok(false),
            MembershipStep::CatchUp => return Ok(true),
            MembershipStep::Change(change) => change,
        };
        tracing::info!(?change, "Raft's membership changes");
        match timeout(MEMBERSHIP_DEADLINE, self.inner.raft.change_membership(change, true)).await {
            Ok(Ok(done)) => {
                // Without this wait, a call that follows at once would read the old membership, and request the step
                // again.
                let mut metrics = self.inner.raft.metrics();
                let seen = metrics.wait_for(|m| *m.membership_config.log_id() >= Some(done.log_id));
                let _ = timeout(METRICS_DEADLINE, seen).await;
                Ok(true)
            }
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to)))) => {
                Err(ProposeError::NotLeader(to.leader_id.map(NodeId)))
            }
            Ok(Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(e)))) => {
                Err(ProposeError::Unknown(e.to_string()))
            }
            Ok(Err(RaftError::Fatal(e))) => Err(self.fatal(&e)),
            Err(_) => Err(ProposeError::Unknown("the change of membership was not committed in time".into())),
        }
    }
}

impl Consensus {
    /// Raft's membership, if it is applied here and no change of it is half done.
    #[must_use]
    pub fn settled_membership(&self) -> Option<RaftMembership> {
        let metrics = self.inner.raft.metrics().borrow().clone();
        let (config, applied) = (&metrics.membership_config, metrics.last_applied);
        let membership = config.membership();
        if applied.is_none() || *config.log_id() > applied || membership.get_joint_config().len() != 1 {
            return None;
        }
        let voters = membership.voter_ids().map(NodeId).collect();
        Some(RaftMembership { voters, learners: membership.learner_ids().map(NodeId).collect() })
    }
}

/// The id under which the newest membership of a log that names this uuid has it.
///
/// # Errors
/// The log cannot be read.
pub(super) fn id_in_log(disk: &Disk, snapshot: &StoredMembership, uuid: Uuid) -> Result<Option<u64>, Failure> {
    let named = |m: &Membership| m.nodes().find(|(_, node)| node.uuid == uuid).map(|(id, _)| *id);
    let entries = disk.entries(0, None, 0)?;
    let newest = entries.iter().rev().find_map(|entry| match &entry.payload {
        EntryPayload::Membership(m) => named(m),
        _ => None,
    });
    Ok(newest.or_else(|| named(snapshot.membership())))
}

/// Decides the next step to a membership with the voters `wanted` and the voters and learners `all`.
fn next_step(
    metrics: &RaftMetrics<u64, RaftNode>,
    wanted: &BTreeSet<u64>,
    all: &BTreeMap<u64, RaftNode>,
) -> MembershipStep {
    let now = metrics.membership_config.membership();
    let current: BTreeSet<u64> = now.voter_ids().collect();
    // A leader that died between the two halves of a change of voters left both sets. That change is finished first.
    let joint = now.get_joint_config().len() > 1;
    let moved: BTreeMap<u64, RaftNode> =
        now.nodes().filter_map(|(id, had)| all.get(id).filter(|n| *n != had).map(|n| (*id, n.clone()))).collect();
    let known: BTreeSet<u64> = now.nodes().map(|(id, _)| *id).collect();
    let new: BTreeMap<u64, RaftNode> =
        all.iter().filter(|(id, _)| !known.contains(id)).map(|(id, n)| (*id, n.clone())).collect();
    let gone: BTreeSet<u64> = known.iter().filter(|id| !all.contains_key(id)).copied().collect();
    if !joint && !moved.is_empty() {
        MembershipStep::Change(ChangeMembers::SetNodes(moved))
    } else if !joint && !new.is_empty() {
        MembershipStep::Change(ChangeMembers::AddNodes(new))
    } else if joint || current != *wanted {
        let last = metrics.last_log_index.unwrap_or(0);
        let caught_up = |id: &u64| {
            let matched = metrics.replication.as_ref().and_then(|r| r.get(id)).copied().flatten();
            *id == metrics.id || matched.is_some_and(|m| m.index + CAUGHT_UP >= last)
        };
        let ready: BTreeSet<u64> = wanted.iter().filter(|id| current.contains(id) || caught_up(id)).copied().collect();
        if ready.is_empty() || (!joint && ready == current) {
            return MembershipStep::CatchUp;
        }
        MembershipStep::Change(ChangeMembers::ReplaceAllVoters(ready))
    } else if !gone.is_empty() {
        MembershipStep::Change(ChangeMembers::RemoveNodes(gone))
    } else {
        MembershipStep::Done
    }
}
