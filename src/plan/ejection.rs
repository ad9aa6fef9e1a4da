//! Which groups of a cache eject their slots, to which groups, and which ejected groups are reinstated.
//! Knows nothing of how slots change their owner, nor of what is done at a server that gets them back.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    candidates::choose,
    failover::{DownGroup, FailoverDecision, FollowingPrimaries, groups_down},
    liveness::{Liveness, Watchers, liveness},
    observation::{Observation, ReportedRole, newest},
    restart::confirmations,
    waiting::Wait,
};
use crate::model::{
    change::{CancelMigration, Change, Eject, Reinstate},
    ids::{GroupId, NodeId, ProductId, SlotId},
    migration::MigrationPhase,
    route::Mode,
    state::{Assignment, ClusterState, Group, GroupOptions, Keys, Product},
};

/// Since when the primaries of ejected groups have been up without a break, as one process, in this term.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EjectedHealth(BTreeMap<(ProductId, GroupId), UpSince>);

/// A primary that is up.
#[derive(Clone, Debug, PartialEq, Eq)]
struct UpSince {
    run_id: String,
    since_ns: u64,
}

impl EjectedHealth {
    /// Updates it from the newest reports. `now_ns`: the leader's clock.
    pub fn observe(&mut self, state: &ClusterState, seen: &Observation, watchers: &Watchers<'_>, now_ns: u64) {
        let mut now = BTreeMap::new();
        for (product, group) in all(state).filter(|(_, g)| g.ejection.is_some()) {
            let Some(run_id) = ready_primary_run_id(group, seen, watchers) else { continue };
            let before = self.0.get(&(product.id, group.id)).filter(|up| up.run_id == run_id);
            let since_ns = before.map_or(now_ns, |up| up.since_ns);
            now.insert((product.id, group.id), UpSince { run_id, since_ns });
        }
        self.0 = now;
    }

    /// Counts the primary as up from now on: its reinstatement failed, and is tried again later.
    pub fn restart_wait(&mut self, product: ProductId, group: GroupId) {
        self.0.remove(&(product, group));
    }
}

/// The `run_id` of a group's primary, if it answers all nodes as a primary that is ready.
#[must_use]
pub fn ready_primary_run_id(group: &Group, seen: &Observation, watchers: &Watchers<'_>) -> Option<String> {
    let primary = &group.servers.first()?.addr;
    let (probe, _) = newest(seen, primary)?;
    let up = liveness(watchers, primary, group.options.down_after_ms) == Liveness::Up;
    (up && !probe.loading && matches!(probe.role, ReportedRole::Primary { .. })).then(|| probe.run_id.clone())
}

/// A decision for each group that should eject its slots, and for each ejected group. `me`: the leader.
#[must_use]
pub fn decide(
    state: &ClusterState,
    seen: &Observation,
    watchers: &Watchers<'_>,
    health: &EjectedHealth,
    (me, now_ns): (NodeId, u64),
) -> Vec<FailoverDecision> {
    let mut decisions = Vec::new();
    let (groups_down, guard) = groups_down(state, seen, watchers, &FollowingPrimaries::new());
    // Where the guard forbids it, `failover::decide` reports why.
    for down in groups_down {
        if guard.may_fail_over(down.lasting_ms).is_ok() {
            let decision = eject(state, seen, watchers, &down, me);
            decisions.extend(decision.map(|action| FailoverDecision {
                product: down.product.id,
                group: down.group.id,
                action,
            }));
        }
    }
    for (product, group) in all(state) {
        if let Some(action) = reinstate(state, product, group, health, now_ns) {
            decisions.push(FailoverDecision { product: product.id, group: group.id, action });
        }
    }
    decisions
}

/// The changes that eject the slots of a group, or why they are not ejected yet. `None`: nothing is to be done, or
/// `failover::decide` decides about the group.
fn eject(
    state: &ClusterState,
    seen: &Observation,
    watchers: &Watchers<'_>,
    DownGroup { product, group, primary, what, for_ms, .. }: &DownGroup<'_>,
    me: NodeId,
) -> Option<Result<Vec<Change>, Wait>> {
    let after_ms = u64::from(group.options.eject_after_ms);
    let waits = after_ms == 0 || *for_ms < after_ms || maintenance(state, group);
    if product.mode != Mode::Cache || group.ejection.is_some() || waits {
        return None;
    }
    let slots = product.owned(group.id);
    if slots.is_empty() || state.promotion_of(product.id, group.id).is_some() {
        return None;
    }
    let choice = choose(confirmations(product), group, seen, me);
    if choice.best().is_some() {
        return None;
    }
    let subject = format!("group {} of product '{}' should eject its slots", group.id, product.name);
    let evidence = if choice.excluded.is_empty() { "it has no replica".into() } else { choice.evidence() };
    let why = format!("{primary} {what}; {evidence}");
    let open = state.migrations.values().filter(|m| m.product == product.id && !m.slots.is_disjoint(&slots));
    let mut cancellations = Vec::new();
    for migration in open {
        match migration.phase {
            // Its slots have another owner already, or its target is being wiped: it is over soon.
            MigrationPhase::Switched | MigrationPhase::Cancelling => {
                let id = migration.id;
                return Some(Err(Wait::new(
                    format!("{subject}, and waits for migration {id}"),
                    format!("that is over (pontoon migrate show {id})"),
                )));
            }
            MigrationPhase::Planned
            | MigrationPhase::CleaningTarget
            | MigrationPhase::Copying
            | MigrationPhase::CaughtUp
            | MigrationPhase::Held(_)
            | MigrationPhase::Paused => {
                let why = format!("group {} ejects its slots: {why}", group.id);
                cancellations.push(Change::CancelMigration(CancelMigration { migration: migration.id, why }));
            }
        }
    }
    if !cancellations.is_empty() {
        return Some(Ok(cancellations));
    }
    let assigned = |a: &&Assignment| a.product == product.id && !a.slots.is_disjoint(&slots);
    if let Some(open) = state.assignments.values().find(assigned) {
        return Some(Err(Wait::new(
            format!("{subject}, and waits for assignment {}", open.id),
            format!("that is over (pontoon slot ls --product {})", product.name),
        )));
    }
    let temporary_owners = temporary_owners(state, product, group, watchers);
    if temporary_owners.is_empty() {
        return Some(Err(Wait::new(
            format!("{subject}, but no other group is up, has slots and may be changed"),
            format!("one is (pontoon group ls --product {}), or {primary} answers again: start it", product.name),
        )));
    }
    let to = match spread(&slots, &temporary_owners) {
        Ok(to) => to,
        Err(slot) => {
            let what = format!(
                "{subject}, but no group may get slot {slot} before it has deleted the keys that it has left of it"
            );
            let ends_when = format!("a sweep has, which begins by itself; or {primary} answers again: start it");
            return Some(Err(Wait::new(what, ends_when)));
        }
    };
    Some(Ok(vec![Change::Eject(Eject { product: product.id, group: group.id, group_epoch: group.epoch, to, why })]))
}

/// The changes that reinstate an ejected group, or what that waits for. `None`: nothing is to be done.
fn reinstate(
    state: &ClusterState,
    product: &Product,
    group: &Group,
    health: &EjectedHealth,
    now_ns: u64,
) -> Option<Result<Vec<Change>, Wait>> {
    let ejection = group.ejection.as_ref()?;
    let reinstates = |a: &Assignment| a.product == product.id && a.to == Some(group.id) && a.keys == Keys::Ejected;
    if state.assignments.values().any(reinstates) || state.promotion_of(product.id, group.id).is_some() {
        return None;
    }
    let subject = format!(
        "group {} of product '{}' is ejected, since {} did not answer, and {} of its slot(s) have a temporary owner",
        group.id,
        product.name,
        group.servers.first().map_or("its primary", |s| s.addr.as_str()),
        ejection.slots.len()
    );
    if maintenance(state, group) {
        return Some(Err(Wait::new(
            format!("{subject}; maintenance is on, so it is not reinstated automatically"),
            "maintenance is off: pontoon maintenance off",
        )));
    }
    let after_ms = match group.options.eject_after_ms {
        0 => GroupOptions::default().eject_after_ms,
        ms => ms,
    };
    let Some(up) = health.0.get(&(product.id, group.id)) else {
        let ends_when = format!(
            "it has answered every node, as a primary that is ready, for {after_ms} ms, and then gets them back: start it \
             again; or remove the group, which leaves them with their temporary owners (pontoon group remove {})",
            group.id
        );
        return Some(Err(Wait::new(subject, ends_when)));
    };
    let up_ms = now_ns.saturating_sub(up.since_ns) / 1_000_000;
    if up_ms < u64::from(after_ms) {
        let ends_when = format!("it has been up for {after_ms} ms, and then gets them back");
        return Some(Err(Wait::new(format!("{subject}; it is up again"), ends_when)));
    }
    let (product, group, ejection, group_epoch) = (product.id, group.id, ejection.id, group.epoch);
    Some(Ok(vec![Change::Reinstate(Reinstate { product, group, ejection, group_epoch })]))
}

/// Groups that may become temporary owners, by id: those that are up and own slots (a group without slots is new, or
/// drained for its removal).
fn temporary_owners<'a>(
    state: &ClusterState,
    product: &'a Product,
    ejected_group: &Group,
    watchers: &Watchers<'_>,
) -> Vec<&'a Group> {
    let owners: BTreeSet<GroupId> = product.slots.iter().filter_map(|s| s.owner).collect();
    let fit = |group: &&Group| {
        let up = |addr| liveness(watchers, addr, group.options.down_after_ms) == Liveness::Up;
        group.id != ejected_group.id
            && owners.contains(&group.id)
            && group.ejection.is_none()
            && group.sweep.is_none()
            && !group.options.maintenance
            && state.promotion_of(product.id, group.id).is_none()
            && group.servers.first().is_some_and(|primary| up(&primary.addr))
    };
    product.groups.values().filter(fit).collect()
}

/// Distributes slots over groups as evenly as possible, neighbours together. A group does not get a slot of which it
/// has leftovers to delete.
///
/// # Errors
/// The first slot that no group may get.
fn spread(slots: &BTreeSet<SlotId>, to: &[&Group]) -> Result<BTreeMap<GroupId, BTreeSet<SlotId>>, SlotId> {
    let (each, more) = (slots.len() / to.len().max(1), slots.len() % to.len().max(1));
    let mut shares: Vec<BTreeSet<SlotId>> = vec![BTreeSet::new(); to.len()];
    for slot in slots {
        let allowed = || (0..to.len()).filter(|n| !to[*n].given_away.contains(slot));
        let below_share = |n: &usize| shares[*n].len() < each + usize::from(*n < more);
        let place = allowed().find(below_share).or_else(|| allowed().min_by_key(|n| shares[*n].len()));
        shares[place.ok_or(*slot)?].insert(*slot);
    }
    Ok(to.iter().map(|group| group.id).zip(shares).filter(|(_, share)| !share.is_empty()).collect())
}

fn maintenance(state: &ClusterState, group: &Group) -> bool {
    state.settings.maintenance || group.options.maintenance
}

fn all(state: &ClusterState) -> impl Iterator<Item = (&Product, &Group)> {
    state.products.values().flat_map(|p| p.groups.values().map(move |g| (p, g)))
}
