//! How a pristine node becomes part of a cluster: it forms one with its peers, or joins one that runs.
//! Knows nothing of what the cluster decides afterwards.
//!
//! ```text
//! --peers  all listed peers answer, all are pristine, all have the same list
//!            -> the node with the lowest id writes the first membership, with the uuids of all
//!            -> the others learn of it through Raft, and take part if their uuid is in it
//! --join   any member names the leader; the leader adds this node, which learns of it through Raft
//! ```

use std::{collections::BTreeMap, time::Duration};

use tracing::{debug, info, warn};

use super::member_wire;
use crate::{
    consensus::Consensus,
    control::leadership::peers::Peers,
    model::{
        change::NewMember,
        ids::{HostPort, NodeId, Uuid},
    },
    wire::pb::node::HelloReply,
};

/// Time between two rounds of calls to the peers. An operator waits for it; a round costs one call to each peer.
const POLL_INTERVAL: Duration = Duration::from_millis(300);
/// A peer that is up answers within milliseconds; any other peer is called again in the next round.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// The same reason for waiting is logged again after this number of rounds (30 s).
const SAY_AGAIN_AFTER: u32 = 100;

/// What the command line of a pristine node says.
#[derive(Clone, Debug)]
pub enum Origin {
    /// `--peers`, this node among them.
    Peers(BTreeMap<NodeId, HostPort>),
    /// `--join`.
    Join(HostPort),
}

/// What a bootstrap needs.
pub struct Bootstrap {
    /// This node.
    pub me: NewMember,
    /// The log.
    pub consensus: Consensus,
    /// Calls to the other nodes.
    pub peers: Peers,
    /// What the command line says.
    pub origin: Origin,
}

impl Bootstrap {
    /// Returns when this node is part of a cluster: at once, if it was part of one when it started.
    pub async fn run(self) {
        if !self.consensus.is_pristine() {
            info!("this node belongs to a cluster already; --peers and --join are ignored");
            return;
        }
        let mut reasons = ReasonLog::default();
        while self.consensus.is_pristine() {
            let waiting = match &self.origin {
                Origin::Peers(list) => self.try_form(list).await,
                Origin::Join(at) => self.try_join(at).await,
            };
            if let Err(why) = waiting {
                reasons.log(&why);
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        info!("this node is part of a cluster");
    }

    /// Calls every peer once. `Err`: why there is no cluster yet.
    async fn try_form(&self, list: &BTreeMap<NodeId, HostPort>) -> Result<(), String> {
        let mut members = vec![self.me.clone()];
        let me = member_wire::to_wire(&self.me);
        for (id, admin) in list.iter().filter(|(id, _)| **id != self.me.id) {
            let answer = self
                .peers
                .hello(admin.as_str(), &me, ANSWER_WITHIN)
                .await
                .map_err(|e| format!("waiting for node {id} at {admin}: {}", e.message()))?;
            members.push(self.agrees(*id, admin, list, answer)?);
        }
        members.sort_by_key(|m| m.id);
        if members.first().is_none_or(|lowest| lowest.id != self.me.id) {
            return Err("all peers agree; waiting for the node with the lowest id to form the cluster".into());
        }
        let cluster = Uuid(uuid::Uuid::new_v4().as_u128());
        info!(%cluster, nodes = members.len(), "all peers agree; this node forms the cluster");
        self.consensus.initialize(cluster, members).await
    }

    /// Whether a peer's answer lets a cluster form with it.
    fn agrees(
        &self,
        id: NodeId,
        admin: &HostPort,
        list: &BTreeMap<NodeId, HostPort>,
        answer: HelloReply,
    ) -> Result<NewMember, String> {
        if !answer.cluster_id.is_empty() {
            return Err(match member_wire::uuid_from(&answer.your_uuid) {
                Some(known) if known == self.me.uuid => {
                    format!("node {id} has the cluster already; waiting for its leader")
                }
                Some(known) => format!(
                    "the cluster of node {id} knows node {me} under another uuid ({known}, this data directory is {own}): \
                     if the old node {me} is gone, run `pontoon node remove {me} --assume-dead --node {admin}` and start \
                     this one with --join {admin} instead of --peers",
                    me = self.me.id,
                    own = self.me.uuid,
                ),
                None if answer.members.is_empty() => {
                    format!("node {id} takes part in a cluster that is being formed; waiting")
                }
                None => format!(
                    "node {id} belongs to a cluster that does not know node {}: start this one with --join {admin} \
                     instead of --peers",
                    self.me.id
                ),
            });
        }
        let theirs: BTreeMap<u64, &str> = answer.peers.iter().map(|p| (p.id, p.admin.as_str())).collect();
        let ours: BTreeMap<u64, &str> = list.iter().map(|(id, a)| (id.0, a.as_str())).collect();
        if theirs != ours {
            return Err(format!("node {id} was started with other --peers ({theirs:?}) than this one ({ours:?})"));
        }
        let member = member_wire::from_wire(answer.me).map_err(|e| format!("node {id} at {admin}: {e}"))?;
        if member.id != id {
            return Err(format!("{admin} is node {}, not node {id} as --peers says", member.id));
        }
        if member.uuid == self.me.uuid {
            return Err(format!(
                "node {id} at {admin} has the uuid of this node: never copy a data directory; empty one of the two"
            ));
        }
        Ok(member)
    }

    /// Asks once to join. `Err`: why this node has not joined yet.
    async fn try_join(&self, at: &HostPort) -> Result<(), String> {
        let me = member_wire::to_wire(&self.me);
        let mut ask = at.as_str().to_owned();
        // Two calls: to the node that the command line names, and to the leader that this node names.
        for _ in 0..2 {
            let answer = self
                .peers
                .join(&ask, &me, ANSWER_WITHIN * 5)
                .await
                .map_err(|e| format!("could not join through {ask}: {}", e.message()))?;
            if answer.accepted {
                debug!(through = %ask, "accepted; waiting for the leader's first message");
                return Ok(());
            }
            match answer.leader {
                Some(leader) => ask = leader.admin,
                None => return Err(format!("{ask} knows no leader now; trying again")),
            }
        }
        Err(format!("the leader changed while this node asked to join; trying again through {at}"))
    }
}

/// Logs a reason when it changes, and again after [`SAY_AGAIN_AFTER`] rounds.
#[derive(Default)]
struct ReasonLog {
    last: String,
    repeats: u32,
}

impl ReasonLog {
    fn log(&mut self, why: &str) {
        self.repeats += 1;
        if self.last != why || self.repeats >= SAY_AGAIN_AFTER {
            warn!("{why}");
            self.last = why.to_owned();
            self.repeats = 0;
        }
    }
}
