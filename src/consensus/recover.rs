//! `pontoon recover`: after a quorum is lost for good, this node becomes a cluster of one that keeps everything it has.
//! Knows nothing of running nodes: it works on a stopped one, under its lock.

use std::{fmt, path::Path, sync::Arc};

use openraft::{CommittedLeaderId, EntryPayload};
use tokio::sync::watch;

use super::{
    Consensus, DirLock, OpenError,
    checks::TERM_MAX,
    copy::DirCopy,
    disk::Disk,
    state_machine::StateMachine,
    types::{LogEntry, LogId, Membership, Proposal, Vote},
};
use crate::{
    clock,
    model::{
        author::{Author, Requester},
        change::{Change, Recover},
        ids::{Epoch, NodeId, Uuid},
        state::{ClusterState, Entry},
    },
    wire::hash::change_hash,
};

/// What `recover` did, or would do. `Display` gives the text for the operator, including what may be missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoverReport {
    /// This node.
    pub node: NodeId,
    /// The cluster it belonged to.
    pub old_cluster: Option<Uuid>,
    /// The cluster it is alone in now. `None`: a dry run.
    pub cluster_id: Option<Uuid>,
    /// The last entry that it had. Entries that were acknowledged after it are missing.
    pub last: Epoch,
    /// The last entry that it knew to be committed. Those after it, up to `last`, are kept as if they were committed.
    pub committed: Epoch,
    /// Members that are removed. They are refused until their data directories are wiped.
    pub dropped: Vec<NodeId>,
}

impl fmt::Display for RecoverReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.cluster_id {
            Some(id) => writeln!(f, "node {} is a cluster of one now, with the new cluster id {id}", self.node)?,
            None => writeln!(f, "node {} would be a cluster of one, with a new cluster id", self.node)?,
        }
        writeln!(f, "kept: every change up to log index {}", self.last)?;
        if self.committed < self.last {
            writeln!(
                f,
                "kept, though it is not known whether a majority ever had them: changes {} to {}",
                self.committed.0 + 1,
                self.last
            )?;
        }
        writeln!(f, "may be missing: changes that the others acknowledged after index {}", self.last)?;
        let dropped: Vec<String> = self.dropped.iter().map(ToString::to_string).collect();
        if dropped.is_empty() {
            return write!(f, "there were no other nodes");
        }
        write!(
            f,
            "refused from now on: nodes {}; wipe their data directories before they join again with --join",
            dropped.join(", ")
        )
    }
}

impl Consensus {
    /// Makes this stopped node a cluster of one that keeps everything it has, or with `dry_run` only says what that would
    /// give, from a copy of the directory. The lock proves that the node is stopped. `declared`: who does it, for its event.
    ///
    /// # Errors
    /// Returns why the node was not recovered and what to do, as text for the operator. A repetition after a crash is
    /// safe.
    pub fn recover(data_dir: &Path, _lock: &DirLock, declared: &str, dry_run: bool) -> Result<RecoverReport, String> {
        if dry_run {
            let copy = DirCopy::of(data_dir)?;
            return recover_in(copy.path(), declared, true).map_err(|text| copy.about_original(&text));
        }
        recover_in(data_dir, declared, false)
    }
}

fn recover_in(data_dir: &Path, declared: &str, dry_run: bool) -> Result<RecoverReport, String> {
    let disk = Arc::new(Disk::open(data_dir).map_err(|OpenError(e)| e)?);
    let done = recover(&disk, declared, dry_run);
    disk.close();
    done
}

fn recover(disk: &Arc<Disk>, declared: &str, dry_run: bool) -> Result<RecoverReport, String> {
    let facts = disk.facts();
    let Some(last) = disk.ends().last else {
        return Err("this node has no log; there is nothing to recover. Start it with --peers or --join".into());
    };
    let committed = disk.committed()?;
    let (publish, _state) = watch::channel(Arc::new(ClusterState::default()));
    let mut machine = StateMachine::load(disk.clone(), publish)?;
    let snapshot = Epoch(machine.state().applied.0);
    let next = if snapshot == Epoch(0) { 0 } else { snapshot.0 + 1 };
    for entry in disk.entries(next, None, 0)? {
        machine.apply_one(&entry);
    }
    let nodes: Vec<(u64, super::types::RaftNode)> =
        machine.membership().nodes().map(|(id, n)| (*id, n.clone())).collect();
    let Some((me, own)) = nodes.iter().find(|(_, n)| n.uuid == facts.uuid).cloned() else {
        return Err(format!(
            "the node with uuid {} is not a member in its own log; it cannot continue the cluster",
            facts.uuid
        ));
    };
    let voted = facts.vote.map_or(0, |v| v.leader_id.term);
    let Some(term) = next_term(voted, last.leader_id.term) else {
        return Err(format!(
            "its log ends with term {}, which no term can follow: this log cannot go on. Recover another node, or restore \
             all of this directory from one copy",
            last.leader_id.term
        ));
    };
    let at = |index| LogId::new(CommittedLeaderId::new(term, me), index);
    let alone = Membership::new(vec![[me].into()], std::collections::BTreeMap::from([(me, own)]));
    let recover = Change::Recover(Recover { keep: NodeId(me) });
    let change = Entry {
        id: Uuid(uuid::Uuid::new_v4().as_u128()),
        request_hash: change_hash(&recover),
        at_ms: clock::wall_ms(),
        author: Author::Request(Requester {
            actor: "whoever may write the data directory".to_owned(),
            declared: declared.to_owned(),
            address: String::new(),
            node: NodeId(me),
        }),
        change: recover,
    };
    let entries = [
        LogEntry { log_id: at(last.index + 1), payload: EntryPayload::Membership(alone) },
        LogEntry { log_id: at(last.index + 2), payload: EntryPayload::Normal(Proposal::new(change)) },
    ];
    // The change is applied in memory first: a refused change must not be written.
    for entry in &entries {
        if let Some(applied) = machine.apply_one(entry).0 {
            applied.result.map_err(|reject| format!("the state refuses it: {reject}"))?;
        }
    }
    let report = RecoverReport {
        node: NodeId(me),
        old_cluster: facts.cluster_id,
        cluster_id: None,
        last: Epoch(last.index),
        committed: Epoch(committed.map_or(snapshot.0, |c| c.index.max(snapshot.0))),
        dropped: nodes.iter().filter(|(id, _)| *id != me).map(|(id, _)| NodeId(*id)).collect(),
    };
    if dry_run {
        return Ok(report);
    }
    // The new cluster id is first. After a crash here the node is cut off from the former members and has no majority
    // of its own, until recover is run again. The other order could give two clusters of one id.
    let cluster_id = Uuid(uuid::Uuid::new_v4().as_u128());
    disk.replace_cluster(cluster_id)?;
    let vote = Vote::new(term, me);
    if facts.vote.is_some_and(|before| vote < before) {
        disk.lower_vote(&vote)?
    } else {
        disk.save_vote(&vote)?
    }
    disk.append(&entries)?;
    disk.save_committed(Some(at(last.index + 2)))?;
    Ok(RecoverReport { cluster_id: Some(cluster_id), ..report })
}

/// The term of a cluster of one that keeps a log which ends with the term `last`. A vote in a term that no election can
/// follow is forgotten: those whom it was promised to are in another cluster. `None`: no term can follow.
fn next_term(voted: u64, last: u64) -> Option<u64> {
    let highest = if voted > TERM_MAX { last } else { voted.max(last) };
    highest.checked_add(1).filter(|term| *term <= TERM_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_term_leaves_room_for_elections() {
        assert_eq!(next_term(7, 5), Some(8));
        assert_eq!(next_term(5, 7), Some(8));
        assert_eq!(next_term(u64::MAX, 7), Some(8));
        assert_eq!(next_term(TERM_MAX + 1, 7), Some(8));
        assert_eq!(next_term(TERM_MAX, 7), None);
        assert_eq!(next_term(7, u64::MAX), None);
    }
}
