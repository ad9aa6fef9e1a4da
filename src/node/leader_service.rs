//! The leader's answers to nodes, over the wire or from this process: heartbeats and requests for authorization.
//! Knows nothing of when a lease may be granted; `control` decides that.

use super::{member_wire, movers::mover_wire, probe::report_wire};
use crate::{
    control::{
        leadership::{
            leases::{Grant, Heartbeat, Leases},
            view::ListenerView,
        },
        servers::authorizer::{AuthorizationError, Authorizer},
    },
    model::ids::{Epoch, HoldId, Incarnation, ProductId},
    plan::closings::MemoryReport,
    wire::{
        pb::node::{AuthorizeReply, AuthorizeRequest, HeartbeatReply, HeartbeatRequest, ListenerReport},
        secret_report,
    },
};

/// Holds, listeners or runs that one heartbeat may name. A node has one listener for each product.
const REPORTED_MAX: usize = 4096;

/// Answers heartbeats and requests for authorization on the leader.
#[derive(Clone)]
pub struct LeaderService {
    /// Leases of the term in which this node leads.
    pub leases: Leases,
    /// Authorizations of that term.
    pub authorizer: Authorizer,
}

impl LeaderService {
    /// Answers a heartbeat, received over the wire or from this process.
    pub async fn heartbeat(&self, request: HeartbeatRequest) -> HeartbeatReply {
        match heartbeat_from(request) {
            Ok(heartbeat) => {
                let answer = self.leases.heartbeat(heartbeat).await;
                let reports_kept_in = answer.reports_kept_in.map_or(0, |term| term.0);
                HeartbeatReply { reports_kept_in, ..reply_to(answer.grant) }
            }
            Err(why) => HeartbeatReply { why_not: why, ..HeartbeatReply::default() },
        }
    }

    /// Answers a node that wants to change servers.
    pub async fn authorize(&self, request: AuthorizeRequest) -> AuthorizeReply {
        let none = AuthorizeReply::default();
        let asking = match mover_wire::authorization_request(request) {
            Ok(asking) => asking,
            Err(why) => return AuthorizeReply { why_not: why, ..none },
        };
        match self.authorizer.authorize(asking).await {
            Ok(()) => AuthorizeReply { authorized: true, ..none },
            Err(AuthorizationError::NotLeader) => {
                AuthorizeReply { not_leader: true, why_not: "this node does not lead".into(), ..none }
            }
            Err(AuthorizationError::No(why)) => AuthorizeReply { why_not: why, ..none },
        }
    }
}

/// A heartbeat as it came in.
///
/// # Errors
/// Returns which field is malformed, for the log of the sender.
fn heartbeat_from(request: HeartbeatRequest) -> Result<Heartbeat, String> {
    if request.holds.len() > REPORTED_MAX || request.listeners.len() > REPORTED_MAX {
        return Err(format!("a heartbeat names more than {REPORTED_MAX} holds or listeners"));
    }
    if request.movers.len() > REPORTED_MAX {
        return Err(format!("a heartbeat names more than {REPORTED_MAX} runs"));
    }
    let listener =
        |l: ListenerReport| (ProductId(l.product), ListenerView { address: l.address, error: l.error, note: l.note });
    Ok(Heartbeat {
        node: member_wire::from_wire(request.me)?,
        start: member_wire::uuid_from(&request.start).ok_or("a start has 16 bytes")?,
        incarnation: (request.incarnation > 0).then_some(Incarnation(request.incarnation)),
        applied: Epoch(request.applied),
        route_epoch: Epoch(request.route_epoch),
        drained: request.holds.iter().filter(|h| h.drained).map(|h| HoldId(h.hold)).collect(),
        waiting: request
            .holds
            .iter()
            .filter(|h| !h.drained)
            .map(|h| (HoldId(h.hold), h.waiting_on.chars().take(500).collect()))
            .collect(),
        listeners: request.listeners.into_iter().map(listener).collect(),
        version: request.version.chars().take(64).collect(),
        stopping: request.stopping,
        movers: request.movers.into_iter().map(mover_wire::view).collect::<Result<_, _>>()?,
        servers: report_wire::read(request.servers)?,
        memory: request.memory.map_or_else(MemoryReport::default, |m| MemoryReport {
            clients_closed: m.clients_closed,
            budget: m.budget,
        }),
        secrets: request.secrets.as_ref().map(secret_report::from_wire).transpose()?,
    })
}

/// The answer as it is sent.
fn reply_to(grant: Grant) -> HeartbeatReply {
    let none = HeartbeatReply::default();
    match grant {
        Grant::Lease { length, min_applied } => HeartbeatReply {
            granted: true,
            lease_ms: u32::try_from(length.as_millis()).unwrap_or(0),
            min_applied: min_applied.0,
            ..none
        },
        Grant::NotYet(why) => HeartbeatReply { why_not: why, ..none },
        Grant::NotLeader => HeartbeatReply { why_not: "this node does not lead".into(), ..none },
        Grant::NotMember => HeartbeatReply { not_a_member: true, ..none },
        Grant::DuplicateNode => HeartbeatReply { duplicate: true, ..none },
    }
}
