//! Which groups need another primary, and whether their best candidate is promoted, or why not.
//! Knows nothing of how liveness is found out (`liveness`), how candidates are chosen (`candidates`), or how one is
//! promoted.

use std::collections::BTreeSet;

use super::{
    acks::has_all_confirmed,
    candidates::{CandidateChoice, GroupHistory, answering_offset, choose},
    liveness::{Liveness, Watchers, liveness, majority_failing_ms, may_fail_over},
    observation::{AgedReport, Observation, PROBE_FRESH_MS, Probe, ReportedRole, failing_nodes_text, fresh_probe},
};
use crate::model::{
    change::{Change, NotePrimary, StartPromotion},
    ids::{GroupId, HostPort, NodeId, ProductId},
    promotion::{EndedPromotion, Promotion, PromotionKind},
    route::Mode,
    state::{ClusterState, Group, Product},
};

/// For how long a primary must have followed another server before it is replaced, milliseconds. Longer than probes
/// from before a promotion count, and much shorter than [`STALE_MS`](super::candidates::STALE_MS), after which its
/// replicas could not replace it any more.
pub const PRIMARY_FOLLOWS_MS: u64 = 2_000;

/// A replica whose promotion failed this often is deprioritised: its server may refuse the commands of a promotion. The
/// first failure may have been an accident.
const FAILED_PROMOTIONS_MAX: usize = 2;

/// What is done about a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailoverDecision {
    /// The group's product.
    pub product: ProductId,
    /// The group.
    pub group: GroupId,
    /// The changes to propose, in this order; or why nothing is done, for the operator.
    pub action: Result<Vec<Change>, String>,
}

/// A group that needs another primary: its primary is down, or has followed another server for long enough.
#[derive(Clone, Debug)]
pub struct DownGroup<'a> {
    /// The group's product.
    pub product: &'a Product,
    /// The group.
    pub group: &'a Group,
    /// Its primary.
    pub primary: HostPort,
    /// What is wrong with the primary, as a predicate: "is down: it does not answer node 1".
    pub what: String,
    /// For how long a majority has not been answered, milliseconds; 0: it is answered.
    pub for_ms: u64,
}

/// Primaries that a majority of the live voters see follow another server: they were restarted with the configuration
/// that they had before they were promoted, or REPLICAOF was run by hand. They accept no writes. One that has been
/// among them for [`PRIMARY_FOLLOWS_MS`] is replaced.
#[must_use]
pub fn following_primaries(state: &ClusterState, watchers: &Watchers<'_>) -> BTreeSet<HostPort> {
    let groups = state.products.values().flat_map(|p| p.groups.values());
    let primaries = groups.filter_map(|group| group.servers.first());
    let follows = |r: &AgedReport| {
        let fresh = |ago: &u64| r.report.failing_ms.is_none() && ago.saturating_add(r.age_ms) <= PROBE_FRESH_MS;
        let probe = r.report.probe.as_ref().filter(|(_, ago)| fresh(ago));
        probe.is_some_and(|(probe, _)| !probe.loading && matches!(probe.role, ReportedRole::Replica { .. }))
    };
    let majority_sees_it_follow = |addr: &HostPort| {
        let by = watchers.reports(addr).filter(|(node, r)| watchers.alive().contains(node) && follows(r));
        by.count() > watchers.alive().len() / 2
    };
    primaries.map(|primary| primary.addr.clone()).filter(majority_sees_it_follow).collect()
}

/// All groups whose primary is down or among `following_primaries`, and whether they may be failed over automatically:
/// `Err` is the guard's reason (see [`may_fail_over`]). The guard counts primaries for which something could be done.
/// It does not count the primary of an ejected group, which nobody uses, nor one that nothing can replace: it may have
/// been down for weeks, which says nothing about the others. It counts a primary from the moment at which a majority is
/// not answered, so that when several fail together the first is not failed over before the others count as down.
pub fn groups_down<'a>(
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
            let what =
                format!("is a replica of {of} and accepts no writes (it was restarted as one, or made one by hand)");
            return Some(DownGroup { product, group, primary, what, for_ms: 0 });
        }
        let Liveness::Down { for_ms, .. } = liveness(watchers, &primary, group.options.down_after_ms) else {
            return None;
        };
        let nodes = seen.get(&primary).map_or_else(|| "nobody".into(), failing_nodes_text);
        Some(DownGroup { product, group, primary, what: format!("is down: it does not answer {nodes}"), for_ms })
    };
    let all: Vec<DownGroup<'a>> = groups().filter_map(down).collect();
    let counts = |product: &Product, group: &Group| {
        group.ejection.is_none() && (group.servers.len() > 1 || ejects(product, group))
    };
    let fails = |group: &Group| {
        let primary = group.servers.first().map(|server| &server.addr);
        primary.is_some_and(|addr| following_primaries.contains(addr) || majority_failing_ms(watchers, addr).is_some())
    };
    let counting = || groups().filter(|(product, group)| counts(product, group));
    let (primaries, counted) = (counting().count(), counting().filter(|(_, group)| fails(group)).count());
    let guard = may_fail_over(counted, primaries, state.settings.failover_share_max);
    (all, guard)
}

/// Whether a group ejects its slots when nothing can replace its primary.
fn ejects(product: &Product, group: &Group) -> bool {
    product.mode == Mode::Cache && group.options.eject_after_ms != 0
}

/// A decision for each group that needs another primary and has no open promotion. `me`: the leader.
#[must_use]
pub fn decide(
    state: &ClusterState,
    seen: &Observation,
    watchers: &Watchers<'_>,
    following_primaries: &BTreeSet<HostPort>,
    me: NodeId,
) -> Vec<FailoverDecision> {
    let (groups_down, guard) = groups_down(state, seen, watchers, following_primaries);
    let mut decisions = Vec::new();
    for down in groups_down {
        let DownGroup { product, group, .. } = &down;
        if state.promotion_of(product.id, group.id).is_some() {
            continue;
        }
        let mut choice = choose(group, seen, me);
        choice.candidates.sort_by_key(|candidate| {
            failed_promotions(state, product.id, group, &candidate.addr) >= FAILED_PROMOTIONS_MAX
        });
        if group.ejection.is_some() && choice.best().is_none() {
            continue;
        }
        let action = fail_over(state, seen, &down, &choice, guard.as_ref().err());
        decisions.push(FailoverDecision { product: product.id, group: group.id, action });
    }
    decisions
}

/// The changes that begin the promotion of the best candidate.
///
/// # Errors
/// Why the group is not failed over and what the operator can do, as text for the operator.
fn fail_over(
    state: &ClusterState,
    seen: &Observation,
    DownGroup { product, group, primary, what, .. }: &DownGroup<'_>,
    choice: &CandidateChoice,
    guard: Option<&String>,
) -> Result<Vec<Change>, String> {
    let down = format!("{primary}, primary of group {} of product '{}', {what}", group.id, product.name);
    let by_hand = format!("pontoon group promote {} HOST:PORT --force", group.id);
    let ejects = ejects(product, group);
    let remedy = if ejects {
        let seconds = f64::from(group.options.eject_after_ms) / 1000.0;
        format!("its slots are ejected to other groups when that has lasted {seconds} s")
    } else {
        format!("start it again, or accept the loss: {by_hand}")
    };
    if state.settings.maintenance || group.options.maintenance {
        return Err(format!("{down}; maintenance is on, so nothing is done automatically ({by_hand})"));
    }
    if let Some(guard) = guard.filter(|_| ejects || group.servers.len() > 1) {
        return Err(format!("{down}; {guard}"));
    }
    if group.servers.len() < 2 {
        let waits = if ejects { remedy } else { "its slots wait for it: start it again".into() };
        return Err(format!("{down}; it has no replica, so {waits}"));
    }
    let Some(best) = choice.best() else {
        return Err(format!("{down}; no replica can replace it: {}; {remedy}", choice.evidence()));
    };
    let history = GroupHistory::of(group, seen);
    has_all_confirmed(group, product.min_acks, &best.addr, |addr| answering_offset(addr, &history, seen)).map_err(
        |missing| {
            let (missing, evidence) = (missing.into_text(), choice.evidence());
            format!("{down}; {missing} ({evidence}); start them again, or accept the loss: {by_hand}")
        },
    )?;
    let epoch = group.epoch;
    let note = NotePrimary::replication_id(product.id, group.id, epoch, history.replid.clone()).into();
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
    // The next leader finds in the log for which history the candidate was chosen.
    let noted = history.replid == group.replid;
    Ok(if noted { vec![start] } else { vec![note, start] })
}

/// How many promotions of a server to replace the group's present primary have failed.
fn failed_promotions(state: &ClusterState, product: ProductId, group: &Group, addr: &HostPort) -> usize {
    let failed = |e: &&EndedPromotion| {
        let p = &e.promotion;
        (p.product, p.group, p.group_epoch) == (product, group.id, group.epoch) && p.to == *addr && e.failed.is_some()
    };
    state.ended_promotions.iter().filter(failed).count()
}

/// Whether the primary that a failover is replacing has recovered, so that it need not be replaced; the text says why.
/// It has when it answers a majority as a primary and
/// - has the data that it had; or
/// - the candidate has copied its data; or
/// - has some data, and the candidate is down or has data of another history.
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
    // When an operator forced the promotion, the primary may have been up all the time.
    if same && !promotion.forced {
        return Some(format!("{from} answers again, with the data that it had"));
    }
    let to = fresh_probe(seen, &promotion.to);
    // Then the candidate has nothing that the primary does not have, whatever that is.
    let copied = |to: &Probe| match &to.role {
        ReportedRole::Replica { of, link_up, syncing, .. } => {
            of == from && *link_up && !syncing && !to.loading && to.replid == probe.replid
        }
        ReportedRole::Primary { .. } => false,
    };
    if !promotion.forced && to.is_some_and(copied) {
        return Some(format!("{from} is a primary again, and {} has copied its data", promotion.to));
    }
    let candidate = liveness(watchers, &promotion.to, group.options.down_after_ms);
    if matches!(candidate, Liveness::Down { .. }) && (same || probe.keys > 0) {
        return Some(format!("{from} is back with {} keys, and {} does not answer", probe.keys, promotion.to));
    }
    // A candidate that was restarted or follows another primary cannot be promoted any more, and only the clients of
    // the old primary have written since.
    let other_history = |to: &Probe| match &to.role {
        ReportedRole::Replica { .. } => to.replid != group.replid,
        ReportedRole::Primary { .. } => to.replid2.as_ref().is_none_or(|(id, _)| *id != group.replid),
    };
    let unfit = !promotion.forced && !group.replid.is_empty() && to.is_some_and(|to| !to.loading && other_history(to));
    (unfit && probe.keys > 0).then(|| {
        let Promotion { to, .. } = promotion;
        format!("{from} is back with {} keys, and the data of {to} now has another replication id", probe.keys)
    })
}
