//! Sends heartbeats to the leader: every half second, and immediately when there is news. An answer renews this node's
//! lease. Knows nothing of how a leader is chosen; if none is known, it asks the other members.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::{sync::watch, task::JoinSet};
use tracing::{debug, error, info, warn};

use super::{
    leader_service::LeaderService,
    lease::{Granted, Lease, Sent},
    member_wire,
    movers::runs::Movers,
    probe::{log::ReportBatch, prober::Prober},
};
use crate::{
    clock::boottime_ns,
    consensus::{Consensus, Leadership},
    control::leadership::peers::{PeerAddress, Peers},
    faults::{self, Point},
    model::{
        change::NewMember,
        ids::{Epoch, HoldId, NodeId, Term, Uuid},
        state::ClusterState,
    },
    proxy::{ProxyReport, permit::Permit},
    wire::{
        auth::ClusterSecret,
        pb::node::{HeartbeatReply, HeartbeatRequest, HelloReply, HoldAck, ListenerReport, MemoryReport},
        secret_report,
    },
};

/// How long the answer to a heartbeat is awaited. A lease counts from the send, so a later answer would grant little
/// more than the rest of it; the next heartbeat grants more.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// News (a reached epoch) is not sent more often than this, so that a burst of changes makes one heartbeat. A drained
/// hold does not wait.
const NEWS_EVERY: Duration = Duration::from_millis(1);

/// What heartbeats are made of, and where they go.
pub struct HeartbeatSender {
    /// This node.
    pub me: NewMember,
    /// This start of it.
    pub start: Uuid,
    /// The log.
    pub consensus: Consensus,
    /// Calls to the leader.
    pub peers: Peers,
    /// Answers heartbeats when this node is the leader.
    pub leader_service: LeaderService,
    /// What it reports of its secrets is in heartbeats.
    pub secret: ClusterSecret,
    /// What the workers have reached.
    pub report: watch::Receiver<Arc<ProxyReport>>,
    /// The runs this node works on.
    pub movers: Movers,
    /// What this node found out about servers.
    pub prober: Prober,
    /// The permit that the workers read.
    pub permit: Arc<Permit>,
    /// The longest time between two heartbeats.
    pub every: Duration,
}

/// Why the heartbeat ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeartbeatEnd {
    /// The cluster has removed this node.
    Removed,
    /// Another process has this node's identity.
    DuplicateNode,
}

impl HeartbeatSender {
    /// Runs until the leader answers that this node is not a member, or a duplicate.
    pub async fn run(mut self) -> HeartbeatEnd {
        let mut leadership = self.consensus.leadership();
        let mut state = self.consensus.state();
        // A receiver of its own: news that arrives during an exchange must still be sent after it.
        let mut reports = self.report.clone();
        let mut next = tokio::time::Instant::now();
        let mut refusals = LeaseRefusals::default();
        let mut lease = Lease::new(self.permit.clone());
        let mut mover_news = self.movers.news();
        let mut probe_news = self.prober.news();
        let mut acked: BTreeSet<HoldId> = BTreeSet::new();
        // An exchange is interrupted for a drained hold, but never two in a row: leases must be renewed, too.
        let mut interrupted = false;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(next) => {}
                Ok(()) = self.report.changed() => {
                    // A drained hold ends the wait: clients wait for its ack, and a timer of 1 ms may take 2 ms.
                    let mut news = self.report.clone();
                    let _ = tokio::time::timeout(NEWS_EVERY, drained_more(&mut news, &acked)).await;
                }
                Ok(()) = mover_news.changed() => {}
                Ok(()) = probe_news.changed() => {}
                Ok(()) = leadership.changed() => {}
                // The admission of this start is news: without it there is no lease.
                Ok(()) = just_admitted(&mut state, &self.me, self.start) => {}
            }
            let report = self.report.borrow_and_update().clone();
            lease.reached(report.route_epoch);
            let drained = drained(&report);
            if !drained.is_subset(&acked) {
                faults::pause_at(Point::BeforeAck).await;
            }
            acked = drained;
            let now = leadership.borrow_and_update().clone();
            next = tokio::time::Instant::now() + self.every;
            let mut news = self.report.clone();
            probe_news.borrow_and_update();
            let batch = self.prober.batch();
            let answer = tokio::select! {
                biased;
                answer = Sent::before(boottime_ns, self.exchange(&now, &batch)) => answer,
                // A leader that is stopped does not answer. When another one leads, the old one's answer is not waited
                // for.
                () = another_leads(&mut leadership, &now) => {
                    next = tokio::time::Instant::now();
                    continue;
                }
                // Clients wait for the end of a hold, and the quorum confirmation of this heartbeat may take longer
                // than the rest of the hold.
                () = drained_more(&mut news, &acked), if !interrupted => {
                    interrupted = true;
                    next = tokio::time::Instant::now();
                    continue;
                }
                () = keep_up(&mut reports, &mut lease) => None,
            };
            interrupted = false;
            let Some((sent, answer)) = answer else { continue };
            if answer.reports_kept_in > 0 && self.prober.kept(&batch, Term(answer.reports_kept_in)) {
                next = tokio::time::Instant::now();
            }
            if let Some(ended) = self.take(answer, sent, &mut lease, &mut refusals) {
                lease.revoke();
                return ended;
            }
        }
    }

    /// The last heartbeat, for when the workers have stopped.
    #[must_use]
    pub fn last_heartbeat(&self) -> LastHeartbeat {
        LastHeartbeat {
            me: self.me.clone(),
            start: self.start,
            consensus: self.consensus.clone(),
            peers: self.peers.clone(),
            leader_service: self.leader_service.clone(),
        }
    }

    /// One heartbeat and its answer; `None` if no node answered.
    async fn exchange(&self, leadership: &Leadership, batch: &ReportBatch) -> Option<HeartbeatReply> {
        let heartbeat = self.compose(batch);
        if leadership.leader == Some(self.me.id) {
            return Some(self.leader_service.heartbeat(heartbeat).await);
        }
        let target = match PeerAddress::of_leader(leadership) {
            Some(leader) => leader,
            None => self.find_leader().await?,
        };
        match self.peers.heartbeat(&target, heartbeat.clone(), ANSWER_WITHIN).await {
            Ok(answer) => Some(answer),
            Err(error) => {
                debug!(target = target.admin, error = error.message(), "the heartbeat was not answered");
                // The leader or this node may have another address now; any member that answers knows the leader's.
                let other_target = self.find_leader().await.filter(|found| *found != target)?;
                self.peers.heartbeat(&other_target, heartbeat, ANSWER_WITHIN).await.ok()
            }
        }
    }

    /// Acts on an answer. `Some`: this node must not send another heartbeat.
    fn take(
        &self,
        answer: HeartbeatReply,
        sent: Sent,
        lease: &mut Lease,
        refusals: &mut LeaseRefusals,
    ) -> Option<HeartbeatEnd> {
        if answer.not_a_member {
            error!(
                "the cluster has removed this node; it stops. To use the machine again: empty the \
                 data directory, start with --join"
            );
            return Some(HeartbeatEnd::Removed);
        }
        if answer.duplicate {
            error!(
                "another process with this node's identity serves in the cluster: never copy a data \
                 directory. This one stops"
            );
            return Some(HeartbeatEnd::DuplicateNode);
        }
        if answer.granted {
            let granted = Granted {
                length: Duration::from_millis(answer.lease_ms.into()),
                min_applied: Epoch(answer.min_applied),
            };
            let reached = self.report.borrow().route_epoch;
            lease.granted(sent, granted, reached, boottime_ns());
            refusals.granted();
        } else if answer.leader.is_none() && !answer.why_not.is_empty() {
            refusals.refused(&answer.why_not);
        }
        None
    }

    fn compose(&self, batch: &ReportBatch) -> HeartbeatRequest {
        let state = self.consensus.state().borrow().clone();
        let report = self.report.borrow().clone();
        HeartbeatRequest {
            me: Some(member_wire::to_wire(&self.me)),
            start: member_wire::uuid_bytes(self.start),
            incarnation: member_wire::incarnation(&state, &self.me, self.start).map_or(0, |i| i.0),
            applied: state.applied.0,
            route_epoch: report.route_epoch.0,
            holds: report
                .holds
                .iter()
                .map(|(hold, p)| HoldAck { hold: hold.0, drained: p.drained, waiting_on: p.waiting_on.clone() })
                .collect(),
            listeners: report
                .listeners
                .iter()
                .map(|(product, l)| ListenerReport {
                    product: product.0,
                    address: l.address.clone(),
                    error: l.error.clone().unwrap_or_default(),
                    note: l.note.clone().unwrap_or_default(),
                })
                .collect(),
            version: env!("CARGO_PKG_VERSION").into(),
            stopping: false,
            movers: self.movers.reports(),
            servers: batch.reports.clone(),
            memory: Some(MemoryReport {
                clients_closed: report.stats.over_budget,
                budget: u64::try_from(report.memory_max).unwrap_or(u64::MAX),
            }),
            secrets: Some(secret_report::to_wire(self.secret.report())),
        }
    }

    /// The leader and its address from any member that knows it. Needed when this node has another address than before: Raft
    /// does not find it then.
    async fn find_leader(&self) -> Option<PeerAddress> {
        let members = self.consensus.state().borrow().members.clone();
        let me = member_wire::to_wire(&self.me);
        // All members at the same time: one that is stopped or cut off would cost a second of the lease.
        let mut asked = JoinSet::new();
        for member in members.into_values().filter(|m| m.id != self.me.id) {
            let (peers, me) = (self.peers.clone(), me.clone());
            asked.spawn(async move { peers.hello(member.admin.as_str(), &me, ANSWER_WITHIN).await });
        }
        while let Some(answer) = asked.join_next().await {
            if let Ok(Ok(HelloReply { leader: Some(leader), .. })) = answer
                && let Some(uuid) = member_wire::uuid_from(&leader.uuid)
            {
                return Some(PeerAddress { id: NodeId(leader.id), uuid, admin: leader.admin });
            }
        }
        None
    }
}

/// The holds that this node can ack.
fn drained(report: &ProxyReport) -> BTreeSet<HoldId> {
    report.holds.iter().filter(|(_, progress)| progress.drained).map(|(hold, _)| *hold).collect()
}

/// Resolves when there is a hold to ack that is not among `acked`.
async fn drained_more(report: &mut watch::Receiver<Arc<ProxyReport>>, acked: &BTreeSet<HoldId>) {
    if report.wait_for(|report| !drained(report).is_subset(acked)).await.is_err() {
        std::future::pending().await
    }
}

/// Refusals for less than this time are normal at a start, a restart or a change of leader, and not worth a warning:
/// the lease in force goes on.
const WORTH_A_WARNING: Duration = Duration::from_millis(1500);

/// Logs each reason for which no lease was granted once.
#[derive(Default)]
struct LeaseRefusals {
    since: Option<tokio::time::Instant>,
    logged: String,
}

impl LeaseRefusals {
    fn refused(&mut self, why: &str) {
        let since = *self.since.get_or_insert_with(tokio::time::Instant::now);
        if self.logged != why && since.elapsed() >= WORTH_A_WARNING {
            warn!(why, "no lease was granted");
            why.clone_into(&mut self.logged);
        } else {
            debug!(why, "no lease was granted");
        }
    }

    fn granted(&mut self) {
        if !self.logged.is_empty() {
            info!("a lease was granted again");
        }
        *self = Self::default();
    }
}

/// The last heartbeat of a start. It says that this node has stopped serving, so that nobody waits for its lease to
/// end.
pub struct LastHeartbeat {
    me: NewMember,
    start: Uuid,
    consensus: Consensus,
    peers: Peers,
    leader_service: LeaderService,
}

impl LastHeartbeat {
    /// Sends it once, within `deadline`. If it is lost, the other nodes wait until the lease ends.
    pub async fn send(&self, deadline: Duration) {
        let state = self.consensus.state().borrow().clone();
        let leadership = self.consensus.leadership().borrow().clone();
        let heartbeat = HeartbeatRequest {
            me: Some(member_wire::to_wire(&self.me)),
            start: member_wire::uuid_bytes(self.start),
            incarnation: member_wire::incarnation(&state, &self.me, self.start).map_or(0, |i| i.0),
            applied: state.applied.0,
            stopping: true,
            version: env!("CARGO_PKG_VERSION").into(),
            ..HeartbeatRequest::default()
        };
        if leadership.leader == Some(self.me.id) {
            self.leader_service.heartbeat(heartbeat).await;
        } else if let Some(leader) = PeerAddress::of_leader(&leadership)
            && let Err(error) = self.peers.heartbeat(&leader, heartbeat, deadline).await
        {
            debug!(error = error.message(), "the leader did not learn that this node stops");
        }
    }
}

/// Resolves when a leader is known that is not the one in `before`.
async fn another_leads(leadership: &mut watch::Receiver<Leadership>, before: &Leadership) {
    let other = |now: &Leadership| now.leader.is_some() && (now.leader, now.term) != (before.leader, before.term);
    if leadership.wait_for(other).await.is_err() {
        std::future::pending().await
    }
}

/// Passes the epochs that the workers' tables reach to the lease. Never resolves.
async fn keep_up(reports: &mut watch::Receiver<Arc<ProxyReport>>, lease: &mut Lease) {
    while reports.changed().await.is_ok() {
        let reached = reports.borrow_and_update().route_epoch;
        lease.reached(reached);
    }
    std::future::pending().await
}

/// Resolves when the log has just admitted this start.
async fn just_admitted(
    state: &mut watch::Receiver<Arc<ClusterState>>,
    me: &NewMember,
    start: Uuid,
) -> Result<(), watch::error::RecvError> {
    let before = member_wire::incarnation(&state.borrow_and_update(), me, start);
    loop {
        state.changed().await?;
        if member_wire::incarnation(&state.borrow_and_update(), me, start) != before {
            return Ok(());
        }
    }
}
