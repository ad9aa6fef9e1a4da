//! Which groups of a cache are out and lend their slots, to whom, and which are back: from what nodes have seen.
//! Knows nothing of how slots change owner, nor of what is done at a server that gets them back.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    failover::{Decision, Down, choose, downs},
    liveness::{Verdict, Watchers, verdict},
    observation::{Observation, RoleSeen},
};
use crate::model::{
    change::Change,
    ids::{GroupId, NodeId, ProductId, SlotId},
    migration::Phase,
    route::Mode,
    state::{ClusterState, Group, GroupOptions, Keys, Product},
};

/// Since when the primaries of groups that are out have been up without a break, as one process, in this term.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health(BTreeMap<(ProductId, GroupId), Up>);

/// A primary that is up.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Up {
    run_id: String,
    since_ns: u64,
}

impl Health {
    /// Takes in a look. `now_ns`: the leader's clock.
    pub fn observe(&mut self, state: &ClusterState, seen: &Observation, watchers: &Watchers<'_>, now_ns: u64) {
        let mut now = BTreeMap::new();
        for (product, group) in all(state).filter(|(_, g)| g.loan.is_some()) {
            let Some(run_id) = process(group, seen, watchers) else { continue };
            let before = self.0.get(&(product.id, group.id)).filter(|up| up.run_id == run_id);
            let since_ns = before.map_or(now_ns, |up| up.since_ns);
            now.insert((product.id, group.id), Up { run_id, since_ns });
        }
        self.0 = now;
    }

    /// It is waited for as if it were up since now: what was tried did not work.
    pub fn again(&mut self, product: ProductId, group: GroupId) {
        self.0.remove(&(product, group));
    }
}

/// The `run_id` of a group's primary, if all who look are answered by it, as a primary that is ready.
#[must_use]
pub fn process(group: &Group, seen: &Observation, watchers: &Watchers<'_>) -> Option<String> {
    let primary = &group.servers.first()?.addr;
    let (look, _) = super::failover::newest(seen, primary)?;
    let up = verdict(watchers, primary, group.options.down_after_ms) == Verdict::Up;
    (up && !look.loading && matches!(look.role, RoleSeen::Primary { .. })).then(|| look.run_id.clone())
}

/// What is to be done about groups that are to lend their slots, and about those that are back. `me`: the leader.
#[must_use]
pub fn decide(
    state: &ClusterState,
    seen: &Observation,
    watchers: &Watchers<'_>,
    health: &Health,
    (me, now_ns): (NodeId, u64),
) -> Vec<Decision> {
    let mut decisions = Vec::new();
    // Where the guard says no, the failover says why.
    if let (downs, Ok(())) = downs(state, seen, watchers, &BTreeSet::new()) {
        for down in downs {
            let decision = lend(state, seen, watchers, &down, me);
            decisions.extend(decision.map(|act| Decision { product: down.product.id, group: down.group.id, act }));
        }
    }
    for (product, group) in all(state) {
        if let Some(act) = give_back(state, product, group, health, now_ns) {
            decisions.push(Decision { product: product.id, group: group.id, act });
        }
    }
    decisions
}

/// `None`: nothing is to be done, or the failover says what is.
fn lend(
    state: &ClusterState,
    seen: &Observation,
    watchers: &Watchers<'_>,
    Down { product, group, primary, what, for_ms }: &Down<'_>,
    me: NodeId,
) -> Option<Result<Vec<Change>, String>> {
    let after_ms = u64::from(group.options.eject_after_ms);
    let waits = after_ms == 0 || *for_ms < after_ms || maintenance(state, group);
    if product.mode != Mode::Cache || group.loan.is_some() || waits {
        return None;
    }
    let slots = product.owned(group.id);
    if slots.is_empty() || state.promotion_of(product.id, group.id).is_some() {
        return None;
    }
    let choice = choose(group, seen, me);
    if choice.best().is_some() {
        return None;
    }
    let said = format!("group {} of product '{}' is to lend its slots", group.id, product.name);
    let none = if choice.none.is_empty() { "it has no replica".into() } else { choice.evidence() };
    let why = format!("{primary} {what}; {none}");
    let open = state.migrations.values().filter(|m| m.product == product.id && !m.slots.is_disjoint(&slots));
    let mut ends = Vec::new();
    for migration in open {
        match migration.phase {
            // Its slots are somewhere else now, or are wiped there: over soon.
            Phase::Switched | Phase::Cancelling => {
                return Some(Err(format!("{said}, and waits for migration {}", migration.id)));
            }
            Phase::Planned
            | Phase::CleaningTarget
            | Phase::Copying
            | Phase::CaughtUp
            | Phase::Held(_)
            | Phase::Paused => {
                let why = format!("group {} lends its slots: {why}", group.id);
                ends.push(Change::CancelMigration { migration: migration.id, why });
            }
        }
    }
    if !ends.is_empty() {
        return Some(Ok(ends));
    }
    let assigned = |a: &&crate::model::state::Assignment| a.product == product.id && !a.slots.is_disjoint(&slots);
    if let Some(open) = state.assignments.values().find(assigned) {
        return Some(Err(format!("{said}, and waits for assignment {}", open.id)));
    }
    let borrowers = borrowers(state, product, group, watchers);
    if borrowers.is_empty() {
        return Some(Err(format!("{said}, and there is no other group that is up, has slots and may be changed")));
    }
    let to = match spread(&slots, &borrowers) {
        Ok(to) => to,
        Err(slot) => {
            return Some(Err(format!(
                "{said}, and no group may have slot {slot} before it has deleted what it had of it the last time"
            )));
        }
    };
    Some(Ok(vec![Change::Lend { product: product.id, group: group.id, group_epoch: group.epoch, to, why }]))
}

fn give_back(
    state: &ClusterState,
    product: &Product,
    group: &Group,
    health: &Health,
    now_ns: u64,
) -> Option<Result<Vec<Change>, String>> {
    let loan = group.loan.as_ref()?;
    let comes_back =
        |a: &crate::model::state::Assignment| a.product == product.id && a.to == group.id && a.keys == Keys::Lent;
    if state.assignments.values().any(comes_back) || state.promotion_of(product.id, group.id).is_some() {
        return None;
    }
    let said = format!(
        "group {} of product '{}' is out since {} did not answer, and lends {} slot(s)",
        group.id,
        product.name,
        group.servers.first().map_or("its primary", |s| s.addr.as_str()),
        loan.slots.len()
    );
    if maintenance(state, group) {
        return Some(Err(format!("{said}; maintenance is on, so it gets nothing back by itself")));
    }
    let after_ms = match group.options.eject_after_ms {
        0 => GroupOptions::default().eject_after_ms,
        ms => ms,
    };
    let Some(up) = health.0.get(&(product.id, group.id)) else {
        let when =
            format!("it gets them back when it has answered every node, as a primary that is ready, for {after_ms} ms");
        return Some(Err(format!("{said}; {when}: start it again, or remove the group and they stay where they are")));
    };
    let up_ms = now_ns.saturating_sub(up.since_ns) / 1_000_000;
    if up_ms < u64::from(after_ms) {
        return Some(Err(format!("{said}; it is up again, and gets them back when it has been up for {after_ms} ms")));
    }
    let (product, group, loan, group_epoch) = (product.id, group.id, loan.id, group.epoch);
    Some(Ok(vec![Change::ReturnLoan { product, group, loan, group_epoch }]))
}

/// Groups that may be lent slots, by id: those that are up and have slots of their own (one without is new, or drained for
/// its removal).
fn borrowers<'a>(
    state: &ClusterState,
    product: &'a Product,
    lender: &Group,
    watchers: &Watchers<'_>,
) -> Vec<&'a Group> {
    let owners: BTreeSet<GroupId> = product.slots.iter().filter_map(|s| s.owner).collect();
    let fit = |group: &&Group| {
        let up = |addr| verdict(watchers, addr, group.options.down_after_ms) == Verdict::Up;
        group.id != lender.id
            && owners.contains(&group.id)
            && group.loan.is_none()
            && group.sweep.is_none()
            && !group.options.maintenance
            && state.promotion_of(product.id, group.id).is_none()
            && group.servers.first().is_some_and(|primary| up(&primary.addr))
    };
    product.groups.values().filter(fit).collect()
}

/// As evenly as can be, neighbours together; a slot whose leftovers a group has yet to delete is not lent to it.
///
/// # Errors
/// A slot that nobody may have.
fn spread(slots: &BTreeSet<SlotId>, to: &[&Group]) -> Result<BTreeMap<GroupId, BTreeSet<SlotId>>, SlotId> {
    let (each, more) = (slots.len() / to.len().max(1), slots.len() % to.len().max(1));
    let mut shares: Vec<BTreeSet<SlotId>> = vec![BTreeSet::new(); to.len()];
    for slot in slots {
        let allowed = || (0..to.len()).filter(|n| !to[*n].given_away.contains(slot));
        let wants = |n: &usize| shares[*n].len() < each + usize::from(*n < more);
        let place = allowed().find(wants).or_else(|| allowed().min_by_key(|n| shares[*n].len()));
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
