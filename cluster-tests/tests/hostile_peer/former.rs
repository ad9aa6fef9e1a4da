//! Nodes that were removed and come back.

use cluster_tests::wait::{GENEROUS, wait_until};
use pontoon::wire::pb::node::{HeartbeatRequest, JoinRequest};
use tonic::Code::FailedPrecondition as Refused;

use crate::{
    peer::uuid,
    victim::{Victim, all_refused, refused},
};

#[test]
fn a_removed_node_is_refused_whatever_it_sends() {
    let mut victim = Victim::start(3);
    let (leader, gone) = (victim.cluster.leader(), victim.cluster.follower());
    let other = 6 - leader - gone;
    let former = victim.peer(gone);
    victim.cluster.node_mut(gone).kill9();
    victim.cluster.node(leader).cli().ok(&["node", "remove", &gone.to_string(), "--assume-dead", "--timeout", "40s"]);
    for id in [leader, other] {
        let mut peer = victim.peer(id);
        wait_until("the removal to be applied", GENEROUS, || {
            let nodes = victim.cluster.node(id).cli().json(&["node", "ls"]);
            nodes.as_array().unwrap().iter().all(|n| n["id"] != u64::from(gone))
        });
        let (term, applied) = (victim.term(id), victim.applied(id));
        peer.header.from_id = gone.into();
        peer.header.from_uuid = former.target.uuid.clone();
        // It may also think that it was admitted later.
        peer.header.admitted = applied + 1000;
        let part = "was removed from this cluster";
        all_refused(&mut peer, (term, applied), part);
        let request = HeartbeatRequest { me: Some(former.target.clone()), start: uuid(5), ..Default::default() };
        let reply = peer.node(|mut client| async move { client.heartbeat(request).await }).unwrap();
        assert!(reply.not_a_member, "{reply:?}");
        victim.serves(id);
    }
    // It cannot join again as it was.
    let peer = victim.peer(leader);
    let request = JoinRequest { me: Some(former.target) };
    refused("a join", peer.node(|mut client| async move { client.join(request).await }), Refused, "was removed");

    // The process itself, with its old data: it learns that it was removed, and ends.
    let before = victim.cluster.node(gone).log().len();
    victim.cluster.node_mut(gone).start();
    let ended = victim.cluster.node_mut(gone).wait_end(GENEROUS);
    let log = victim.cluster.node(gone).log().split_off(before);
    assert!(ended.success() && log.contains("the cluster has removed this node"), "{ended}: {log}");
    // What its message advises works.
    std::fs::rename(&victim.cluster.node(gone).data_dir, victim.cluster.dir.path().join("away")).unwrap();
    victim.cluster.node_mut(gone).origin = ("--join".into(), victim.cluster.node(leader).admin());
    victim.cluster.node_mut(gone).start();
    victim.cluster.wait_formed();
    victim.cluster.wait_answers(gone);
    victim.restarts(other);
}
