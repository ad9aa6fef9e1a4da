//! Forged Raft calls with the secret.

use pontoon::wire::pb::raft::{
    AppendEntriesRequest, BallotVote, InstallSnapshotRequest, LogEntry, Membership, log_entry::Payload,
};
use tonic::Code::{FailedPrecondition as Refused, InvalidArgument as Bad, OutOfRange, ResourceExhausted};

use crate::{
    peer::{Peer, uuid},
    victim::{Victim, all_refused, refused},
};

/// More than 2^32 above every term of a test.
const FAR: u64 = 1 << 33;

fn forged_votes(peer: &mut Peer, term: u64, applied: u64) {
    let beyond = peer.at(term, applied + 1000);
    refused("the highest term", peer.vote(u64::MAX, beyond), Refused, "no elections explain");
    refused("a term far above", peer.vote(FAR, beyond), Refused, "no elections explain");
    refused("a log that is not beyond", peer.vote(term + 1, peer.at(0, applied)), Refused, "is not a member");
    refused("no log", peer.vote(term + 1, None), Refused, "is not a member");
    refused("an impossible index", peer.vote(term + 1, peer.at(term, 1 << 63)), Bad, "above 2^62");
    refused("a log later than the term", peer.vote(term + 1, peer.at(term + 9, 1 << 40)), Refused, "later than");
    let good = peer.header.clone();
    peer.header.cluster_id = uuid(9);
    refused("another cluster", peer.vote(term + 1, beyond), Refused, "comes from cluster");
    peer.header = good.clone();
    peer.header.to_uuid = uuid(9);
    refused("another receiver", peer.vote(term + 1, beyond), Refused, "this call is for node");
    peer.header = good.clone();
    peer.header.from_id = peer.target.id;
    refused("the receiver's own id", peer.vote(term + 1, beyond), Refused, "the sender says that it is node");
    peer.header = good.clone();
    peer.header.from_uuid = vec![1; 15].into();
    refused("a short uuid", peer.vote(term + 1, beyond), Bad, "15 bytes instead of 16");
    peer.header = good;
    refused("an election", peer.stand(), Refused, "is not a member");
}

fn forged_appends(peer: &Peer, term: u64, applied: u64) {
    let vote = peer.leads(term + 1);
    let one = |prev, index| AppendEntriesRequest {
        vote,
        prev_log_id: prev,
        entries: vec![peer.entry(term + 1, index)],
        ..Default::default()
    };
    refused("a gap after nothing", peer.append(one(None, 5_000_000)), Refused, "entry 0 is expected");
    refused("a gap", peer.append(one(peer.at(term + 1, applied + 9), 5_000_000)), Refused, "is expected");
    refused("a log that contradicts", peer.append(one(None, 0)), Refused, "which is committed");
    refused("an impossible index", peer.append(one(peer.at(term, u64::MAX), u64::MAX)), Bad, "above 2^62");
    refused(
        "an entry that is later",
        peer.append(one(peer.at(u64::MAX, applied + 9), applied + 10)),
        Refused,
        "later than",
    );
    let heartbeat = |vote| AppendEntriesRequest { vote, ..Default::default() };
    refused("the highest term", peer.append(heartbeat(peer.leads(u64::MAX))), Refused, "no elections explain");
    let candidate = Some(BallotVote { term: term + 1, node: peer.header.from_id, committed: false });
    refused("a candidate", peer.append(heartbeat(candidate)), Bad, "that of a candidate");
    let of_target = Some(BallotVote { term: term + 1, node: peer.target.id, committed: true });
    refused("the vote of the receiver", peer.append(heartbeat(of_target)), Refused, "the vote names node");
    refused("no vote", peer.append(heartbeat(None)), Bad, "no vote");

    let prev = peer.at(term + 1, applied + 9);
    let entry = |payload| LogEntry { payload: Some(payload), ..peer.entry(term + 1, applied + 10) };
    let with = |entries| AppendEntriesRequest { vote, prev_log_id: prev, entries, ..Default::default() };
    let nobody = entry(Payload::Membership(Membership::default()));
    refused("nobody votes", peer.append(with(vec![nobody])), Bad, "a membership with the voters");
    let long = entry(Payload::Change(vec![0; 600_000].into()));
    refused("a long entry", peer.append(with(vec![long])), Refused, "600000 bytes");
    refused("no change", peer.append(with(vec![entry(Payload::Change(vec![255; 9].into()))])), Bad, "damaged");
    let many = (applied + 10..applied + 2010).map(|index| peer.entry(term + 1, index)).collect();
    refused("many entries", peer.append(with(many)), Refused, "2000 entries");
    let commit = AppendEntriesRequest { leader_commit: peer.at(term, applied + 99), ..with(Vec::new()) };
    refused("a commit that contradicts", peer.append(commit), Refused, "as committed");
    let huge = entry(Payload::Change(vec![0; 5 << 20].into()));
    let status = peer.append(with(vec![huge])).unwrap_err();
    assert!(matches!(status.code(), OutOfRange | ResourceExhausted), "{status:?}");
}

fn forged_snapshots(peer: &Peer, term: u64, applied: u64) {
    let (vote, meta) = (peer.leads(term + 1), peer.snapshot(term + 1, applied + 1000));
    let piece = |offset, data: Vec<u8>, done| InstallSnapshotRequest {
        vote,
        meta: meta.clone(),
        offset,
        data: data.into(),
        done,
        ..Default::default()
    };
    for offset in [1, 1 << 40, 1 << 63, u64::MAX] {
        let reply = peer.install(piece(offset, vec![1; 10], true)).unwrap();
        assert!(reply.mismatch && reply.expected_offset == 0, "{offset}: {reply:?}");
    }
    refused("no state", peer.install(piece(0, vec![255; 100], true)), Bad, "cannot be read");
    refused("a long piece", peer.install(piece(0, vec![0; (1 << 20) + 1], false)), Refused, "more than 1048576");
    let state = pontoon::wire::snapshot::encode_state(&pontoon::model::state::ClusterState::default());
    refused("a state of another entry", peer.install(piece(0, state.clone(), true)), Bad, "whose state is that of");
    let older = InstallSnapshotRequest { meta: peer.snapshot(term + 1, applied - 1), ..piece(0, state.clone(), true) };
    refused("an older state", peer.install(older), Refused, "which is committed");
    let none = InstallSnapshotRequest { meta: None, ..piece(0, state.clone(), true) };
    refused("no description", peer.install(none), Bad, "without a description");
    let far = InstallSnapshotRequest { vote: peer.leads(FAR), ..piece(0, state, true) };
    refused("a term far above", peer.install(far), Refused, "no elections explain");
}

#[test]
fn forged_calls_are_refused_and_change_nothing() {
    let mut victim = Victim::start(1);
    let mut peer = victim.peer(1);
    let before = victim.quiet(1);
    let (term, applied) = (victim.term(1), victim.applied(1));
    forged_votes(&mut peer, term, applied);
    victim.serves(1);
    forged_appends(&peer, term, applied);
    victim.serves(1);
    forged_snapshots(&peer, term, applied);
    victim.serves(1);
    assert!(victim.quiet(1) == before, "a refused call has changed the data directory");
    assert_eq!((victim.term(1), victim.applied(1)), (term, applied));
    victim.restarts(1);
}

/// A lagging voter must accept a leader that it does not know. A process that has the secret and uses this can make a
/// node follow it for a moment, and nothing else.
#[test]
fn a_call_that_a_lagging_node_must_accept_does_no_lasting_harm() {
    let mut victim = Victim::start(1);
    let peer = victim.peer(1);
    let (term, applied) = (victim.term(1), victim.applied(1));
    let prev = peer.at(term + 1, applied + 5_000_000);
    let far = AppendEntriesRequest {
        vote: peer.leads(term + 1),
        prev_log_id: prev,
        leader_commit: prev,
        ..Default::default()
    };
    let reply = peer.append(far).unwrap();
    assert_eq!(reply.result(), pontoon::wire::pb::raft::append_entries_reply::Result::Conflict);
    victim.cluster.wait_formed();
    victim.cluster.wait_answers(1);
    assert!(victim.applied(1) >= applied && victim.term(1) > term);
    victim.restarts(1);
}

#[test]
fn a_member_id_with_another_uuid_is_refused() {
    let mut victim = Victim::start(3);
    let (leader, follower) = (victim.cluster.leader(), victim.cluster.follower());
    let other = 6 - leader - follower;
    let (term, applied) = (victim.term(follower), victim.applied(follower));
    let mut peer = victim.peer(follower);
    for id in [leader, other] {
        peer.header.from_id = id.into();
        let part = "is a member under uuid";
        all_refused(&mut peer, (term, applied), part);
    }
    // A member's uuid with another id.
    let known = victim.peer(other).target;
    peer.header.from_uuid = known.uuid.clone();
    peer.header.from_id = 99;
    refused("a vote", peer.vote(term + 1, peer.at(term, applied + 1000)), Refused, "is a member under uuid");
    // It says that it was admitted by an entry that the node lacks: it is a stranger then, and gets no vote either.
    peer.header.from_uuid = uuid(77);
    peer.header.from_id = other.into();
    peer.header.admitted = applied + 1000;
    refused("a vote", peer.vote(term + 1, peer.at(0, applied)), Refused, "is not a member");
    victim.serves(follower);
    victim.restarts(follower);
}
