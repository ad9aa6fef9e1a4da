//! Which replica is to replace a primary that is down, and why none of the others: from what nodes have seen of the group.
//! Knows nothing of who is down (`liveness`), nor of how a replica is promoted.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    acks::has_all_confirmed,
    liveness::{Liveness, Watchers, fails_for, liveness, may_fail_over},
    observation::{AgedReport, Observation, Probe, ProbeReport, ReportedRole},
};
use crate::model::{
    change::{Change, NotePrimary, StartPromotion},
    ids::{GroupId, HostPort, NodeId, ProductId},
    promotion::{EndedPromotion, Promotion, PromotionKind},
    route::Mode,
    state::{ClusterState, Group, Product, Server},
};

/// A probe is fresh_probe's for so long, milliseconds: probes come every half second, heartbeats too, and a busy machine is late.
pub const FRESH_MS: u64 = 3_000;
/// A replica must have been in step no longer than this before the primary was last seen alive, milliseconds: a link that
/// breaks with the primary is seen to break earlier or later by some probes, a replica without a link lags ever more.
pub const STALE_MS: u64 = 10_000;

/// A primary is to be replaced when it has been seen to follow another server for so long, milliseconds: longer than probes of
/// before a promotion last, much shorter than [`STALE_MS`], behind which its replicas could not replace it any more.
pub const PRIMARY_FOLLOWS_MS: u64 = 2_000;

/// A replica that was chosen so often and not promoted is chosen only if there is no other: its server may refuse what is asked
/// of it. The first time may have been an accident.
const TRIES: usize = 2;

/// A replica that may be promoted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Which.
    pub addr: HostPort,
    /// How far it has executed the primary's stream, bytes.
    pub offset: u64,
    /// As the operator set it; larger is preferred.
    pub priority: u32,
    /// It stands in the zone of the primary.
    pub near: bool,
}

/// The best candidate and all the others; those that are none with the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CandidateChoice {
    /// Best first.
    pub candidates: Vec<Candidate>,
    /// Replicas that are none, in the order of the group, and why, a sentence's end each.
    pub none: Vec<(HostPort, String)>,
}

impl CandidateChoice {
    /// The one to promote.
    #[must_use]
    pub fn best(&self) -> Option<&Candidate> {
        self.candidates.first()
    }

    /// Why this one and none of the others, for the log.
    #[must_use]
    pub fn evidence(&self) -> String {
        let mut parts = Vec::new();
        if let Some(best) = self.best() {
            parts.push(format!("{} is chosen, at offset {} (priority {})", best.addr, best.offset, best.priority));
        }
        let others = self.candidates.iter().skip(1);
        parts.extend(others.map(|c| format!("{} is at {} (priority {})", c.addr, c.offset, c.priority)));
        parts.extend(self.none.iter().map(|(addr, why)| format!("{addr} is none: {why}")));
        parts.join("; ")
    }
}

/// The replication history of a group, by what is known of its primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupHistory {
    /// The primary's replication id; empty: nobody knows it.
    pub replid: String,
    /// How far the primary was seen to have come, bytes; 0: nobody knows, or nowhere.
    pub offset: u64,
    /// How long ago the primary was last seen alive, milliseconds; `None`: by nobody.
    pub alive_ms: Option<u64>,
}

impl GroupHistory {
    /// By the primary's last answered probe as a primary, else by the log.
    #[must_use]
    pub fn of(group: &Group, seen: &Observation) -> Self {
        let last = group.servers.first().and_then(|primary| newest(seen, &primary.addr));
        let known =
            last.filter(|(probe, _)| matches!(probe.role, ReportedRole::Primary { .. }) && !probe.replid.is_empty());
        Self {
            replid: known.map_or_else(|| group.replid.clone(), |(probe, _)| probe.replid.clone()),
            offset: known.map_or(0, |(probe, _)| probe.offset),
            alive_ms: last.map(|(_, age_ms)| age_ms),
        }
    }
}

/// The newest answered probe at a server, of all nodes, and its age in milliseconds.
#[must_use]
pub fn newest<'a>(seen: &'a Observation, addr: &HostPort) -> Option<(&'a Probe, u64)> {
    let probes = seen.get(addr)?.values().filter_map(|reported| {
        let (probe, ago_ms) = reported.report.probe.as_ref()?;
        Some((probe, ago_ms.saturating_add(reported.age_ms)))
    });
    probes.min_by_key(|(_, age_ms)| *age_ms)
}

/// The newest probe, if it is fresh_probe's.
#[must_use]
pub fn fresh_probe<'a>(seen: &'a Observation, addr: &HostPort) -> Option<&'a Probe> {
    newest(seen, addr).filter(|(_, age_ms)| *age_ms <= FRESH_MS).map(|(probe, _)| probe)
}

/// How long ago some node last saw this process of a server in step with `primary` under `replid`, milliseconds.
#[must_use]
pub fn last_in_sync_ms(
    seen: &Observation,
    addr: &HostPort,
    primary: &HostPort,
    replid: &str,
    run_id: &str,
) -> Option<u64> {
    let reports = seen.get(addr)?.values();
    let in_sync = reports.filter_map(|AgedReport { report, age_ms }| Some((report.in_sync.as_ref()?, age_ms)));
    let same = in_sync.filter(|(l, _)| l.to == *primary && l.replid == replid && l.run_id == run_id);
    same.map(|(l, age_ms)| l.ago_ms.saturating_add(*age_ms)).min()
}

/// Whether this process of a server was ever seen in step under `replid`, by whatever primary: what it says of itself
/// afterwards is then true of the same data.
#[must_use]
pub fn was_in_sync(seen: &Observation, addr: &HostPort, replid: &str, run_id: &str) -> bool {
    let in_sync =
        |report: &ProbeReport| report.in_sync.as_ref().is_some_and(|l| l.replid == replid && l.run_id == run_id);
    seen.get(addr).is_some_and(|by_node| by_node.values().any(|reported| in_sync(&reported.report)))
}

/// Whether another process than this one of a server was seen in step under `replid`, and this one never was: it was started
/// again since. (A node that has seen neither cannot tell.)
#[must_use]
pub fn was_in_sync_as_another_process(seen: &Observation, addr: &HostPort, replid: &str, run_id: &str) -> bool {
    let other =
        |report: &ProbeReport| report.in_sync.as_ref().is_some_and(|l| l.replid == replid && l.run_id != run_id);
    let seen_other = seen.get(addr).is_some_and(|by_node| by_node.values().any(|reported| other(&reported.report)));
    seen_other && !was_in_sync(seen, addr, replid, run_id)
}

/// All replicas of a group, as candidates or not. `me`: the node that would promote.
#[must_use]
pub fn choose(group: &Group, seen: &Observation, me: NodeId) -> CandidateChoice {
    let mut choice = CandidateChoice { candidates: Vec::new(), none: Vec::new() };
    let Some((primary, replicas)) = group.servers.split_first() else { return choice };
    let history = GroupHistory::of(group, seen);
    for server in replicas {
        match candidate(group, primary, server, &history, seen, me) {
            Ok(candidate) => choice.candidates.push(candidate),
            Err(why) => choice.none.push((server.addr.clone(), why)),
        }
    }
    choice.candidates.sort_by(|a, b| {
        let order = |c: &Candidate| (std::cmp::Reverse((c.offset, c.priority, c.near)), c.addr.clone());
        order(a).cmp(&order(b))
    });
    choice
}

fn candidate(
    group: &Group,
    primary: &Server,
    server: &Server,
    history: &GroupHistory,
    seen: &Observation,
    me: NodeId,
) -> Result<Candidate, String> {
    if server.diverged {
        return Err("it was a primary, or nearly, and has not copied the present one's data since".into());
    }
    if server.priority == 0 {
        return Err("its priority is 0".into());
    }
    let by_node = seen.get(&server.addr);
    let mine = by_node.and_then(|by_node| by_node.get(&me));
    if let Some(AgedReport { report: ProbeReport { failing_ms, error, .. }, .. }) = mine
        && (failing_ms.is_some() || !error.is_empty())
    {
        return Err(format!("it does not answer node {me}, which leads ({error})"));
    }
    let Some(probe) = fresh_probe(seen, &server.addr) else { return Err("it does not answer".into()) };
    let ReportedRole::Replica { of, syncing, .. } = &probe.role else {
        return Err("it says that it is a primary itself".into());
    };
    if probe.loading {
        return Err("it is loading its data".into());
    }
    if *syncing {
        return Err("it is in the middle of a full copy".into());
    }
    if *of != primary.addr {
        return Err(format!("it follows {of}"));
    }
    if history.replid.is_empty() {
        return Err("nobody knows under which replication id the primary was".into());
    }
    if probe.replid != history.replid {
        return Err("its data is of another replication id than the primary's".into());
    }
    let Some(last_in_sync_ms) = last_in_sync_ms(seen, &server.addr, &primary.addr, &history.replid, &probe.run_id)
    else {
        return Err("no node has seen it in step with the primary since it was started".into());
    };
    let alone_ms = history.alive_ms.map_or(0, |alive_ms| last_in_sync_ms.saturating_sub(alive_ms));
    if alone_ms > STALE_MS {
        let seconds = alone_ms / 1000;
        return Err(format!("it was last in step {seconds} s before the primary was last seen alive"));
    }
    // A primary sends nothing to a new replica for up to a second behind the copy; whatever it took since is missing there.
    if probe.offset == 0 && history.offset > 0 {
        return Err(format!("it has received nothing yet of what the primary wrote up to offset {}", history.offset));
    }
    if let Some(required_offset) =
        group.required_offset.as_ref().filter(|r| r.replid == probe.replid && probe.offset < r.offset)
    {
        return Err(format!(
            "it is at offset {}, and slots have moved to this group with data up to {}",
            probe.offset, required_offset.offset
        ));
    }
    Ok(Candidate {
        addr: server.addr.clone(),
        offset: probe.offset,
        priority: server.priority,
        near: !primary.zone.is_empty() && server.zone == primary.zone,
    })
}

/// What those who see a server fail say of it, for the log: who, for how long, and the last error.
#[must_use]
pub fn who_sees_it_fail(by_node: &BTreeMap<NodeId, AgedReport>) -> String {
    let failing: Vec<_> = by_node
        .iter()
        .filter_map(|(node, r)| Some((node, r.report.failing_ms?.saturating_add(r.age_ms), r.report.error.as_str())))
        .collect();
    let each: Vec<String> =
        failing.iter().map(|(node, ms, _)| format!("node {node} for {}.{} s", ms / 1000, ms % 1000 / 100)).collect();
    let error = failing.iter().map(|(_, _, error)| *error).find(|error| !error.is_empty()).unwrap_or("no answer");
    if each.is_empty() { "nobody".into() } else { format!("{} ({error})", each.join(", ")) }
}

/// How far a replica is that answers and whose data is of the primary's history, whether it may be promoted or not. (One that
/// was promoted has another replication id, until it has copied its primary's data.)
pub(super) fn answering(addr: &HostPort, history: &GroupHistory, seen: &Observation) -> Option<u64> {
    let probe = fresh_probe(seen, addr).filter(|probe| !probe.loading && probe.replid == history.replid)?;
    matches!(probe.role, ReportedRole::Replica { syncing: false, .. }).then_some(probe.offset)
}

/// What is to be done about a group whose primary is down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailoverDecision {
    /// In which product.
    pub product: ProductId,
    /// Which group.
    pub group: GroupId,
    /// What the log has to learn, in this order; or the sentence that says why nothing is done.
    pub action: Result<Vec<Change>, String>,
}

/// A group whose primary is down, or `following_primaries` for long enough.
#[derive(Clone, Debug)]
pub struct DownGroup<'a> {
    /// Of which product.
    pub product: &'a Product,
    /// Which.
    pub group: &'a Group,
    /// Its primary.
    pub primary: HostPort,
    /// What is wrong with it, the end of a sentence.
    pub what: String,
    /// A majority has not been answered for so long, milliseconds; 0: it is answered.
    pub for_ms: u64,
}

/// Primaries that a majority of the voters that are alive see follow another server: they were started again with what their
/// configuration said before they were promoted, or made so by hand. They take no writes. Who has been one for
/// [`PRIMARY_FOLLOWS_MS`] is to be replaced.
#[must_use]
pub fn following_primaries(state: &ClusterState, watchers: &Watchers<'_>) -> BTreeSet<HostPort> {
    let groups = state.products.values().flat_map(|p| p.groups.values());
    let primaries = groups.filter_map(|group| group.servers.first());
    let follows = |r: &AgedReport| {
        let fresh = |ago: &u64| r.report.failing_ms.is_none() && ago.saturating_add(r.age_ms) <= FRESH_MS;
        let probe = r.report.probe.as_ref().filter(|(_, ago)| fresh(ago));
        probe.is_some_and(|(probe, _)| !probe.loading && matches!(probe.role, ReportedRole::Replica { .. }))
    };
    let seen_so = |addr: &HostPort| {
        let by = watchers.reports(addr).filter(|(node, r)| watchers.alive().contains(node) && follows(r));
        by.count() > watchers.alive().len() / 2
    };
    primaries.map(|primary| primary.addr.clone()).filter(seen_so).collect()
}

/// All groups whose primary is down or `following_primaries`, and whether anything may be done about them by itself: `Err` is the guard's
/// sentence. The guard counts primaries for which something could be done: not one of a group that is out, which nobody uses,
/// nor one that nothing can replace, which may have been down for weeks and says nothing of the others. It counts them from the
/// moment a majority is not answered: of those that fail together the first would be failed over before the others are down.
pub fn downs<'a>(
    state: &'a ClusterState,
    seen: &Observation,
    watchers: &Watchers<'_>,
    following_primaries: &BTreeSet<HostPort>,
) -> (Vec<DownGroup<'a>>, Result<(), String>) {
    let groups = || state.products.values().flat_map(|p| p.groups.values().map(move |g| (p, g)));
    let down = |(product, group): (&'a Product, &'a Group)| {
        let primary = group.servers.first()?.addr.clone();
        if following_primaries.contains(&primary) {
            let ReportedRole::Replica { of, .. } = &fresh_probe(seen, &primary)?.role else { return None };
            let what = format!("is a replica of {of} and takes no writes (started again as that, or made so by hand)");
            return Some(DownGroup { product, group, primary, what, for_ms: 0 });
        }
        let Liveness::DownGroup { for_ms, .. } = liveness(watchers, &primary, group.options.down_after_ms) else {
            return None;
        };
        let who = seen.get(&primary).map_or_else(|| "nobody".into(), who_sees_it_fail);
        Some(DownGroup { product, group, primary, what: format!("is down: it does not answer {who}"), for_ms })
    };
    let all: Vec<DownGroup<'a>> = groups().filter_map(down).collect();
    let counts = |product: &Product, group: &Group| {
        group.ejection.is_none() && (group.servers.len() > 1 || ejects(product, group))
    };
    let fails = |group: &Group| {
        let primary = group.servers.first().map(|server| &server.addr);
        primary.is_some_and(|addr| following_primaries.contains(addr) || fails_for(watchers, addr).is_some())
    };
    let counting = || groups().filter(|(product, group)| counts(product, group));
    let (primaries, counted) = (counting().count(), counting().filter(|(_, group)| fails(group)).count());
    let guard = may_fail_over(counted, primaries, state.settings.failover_share_max);
    (all, guard)
}

/// Whether a group's slots are lent to others when nothing can replace its primary.
fn ejects(product: &Product, group: &Group) -> bool {
    product.mode == Mode::Cache && group.options.eject_after_ms != 0
}

/// A decision for each group whose primary is down, or `following_primaries` for long enough, and that is not being promoted. `me`: the
/// leader.
#[must_use]
pub fn decide(
    state: &ClusterState,
    seen: &Observation,
    watchers: &Watchers<'_>,
    following_primaries: &BTreeSet<HostPort>,
    me: NodeId,
) -> Vec<FailoverDecision> {
    let (all_down, guard) = downs(state, seen, watchers, following_primaries);
    let mut decisions = Vec::new();
    for DownGroup { product, group, primary, what, .. } in all_down {
        if state.promotion_of(product.id, group.id).is_some() {
            continue;
        }
        let name = format!("group {} of product '{}'", group.id, product.name);
        let down = format!("{primary}, primary of {name}, {what}");
        let by_hand = format!("pontoon group promote {} HOST:PORT --force", group.id);
        let mut choice = choose(group, seen, me);
        // One that was chosen and could not be promoted, again and again, stands back: it may be that it never can be.
        choice.candidates.sort_by_key(|c| tried_in_vain(state, product.id, group, &c.addr) >= TRIES);
        if group.ejection.is_some() && choice.best().is_none() {
            continue;
        }
        let ejects = ejects(product, group);
        let remedy = if ejects {
            let seconds = f64::from(group.options.eject_after_ms) / 1000.0;
            format!("its slots are lent to other groups when that has lasted {seconds} s")
        } else {
            format!("start it again, or take what is lost: {by_hand}")
        };
        let action = if state.settings.maintenance || group.options.maintenance {
            Err(format!("{down}; maintenance is on, so nothing is done by itself ({by_hand})"))
        } else if let Some(guard) = guard.as_ref().err().filter(|_| ejects || group.servers.len() > 1) {
            Err(format!("{down}; {guard}"))
        } else if group.servers.len() < 2 {
            let waits = if ejects { remedy } else { "its slots wait for it: start it again".into() };
            Err(format!("{down}; it has no replica, so {waits}"))
        } else if let Some(best) = choice.best() {
            let history = GroupHistory::of(group, seen);
            let all = has_all_confirmed(group, product.min_acks, &best.addr, |a| answering(a, &history, seen));
            let epoch = group.epoch;
            let replid = history.replid.clone();
            let note = NotePrimary::replication_id(product.id, group.id, epoch, replid).into();
            let start = Change::StartPromotion(StartPromotion {
                product: product.id,
                group: group.id,
                to: best.addr.clone(),
                kind: PromotionKind::Failover,
                group_epoch: epoch,
                required_offset: group.required_offset.clone(),
                forced: false,
                why: format!("{primary} {what}; {}", choice.evidence()),
            });
            // The next leader finds in the log which history the choice is of.
            let known = history.replid == group.replid;
            match all {
                Ok(()) => Ok(if known { vec![start] } else { vec![note, start] }),
                Err(missing) => {
                    let (missing, none) = (missing.into_text(), choice.evidence());
                    Err(format!("{down}; {missing} ({none}); start them again, or take what is lost: {by_hand}"))
                }
            }
        } else {
            let none = choice.evidence();
            Err(format!("{down}; no replica can replace it: {none}; {remedy}"))
        };
        decisions.push(FailoverDecision { product: product.id, group: group.id, action });
    }
    decisions
}

/// How often a server was chosen to replace this very primary, and was not promoted.
fn tried_in_vain(state: &ClusterState, product: ProductId, group: &Group, addr: &HostPort) -> usize {
    let in_vain = |e: &&EndedPromotion| {
        let p = &e.promotion;
        (p.product, p.group, p.group_epoch) == (product, group.id, group.epoch) && p.to == *addr && e.failed.is_some()
    };
    state.ended_promotions.iter().filter(in_vain).count()
}

/// Whether the primary that a failover was to replace is there again, so that it need not be replaced, and why one may say so:
/// a majority is answered, it is a primary, and it has the data it had; or the chosen one has copied what it has; or it has some
/// data, and the chosen one is not there, or not what it was.
#[must_use]
pub fn primary_back(
    group: &Group,
    promotion: &Promotion,
    seen: &Observation,
    watchers: &Watchers<'_>,
) -> Option<String> {
    let from = &promotion.from;
    let answered =
        watchers.reports(from).filter(|(node, r)| r.report.failing_ms.is_none() && watchers.alive().contains(node));
    let majority = answered.count() > watchers.alive().len() / 2;
    let probe = fresh_probe(seen, from).filter(|_| majority)?;
    if probe.loading || !matches!(probe.role, ReportedRole::Primary { .. }) {
        return None;
    }
    let same = !group.replid.is_empty() && probe.replid == group.replid;
    // Where an operator forced it, it was there perhaps all the time.
    if same && !promotion.forced {
        return Some(format!("{from} answers again, as the primary that it was"));
    }
    let to = fresh_probe(seen, &promotion.to);
    // Then the chosen one has nothing that the primary has not, whatever that is.
    let copied = |to: &Probe| match &to.role {
        ReportedRole::Replica { of, link_up, syncing, .. } => {
            of == from && *link_up && !syncing && !to.loading && to.replid == probe.replid
        }
        ReportedRole::Primary { .. } => false,
    };
    if !promotion.forced && to.is_some_and(copied) {
        return Some(format!("{from} is a primary again, and {} has copied what it has", promotion.to));
    }
    let chosen = liveness(watchers, &promotion.to, group.options.down_after_ms);
    if matches!(chosen, Liveness::DownGroup { .. }) && (same || probe.keys > 0) {
        return Some(format!("{from} is back with {} keys, and {} does not answer", probe.keys, promotion.to));
    }
    // Started again or led elsewhere, it cannot be promoted any more; nobody but its old primary's clients has written since.
    let other_history = |to: &Probe| match &to.role {
        ReportedRole::Replica { .. } => to.replid != group.replid,
        ReportedRole::Primary { .. } => to.replid2.as_ref().is_none_or(|(id, _)| *id != group.replid),
    };
    let lost = !promotion.forced && !group.replid.is_empty() && to.is_some_and(|to| !to.loading && other_history(to));
    (lost && probe.keys > 0).then(|| {
        let Promotion { to, .. } = promotion;
        format!("{from} is back with {} keys, and the data of {to} is of another replication id by now", probe.keys)
    })
}
