//! Whether a Raft message can come from a correct node: pure checks before openraft sees it. openraft trusts its peers:
//! it would panic at, or store, what is refused here.
//! Knows nothing of who sent the message.

use openraft::{EntryPayload, LogIdOptionExt, raft::AppendEntriesRequest};

use super::types::{LogId, Membership, SnapshotMeta, TypeConfig, Vote};
use crate::wire::{
    caller::Caller,
    refused::{Because, Refusal},
};

/// How far a term may be above this node's. A node that was cut off for a year, and stood for election three times a
/// second, is 10^8 ahead; 2^32 calls that each raise the term by this much would be needed to exhaust it.
pub const TERM_LEAD_MAX: u64 = 1 << 32;
/// The highest term: the next elections must be able to count on.
pub const TERM_MAX: u64 = u64::MAX - TERM_LEAD_MAX;
/// The highest log index: an addition to it does not overflow. At a million entries per second it takes 146,000 years.
pub const INDEX_MAX: u64 = 1 << 62;
/// Entries in one call. openraft sends up to 300; the rest is for later versions.
pub const ENTRIES_MAX: usize = 1024;
/// Longest id of a snapshot, in bytes; this version's have about 40.
const SNAPSHOT_ID_MAX: usize = 256;

/// This node's log, as far as the checks need it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogView {
    /// The vote that this node has given.
    pub vote: Vote,
    /// Last entry that it knows to be committed.
    pub committed: Option<LogId>,
    /// Last entry.
    pub last: Option<LogId>,
}

/// How far an append lets this node commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commit {
    /// Up to this entry.
    UpTo(Option<LogId>),
    /// Up to this entry, if this node's log has it.
    IfPresent(LogId),
}

fn refuse<T>(because: Because, text: String) -> Result<T, Refusal> {
    Err(Refusal::new(because, text))
}

/// Checks the vote in a message of a leader (`committed`) or of a candidate.
///
/// # Errors
/// The vote is not the sender's, is of the other kind, or its term is impossible.
pub fn vote(vote: &Vote, committed: bool, caller: &Caller, log: &LogView) -> Result<(), Refusal> {
    if vote.leader_id.node_id != caller.id {
        let text = format!("the vote names node {}, and the sender is node {}", vote.leader_id.node_id, caller.id);
        return refuse(Because::Identity, text);
    }
    if vote.committed != committed {
        let (is, must) = if committed { ("a candidate", "a leader") } else { ("a leader", "a candidate") };
        return refuse(Because::Malformed, format!("the vote is that of {is}, and only {must} sends this message"));
    }
    term(vote.leader_id.term, log.vote.leader_id.term)
}

/// Checks a term against this node's.
///
/// # Errors
/// It is more than [`TERM_LEAD_MAX`] above, or above [`TERM_MAX`].
pub fn term(term: u64, own: u64) -> Result<(), Refusal> {
    if term > TERM_MAX || term.saturating_sub(own) > TERM_LEAD_MAX {
        let text = format!("term {term} is more than 2^32 above this node's term {own}, which no elections explain");
        return refuse(Because::Term, text);
    }
    Ok(())
}

/// Checks what an append says about the log.
///
/// # Errors
/// Its entries do not follow each other, are too many, are later than its term, contradict what is committed here, or
/// contain an impossible membership.
pub fn append(rpc: &AppendEntriesRequest<TypeConfig>, log: &LogView) -> Result<Commit, Refusal> {
    if rpc.entries.len() > ENTRIES_MAX {
        return refuse(Because::Size, format!("{} entries in one call, more than {ENTRIES_MAX}", rpc.entries.len()));
    }
    let mut last = rpc.prev_log_id;
    for id in rpc.prev_log_id.iter().chain(rpc.entries.iter().map(|e| &e.log_id)) {
        position(id, &rpc.vote, log)?;
    }
    for entry in &rpc.entries {
        let next = last.next_index();
        if entry.log_id.index != next || last.is_some_and(|l| entry.log_id <= l) {
            let text = format!("entry {} follows {}; entry {next} is expected", show(Some(entry.log_id)), show(last));
            return refuse(Because::Position, text);
        }
        if let EntryPayload::Membership(m) = &entry.payload {
            membership(m)?;
        }
        last = Some(entry.log_id);
    }
    commit(rpc, last, log)
}

/// How far to commit: as Raft says, no further than the last entry that the call proves to be the leader's.
fn commit(rpc: &AppendEntriesRequest<TypeConfig>, last: Option<LogId>, log: &LogView) -> Result<Commit, Refusal> {
    let (Some(commit), Some(last)) = (rpc.leader_commit, last) else { return Ok(Commit::UpTo(None)) };
    position(&commit, &rpc.vote, log)?;
    if commit.index >= last.index {
        if commit < last {
            return contradiction(commit, last);
        }
        return Ok(Commit::UpTo(Some(last)));
    }
    if log.committed.is_some_and(|c| commit.index <= c.index) {
        return Ok(Commit::UpTo(None));
    }
    let prev = rpc.prev_log_id;
    let named = prev.into_iter().chain(rpc.entries.iter().map(|e| e.log_id)).find(|id| id.index == commit.index);
    match named {
        Some(id) if id == commit => Ok(Commit::UpTo(Some(commit))),
        Some(id) => contradiction(commit, id),
        // Between two entries of one leader there are only entries of that leader.
        None if prev.map(|p| p.leader_id) == log.committed.map(|c| c.leader_id)
            && prev.is_some_and(|p| p.leader_id == commit.leader_id) =>
        {
            Ok(Commit::UpTo(Some(commit)))
        }
        None => Ok(Commit::IfPresent(commit)),
    }
}

fn contradiction<T>(one: LogId, other: LogId) -> Result<T, Refusal> {
    refuse(Because::Position, format!("the call names {} and {} as committed", show(Some(one)), show(Some(other))))
}

/// Checks a position in the log of the leader `vote`.
fn position(id: &LogId, vote: &Vote, log: &LogView) -> Result<(), Refusal> {
    if id.leader_id.term > vote.leader_id.term {
        let text = format!("entry {} is later than the sender's term {}", show(Some(*id)), vote.leader_id.term);
        return refuse(Because::Term, text);
    }
    let Some(committed) = log.committed else { return Ok(()) };
    let agrees = match id.index.cmp(&committed.index) {
        std::cmp::Ordering::Less => *id <= committed,
        std::cmp::Ordering::Equal => *id == committed,
        std::cmp::Ordering::Greater => *id > committed,
    };
    if agrees {
        return Ok(());
    }
    let text = format!("entry {} contradicts entry {}, which is committed", show(Some(*id)), show(log.committed));
    refuse(Because::Position, text)
}

/// Checks the last entry of a candidate. One that this node does not know gets a vote only if its log is beyond this
/// node's: then this node may lack the entry that made the candidate a member.
///
/// # Errors
/// It is later than the candidate's term, or not beyond this node's log.
pub fn candidate(vote: &Vote, last: Option<LogId>, known: bool, log: &LogView) -> Result<(), Refusal> {
    if let Some(id) = last.filter(|id| id.leader_id.term > vote.leader_id.term) {
        return refuse(
            Because::Term,
            format!("entry {} is later than the candidate's term {}", show(Some(id)), vote.leader_id.term),
        );
    }
    if !known && last <= log.last {
        let text = format!(
            "node {} is not a member, as far as this node knows, and its log ends at {}, which is not beyond this node's {}",
            vote.leader_id.node_id,
            show(last),
            show(log.last)
        );
        return refuse(Because::Unknown, text);
    }
    Ok(())
}

/// Checks the description of a snapshot.
///
/// # Errors
/// It has no position or an impossible one, or its membership is impossible.
pub fn snapshot(meta: &SnapshotMeta, vote: &Vote, log: &LogView) -> Result<LogId, Refusal> {
    if meta.snapshot_id.len() > SNAPSHOT_ID_MAX {
        return refuse(Because::Size, format!("the id of a snapshot has {} bytes", meta.snapshot_id.len()));
    }
    let Some(last) = meta.last_log_id else {
        return refuse(Because::Malformed, "a snapshot without a position".into());
    };
    position(&last, vote, log)?;
    if *meta.last_membership.log_id() > meta.last_log_id {
        return refuse(Because::Position, "a snapshot with a membership that is later than the snapshot".into());
    }
    membership(meta.last_membership.membership())?;
    Ok(last)
}

/// Checks a membership: one or two sets of voters, none empty, and nodes that can be called.
fn membership(m: &Membership) -> Result<(), Refusal> {
    let sets = m.get_joint_config();
    if sets.is_empty() || sets.len() > 2 || sets.iter().any(|set| set.is_empty()) {
        return refuse(Because::Malformed, format!("a membership with the voters {sets:?}"));
    }
    if let Some((id, _)) = m.nodes().find(|(id, node)| **id == 0 || node.member(**id).is_none()) {
        return refuse(Because::Malformed, format!("a membership whose node {id} has no valid id or address"));
    }
    Ok(())
}

/// Checks the vote in a reply to a message that this node sent with the vote `sent`.
///
/// # Errors
/// Returns why no correct node replies so.
pub fn replied_vote(vote: &Vote, sent: &Vote) -> Result<(), Refusal> {
    term(vote.leader_id.term, sent.leader_id.term)?;
    if vote.leader_id.node_id == sent.leader_id.node_id && vote > sent {
        let text = format!("the reply says that this node has term {}, but it has not", vote.leader_id.term);
        return refuse(Because::Identity, text);
    }
    Ok(())
}

fn show(id: Option<LogId>) -> String {
    id.map_or_else(|| "nothing".into(), |id| format!("{} of term {}", id.index, id.leader_id.term))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use openraft::CommittedLeaderId;

    use super::*;
    use crate::{
        consensus::types::{LogEntry, RaftNode, StoredMembership},
        model::ids::Uuid,
    };

    fn caller(id: u64) -> Caller {
        Caller { cluster: Uuid(1), id, uuid: Uuid(2), to_id: 1, to_uuid: Uuid(3), admitted: 0 }
    }

    /// An entry of the leader 2 in a term.
    fn id(term: u64, index: u64) -> LogId {
        LogId::new(CommittedLeaderId::new(term, 2), index)
    }

    /// The log of a node in term 5: entries up to 20, committed up to 10, the last of term 4.
    fn log() -> LogView {
        LogView { vote: Vote::new_committed(5, 2), committed: Some(id(3, 10)), last: Some(id(4, 20)) }
    }

    /// An append of term 5 with blank entries.
    fn call(prev: Option<LogId>, entries: &[LogId], commit: Option<LogId>) -> AppendEntriesRequest<TypeConfig> {
        let entry = |log_id: &LogId| LogEntry { log_id: *log_id, payload: EntryPayload::Blank };
        AppendEntriesRequest {
            vote: Vote::new_committed(5, 2),
            prev_log_id: prev,
            entries: entries.iter().map(entry).collect(),
            leader_commit: commit,
        }
    }

    fn because<T>(result: Result<T, Refusal>) -> Option<Because> {
        result.err().map(|refusal| refusal.because)
    }

    #[test]
    fn votes_of_others_and_impossible_terms_are_refused() {
        let of = |v: Vote, committed: bool, from: u64| because(vote(&v, committed, &caller(from), &log()));
        assert_eq!(of(Vote::new_committed(5, 2), true, 2), None);
        assert_eq!(of(Vote::new(6, 3), false, 3), None);
        assert_eq!(of(Vote::new(6, 3), false, 2), Some(Because::Identity));
        assert_eq!(of(Vote::new(6, 2), true, 2), Some(Because::Malformed));
        assert_eq!(of(Vote::new_committed(6, 2), false, 2), Some(Because::Malformed));
        assert_eq!(of(Vote::new(5 + TERM_LEAD_MAX, 2), false, 2), None);
        assert_eq!(of(Vote::new(6 + TERM_LEAD_MAX, 2), false, 2), Some(Because::Term));
        assert_eq!(of(Vote::new(u64::MAX, 2), false, 2), Some(Because::Term));
        assert_eq!(of(Vote::new(0, 2), false, 2), None, "an old term is openraft's to refuse");
        // Near the end of all terms the lead does not help.
        assert_eq!(because(term(TERM_MAX + 1, TERM_MAX)), Some(Because::Term));
        assert_eq!(because(term(TERM_MAX, TERM_MAX - 1)), None);
    }

    #[test]
    fn entries_follow_each_other_and_agree_with_what_is_committed() {
        let of = |prev, entries: &[LogId]| because(append(&call(prev, entries, None), &log()));
        assert_eq!(of(Some(id(4, 20)), &[id(5, 21), id(5, 22)]), None);
        assert_eq!(of(None, &[]), None);
        // A conflict is openraft's to answer.
        assert_eq!(of(Some(id(5, 900)), &[id(5, 901)]), None);
        assert_eq!(of(Some(id(4, 20)), &[id(5, 5_000_000)]), Some(Because::Position));
        assert_eq!(of(None, &[id(5, 5_000_000)]), Some(Because::Position));
        assert_eq!(of(Some(id(4, 20)), &[id(5, 21), id(5, 23)]), Some(Because::Position));
        assert_eq!(of(Some(id(4, 20)), &[id(5, 21), id(4, 22)]), Some(Because::Position));
        assert_eq!(of(Some(id(4, 20)), &[id(6, 21)]), Some(Because::Term));
        assert_eq!(of(Some(id(6, 20)), &[]), Some(Because::Term));
        // Committed is entry 10 of term 3.
        assert_eq!(of(Some(id(3, 10)), &[id(5, 11)]), None);
        assert_eq!(of(Some(id(2, 10)), &[id(5, 11)]), Some(Because::Position));
        assert_eq!(of(Some(id(2, 9)), &[id(3, 10)]), None);
        assert_eq!(of(Some(id(2, 9)), &[id(5, 10)]), Some(Because::Position));
        assert_eq!(of(Some(id(4, 8)), &[]), Some(Because::Position));
        assert_eq!(of(Some(id(2, 12)), &[]), Some(Because::Position));
        let many: Vec<LogId> = (21..).take(ENTRIES_MAX + 1).map(|index| id(5, index)).collect();
        assert_eq!(of(Some(id(4, 20)), &many), Some(Because::Size));
        assert_eq!(of(Some(id(4, 20)), &many[1..]), Some(Because::Position));
        assert_eq!(of(Some(id(4, 20)), &many[..ENTRIES_MAX]), None);
    }

    #[test]
    fn nothing_is_committed_beyond_what_the_call_proves() {
        let of = |prev, entries: &[LogId], commit| append(&call(prev, entries, Some(commit)), &log());
        let (prev, entries) = (Some(id(4, 20)), [id(5, 21), id(5, 22)]);
        assert_eq!(of(prev, &entries, id(5, 22)), Ok(Commit::UpTo(Some(id(5, 22)))));
        assert_eq!(of(prev, &entries, id(5, 4_000_000)), Ok(Commit::UpTo(Some(id(5, 22)))));
        assert_eq!(of(prev, &entries, id(5, 21)), Ok(Commit::UpTo(Some(id(5, 21)))));
        assert_eq!(of(prev, &entries, id(4, 20)), Ok(Commit::UpTo(Some(id(4, 20)))));
        assert_eq!(of(prev, &entries, id(4, 15)), Ok(Commit::IfPresent(id(4, 15))));
        assert_eq!(of(prev, &entries, id(3, 7)), Ok(Commit::UpTo(None)));
        assert_eq!(of(None, &[], id(5, 22)), Ok(Commit::UpTo(None)));
        for wrong in [id(4, 21), id(4, 4_000_000), id(3, 20), id(2, 15), id(4, 10), id(6, 30)] {
            assert!(of(prev, &entries, wrong).is_err(), "{wrong}");
        }
        // Both ends are of one leader.
        assert_eq!(of(Some(id(3, 20)), &[], id(3, 15)), Ok(Commit::UpTo(Some(id(3, 15)))));
    }

    #[test]
    fn an_unknown_candidate_needs_a_log_beyond_this_one() {
        let of = |last, known| because(candidate(&Vote::new(6, 3), last, known, &log()));
        assert_eq!(of(Some(id(4, 21)), false), None);
        assert_eq!(of(Some(id(5, 1)), false), None);
        for behind in [None, Some(id(4, 19)), Some(id(4, 20)), Some(id(3, 99))] {
            assert_eq!(of(behind, false), Some(Because::Unknown));
            assert_eq!(of(behind, true), None);
        }
        assert_eq!(of(Some(id(7, 30)), true), Some(Because::Term));
    }

    #[test]
    fn impossible_snapshots_and_memberships_are_refused() {
        let node = RaftNode { admin: "127.0.0.1:1".into(), advertise: "a".into(), ..RaftNode::default() };
        let nodes =
            |ids: &[u64]| ids.iter().map(|id| (*id, node.clone())).collect::<std::collections::BTreeMap<_, _>>();
        let voters = |ids: &[u64]| ids.iter().copied().collect::<std::collections::BTreeSet<u64>>();
        let good = Membership::new(vec![voters(&[1, 2])], nodes(&[1, 2, 3]));
        let of = |last, at, m: &Membership| {
            let last_membership = StoredMembership::new(at, m.clone());
            let meta = SnapshotMeta { last_log_id: last, last_membership, snapshot_id: "s".into() };
            because(snapshot(&meta, &Vote::new_committed(5, 2), &log()))
        };
        assert_eq!(of(Some(id(4, 30)), Some(id(4, 20)), &good), None);
        assert_eq!(of(Some(id(3, 10)), None, &good), None);
        assert_eq!(of(None, None, &good), Some(Because::Malformed));
        assert_eq!(of(Some(id(4, 30)), Some(id(4, 31)), &good), Some(Because::Position));
        assert_eq!(of(Some(id(6, 30)), None, &good), Some(Because::Term));
        // It would take back what is committed.
        assert_eq!(of(Some(id(4, 9)), None, &good), Some(Because::Position));
        for bad in [
            Membership::default(),
            Membership::new(vec![voters(&[])], nodes(&[1])),
            Membership::new(vec![voters(&[1]), voters(&[])], nodes(&[1])),
            Membership::new(vec![voters(&[0])], nodes(&[0, 1])),
            Membership::new(vec![voters(&[1])], std::collections::BTreeMap::from([(1, RaftNode::default())])),
        ] {
            assert_eq!(of(Some(id(4, 30)), None, &bad), Some(Because::Malformed), "{bad:?}");
        }
        let mut entry = call(Some(id(4, 20)), &[id(5, 21)], None);
        entry.entries[0].payload = EntryPayload::Membership(Membership::default());
        assert_eq!(because(append(&entry, &log())), Some(Because::Malformed));
    }

    #[test]
    fn replies_that_would_make_this_node_a_leader_are_refused() {
        let sent = Vote::new(5, 1);
        let of = |vote| because(replied_vote(&vote, &sent));
        assert_eq!(of(Vote::new(5, 1)), None);
        assert_eq!(of(Vote::new(7, 2)), None);
        assert_eq!(of(Vote::new_committed(7, 2)), None);
        assert_eq!(of(Vote::new(4, 1)), None);
        assert_eq!(of(Vote::new_committed(5, 1)), Some(Because::Identity));
        assert_eq!(of(Vote::new(6, 1)), Some(Because::Identity));
        assert_eq!(of(Vote::new(u64::MAX, 2)), Some(Because::Term));
    }
}
