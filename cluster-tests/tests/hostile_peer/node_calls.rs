//! Forged calls beside Raft, with the secret: heartbeats, pings, authorizations, orders to finish, forwarded calls.

use bytes::Bytes;
use pontoon::wire::pb::{
    admin::SetClusterRequest,
    node::{AuthorizeRequest, FinishRequest, HeartbeatRequest, NodeInfo, PingRequest, SecretTags},
    raft::Header,
};
use tonic::{
    Code::{FailedPrecondition as Refused, InvalidArgument as Bad, Unavailable},
    Request,
};

use crate::{
    peer::{Peer, uuid},
    victim::{Victim, refused},
};

fn heartbeat(peer: &Peer, me: NodeInfo) -> Result<pontoon::wire::pb::node::HeartbeatReply, tonic::Status> {
    let request = HeartbeatRequest { me: Some(me), start: uuid(5), ..Default::default() };
    peer.node(|mut client| async move { client.heartbeat(request).await })
}

fn ping(peer: &Peer) -> Result<pontoon::wire::pb::node::PingReply, tonic::Status> {
    peer.node(|mut client| async move { client.ping(PingRequest::default()).await })
}

/// Asks whether a secret with this tag is that of the node.
fn ask_about_secret(peer: &Peer, tag: Bytes) -> Result<pontoon::wire::pb::node::PingReply, tonic::Status> {
    let asked = PingRequest { secrets: Some(SecretTags { sent: tag, other: Bytes::new() }) };
    peer.node(|mut client| async move { client.ping(asked).await })
}

fn authorize(peer: &Peer, node: u64) -> Result<pontoon::wire::pb::node::AuthorizeReply, tonic::Status> {
    peer.node(|mut client| async move { client.authorize(AuthorizeRequest { node, ..Default::default() }).await })
}

fn finish(peer: &Peer) -> Result<pontoon::wire::pb::node::FinishReply, tonic::Status> {
    peer.node(|mut client| async move { client.finish(FinishRequest::default()).await })
}

/// Turns maintenance on, as if `header` had forwarded the call of an operator.
fn forward(peer: &Peer, header: Option<Header>) -> Result<pontoon::wire::pb::admin::ChangeReply, tonic::Status> {
    peer.forwarded(header, |mut client| async move {
        let mut request = Request::new(SetClusterRequest { maintenance: Some(true), ..Default::default() });
        request.metadata_mut().insert("x-pontoon-forwarded", "1".parse().unwrap());
        client.set_cluster(request).await
    })
}

#[test]
fn forged_calls_are_refused_and_change_nothing() {
    let mut victim = Victim::start(3);
    let leader = victim.cluster.leader();
    let other = victim.peer(victim.cluster.follower()).target;
    let mut peer = victim.peer(leader);
    let good = peer.header.clone();
    let as_other = Header { from_id: other.id, from_uuid: other.uuid.clone(), ..good.clone() };
    let before = victim.quiet(leader);

    // No header, another cluster, another receiver, a member's id with another uuid.
    let cases = [
        (Header::default(), Bad, "no header"),
        (Header { cluster_id: uuid(9), ..as_other.clone() }, Refused, "comes from cluster"),
        (Header { to_uuid: uuid(9), ..as_other.clone() }, Refused, "this call is for node"),
        (Header { from_id: other.id, ..good.clone() }, Refused, "is a member under uuid"),
    ];
    for (header, code, part) in cases {
        peer.header = header;
        refused("a heartbeat", heartbeat(&peer, other.clone()), code, part);
        refused("a ping", ping(&peer), code, part);
        refused("an authorization", authorize(&peer, other.id), code, part);
        refused("an order to finish", finish(&peer), code, part);
        let header = (!peer.header.from_uuid.is_empty()).then(|| peer.header.clone());
        refused("a forwarded call", forward(&peer, header), Unavailable, "not executed");
    }
    // A stranger may ask whether the node answers, and is told that it is not a member.
    peer.header = good.clone();
    ping(&peer).unwrap();
    let stranger = NodeInfo { id: good.from_id, uuid: good.from_uuid.clone(), ..other.clone() };
    assert!(heartbeat(&peer, stranger).unwrap().not_a_member);
    refused("a question about the secret", ask_about_secret(&peer, uuid(1)), Refused, "is not a member");
    refused("an authorization", authorize(&peer, good.from_id), Refused, "is not a member");
    refused("an order to finish", finish(&peer), Refused, "is not a member");
    refused("a forwarded call", forward(&peer, Some(good)), Unavailable, "is not a member");
    // A member that speaks for another one.
    peer.header = as_other;
    refused("a tag of 3 bytes", ask_about_secret(&peer, Bytes::from_static(b"tag")), Bad, "has 16 bytes");
    let for_leader = peer.target.clone();
    refused("a heartbeat", heartbeat(&peer, for_leader), Refused, "is not that of the node that sends it");
    refused("an authorization", authorize(&peer, peer.target.id), Refused, "asks for an authorization of node");

    assert!(victim.quiet(leader) == before, "a refused call has changed the data directory");
    victim.serves(leader);
    victim.restarts(leader);
}
