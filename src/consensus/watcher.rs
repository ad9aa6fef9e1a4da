//! Turns openraft's metrics into the leadership, and into the reason why the log has stopped.
//! Knows nothing of what follows from either.

use openraft::{RaftMetrics, ServerState, error::Fatal};
use tokio::sync::watch;

use super::{Leadership, network::Network, types::RaftNode};
use crate::{
    faults,
    model::ids::{NodeId, Term},
};

/// Follows the metrics until Raft ends.
pub fn spawn(
    me: u64,
    mut metrics: watch::Receiver<RaftMetrics<u64, RaftNode>>,
    network: Network,
) -> (watch::Receiver<Leadership>, watch::Receiver<Option<String>>) {
    let (leads, leadership) = watch::channel(derive(me, &metrics.borrow_and_update(), &network));
    let (stops, stopped) = watch::channel(None);
    let watching = async move {
        loop {
            let (now, running) = {
                let seen = metrics.borrow_and_update();
                (derive(me, &seen, &network), seen.running_state.clone())
            };
            leads.send_if_modified(|old| {
                let changed = *old != now;
                if changed && (old.leader != now.leader || old.term != now.term) {
                    tracing::info!(term = now.term.0, leader = now.leader.map(|l| l.0), "Raft's leader");
                }
                *old = now;
                changed
            });
            match running {
                Ok(()) => {}
                // `shutdown` asked for it.
                Err(Fatal::Stopped) => return,
                Err(fatal) => {
                    let why = fatal.to_string();
                    tracing::error!(error = why, "the log has stopped; everything acknowledged is on disk");
                    stops.send_replace(Some(why));
                    // This node no longer leads.
                    leads.send_modify(|l| {
                        l.is_me = false;
                        l.leader = l.leader.filter(|id| id.0 != me);
                    });
                    return;
                }
            }
            if metrics.changed().await.is_err() {
                return;
            }
        }
    };
    tokio::spawn(faults::or_panic("raft-watcher", watching));
    (leadership, stopped)
}

fn derive(me: u64, m: &RaftMetrics<u64, RaftNode>, network: &Network) -> Leadership {
    let membership = m.membership_config.membership();
    let applied = m.last_applied.as_ref();
    let own_term_applied = applied.is_some_and(|a| a.leader_id.term == m.current_term && a.leader_id.node_id == me);
    let is_me = m.state == ServerState::Leader && m.current_leader == Some(me) && own_term_applied;
    let leader = m.current_leader.and_then(|l| membership.get_node(&l));
    Leadership {
        term: Term(m.current_term),
        leader: m.current_leader.map(NodeId),
        leader_admin: leader.map(|n| network.address(n)),
        leader_uuid: leader.map(|n| n.uuid),
        is_me,
        voters: membership.voter_ids().map(NodeId).collect(),
        learners: membership.learner_ids().map(NodeId).collect(),
        settled: applied.is_some() && *m.membership_config.log_id() <= m.last_applied,
    }
}
