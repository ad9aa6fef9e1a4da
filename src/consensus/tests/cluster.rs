//! Clusters in this process over real connections on loopback.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    net::TcpListener,
    sync::{oneshot, watch},
    task::{JoinHandle, JoinSet},
    time::timeout,
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, service::interceptor::InterceptedService, transport::Server};

use super::*;
use crate::{
    consensus::{
        Applied, Consensus, ConsensusConfig, ProposeError, Timing, convert,
        handle::RetainedState,
        network::{Network, PeerIdentity},
        types::RaftNode,
    },
    model::change::{Bootstrap, OpenHold},
    model::{
        change::NewMember,
        ids::{HostPort, NodeId},
        outcome::Outcome,
    },
    wire::{
        auth::{ClusterSecret, ServerAuth},
        pb::raft as pb,
    },
};

/// Long, because the machine that runs the tests may be busy.
const PATIENCE: Duration = Duration::from_secs(40);
const TIMING: Timing = Timing {
    heartbeat: Duration::from_millis(150),
    election_min: Duration::from_millis(600),
    election_max: Duration::from_millis(1200),
};

fn secret() -> ClusterSecret {
    ClusterSecret::new("a-secret-of-the-tests").unwrap()
}

struct Node {
    member: NewMember,
    consensus: Consensus,
    stop: oneshot::Sender<()>,
    server: JoinHandle<()>,
    _lock: directory::DirLock,
}

/// A stopped node: its address and its directory.
struct Site {
    member: NewMember,
    dir: PathBuf,
}

impl Site {
    fn new(root: &TempDir, id: u64) -> Self {
        let dir = root.path().join(format!("node{id}"));
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let member = NewMember {
            id: NodeId(id),
            uuid: directory::identity(&dir).unwrap(),
            admin: HostPort::parse(&format!("127.0.0.1:{port}")).unwrap(),
            advertise: "127.0.0.1".into(),
            port_offset: id as u16,
        };
        Self { member, dir }
    }

    async fn start(&self) -> Node {
        self.start_keeping(RetainedState::default()).await
    }

    fn config(&self) -> ConsensusConfig {
        ConsensusConfig {
            me: self.member.clone(),
            data_dir: self.dir.clone(),
            secret: secret(),
            source: None,
            timing: TIMING,
        }
    }

    async fn start_keeping(&self, keep: RetainedState) -> Node {
        let lock = directory::lock(&self.dir).unwrap();
        let consensus = Consensus::open_keeping(self.config(), keep).await.unwrap();
        let listener = TcpListener::bind(self.member.admin.as_str()).await.unwrap();
        let service = InterceptedService::new(
            consensus.service(),
            ServerAuth { secret: secret(), refused: consensus.callers().refused_calls() },
        );
        let (stop, stopped) = oneshot::channel::<()>();
        let server = tokio::spawn(async move {
            let end = async {
                let _ = stopped.await;
            };
            Server::builder()
                .add_service(service)
                .serve_with_incoming_shutdown(TcpListenerStream::new(listener), end)
                .await
                .unwrap();
        });
        Node { member: self.member.clone(), consensus, stop, server, _lock: lock }
    }
}

impl Node {
    async fn stop(self) {
        self.consensus.shutdown().await;
        let _ = self.stop.send(());
        timeout(PATIENCE, self.server).await.unwrap().unwrap();
    }

    async fn leads(&self) {
        let mut leadership = self.consensus.leadership();
        timeout(PATIENCE, leadership.wait_for(|l| l.is_me)).await.expect("this node does not lead").unwrap();
    }

    async fn applied(&self, index: u64) {
        let mut state = self.consensus.state();
        timeout(PATIENCE, state.wait_for(|s| s.applied.0 >= index)).await.expect("the entry was not applied").unwrap();
    }
}

async fn leader_of(nodes: &[&Node]) -> usize {
    let mut waits = JoinSet::new();
    for (i, node) in nodes.iter().enumerate() {
        let mut leadership = node.consensus.leadership();
        waits.spawn(async move { leadership.wait_for(|l| l.is_me).await.map(|_| i).ok() });
    }
    let first = async {
        while let Some(done) = waits.join_next().await {
            if let Ok(Some(i)) = done {
                return Some(i);
            }
        }
        None
    };
    timeout(PATIENCE, first).await.expect("nobody leads").expect("all nodes have stopped")
}

/// Requests a membership until it is in force.
async fn membership(leader: &Node, voters: &BTreeSet<NodeId>, members: &BTreeMap<NodeId, NewMember>) {
    let mut metrics = leader.consensus.raft().metrics();
    let done = async {
        while leader.consensus.change_membership(voters.clone(), BTreeSet::new(), members.clone()).await.unwrap() {
            metrics.changed().await.unwrap();
        }
    };
    timeout(PATIENCE, done).await.expect("the membership did not come about");
}

/// Proposes at the leader, again under the same id until there is an answer.
async fn propose(nodes: &[&Node], id: u128, change: Change) -> Applied {
    let again = async {
        loop {
            let leader = nodes[leader_of(nodes).await];
            match leader.consensus.propose(Uuid(id), change.clone(), Duration::from_secs(5)).await {
                Ok(applied) => return applied,
                Err(ProposeError::NotLeader(_) | ProposeError::Unknown(_)) => {}
                Err(e) => panic!("{e}"),
            }
        }
    };
    timeout(PATIENCE, again).await.expect("a change was not accepted")
}

async fn three(root: &TempDir, keep: RetainedState) -> (Vec<Site>, Vec<Node>) {
    several(3, root, keep).await
}

async fn several(n: u64, root: &TempDir, keep: RetainedState) -> (Vec<Site>, Vec<Node>) {
    let sites: Vec<Site> = (1..=n).map(|id| Site::new(root, id)).collect();
    let mut nodes = Vec::new();
    for site in &sites {
        nodes.push(site.start_keeping(keep).await);
    }
    assert!(nodes.iter().all(|n| n.consensus.is_pristine()));
    let members: Vec<NewMember> = sites.iter().map(|s| s.member.clone()).collect();
    nodes[0].consensus.initialize(Uuid(77), members.clone()).await.unwrap();
    let refs: Vec<&Node> = nodes.iter().collect();
    let first = propose(&refs, 1, Change::Bootstrap(Bootstrap { members, port: 19000 })).await;
    assert_eq!(first.result, Ok(Outcome::Done));
    (sites, nodes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn elect_propose_transfer_stop_restart() {
    let root = tempfile::tempdir().unwrap();
    let (sites, mut nodes) = three(&root, RetainedState::default()).await;
    let all: Vec<&Node> = nodes.iter().collect();
    let done = propose(&all, 2, change(5)).await;
    let repeat = propose(&all, 2, change(5)).await;
    assert_eq!((repeat.index, &repeat.result), (done.index, &done.result), "a repeat has the first result");
    for node in &all {
        node.applied(done.index.0).await;
        assert_eq!(node.consensus.cluster_id(), Some(Uuid(77)));
        assert_eq!(node.consensus.state().borrow().settings.hold_ms_max, 15);
    }
    let at = leader_of(&all).await;
    let term = all[at].consensus.confirm_leadership(PATIENCE).await.unwrap();
    assert_eq!(term, all[at].consensus.leadership().borrow().term);
    let long = Change::OpenHold(OpenHold {
        cause: crate::model::state::Cause::Assignment(crate::model::ids::AssignmentId(1)),
        attempt: 1,
        kind: crate::model::route::HoldKind::Wait,
        reason: "x".repeat(600_000),
    });
    let large = all[at].consensus.propose(Uuid(8), long, PATIENCE).await;
    assert!(matches!(large, Err(ProposeError::TooLarge { size, limit }) if size > limit), "{large:?}");
    let follower = all[(at + 1) % 3];
    let refused = follower.consensus.propose(Uuid(3), change(6), PATIENCE).await;
    assert!(matches!(refused, Err(ProposeError::NotLeader(Some(id))) if id == all[at].member.id), "{refused:?}");
    assert!(follower.consensus.confirm_leadership(PATIENCE).await.is_err());

    // A candidate with a member's id and another uuid is a former node.
    let former = PeerIdentity { id: follower.member.id.0, uuid: Uuid(99), cluster: Some(Uuid(77)).into() };
    let network = Network::new(Arc::new(former), secret(), None, watch::channel(Arc::default()).1);
    let node = RaftNode::of(&all[at].member);
    let request = pb::VoteRequest {
        header: Some(network.header(all[at].member.id.0, node.uuid)),
        vote: Some(convert::vote_pb(&Vote::new(1000, follower.member.id.0))),
        last_log_id: None,
    };
    let status = network.client(&node).unwrap().vote(request).await.unwrap_err();
    assert!(status.message().contains("is a member under uuid"), "{}", status.message());

    // The leader transfers the leadership and stops; the other nodes go on.
    all[at].consensus.transfer_leadership(PATIENCE).await;
    assert_ne!(all[at].consensus.leadership().borrow().leader, Some(all[at].member.id), "nobody else leads");
    assert!(matches!(all[at].consensus.propose(Uuid(3), change(6), PATIENCE).await, Err(ProposeError::NotLeader(_))));
    nodes.remove(at).stop().await;
    let two: Vec<&Node> = nodes.iter().collect();
    let later = propose(&two, 4, change(7)).await;
    let back = sites[at].start().await;
    // Entries that it knew to be committed are applied at once.
    assert!(back.consensus.state().borrow().applied >= done.index);
    back.applied(later.index.0).await;
    assert_eq!(*back.consensus.state().borrow(), *nodes[0].consensus.state().borrow());
    back.stop().await;

    // Without a majority nothing is confirmed, and the outcome of a proposal is unknown.
    let lead = leader_of(&nodes.iter().collect::<Vec<_>>()).await;
    let leader = nodes.remove(lead);
    nodes.remove(0).stop().await;
    let short = Duration::from_secs(2);
    let alone = leader.consensus.propose(Uuid(9), change(9), short).await;
    assert!(matches!(alone, Err(ProposeError::Unknown(_) | ProposeError::NotLeader(_))), "{alone:?}");
    assert!(leader.consensus.confirm_leadership(short).await.is_err());
    leader.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_transferred_the_leadership_follows_and_may_lead_again() {
    let root = tempfile::tempdir().unwrap();
    let (_, nodes) = three(&root, RetainedState::default()).await;
    let all: Vec<&Node> = nodes.iter().collect();
    let at = leader_of(&all).await;
    let nobody = all[at].consensus.transfer_leadership_to(&[NodeId(9)].into(), std::time::Duration::ZERO).await;
    assert!(!nobody, "nobody was asked");
    propose(&all, 2, change(5)).await;
    let at = leader_of(&all).await;
    let transfer_candidates = all.iter().map(|node| node.member.id).filter(|id| *id != all[at].member.id).collect();
    assert!(all[at].consensus.transfer_leadership_to(&transfer_candidates, PATIENCE).await, "nobody took over");
    let next = leader_of(&all).await;
    assert_ne!(next, at, "the node that transferred the leadership leads again");
    propose(&all, 3, change(6)).await;
    // Its own votes, heartbeats and proposals are as before.
    let back = [all[at].member.id].into();
    assert!(all[next].consensus.transfer_leadership_to(&back, PATIENCE).await, "it does not lead again");
    propose(&all, 4, change(7)).await;
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_was_restarted_leads_only_in_a_new_term() {
    let root = tempfile::tempdir().unwrap();
    let site = Site::new(&root, 1);
    let node = site.start().await;
    node.consensus.initialize(Uuid(77), vec![site.member.clone()]).await.unwrap();
    node.leads().await;
    let before = node.consensus.confirm_leadership(PATIENCE).await.unwrap();
    let done = propose(&[&node], 2, change(5)).await;
    node.stop().await;
    let node = site.start().await;
    node.leads().await;
    // The entries that it had committed are applied, although the committed position is not synced.
    let after = node.consensus.confirm_leadership(PATIENCE).await.unwrap();
    assert!(after > before, "{after} is not after {before}");
    assert!(node.consensus.state().borrow().applied >= done.index);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_was_removed_does_not_depose_those_after_it() {
    let root = tempfile::tempdir().unwrap();
    let (sites, mut nodes) = several(6, &root, RetainedState::default()).await;
    let at = leader_of(&nodes.iter().collect::<Vec<_>>()).await;
    let leader = nodes.remove(at);
    let others: BTreeMap<NodeId, NewMember> =
        sites.iter().filter(|s| s.member.id != leader.member.id).map(|s| (s.member.id, s.member.clone())).collect();
    membership(&leader, &others.keys().copied().collect(), &others).await;
    let before = leader.consensus.leadership().borrow().term;
    leader.consensus.transfer_leadership(PATIENCE).await;
    leader.stop().await;
    let others: Vec<&Node> = nodes.iter().collect();
    propose(&others, 2, change(5)).await;
    let after = others[leader_of(&others).await].consensus.leadership().borrow().term;
    // One election at the start, one that was requested, and one to spare; five transfer candidates could be asked.
    assert!(after.0 <= before.0 + 3, "from term {before} to {after}");
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lagging_node_and_a_new_one_get_a_snapshot() {
    let root = tempfile::tempdir().unwrap();
    let keep = RetainedState { snapshot_every: 20, entries: 3, ..RetainedState::default() };
    let (sites, mut nodes) = three(&root, keep).await;
    let at = leader_of(&nodes.iter().collect::<Vec<_>>()).await;
    let lag = (at + 1) % 3;
    nodes.remove(lag).stop().await;
    let two: Vec<&Node> = nodes.iter().collect();
    let mut last = 0;
    for n in 0..60 {
        last = propose(&two, 100 + n, change(n as u64)).await.index.0;
    }
    let leader = two[leader_of(&two).await];
    let mut metrics = leader.consensus.raft().metrics();
    timeout(PATIENCE, metrics.wait_for(|m| m.purged.is_some_and(|p| p.index > 10)))
        .await
        .expect("nothing was purged")
        .unwrap();
    let back = sites[lag].start_keeping(keep).await;
    back.applied(last).await;
    assert!(back.consensus.raft().metrics().borrow().snapshot.is_some(), "it came without a snapshot");

    // A pristine node is added as a learner, then made a voter.
    let site = Site::new(&root, 4);
    let new = site.start_keeping(keep).await;
    let mut members: BTreeMap<NodeId, NewMember> = sites.iter().map(|s| (s.member.id, s.member.clone())).collect();
    members.insert(NodeId(4), site.member.clone());
    let three: BTreeSet<NodeId> = [1, 2, 3].map(NodeId).into();
    let four: BTreeSet<NodeId> = [NodeId(4)].into();
    let step = leader.consensus.change_membership(three.clone(), four.clone(), members.clone()).await;
    assert!(step.unwrap());
    assert!(!leader.consensus.change_membership(three.clone(), four, members.clone()).await.unwrap());
    new.applied(last).await;
    assert_eq!(new.consensus.cluster_id(), Some(Uuid(77)));
    assert_eq!(*new.consensus.state().borrow(), *leader.consensus.state().borrow());
    let all: BTreeSet<NodeId> = members.keys().copied().collect();
    membership(leader, &all, &members).await;
    assert_eq!(leader.consensus.leadership().borrow().voters.len(), 4);
    // It is removed again: first as a voter, then as a member.
    members.remove(&NodeId(4));
    membership(leader, &three, &members).await;
    let known = leader.consensus.leadership().borrow().clone();
    assert_eq!((known.voters.len(), known.learners.len()), (3, 0));

    // After a restart from snapshot and log the state is the same.
    let before = back.consensus.state().borrow().clone();
    back.stop().await;
    let again = sites[lag].start_keeping(keep).await;
    again.applied(before.applied.0).await;
    assert_eq!(again.consensus.state().borrow().settings, before.settings);
    assert_eq!(again.consensus.state().borrow().results, before.results);
    again.stop().await;
    new.stop().await;
    for node in nodes {
        node.stop().await;
    }
}

/// Entries with large scripts would fill a disk long before there are so many that a snapshot is made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_of_many_bytes_is_compacted_however_few_its_entries_are() {
    let root = tempfile::tempdir().unwrap();
    let keep = RetainedState { bytes: 4096, ..RetainedState::default() };
    let (_, nodes) = three(&root, keep).await;
    let all: Vec<&Node> = nodes.iter().collect();
    let mut metrics: Vec<_> = all.iter().map(|node| node.consensus.raft().metrics()).collect();
    for n in 0.. {
        propose(&all, 1000 + n, change(n as u64)).await;
        if metrics.iter_mut().all(|m| m.borrow_and_update().purged.is_some_and(|p| p.index > 3)) {
            break;
        }
        assert!(n < 1000, "nothing was purged on some node");
    }
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_of_other_clusters_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let site = Site::new(&root, 1);
    let node = site.start().await;
    let me = RaftNode::of(&site.member);
    let call = |cluster: u128, uuid: Uuid, secret: ClusterSecret| {
        let identity = PeerIdentity { id: 9, uuid: Uuid(9), cluster: Some(Uuid(cluster)).into() };
        let network = Network::new(Arc::new(identity), secret, None, watch::channel(Arc::default()).1);
        let header = network.header(1, uuid);
        let request = pb::AppendEntriesRequest {
            header: Some(header),
            vote: Some(convert::vote_pb(&Vote::new_committed(1, 9))),
            ..Default::default()
        };
        let me = me.clone();
        async move { network.client(&me).unwrap().append_entries(request).await.map(|_| ()) }
    };
    // A call for another uuid is refused, and leaves no trace in a pristine node.
    let status = call(77, Uuid(4), secret()).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("node remove 1"), "{}", status.message());
    assert!(node.consensus.is_pristine());
    for wrong in [ClusterSecret::none(), ClusterSecret::new("another-secret-of-tests").unwrap()] {
        assert_eq!(call(77, me.uuid, wrong).await.unwrap_err().code(), Code::Unauthenticated);
    }
    assert!(node.consensus.is_pristine());
    // The node belongs to the first cluster that knows it, also after a restart.
    call(77, me.uuid, secret()).await.unwrap();
    assert_eq!(node.consensus.cluster_id(), Some(Uuid(77)));
    node.stop().await;
    let node = site.start().await;
    assert_eq!(node.consensus.cluster_id(), Some(Uuid(77)));
    let status = call(78, me.uuid, secret()).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("belongs to cluster"), "{}", status.message());
    let begun = node.consensus.initialize(Uuid(79), vec![site.member.clone()]).await;
    assert!(begun.unwrap_err().contains("already"));
    node.stop().await;
}

/// A term that no election can follow, for example from a forged call to an earlier version, once made every start and
/// `recover` panic.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_an_impossible_term_says_so_and_can_be_recovered() {
    let root = tempfile::tempdir().unwrap();
    let site = Site::new(&root, 1);
    let node = site.start().await;
    node.consensus.initialize(Uuid(77), vec![site.member.clone()]).await.unwrap();
    node.leads().await;
    let members = vec![site.member.clone()];
    propose(&[&node], 1, Change::Bootstrap(Bootstrap { members, port: 19000 })).await;
    let kept = propose(&[&node], 2, change(42)).await;
    node.stop().await;
    let disk = open(&site.dir);
    disk.save_vote(&Vote::new(u64::MAX, 9)).unwrap();
    disk.close();
    let refused = Consensus::open(site.config()).await.unwrap_err().to_string();
    assert!(refused.contains("term 18446744073709551615") && refused.contains("pontoon recover"), "{refused}");

    let lock = directory::lock(&site.dir).unwrap();
    let report = Consensus::recover(&site.dir, &lock, "root: pontoon recover", false).unwrap();
    drop(lock);
    assert!(report.last >= kept.index, "{report}");
    let node = site.start().await;
    node.leads().await;
    assert_eq!(node.consensus.state().borrow().settings.hold_ms_max, 52);
    assert!(propose(&[&node], 3, change(43)).await.result.is_ok());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_survivor_recovers_alone() {
    let root = tempfile::tempdir().unwrap();
    let (sites, nodes) = three(&root, RetainedState::default()).await;
    let all: Vec<&Node> = nodes.iter().collect();
    let done = propose(&all, 2, change(42)).await;
    nodes[1].applied(done.index.0).await;
    for node in nodes {
        node.stop().await;
    }
    let survivor = &sites[1];
    let report = {
        let lock = directory::lock(&survivor.dir).unwrap();
        let tried = Consensus::recover(&survivor.dir, &lock, "root: pontoon recover", true).unwrap();
        assert!(tried.cluster_id.is_none() && tried.to_string().contains("would be a cluster of one"), "{tried}");
        let done = Consensus::recover(&survivor.dir, &lock, "root: pontoon recover", false).unwrap();
        // The dry run has changed nothing.
        assert_eq!(crate::consensus::RecoverReport { cluster_id: None, ..done.clone() }, tried);
        done
    };
    assert_eq!((report.node, report.old_cluster), (NodeId(2), Some(Uuid(77))));
    assert_eq!(report.dropped, [NodeId(1), NodeId(3)]);
    assert!(report.last >= done.index && report.to_string().contains("may be missing"));
    let node = survivor.start().await;
    node.leads().await;
    assert_eq!(node.consensus.cluster_id(), report.cluster_id);
    let state = node.consensus.state().borrow().clone();
    assert_eq!(state.settings.hold_ms_max, 52);
    assert_eq!(state.members.keys().copied().collect::<Vec<_>>(), [NodeId(2)]);
    let alone = propose(&[&node], 3, change(43)).await;
    assert_eq!(alone.result, Ok(Outcome::Done));
    // A former member comes back: it is refused, and refuses.
    let former = sites[0].start().await;
    let mine = RaftNode::of(&survivor.member);
    let identity = PeerIdentity { id: 1, uuid: former.member.uuid, cluster: former.consensus.cluster_id().into() };
    let network = Network::new(Arc::new(identity), secret(), None, watch::channel(Arc::default()).1);
    let request = pb::VoteRequest {
        header: Some(network.header(2, mine.uuid)),
        vote: Some(convert::vote_pb(&Vote::new(1000, 1))),
        last_log_id: None,
    };
    let status = network.client(&mine).unwrap().vote(request).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(node.consensus.leadership().borrow().is_me);
    former.stop().await;
    node.stop().await;
}
