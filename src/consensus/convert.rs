//! openraft's values to proto/raft.proto and back, for the network and for the disk.
//! Knows nothing of either. It is not part of wire/, because only this module may name openraft.

use std::collections::{BTreeMap, BTreeSet};

use openraft::{CommittedLeaderId, EntryPayload};

use super::{
    checks::INDEX_MAX,
    types::{LogEntry, LogId, Membership, Proposal, RaftNode, SnapshotMeta, StoredMembership, Vote},
};
use crate::{
    model::ids::Uuid,
    wire::{entry, pb::raft as pb},
};

/// More nodes than any cluster has (tens). Limits what a peer can make this node keep.
const NODES_MAX: usize = 4096;

/// 16 bytes, big endian.
pub fn uuid_bytes(uuid: Uuid) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(&uuid.0.to_be_bytes())
}

/// Reads 16 bytes; `Err`: why they are not a uuid, for the log.
pub fn uuid(bytes: &[u8]) -> Result<Uuid, String> {
    bytes.try_into().map(|b| Uuid(u128::from_be_bytes(b))).map_err(|_| format!("a uuid has {} bytes", bytes.len()))
}

/// To the wire.
pub fn log_id_pb(id: &LogId) -> pb::LogId {
    pb::LogId { term: id.leader_id.term, leader: id.leader_id.node_id, index: id.index }
}

/// From the wire and from the disk. An index that nothing can be added to is an error.
pub fn log_id(id: &pb::LogId) -> Result<LogId, String> {
    if id.index > INDEX_MAX {
        return Err(format!("log index {} is above 2^62", id.index));
    }
    Ok(LogId::new(CommittedLeaderId::new(id.term, id.leader), id.index))
}

/// From the wire and from the disk, if it is present.
pub fn optional_log_id(id: Option<&pb::LogId>) -> Result<Option<LogId>, String> {
    id.map(log_id).transpose()
}

/// To the wire.
pub fn vote_pb(vote: &Vote) -> pb::BallotVote {
    pb::BallotVote { term: vote.leader_id.term, node: vote.leader_id.node_id, committed: vote.committed }
}

/// From the wire; a missing one is an error.
pub fn vote(vote: Option<&pb::BallotVote>) -> Result<Vote, String> {
    let v = vote.ok_or("the message has no vote")?;
    let mut out = Vote::new(v.term, v.node);
    out.committed = v.committed;
    Ok(out)
}

/// To the wire.
pub fn membership_pb(m: &Membership) -> pb::Membership {
    pb::Membership {
        configs: m.get_joint_config().iter().map(|c| pb::VoterSet { ids: c.iter().copied().collect() }).collect(),
        nodes: m
            .nodes()
            .map(|(id, n)| pb::RaftNode {
                id: *id,
                uuid: uuid_bytes(n.uuid),
                admin: n.admin.clone(),
                advertise: n.advertise.clone(),
                port_offset: u32::from(n.port_offset),
            })
            .collect(),
    }
}

/// From the wire; bounded, and every voter is a node.
pub fn membership(m: &pb::Membership) -> Result<Membership, String> {
    if m.nodes.len() > NODES_MAX || m.configs.len() > 2 {
        return Err(format!("a membership with {} nodes and {} sets of voters", m.nodes.len(), m.configs.len()));
    }
    let mut nodes = BTreeMap::new();
    for n in &m.nodes {
        let port_offset = u16::try_from(n.port_offset).map_err(|_| format!("port offset {}", n.port_offset))?;
        let node =
            RaftNode { uuid: uuid(&n.uuid)?, admin: n.admin.clone(), advertise: n.advertise.clone(), port_offset };
        if nodes.insert(n.id, node).is_some() {
            return Err(format!("a membership that names node {} twice", n.id));
        }
    }
    let configs: Vec<BTreeSet<u64>> = m.configs.iter().map(|c| c.ids.iter().copied().collect()).collect();
    if configs.iter().flatten().any(|id| !nodes.contains_key(id)) {
        return Err("a membership with a voter that is no node".into());
    }
    Ok(Membership::new(configs, nodes))
}

/// To the wire.
pub fn stored_membership_pb(m: &StoredMembership) -> pb::StoredMembership {
    pb::StoredMembership { log_id: m.log_id().as_ref().map(log_id_pb), membership: Some(membership_pb(m.membership())) }
}

/// To the wire.
pub fn snapshot_meta_pb(m: &SnapshotMeta) -> pb::SnapshotMeta {
    pb::SnapshotMeta {
        last_log_id: m.last_log_id.as_ref().map(log_id_pb),
        last_membership: Some(stored_membership_pb(&m.last_membership)),
        snapshot_id: m.snapshot_id.clone(),
    }
}

/// From the wire.
pub fn snapshot_meta(m: &pb::SnapshotMeta) -> Result<SnapshotMeta, String> {
    let stored = m.last_membership.as_ref().ok_or("a snapshot without membership")?;
    let inner = stored.membership.as_ref().map_or_else(|| Ok(Membership::default()), membership)?;
    Ok(SnapshotMeta {
        last_log_id: optional_log_id(m.last_log_id.as_ref())?,
        last_membership: StoredMembership::new(optional_log_id(stored.log_id.as_ref())?, inner),
        snapshot_id: m.snapshot_id.clone(),
    })
}

/// To the wire and to the disk.
pub fn log_entry_pb(e: &LogEntry) -> pb::LogEntry {
    let payload = match &e.payload {
        EntryPayload::Blank => None,
        EntryPayload::Normal(p) => Some(pb::log_entry::Payload::Change(entry::encode_entry(&p.entry).into())),
        EntryPayload::Membership(m) => Some(pb::log_entry::Payload::Membership(membership_pb(m))),
    };
    pb::LogEntry { log_id: Some(log_id_pb(&e.log_id)), payload }
}

/// From the wire and from the disk; a change that this version does not know is an error.
pub fn log_entry(e: &pb::LogEntry) -> Result<LogEntry, String> {
    let id = log_id(e.log_id.as_ref().ok_or("an entry without position")?)?;
    let payload = match &e.payload {
        None => EntryPayload::Blank,
        Some(pb::log_entry::Payload::Change(bytes)) => {
            let entry = entry::decode_entry(bytes).map_err(|e| format!("entry {}: {e}", id.index))?;
            EntryPayload::Normal(Proposal::new(entry))
        }
        Some(pb::log_entry::Payload::Membership(m)) => EntryPayload::Membership(membership(m)?),
    };
    Ok(LogEntry { log_id: id, payload })
}
