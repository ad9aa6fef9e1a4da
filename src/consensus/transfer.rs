//! Leadership transfer: a part of the handle.
//! Knows nothing of why another node should lead.

use std::{collections::BTreeSet, sync::atomic::Ordering, time::Duration};

use openraft::ServerState;
use tokio::time::{Instant, timeout_at};
use tonic::Request;

use super::Consensus;
use crate::{model::ids::NodeId, wire::pb::raft as pb};

/// Deadline of the call that asks another node to stand for election.
const STAND_DEADLINE: Duration = Duration::from_secs(1);

impl Consensus {
    /// Transfers the leadership because this node stops: from now on it proposes nothing and grants nothing. Returns
    /// when another node leads, when no other node could, or at the deadline.
    pub async fn transfer_leadership(&self, deadline: Duration) {
        self.inner.stopping.store(true, Ordering::Release);
        self.inner.raft.runtime_config().elect(false);
        let metrics = self.inner.raft.metrics().borrow().clone();
        let voters: BTreeSet<u64> = metrics.membership_config.membership().voter_ids().collect();
        if metrics.state != ServerState::Leader || voters.len() < 2 {
            return;
        }
        if !self.depose(&|_| true, Instant::now() + deadline).await {
            tracing::warn!(
                "the leadership was not transferred; the other nodes elect a leader after their election timeout"
            );
        }
    }

    /// Transfers the leadership to one of `transfer_candidates`; this node goes on as a follower. Meanwhile it proposes
    /// nothing and grants nothing, for no longer than `deadline`. If no candidate takes over, it goes on leading.
    /// Returns whether another node leads.
    pub async fn transfer_leadership_to(&self, transfer_candidates: &BTreeSet<NodeId>, deadline: Duration) -> bool {
        let inner = &self.inner;
        if inner.stopping.load(Ordering::Acquire) || inner.transferring.swap(true, Ordering::AcqRel) {
            return false;
        }
        inner.raft.runtime_config().elect(false);
        let done = self.depose(&|id| transfer_candidates.contains(&NodeId(id)), Instant::now() + deadline).await;
        inner.transferring.store(false, Ordering::Release);
        let switch = |on: bool| {
            inner.raft.runtime_config().heartbeat(on);
            inner.raft.runtime_config().elect(on);
        };
        switch(true);
        // The node may have begun to stop meanwhile.
        if inner.stopping.load(Ordering::Acquire) {
            switch(false);
        }
        done
    }

    /// Stops Raft's heartbeats, and asks voters that `may` lead to stand for election. Returns whether another node
    /// leads.
    async fn depose(&self, may: &(dyn Fn(u64) -> bool + Send + Sync), end: Instant) -> bool {
        let inner = &self.inner;
        let metrics = inner.raft.metrics().borrow().clone();
        let voters: BTreeSet<u64> = metrics.membership_config.membership().voter_ids().collect();
        // The other nodes grant no vote while their last message from a leader is younger than the election timeout.
        inner.raft.runtime_config().heartbeat(false);
        let votes_granted_from = (Instant::now() + inner.election_max).min(end);
        if self.another_leads(votes_granted_from).await {
            return true;
        }
        // A node that has left the membership gets no message from the next leader, so one call must suffice: asking
        // node after node would depose each of them in turn.
        let has_left = || inner.raft.metrics().borrow().membership_config.membership().get_node(&inner.me.id).is_none();
        let replication = metrics.replication.unwrap_or_default();
        let mut transfer_candidates: Vec<(u64, u64)> = voters
            .iter()
            .filter(|id| **id != inner.me.id && may(**id))
            .map(|id| (replication.get(id).copied().flatten().map_or(0, |m| m.index), *id))
            .collect();
        transfer_candidates.sort_unstable();
        while let Some((_, candidate)) = transfer_candidates.pop() {
            let now = Instant::now();
            let Some(node) = metrics.membership_config.membership().get_node(&candidate) else { continue };
            if now >= end {
                break;
            }
            let mut request =
                Request::new(pb::StandForElectionRequest { header: Some(inner.network.header(candidate, node.uuid)) });
            request.set_timeout(STAND_DEADLINE.min(end - now));
            let asked = match inner.network.client(node) {
                Ok(mut client) => client.stand_for_election(request).await.map(|_| ()),
                Err(status) => Err(status),
            };
            match asked {
                Ok(()) if has_left() => return true,
                Ok(()) if self.another_leads((Instant::now() + inner.election_max).min(end)).await => return true,
                Ok(()) => tracing::info!(node = candidate, "the node did not take over the leadership"),
                Err(status) => tracing::info!(node = candidate, error = status.message(), "the node cannot take over"),
            }
        }
        false
    }

    /// Waits until another node leads; returns false at `end`.
    async fn another_leads(&self, end: Instant) -> bool {
        let me = NodeId(self.inner.me.id);
        let mut leadership = self.leadership();
        let other = leadership.wait_for(|l| l.leader.is_some_and(|id| id != me));
        matches!(timeout_at(end, other).await, Ok(Ok(_)))
    }
}
