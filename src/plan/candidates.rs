//! Which replicas of a group may replace its primary, in which order, and why the others may not: from what nodes
//! reported about the group. Knows nothing of whether the primary is down, nor of how a replica is promoted.

use super::{
    observation::{
        AgedReport, Impairment, Observation, Probe, ProbeReport, ReportedRole, fresh_probe, last_in_sync_ms, newest,
    },
    restart::undecided_restart,
};
use crate::model::{
    ids::{HostPort, NodeId},
    state::{Group, Server},
};

/// For how long a replica may have been out of sync when the primary was last seen alive, milliseconds. Probes see a
/// link that breaks together with the primary break a little earlier or later; a replica without a link lags more and
/// more.
pub const STALE_MS: u64 = 10_000;

/// A replica that may be promoted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its address.
    pub addr: HostPort,
    /// How much of the primary's stream it has executed, bytes.
    pub offset: u64,
    /// As the operator set it; larger is preferred.
    pub priority: u32,
    /// It is in the zone of the primary.
    pub same_zone: bool,
}

/// The replicas of a group: those that may be promoted, and those that may not, each with the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CandidateChoice {
    /// Best first.
    pub candidates: Vec<Candidate>,
    /// Replicas that may not be promoted, in the order of the group, each with the reason ("it is loading its data").
    pub excluded: Vec<(HostPort, String)>,
}

impl CandidateChoice {
    /// The candidate to promote.
    #[must_use]
    pub fn best(&self) -> Option<&Candidate> {
        self.candidates.first()
    }

    /// Why the best candidate is the best, and why the others are not, for the log.
    #[must_use]
    pub fn evidence(&self) -> String {
        let mut parts = Vec::new();
        if let Some(best) = self.best() {
            parts.push(format!("{} is chosen, at offset {} (priority {})", best.addr, best.offset, best.priority));
        }
        let others = self.candidates.iter().skip(1);
        parts.extend(others.map(|c| format!("{} is at {} (priority {})", c.addr, c.offset, c.priority)));
        parts.extend(self.excluded.iter().map(|(addr, why)| format!("{addr} is no candidate: {why}")));
        parts.join("; ")
    }
}

/// The replication history of a group: what is known of its primary's data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupHistory {
    /// The primary's replication id; empty: unknown.
    pub replid: String,
    /// The highest replication offset that the primary was seen to have, bytes; 0: unknown, or it has written nothing.
    pub offset: u64,
    /// How long ago a node last saw the primary alive and not loading, milliseconds; `None`: no node did.
    pub alive_ms: Option<u64>,
}

impl GroupHistory {
    /// From the last probe that the primary answered as a primary; without one, and while the primary loads its data, from
    /// the log: only when it has loaded does it know the history of its data. Of a protected group
    /// (`confirmations`: see [`super::restart::confirmations`]) whose primary was restarted, it is the history of the former process, until it is
    /// decided which server has the group's data; when that process was last alive is not known.
    #[must_use]
    pub fn of(confirmations: u8, group: &Group, seen: &Observation) -> Self {
        if undecided_restart(confirmations, group, seen).is_some() {
            return Self { replid: group.replid.clone(), offset: 0, alive_ms: None };
        }
        let last = group.servers.first().and_then(|primary| newest(seen, &primary.addr));
        let known = last.filter(|(probe, _)| {
            matches!(probe.role, ReportedRole::Primary { .. }) && !probe.replid.is_empty() && !probe.loading
        });
        let served_ms = |(probe, age_ms): (&Probe, u64)| match probe.loading {
            true => age_ms.saturating_add(group.servers.first().map_or(0, |primary| loading_ms(seen, &primary.addr))),
            false => age_ms,
        };
        Self {
            replid: known.map_or_else(|| group.replid.clone(), |(probe, _)| probe.replid.clone()),
            offset: known.map_or(0, |(probe, _)| probe.offset),
            alive_ms: last.map(served_ms),
        }
    }
}

/// For how long a server has been loading its data, milliseconds, by the node that noticed it first.
fn loading_ms(seen: &Observation, addr: &HostPort) -> u64 {
    let reports = seen.get(addr).into_iter().flat_map(|by_node| by_node.values());
    let loading = reports.filter_map(|reported| match reported.report.impaired {
        Some((Impairment::Loading, for_ms)) => Some(for_ms.saturating_add(reported.age_ms)),
        _ => None,
    });
    loading.max().unwrap_or(0)
}

/// Sorts the replicas of a group into candidates and others. `confirmations`: as in [`GroupHistory::of`]; `me`: the node that
/// would promote.
#[must_use]
pub fn choose(confirmations: u8, group: &Group, seen: &Observation, me: NodeId) -> CandidateChoice {
    let mut choice = CandidateChoice { candidates: Vec::new(), excluded: Vec::new() };
    let Some((primary, replicas)) = group.servers.split_first() else { return choice };
    let history = GroupHistory::of(confirmations, group, seen);
    for server in replicas {
        match candidate(group, primary, server, &history, seen, me) {
            Ok(candidate) => choice.candidates.push(candidate),
            Err(why) => choice.excluded.push((server.addr.clone(), why)),
        }
    }
    choice.candidates.sort_by(|a, b| {
        let order = |c: &Candidate| (std::cmp::Reverse((c.offset, c.priority, c.same_zone)), c.addr.clone());
        order(a).cmp(&order(b))
    });
    choice
}

/// Whether a replica may be promoted.
///
/// # Errors
/// Returns why it may not, as text for the operator; its subject is the replica ("it is loading its data").
fn candidate(
    group: &Group,
    primary: &Server,
    server: &Server,
    history: &GroupHistory,
    seen: &Observation,
    me: NodeId,
) -> Result<Candidate, String> {
    if server.diverged {
        return Err(
            "it was a primary, or was being promoted, and has not copied the present primary's data since".into()
        );
    }
    if server.priority == 0 {
        return Err("its priority is 0".into());
    }
    let by_node = seen.get(&server.addr);
    let mine = by_node.and_then(|by_node| by_node.get(&me));
    if let Some(AgedReport { report: ProbeReport { failing_ms, error, .. }, .. }) = mine
        && (failing_ms.is_some() || !error.is_empty())
    {
        return Err(format!("it does not answer node {me}, the leader ({error})"));
    }
    let Some(probe) = fresh_probe(seen, &server.addr) else { return Err("it does not answer".into()) };
    let ReportedRole::Replica { of, syncing, .. } = &probe.role else {
        return Err("it reports that it is a primary itself".into());
    };
    if probe.loading {
        return Err("it is loading its data".into());
    }
    if *syncing {
        return Err("it is receiving a full copy".into());
    }
    if *of != primary.addr {
        return Err(format!("it follows {of}"));
    }
    if history.replid.is_empty() {
        return Err("the primary's replication id is not known".into());
    }
    if probe.replid != history.replid {
        return Err("its data has another replication id than the primary's".into());
    }
    let Some(last_in_sync_ms) = last_in_sync_ms(seen, &server.addr, &primary.addr, &history.replid, &probe.run_id)
    else {
        return Err("no node has seen it in sync with the primary since it was started".into());
    };
    let out_of_sync_ms = history.alive_ms.map_or(0, |alive_ms| last_in_sync_ms.saturating_sub(alive_ms));
    if out_of_sync_ms > STALE_MS {
        let seconds = out_of_sync_ms / 1000;
        return Err(format!("it was last in sync {seconds} s before the primary was last seen alive"));
    }
    // A primary sends nothing to a new replica for up to a second after the copy; what it wrote in that time is missing
    // there.
    if probe.offset == 0 && history.offset > 0 {
        return Err(format!("it has not received yet what the primary wrote up to offset {}", history.offset));
    }
    if let Some(required_offset) =
        group.required_offset.as_ref().filter(|r| r.replid == probe.replid && probe.offset < r.offset)
    {
        return Err(format!(
            "it is at offset {}, and slots have moved to this group with data up to offset {}",
            probe.offset, required_offset.offset
        ));
    }
    Ok(Candidate {
        addr: server.addr.clone(),
        offset: probe.offset,
        priority: server.priority,
        same_zone: !primary.zone.is_empty() && server.zone == primary.zone,
    })
}

/// The replication offset of a replica that answers and has data of the primary's history, whether it may be promoted
/// or not; `None` for any other. (A server that was promoted has another replication id, until it has copied its
/// primary's data.)
pub(super) fn answering_offset(addr: &HostPort, history: &GroupHistory, seen: &Observation) -> Option<u64> {
    let probe = fresh_probe(seen, addr).filter(|probe| !probe.loading && probe.replid == history.replid)?;
    matches!(probe.role, ReportedRole::Replica { syncing: false, .. }).then_some(probe.offset)
}
