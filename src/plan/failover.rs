//! Which groups need another primary, and whether their best candidate is promoted, or why not.
//! Knows nothing of how liveness is found out (`liveness`), how candidates are chosen (`candidates`), or how one is
//! promoted.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    acks::has_all_confirmed,
    candidates::{Candidate, CandidateChoice, GroupHistory, answering_offset, choose},
    guard::{FailoverGuard, GUARD_ENDS_WHEN},
    impairment::{ImpairedPrimary, impaired_primaries},
    liveness::{Liveness, Watchers, liveness, majority_failing_ms},
    observation::{AgedReport, Observation, PROBE_FRESH_MS, Probe, ReportedRole, failing_nodes_text, fresh_probe},
    restart::{confirmations, failed_replicas, majority_sees_restart},
    waiting::Wait,
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
/// replicas could no longer replace it.
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
    /// The changes to propose, in this order; or what is waited for.
    pub action: Result<Vec<Change>, Wait>,
}

/// A group that needs another primary: its primary is down, has followed another server for long enough, or answers and
/// cannot serve.
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
    /// What an operator can do at the primary.
    pub remedy: &'static str,
    /// How it is to be replaced.
    pub kind: PromotionKind,
    /// For how long a majority has not been answered, milliseconds; 0: it is answered.
    pub for_ms: u64,
    /// For how long it has needed another primary, milliseconds; down-after included.
    pub lasting_ms: u64,
    /// Its primary answers as another process than the log knows (`plan::restart`).
    pub restarted: bool,
}

/// Primaries that follow another server, and for how long, milliseconds.
pub type FollowingPrimaries = BTreeMap<HostPort, u64>;

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

/// All groups that need another primary, and the guard. The guard counts primaries for which something could be done. It
/// does not count the primary of an ejected group, which nobody uses, nor one that nothing can replace: that says nothing
/// about the others. It counts a primary from the moment at which a majority is not answered, so that when several fail
/// together the first is not failed over before the others count as down.
pub fn groups_down<'a>(
    state: &'a ClusterState,
    seen: &Observation,
    watchers: &Watchers<'_>,
    following_primaries: &FollowingPrimaries,
) -> (Vec<DownGroup<'a>>, FailoverGuard) {
    let groups = || state.products.values().flat_map(|p| p.groups.values().map(move |g| (p, g)));
    let kind = PromotionKind::Failover;
    let down = |(product, group): (&'a Product, &'a Group)| {
        let primary = group.servers.first()?.addr.clone();
        if let Some(lasting_ms) = following_primaries.get(&primary).copied() {
            let ReportedRole::Replica { of, .. } = &fresh_probe(seen, &primary)?.role else { return None };
            let what =
                format!("is a replica of {of} and accepts no writes (it was restarted as one, or made one by hand)");
            let remedy = "make it a primary again";
            return Some(DownGroup {
                product,
                group,
                primary,
                what,
                remedy,
                kind,
                for_ms: 0,
                lasting_ms,
                restarted: false,
            });
        }
        let Liveness::Down { for_ms, .. } = liveness(watchers, &primary, group.options.down_after_ms) else {
            return None;
        };
        let nodes = seen.get(&primary).map_or_else(|| "nobody".into(), failing_nodes_text);
        let what = format!("is down: it does not answer {nodes}");
        let remedy = "start it again";
        Some(DownGroup { product, group, primary, what, remedy, kind, for_ms, lasting_ms: for_ms, restarted: false })
    };
    let mut all: Vec<DownGroup<'a>> = groups().filter_map(down).collect();
    all.extend(impaired_primaries(state, watchers).into_iter().filter_map(|impaired| {
        let (kind, remedy) = (impaired.replaced_by()?, impaired.remedy());
        let ImpairedPrimary { product, group, addr: primary, what, for_ms: lasting_ms, .. } = impaired;
        Some(DownGroup { product, group, primary, what, remedy, kind, for_ms: 0, lasting_ms, restarted: false })
    }));
    let failing_ms = |group: &Group| {
        let primary = &group.servers.first()?.addr;
        let needs = all.iter().find(|down| down.primary == *primary && down.kind == PromotionKind::Failover);
        let failing = needs.map(|down| down.lasting_ms);
        failing.or_else(|| following_primaries.get(primary).copied()).or_else(|| majority_failing_ms(watchers, primary))
    };
    let counting = || groups().filter(|(product, group)| replaceable(product, group) && group.ejection.is_none());
    let guard = FailoverGuard {
        primaries: counting().count(),
        failing_ms: counting().filter_map(|(_, group)| failing_ms(group)).collect(),
        share_max: state.settings.failover_share_max,
    };
    let restarted: Vec<_> =
        groups().filter_map(|(product, group)| restarted_primary(product, group, watchers)).collect();
    // One decision for each group.
    all.retain(|down| restarted.iter().all(|other| other.primary != down.primary));
    all.extend(restarted);
    (all, guard)
}

/// A group whose primary was restarted while replicas may have more than it. The guard neither counts it nor holds it
/// back: that the former process is gone is proven, whatever the network does.
fn restarted_primary<'a>(product: &'a Product, group: &'a Group, watchers: &Watchers<'_>) -> Option<DownGroup<'a>> {
    if !majority_sees_restart(confirmations(product), group, watchers) {
        return None;
    }
    let primary = group.servers.first()?.addr.clone();
    let what = format!(
        "was restarted, and may have less than min-acks={} confirmed; no replica copies its data",
        product.min_acks
    );
    let remedy = "start its replicas again; or give up what only they have (pontoon product set .. min-acks=0)";
    let kind = PromotionKind::Failover;
    Some(DownGroup { product, group, primary, what, remedy, kind, for_ms: 0, lasting_ms: 0, restarted: true })
}

/// Whether something can be done when the primary of a group is down.
fn replaceable(product: &Product, group: &Group) -> bool {
    group.servers.len() > 1 || ejects(product, group)
}

/// The groups that the guard holds back, each with the reason, for the operator.
#[must_use]
pub fn held_back(
    state: &ClusterState,
    seen: &Observation,
    watchers: &Watchers<'_>,
    following_primaries: &FollowingPrimaries,
) -> Vec<(ProductId, GroupId, String)> {
    let (groups_down, guard) = groups_down(state, seen, watchers, following_primaries);
    let counted = groups_down.into_iter().filter(|down| !down.restarted);
    let held = |DownGroup { product, group, primary, what, lasting_ms, .. }: DownGroup<'_>| {
        let idle = group.ejection.is_some() || state.promotion_of(product.id, group.id).is_some();
        let maintained = is_maintained(state, group);
        let why = guard.may_fail_over(lasting_ms).err().filter(|_| replaceable(product, group))?;
        (!idle && !maintained).then(|| (product.id, group.id, format!("{primary} {what}; {why}")))
    };
    counted.filter_map(held).collect()
}

/// The groups of `decisions` whose primary nothing can replace, each with the reason, for the operator: neither the guard
/// (`held_back`) nor maintenance keeps them from a failover, and their slots are not ejected either.
#[must_use]
pub fn not_failed_over(
    state: &ClusterState,
    decisions: &[FailoverDecision],
    held_back: &[(ProductId, GroupId, String)],
) -> Vec<(ProductId, GroupId, String)> {
    let stuck = |decision: &FailoverDecision| {
        let why = decision.action.as_ref().err()?;
        let (product, group) = (state.products.get(&decision.product)?, decision.group);
        let waits = |group: &Group| is_maintained(state, group) || ejects(product, group);
        let held = held_back.iter().any(|(of, id, _)| (*of, *id) == (product.id, group));
        (!held && !product.groups.get(&group).is_none_or(waits)).then(|| (product.id, group, why.text()))
    };
    decisions.iter().filter_map(stuck).collect()
}

/// Whether nothing is done automatically about a group.
fn is_maintained(state: &ClusterState, group: &Group) -> bool {
    state.settings.maintenance || group.options.maintenance
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
    following_primaries: &FollowingPrimaries,
    me: NodeId,
) -> Vec<FailoverDecision> {
    let (groups_down, guard) = groups_down(state, seen, watchers, following_primaries);
    let mut decisions = Vec::new();
    for down in groups_down {
        let DownGroup { product, group, lasting_ms, .. } = &down;
        if state.promotion_of(product.id, group.id).is_some() {
            continue;
        }
        let mut choice = choose(confirmations(product), group, seen, me);
        choice.candidates.sort_by_key(|candidate| {
            failed_promotions(state, product.id, group, &candidate.addr) >= FAILED_PROMOTIONS_MAX
        });
        if down.kind == PromotionKind::Switchover {
            exclude_failing_saves(&mut choice, seen);
        }
        if group.ejection.is_some() && choice.best().is_none() {
            continue;
        }
        let held_back = guard.may_fail_over(*lasting_ms).err().filter(|_| !down.restarted);
        let action = fail_over(state, seen, &down, &choice, held_back);
        decisions.push(FailoverDecision { product: product.id, group: group.id, action });
    }
    decisions
}

/// Excludes the candidates that could not write to their disk either: they would refuse writes, too.
fn exclude_failing_saves(choice: &mut CandidateChoice, seen: &Observation) {
    let fails = |addr: &HostPort| fresh_probe(seen, addr).is_some_and(|probe| probe.saves_fail);
    let (failing, fit) = std::mem::take(&mut choice.candidates).into_iter().partition(|c| fails(&c.addr));
    choice.candidates = fit;
    let why = "its last write to its disk has failed, too";
    choice.excluded.extend(Vec::into_iter(failing).map(|candidate: Candidate| (candidate.addr, why.into())));
}

/// The changes that begin the promotion of the best candidate.
///
/// # Errors
/// Returns why the group is not failed over, and what ends that.
fn fail_over(
    state: &ClusterState,
    seen: &Observation,
    DownGroup { product, group, primary, what, remedy, kind, for_ms, .. }: &DownGroup<'_>,
    choice: &CandidateChoice,
    guard: Option<String>,
) -> Result<Vec<Change>, Wait> {
    let waits = |why: &str, ends_when: String| {
        let down = format!("{primary}, primary of group {} of product '{}'", group.id, product.name);
        let ends_when = format!("it serves again ({remedy}), or {ends_when}");
        Wait::new(down, ends_when).with_detail(format!(", {what}; {why}"))
    };
    let by_hand = format!("pontoon group promote {} HOST:PORT --force", group.id);
    // Only a group that is down is ejected.
    let ejects = ejects(product, group) && *for_ms > 0;
    let ejection = || {
        let seconds = f64::from(group.options.eject_after_ms) / 1000.0;
        format!("that has lasted {seconds} s: then its slots are ejected to other groups")
    };
    if is_maintained(state, group) {
        let ends_when = format!("maintenance is off (pontoon maintenance off), or you promote by hand: {by_hand}");
        return Err(waits("maintenance is on, so nothing is done automatically", ends_when));
    }
    if let Some(guard) = guard.filter(|_| replaceable(product, group)) {
        return Err(waits(&guard, GUARD_ENDS_WHEN.to_owned()));
    }
    if group.servers.len() < 2 {
        let add = || "its group is removed or has another primary, for which it needs a replica".to_owned();
        let ends_when = if ejects { ejection() } else { add() };
        return Err(waits("it has no replica, so its slots wait for it", ends_when));
    }
    let Some(best) = choice.best() else {
        let ends_when = match kind {
            _ if ejects => format!("a replica can replace it, or {}", ejection()),
            // It answers, so nothing need be lost.
            PromotionKind::Switchover => "a replica can replace it".to_owned(),
            PromotionKind::Failover => format!("a replica can replace it, or you accept the loss: {by_hand}"),
        };
        return Err(waits(&format!("no replica can replace it: {}", choice.evidence()), ends_when));
    };
    let history = GroupHistory::of(confirmations(product), group, seen);
    let required = (product.min_acks, failed_replicas(confirmations(product), group, seen));
    has_all_confirmed(group, required, &best.addr, |addr| answering_offset(addr, &history, seen)).map_err(
        |missing| {
            let why = format!("{} ({})", missing.into_text(), choice.evidence());
            waits(&why, format!("the other replicas are started again, or you accept the loss: {by_hand}"))
        },
    )?;
    let epoch = group.epoch;
    let note = NotePrimary::replication_id(product.id, group.id, epoch, history.replid.clone()).into();
    let start = Change::StartPromotion(StartPromotion {
        product: product.id,
        group: group.id,
        to: best.addr.clone(),
        kind: *kind,
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
///
/// The last also holds when it was restarted as a replica and has copied nothing yet: it is made a primary again when
/// the promotion is over (`plan::replication`). While the candidate is fit, it replaces such a primary.
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
    let primary = match &probe.role {
        ReportedRole::Primary { .. } => true,
        ReportedRole::Replica { link_up: false, link_down_ms: u64::MAX, syncing: false, .. } => false,
        ReportedRole::Replica { .. } => return None,
    };
    if probe.loading {
        return None;
    }
    let same = primary && !group.replid.is_empty() && probe.replid == group.replid;
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
    if primary && !promotion.forced && to.is_some_and(copied) {
        return Some(format!("{from} is a primary again, and {} has copied its data", promotion.to));
    }
    let candidate = liveness(watchers, &promotion.to, group.options.down_after_ms);
    if matches!(candidate, Liveness::Down { .. }) && (same || probe.keys > 0) {
        return Some(format!("{from} is back with {} keys, and {} does not answer", probe.keys, promotion.to));
    }
    // A candidate that was restarted or follows another primary can no longer be promoted, and only the clients of
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
