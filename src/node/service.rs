//! Answers the calls that nodes make to each other beside Raft (proto/node.proto).
//! Knows nothing of when a lease may be granted; `control` decides that.

use std::{collections::BTreeMap, time::Duration};

use tonic::{Request, Response, Status};
use tracing::info;

use super::{
    leader_service::LeaderService,
    member_wire,
    movers::{mover_wire, runs::Movers},
};
use crate::{
    consensus::{Consensus, ProposeError},
    faults,
    model::{
        author::{Author, Requester},
        change::{Change, NewMember},
        ids::{HoldId, HostPort, NodeId, ProductId, Uuid},
        script::ScriptDigest,
    },
    plan::secret_rotation::PeerAnswer,
    proxy::SeenScripts,
    wire::{
        auth::ClusterSecret,
        caller::Caller,
        connection::peer_address,
        hash::change_hash,
        pb::node::{
            AuthorizeReply, AuthorizeRequest, FindScriptReply, FindScriptRequest, FinishReply, FinishRequest,
            ForgetScriptsReply, ForgetScriptsRequest, HeartbeatReply, HeartbeatRequest, HelloReply, HelloRequest,
            JoinReply, JoinRequest, Peer, PingReply, PingRequest, SecretAnswer, node_server,
        },
        refused::{Because, Refusal},
        secret_report,
    },
};

/// How long a join may take: it is one entry of the log.
const JOIN_WITHIN: Duration = Duration::from_secs(5);

/// The node.proto service of this node.
pub struct NodeService {
    /// This node.
    pub me: NewMember,
    /// Its `--peers`; empty if it was started with `--join`.
    pub listed: BTreeMap<NodeId, HostPort>,
    /// The log.
    pub consensus: Consensus,
    /// Where heartbeats go.
    pub leader_service: LeaderService,
    /// The runs this node works on.
    pub movers: Movers,
    /// Its cluster secrets.
    pub secret: ClusterSecret,
    /// The scripts that it has seen in an EVAL.
    pub scripts: SeenScripts,
}

impl NodeService {
    fn leader(&self) -> Option<Peer> {
        let leadership = self.consensus.leadership().borrow().clone();
        let uuid = leadership.leader_uuid.map(member_wire::uuid_bytes).unwrap_or_default();
        Some(Peer { id: leadership.leader?.0, admin: leadership.leader_admin?, uuid })
    }
}

/// The answer that makes a node that was removed stop.
fn not_a_member() -> HeartbeatReply {
    HeartbeatReply { not_a_member: true, ..HeartbeatReply::default() }
}

#[tonic::async_trait]
impl node_server::Node for NodeService {
    async fn hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        let sender = request.into_inner().from;
        let state = self.consensus.state().borrow().clone();
        // Before the cluster's first change, only Raft's membership names the members.
        let first = self.consensus.raft_members();
        let known = sender.and_then(|a| {
            let id = NodeId(a.id);
            state.members.get(&id).map(|m| m.uuid).or_else(|| first.iter().find(|m| m.id == id).map(|m| m.uuid))
        });
        Ok(Response::new(HelloReply {
            me: Some(member_wire::to_wire(&self.me)),
            cluster_id: self.consensus.cluster_id().map(member_wire::uuid_bytes).unwrap_or_default(),
            peers: self
                .listed
                .iter()
                .map(|(id, a)| Peer { id: id.0, admin: a.to_string(), ..Peer::default() })
                .collect(),
            leader: self.leader(),
            version: env!("CARGO_PKG_VERSION").into(),
            your_uuid: known.map(member_wire::uuid_bytes).unwrap_or_default(),
            members: first
                .iter()
                .map(|m| Peer { id: m.id.0, admin: m.admin.to_string(), uuid: member_wire::uuid_bytes(m.uuid) })
                .collect(),
        }))
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinReply>, Status> {
        let address = peer_address(&request);
        let member = member_wire::from_wire(request.into_inner().me).map_err(Status::invalid_argument)?;
        let Some(cluster) = self.consensus.cluster_id() else {
            return Err(Status::failed_precondition(format!(
                "node {} belongs to no cluster itself; --join wants a node of a running one",
                self.me.id
            )));
        };
        let cluster_id = member_wire::uuid_bytes(cluster);
        // A new id each time: the change is idempotent, and a recorded refusal must not be repeated forever.
        let change_id = Uuid(uuid::Uuid::new_v4().as_u128());
        let node = member.id;
        let author = Author::Request(Requester {
            actor: self.consensus.actor().to_owned(),
            declared: format!("node {node}, which asks to join"),
            address,
            node: self.me.id,
        });
        let change = Change::AddMember(member);
        let hash = change_hash(&change);
        match self.consensus.propose_request(change_id, hash, author, change, JOIN_WITHIN).await {
            Ok(applied) => match applied.result {
                Ok(_) => {
                    info!(%node, "a node joins");
                    Ok(Response::new(JoinReply { cluster_id, leader: None, accepted: true }))
                }
                Err(reject) => Err(Status::failed_precondition(reject.to_string())),
            },
            Err(ProposeError::NotLeader(_)) => {
                Ok(Response::new(JoinReply { cluster_id, leader: self.leader(), accepted: false }))
            }
            Err(error @ (ProposeError::Unknown(_) | ProposeError::Stopped(_) | ProposeError::TooLarge { .. })) => {
                Err(Status::unavailable(error.to_string()))
            }
        }
    }

    async fn heartbeat(&self, request: Request<HeartbeatRequest>) -> Result<Response<HeartbeatReply>, Status> {
        faults::panic_if_asked("node-call");
        let callers = self.consensus.callers();
        let caller = match callers.check_heartbeat(Caller::of(request.metadata())) {
            Ok(caller) => caller,
            Err(refusal) => {
                let status = callers.refuse(&refusal, None);
                // The log says so, and it is final: no quorum needs to confirm it.
                let removed = refusal.because == Because::Removed;
                return if removed { Ok(Response::new(not_a_member())) } else { Err(status) };
            }
        };
        let heartbeat = request.into_inner();
        let named = heartbeat.me.as_ref().map(|me| (me.id, member_wire::uuid_from(&me.uuid)));
        if named != Some((caller.id, Some(caller.uuid))) {
            let text = "the heartbeat is not that of the node that sends it";
            return Err(callers.refuse(&Refusal::new(Because::Identity, text), Some(&caller)));
        }
        let mut reply = self.leader_service.heartbeat(heartbeat).await;
        if !reply.granted && reply.leader.is_none() {
            let leader = self.leader().filter(|l| l.id != self.me.id.0);
            reply.leader = leader;
        }
        Ok(Response::new(reply))
    }

    async fn ping(&self, request: Request<PingRequest>) -> Result<Response<PingReply>, Status> {
        let (callers, caller) = (self.consensus.callers(), Caller::of(request.metadata()));
        // Anybody with the secret may learn that this node answers; what it has besides is for members.
        let asked = match request.into_inner().secrets {
            None => callers.admit(caller).map(|_| None)?,
            Some(asked) => callers.admit_member(caller).map(|_| Some(asked))?,
        };
        let theirs = asked.as_ref().map(secret_report::tags_from).transpose().map_err(Status::invalid_argument)?;
        let answer = theirs.and_then(|theirs| PeerAnswer::to(&theirs, &self.secret.report()));
        let secrets = answer.map(|PeerAnswer { accepts, accepted, age_ms }| SecretAnswer { accepts, accepted, age_ms });
        Ok(Response::new(PingReply { secrets }))
    }

    async fn authorize(&self, request: Request<AuthorizeRequest>) -> Result<Response<AuthorizeReply>, Status> {
        let caller = self.consensus.callers().admit_member(Caller::of(request.metadata()))?;
        let asking = request.into_inner();
        if asking.node != caller.id {
            let text = format!("node {} asks for an authorization of node {}", caller.id, asking.node);
            return Err(self.consensus.callers().refuse(&Refusal::new(Because::Identity, text), Some(&caller)));
        }
        Ok(Response::new(self.leader_service.authorize(asking).await))
    }

    async fn find_script(&self, request: Request<FindScriptRequest>) -> Result<Response<FindScriptReply>, Status> {
        self.consensus.callers().admit_member(Caller::of(request.metadata()))?;
        let FindScriptRequest { product, digest } = request.into_inner();
        let digest = ScriptDigest::parse(digest.as_bytes())
            .ok_or_else(|| Status::invalid_argument("the digest of a script has 40 hexadecimal digits"))?;
        Ok(Response::new(FindScriptReply { body: self.scripts.body(ProductId(product), &digest) }))
    }

    async fn forget_scripts(
        &self,
        request: Request<ForgetScriptsRequest>,
    ) -> Result<Response<ForgetScriptsReply>, Status> {
        self.consensus.callers().admit_member(Caller::of(request.metadata()))?;
        self.scripts.forget(ProductId(request.into_inner().product));
        Ok(Response::new(ForgetScriptsReply {}))
    }

    async fn finish(&self, request: Request<FinishRequest>) -> Result<Response<FinishReply>, Status> {
        self.consensus.callers().admit_member(Caller::of(request.metadata()))?;
        let order = request.into_inner();
        let job = mover_wire::job(order.job).map_err(Status::invalid_argument)?;
        let within = Duration::from_millis(order.within_ms.into());
        let reply = match self.movers.finish(job, order.run, HoldId(order.hold), within).await {
            Ok(done) => FinishReply {
                finished: true,
                why_not: String::new(),
                keys: done.keys,
                took_us: u64::try_from(done.took.as_micros()).unwrap_or(u64::MAX),
                target_replid: done.target_offset.replid,
                target_offset: done.target_offset.offset,
            },
            Err(why) => FinishReply { why_not: why, ..FinishReply::default() },
        };
        Ok(Response::new(reply))
    }
}
