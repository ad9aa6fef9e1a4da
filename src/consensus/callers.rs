//! Who may call this node: the check of the header that every call between nodes has.
//! Knows nothing of what a call asks for.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::watch;
use tonic::Status;

use super::{
    network::PeerIdentity,
    types::{Membership, Metrics},
};
use crate::{
    model::{
        ids::{NodeId, Uuid},
        state::ClusterState,
    },
    wire::{
        caller::Caller,
        refused::{Because, Refusal, RefusedCalls},
    },
};

/// Senders whose last refusal is remembered, so that each reason is logged once. Beyond this number all are dropped.
const REMEMBERED_MAX: usize = 256;

/// What this node knows of a sender that it does not refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// A member, or a node of Raft's membership.
    Member,
    /// This node may lack the entry that made the sender a member.
    Unknown,
}

/// Checks callers, counts and logs those that are refused. Cheap to clone; clones share everything.
#[derive(Clone, Debug)]
pub struct Callers {
    pub(super) me: Arc<PeerIdentity>,
    pub(super) state: watch::Receiver<Arc<ClusterState>>,
    pub(super) metrics: watch::Receiver<Metrics>,
    pub(super) refused: Arc<RefusedCalls>,
    pub(super) remembered: Arc<Mutex<BTreeMap<Uuid, String>>>,
}

impl Callers {
    /// How many calls were refused, by reason.
    #[must_use]
    pub fn refused_calls(&self) -> Arc<RefusedCalls> {
        self.refused.clone()
    }

    /// Checks the sender of a heartbeat.
    ///
    /// # Errors
    /// Returns the refusal, which is not counted yet.
    pub fn check_heartbeat(&self, caller: Result<Caller, String>) -> Result<Caller, Refusal> {
        self.check(readable(caller)?, false).map(|(caller, _)| caller)
    }

    /// Lets only members call.
    ///
    /// # Errors
    /// The status for a caller that is refused, or is not known. It has been counted and logged.
    pub fn admit_member(&self, caller: Result<Caller, String>) -> Result<Caller, Status> {
        self.admit_if(caller, |standing| standing == Standing::Member)
    }

    /// Lets members call, and nodes that this node may not know yet.
    ///
    /// # Errors
    /// The status for a caller that is refused. It has been counted and logged.
    pub fn admit(&self, caller: Result<Caller, String>) -> Result<Caller, Status> {
        self.admit_if(caller, |_| true)
    }

    fn admit_if(&self, caller: Result<Caller, String>, may: fn(Standing) -> bool) -> Result<Caller, Status> {
        let sender = caller.clone().ok();
        let checked = readable(caller).and_then(|caller| self.check(caller, false));
        let admitted =
            checked.and_then(|(caller, standing)| if may(standing) { Ok(caller) } else { Err(unknown(&caller)) });
        admitted.map_err(|refusal| self.refuse(&refusal, sender.as_ref()))
    }

    /// Checks the sender of a Raft call, which is never this node itself. A node that belongs to no cluster accepts
    /// senders of every cluster.
    pub(super) fn check_raft(&self, caller: Caller) -> Result<(Caller, Standing), Refusal> {
        not_this_node(&caller, &self.me)?;
        self.check(caller, true)
    }

    /// Checks a caller. With `any_cluster`, a node that belongs to no cluster accepts callers of every cluster. The caller
    /// may be this node: a leader also asks itself.
    pub(super) fn check(&self, caller: Caller, any_cluster: bool) -> Result<(Caller, Standing), Refusal> {
        let state = self.state.borrow().clone();
        // Its uuid never returns, whatever cluster it thinks it belongs to.
        removed(&caller, &state)?;
        for_this_node(&caller, &self.me, any_cluster)?;
        let nodes = self.metrics.borrow().membership_config.clone();
        let standing = standing(&caller, &state, nodes.membership())?;
        self.remembered().remove(&caller.uuid);
        Ok((caller, standing))
    }

    /// Counts a refusal, and logs it if it is not the sender's last one. Returns the status for the sender.
    pub fn refuse(&self, refusal: &Refusal, caller: Option<&Caller>) -> Status {
        self.refused.count(refusal.because);
        let (id, uuid) = caller.map_or((0, Uuid::default()), |c| (c.id, c.uuid));
        let mut remembered = self.remembered();
        if remembered.len() >= REMEMBERED_MAX {
            remembered.clear();
        }
        if remembered.get(&uuid) != Some(&refusal.text) {
            tracing::warn!(node = id, %uuid, because = ?refusal.because, why = refusal.text, "a call is refused");
            remembered.insert(uuid, refusal.text.clone());
        }
        refusal.status()
    }

    fn remembered(&self) -> std::sync::MutexGuard<'_, BTreeMap<Uuid, String>> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn readable(caller: Result<Caller, String>) -> Result<Caller, Refusal> {
    caller.map_err(|malformed| Refusal::new(Because::Malformed, malformed))
}

/// The refusal of a caller that is not known and asks for what only members may have.
pub(super) fn unknown(caller: &Caller) -> Refusal {
    let Caller { id, uuid, .. } = caller;
    Refusal::new(Because::Unknown, format!("node {id} with uuid {uuid} is not a member, as far as this node knows"))
}

fn removed(caller: &Caller, state: &ClusterState) -> Result<(), Refusal> {
    let Caller { id, uuid, .. } = caller;
    if !state.was_removed(*uuid) {
        return Ok(());
    }
    let text = format!(
        "node {id} with uuid {uuid} was removed from this cluster; stop it, move its data directory away, then start it \
         with --join"
    );
    Err(Refusal::new(Because::Removed, text))
}

fn for_this_node(caller: &Caller, me: &PeerIdentity, any_cluster: bool) -> Result<(), Refusal> {
    let PeerIdentity { id, uuid, .. } = me;
    if caller.to_uuid != *uuid || caller.to_id != *id {
        let text = format!(
            "this call is for node {} with uuid {}, but this is node {id} with uuid {uuid}; if its data directory was \
             wiped: `pontoon node remove {id}`, then start it with --join",
            caller.to_id, caller.to_uuid
        );
        return Err(Refusal::new(Because::Target, text));
    }
    match me.cluster() {
        Some(own) if own != caller.cluster => {
            let text = format!(
                "node {id} belongs to cluster {own}, and this call comes from cluster {}; a node changes its cluster only \
                 with a new data directory",
                caller.cluster
            );
            Err(Refusal::new(Because::Cluster, text))
        }
        None if !any_cluster => Err(Refusal::new(Because::Cluster, format!("node {id} belongs to no cluster yet"))),
        _ => Ok(()),
    }
}

fn not_this_node(caller: &Caller, me: &PeerIdentity) -> Result<(), Refusal> {
    let PeerIdentity { id, uuid, .. } = me;
    if caller.id == *id || caller.uuid == *uuid {
        let text = format!("the sender says that it is node {id}, or has its uuid; this node is node {id}");
        return Err(Refusal::new(Because::Identity, text));
    }
    Ok(())
}

/// What the newest state and Raft's membership say about a caller.
fn standing(caller: &Caller, state: &ClusterState, nodes: &Membership) -> Result<Standing, Refusal> {
    let known = || {
        let members = state.members.values().map(|m| (m.id, m.uuid));
        members.chain(nodes.nodes().map(|(id, node)| (NodeId(*id), node.uuid)))
    };
    let caller_id = NodeId(caller.id);
    if known().any(|node| node == (caller_id, caller.uuid)) {
        return Ok(Standing::Member);
    }
    let contradicts = known().find(|(id, uuid)| *id == caller_id || *uuid == caller.uuid);
    match contradicts {
        // The sender was admitted by an entry that is not applied here: what is known here may be outdated.
        Some(_) if caller.admitted > state.applied.0 => Ok(Standing::Unknown),
        Some((id, uuid)) => {
            let text = format!(
                "node {id} is a member under uuid {uuid}, and this call comes from node {caller_id} with uuid {}",
                caller.uuid
            );
            Err(Refusal::new(Because::Identity, text))
        }
        None => Ok(Standing::Unknown),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{
        consensus::types::RaftNode,
        model::{
            ids::{Epoch, HostPort},
            state::{Member, RemovedMember, Role},
        },
    };

    fn caller(id: u64, uuid: u128) -> Caller {
        Caller { cluster: Uuid(77), id, uuid: Uuid(uuid), to_id: 1, to_uuid: Uuid(101), admitted: 0 }
    }

    /// Members 1 and 2 with uuids 101 and 102; node 3 with uuid 103 in Raft's membership only; uuid 199 was removed.
    fn known() -> (ClusterState, Membership) {
        let member = |id: u64| Member {
            id: NodeId(id),
            uuid: Uuid(100 + u128::from(id)),
            admin: HostPort::parse("127.0.0.1:1").unwrap(),
            advertise: "a".into(),
            port_offset: 0,
            role: Role::Auto,
            admitted: None,
            leaving: None,
        };
        let mut state = ClusterState { applied: Epoch(50), ..ClusterState::default() };
        state.members = [1, 2].map(|id| (NodeId(id), member(id))).into();
        state.removed = [RemovedMember { id: NodeId(9), uuid: Uuid(199), at: Epoch(40) }].into();
        let nodes = [1, 2, 3].map(|id| (id, RaftNode { uuid: Uuid(100 + u128::from(id)), ..RaftNode::default() }));
        (state, Membership::new(vec![[1, 2].into()], std::collections::BTreeMap::from(nodes)))
    }

    #[test]
    fn members_are_known_and_contradictions_are_refused() {
        let (state, nodes) = known();
        let of = |caller: Caller| standing(&caller, &state, &nodes).map_err(|r| r.because);
        assert_eq!(of(caller(2, 102)), Ok(Standing::Member));
        assert_eq!(of(caller(3, 103)), Ok(Standing::Member));
        assert_eq!(of(caller(4, 104)), Ok(Standing::Unknown));
        // A known id with another uuid, and a known uuid with another id.
        assert_eq!(of(caller(2, 104)), Err(Because::Identity));
        assert_eq!(of(caller(4, 102)), Err(Because::Identity));
        // The id was given to another node after what this node has applied.
        assert_eq!(of(Caller { admitted: 50, ..caller(2, 104) }), Err(Because::Identity));
        assert_eq!(of(Caller { admitted: 51, ..caller(2, 104) }), Ok(Standing::Unknown));
        assert_eq!(removed(&caller(9, 199), &state).unwrap_err().because, Because::Removed);
        assert_eq!(removed(&caller(9, 109), &state), Ok(()));
    }

    #[test]
    fn calls_for_others_and_from_others_are_refused() {
        let me = |cluster: Option<u128>| PeerIdentity { id: 1, uuid: Uuid(101), cluster: cluster.map(Uuid).into() };
        let of = |caller: Caller, cluster: Option<u128>, any: bool| {
            for_this_node(&caller, &me(cluster), any).map_err(|r| r.because)
        };
        assert_eq!(of(caller(2, 102), Some(77), false), Ok(()));
        assert_eq!(of(caller(2, 102), Some(78), true), Err(Because::Cluster));
        assert_eq!(of(caller(2, 102), None, false), Err(Because::Cluster));
        assert_eq!(of(caller(2, 102), None, true), Ok(()));
        assert_eq!(of(Caller { to_id: 2, ..caller(2, 102) }, Some(77), false), Err(Because::Target));
        assert_eq!(of(Caller { to_uuid: Uuid(9), ..caller(2, 102) }, Some(77), false), Err(Because::Target));
        // A leader asks itself, but not by Raft.
        assert_eq!(of(caller(1, 101), Some(77), false), Ok(()));
        for own in [caller(1, 101), caller(1, 102), caller(2, 101)] {
            assert_eq!(not_this_node(&own, &me(Some(77))).unwrap_err().because, Because::Identity);
        }
    }
}
