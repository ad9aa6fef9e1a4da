//! Which slots should move so that every group carries its share: as few as possible, and none when the loads are
//! balanced.
//! Knows nothing of servers or of running migrations: loads are numbers, and the caller leaves out slots that move
//! already.
//!
//! A stock server does not report which of its slots are busy, so a group's load counts as spread evenly over its
//! slots.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::ids::{GroupId, SlotId};

/// By how much of its share, in percent, a group's load may differ before slots move: load drifts all the time, and
/// every move has a price. Numbers of slots are exact and need no tolerance.
pub const TOLERANCE_PERCENT: u64 = 5;

/// The slots and the load of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupLoad {
    /// Slots it owns, those on their way to it included.
    pub slots: BTreeSet<SlotId>,
    /// Those of them that may be moved: not those of a migration or an assignment that has not ended.
    pub movable: BTreeSet<SlotId>,
    /// Its load in any unit (keys, bytes, operations per second); `None`: its number of slots is its load.
    pub load: Option<u64>,
    /// Its share relative to the other groups; 0: it should own no slots.
    pub weight: u32,
}

/// A proposed migration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotMove {
    /// Present owner.
    pub from: GroupId,
    /// New owner.
    pub to: GroupId,
    /// Never empty.
    pub slots: BTreeSet<SlotId>,
}

/// The moves that rebalance `groups` by their weights. Empty when every group carries its share: exactly, where slots
/// are counted; within `tolerance_percent`, where loads are. The same input gives the same moves, and after they are
/// applied nothing is left to move. Nothing moves when no weight is above 0, since no group could take a slot.
#[must_use]
pub fn rebalance(groups: &BTreeMap<GroupId, GroupLoad>, tolerance_percent: u64) -> Vec<SlotMove> {
    let counts =
        if groups.values().all(|g| g.load.is_none()) { by_slots(groups) } else { by_load(groups, tolerance_percent) };
    moves(groups, &counts)
}

/// The moves that empty `leaving`: each of its movable slots goes to the group that has the fewest slots for its
/// weight. Nothing else moves.
#[must_use]
pub fn drain(groups: &BTreeMap<GroupId, GroupLoad>, leaving: GroupId) -> Vec<SlotMove> {
    let Some(from) = groups.get(&leaving) else { return Vec::new() };
    let mut have: BTreeMap<GroupId, u64> =
        groups.iter().filter(|(id, g)| **id != leaving && g.weight > 0).map(|(id, g)| (*id, count(&g.slots))).collect();
    let mut counts = BTreeMap::new();
    for _ in &from.movable {
        // The group with the fewest slots for its weight; fractions are compared crosswise.
        let weight = |id: &GroupId| u64::from(groups.get(id).map_or(1, |g| g.weight));
        let Some(to) = have
            .iter()
            .min_by(|(a, x), (b, y)| ((**x + 1) * weight(b)).cmp(&((**y + 1) * weight(a))).then(a.cmp(b)))
            .map(|(id, _)| *id)
        else {
            break;
        };
        *have.entry(to).or_default() += 1;
        *counts.entry((leaving, to)).or_default() += 1;
    }
    moves(groups, &counts)
}

/// How many slots go from one group to another.
type SlotCounts = BTreeMap<(GroupId, GroupId), usize>;

fn count(slots: &BTreeSet<SlotId>) -> u64 {
    slots.len() as u64
}

fn by_slots(groups: &BTreeMap<GroupId, GroupLoad>) -> SlotCounts {
    let total: u64 = groups.values().map(|g| count(&g.slots)).sum();
    let weights: u64 = groups.values().map(|g| u64::from(g.weight)).sum();
    let mut counts = SlotCounts::new();
    if weights == 0 {
        return counts;
    }
    let mut share: BTreeMap<GroupId, u64> =
        groups.iter().map(|(id, g)| (*id, total * u64::from(g.weight) / weights)).collect();
    // The slots that rounding left over go, one each, to the groups with the largest remainder; among equals to those
    // that have more already, so that no slot moves without need.
    let mut rest = total - share.values().sum::<u64>();
    let mut order: Vec<GroupId> = groups.keys().copied().collect();
    let remainder = |id: &GroupId| groups.get(id).map_or(0, |g| total * u64::from(g.weight) % weights);
    let surplus = |id: &GroupId| groups.get(id).map_or(0, |g| count(&g.slots)).saturating_sub(share[id]);
    let keys: BTreeMap<GroupId, (u64, u64)> = order.iter().map(|id| (*id, (remainder(id), surplus(id)))).collect();
    order.sort_by(|a, b| keys[b].cmp(&keys[a]).then(a.cmp(b)));
    for id in order {
        if rest == 0 {
            break;
        }
        *share.entry(id).or_default() += 1;
        rest -= 1;
    }
    let mut givers: Vec<(GroupId, u64)> = Vec::new();
    let mut takers: Vec<(GroupId, u64)> = Vec::new();
    for (id, g) in groups {
        let (has, wanted) = (count(&g.slots), share[id]);
        if has > wanted {
            givers.push((*id, (has - wanted).min(count(&g.movable))));
        } else if has < wanted {
            takers.push((*id, wanted - has));
        }
    }
    for (to, mut lacks) in takers {
        for (from, spare) in &mut givers {
            let n = lacks.min(*spare);
            if n > 0 {
                counts.insert((*from, to), n as usize);
                lacks -= n;
                *spare -= n;
            }
        }
    }
    counts
}

/// A group's load while moves are planned, in parts of `SCALE`, so that dividing it by slots loses little.
struct RebalanceDraft {
    load: i128,
    share: i128,
    /// Load of one of its own slots.
    slot: i128,
    movable: u64,
}

/// Parts of a unit of load.
const SCALE: i128 = 1 << 20;

fn by_load(groups: &BTreeMap<GroupId, GroupLoad>, tolerance_percent: u64) -> SlotCounts {
    let load = |g: &GroupLoad| i128::from(g.load.unwrap_or_else(|| count(&g.slots))) * SCALE;
    let total: i128 = groups.values().map(load).sum();
    let weights: i128 = groups.values().map(|g| i128::from(g.weight)).sum();
    let mut counts = SlotCounts::new();
    if weights == 0 {
        return counts;
    }
    let mut drafts: BTreeMap<GroupId, RebalanceDraft> = groups
        .iter()
        .map(|(id, g)| {
            let slots = i128::from(count(&g.slots).max(1));
            let share = total * i128::from(g.weight) / weights;
            (*id, RebalanceDraft { load: load(g), share, slot: load(g) / slots, movable: count(&g.movable) })
        })
        .collect();
    // A group's load may differ by the tolerance, or by half of the busiest slot: nothing finer can be moved.
    let grain = drafts.values().map(|p| p.slot).max().unwrap_or(0) / 2;
    let slack = |p: &RebalanceDraft| (p.share * i128::from(tolerance_percent) / 100).max(grain);
    if drafts.values().all(|p| (p.load - p.share).abs() <= slack(p)) {
        return counts;
    }
    loop {
        let giver = drafts
            .iter()
            .filter(|(_, p)| p.movable > 0 && p.slot > 0 && p.load > p.share)
            .max_by_key(|(id, p)| (p.load - p.share, std::cmp::Reverse(**id)))
            .map(|(id, _)| *id);
        let taker = drafts
            .iter()
            .filter(|(_, p)| p.share > p.load)
            .max_by_key(|(id, p)| (p.share - p.load, std::cmp::Reverse(**id)))
            .map(|(id, _)| *id);
        let (Some(from), Some(to)) = (giver, taker) else { return counts };
        let (over, under) = (drafts[&from].load - drafts[&from].share, drafts[&to].share - drafts[&to].load);
        let slot = drafts[&from].slot;
        // A move must bring the two groups together closer to their shares; a group of weight 0 gives everything.
        let empties = groups.get(&from).is_some_and(|g| g.weight == 0);
        if !empties && slot >= over + under {
            return counts;
        }
        // As many at once as leave the giver above and the taker below its share, at least one.
        let n = (over.min(under) / slot).clamp(1, i128::from(drafts[&from].movable));
        if let Some(draft) = drafts.get_mut(&from) {
            draft.load -= n * slot;
            draft.movable -= n as u64;
        }
        if let Some(draft) = drafts.get_mut(&to) {
            draft.load += n * slot;
        }
        *counts.entry((from, to)).or_default() += n as usize;
    }
}

/// Chooses the slots: a giver's highest first, a contiguous part for each taker, so that ranges stay whole.
fn moves(groups: &BTreeMap<GroupId, GroupLoad>, counts: &SlotCounts) -> Vec<SlotMove> {
    let mut left: BTreeMap<GroupId, Vec<SlotId>> =
        groups.iter().map(|(id, g)| (*id, g.movable.iter().copied().collect())).collect();
    let mut moves = Vec::new();
    for ((from, to), n) in counts {
        let Some(slots) = left.get_mut(from) else { continue };
        let slots: BTreeSet<SlotId> = slots.split_off(slots.len().saturating_sub(*n)).into_iter().collect();
        if !slots.is_empty() {
            moves.push(SlotMove { from: *from, to: *to, slots });
        }
    }
    moves
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(slots: std::ops::Range<u16>, load: Option<u64>, weight: u32) -> GroupLoad {
        let slots: BTreeSet<SlotId> = slots.map(SlotId).collect();
        GroupLoad { movable: slots.clone(), slots, load, weight }
    }

    fn groups(list: impl IntoIterator<Item = GroupLoad>) -> BTreeMap<GroupId, GroupLoad> {
        (1..).map(GroupId).zip(list).collect()
    }

    /// The groups after the moves; a moved slot takes its part of the load along.
    fn after(groups: &BTreeMap<GroupId, GroupLoad>, moves: &[SlotMove]) -> BTreeMap<GroupId, GroupLoad> {
        let mut after = groups.clone();
        for m in moves {
            let each = groups[&m.from].load.map(|l| l as f64 / groups[&m.from].slots.len() as f64);
            let moved = each.map(|l| (l * m.slots.len() as f64).round() as u64);
            let from = after.get_mut(&m.from).expect("it gives");
            assert!(m.slots.is_subset(&from.movable), "slots move that may not");
            from.slots.retain(|s| !m.slots.contains(s));
            from.movable.retain(|s| !m.slots.contains(s));
            from.load = from.load.zip(moved).map(|(l, m)| l.saturating_sub(m));
            let to = after.get_mut(&m.to).expect("it takes");
            to.slots.extend(&m.slots);
            to.movable.extend(&m.slots);
            to.load = to.load.zip(moved).map(|(l, m)| l + m);
        }
        after
    }

    fn sizes(groups: &BTreeMap<GroupId, GroupLoad>) -> Vec<usize> {
        groups.values().map(|g| g.slots.len()).collect()
    }

    #[test]
    fn a_new_group_gets_its_share_and_no_other_slot_moves() {
        let before = groups([group(0..512, None, 1), group(512..1024, None, 1), group(0..0, None, 1)]);
        let plan = rebalance(&before, 0);
        assert_eq!(sizes(&after(&before, &plan)), [342, 341, 341]);
        assert_eq!(plan.iter().map(|m| m.slots.len()).sum::<usize>(), 341);
        assert!(plan.iter().all(|m| m.to == GroupId(3)));
        assert_eq!(rebalance(&after(&before, &plan), 0), []);
    }

    #[test]
    fn balanced_groups_move_nothing() {
        assert_eq!(rebalance(&groups([group(0..512, None, 1), group(512..1024, None, 1)]), 0), []);
        assert_eq!(
            rebalance(&groups([group(0..342, None, 1), group(342..683, None, 1), group(683..1024, None, 1)]), 0),
            []
        );
        // The odd slot stays in whichever group it is.
        assert_eq!(
            rebalance(&groups([group(0..341, None, 1), group(341..683, None, 1), group(683..1024, None, 1)]), 0),
            []
        );
        assert_eq!(rebalance(&groups([group(0..512, Some(1020), 1), group(512..1024, Some(1000), 1)]), 5), []);
        assert_eq!(rebalance(&groups([group(0..512, None, 0), group(512..1024, None, 0)]), 0), []);
        assert_eq!(rebalance(&BTreeMap::new(), 0), []);
    }

    #[test]
    fn weights_are_shares_and_weight_0_gets_no_slots() {
        let before = groups([group(0..512, None, 1), group(512..1024, None, 3)]);
        assert_eq!(sizes(&after(&before, &rebalance(&before, 0))), [256, 768]);
        let before = groups([group(0..512, None, 0), group(512..1024, None, 1)]);
        assert_eq!(sizes(&after(&before, &rebalance(&before, 0))), [0, 1024]);
        let before = groups([group(0..512, Some(9), 0), group(512..1024, Some(5), 1)]);
        assert_eq!(sizes(&after(&before, &rebalance(&before, 5))), [0, 1024]);
    }

    #[test]
    fn busy_groups_give_to_idle_ones() {
        let before = groups([group(0..100, Some(3000), 1), group(100..200, Some(1000), 1)]);
        let plan = rebalance(&before, 5);
        let then = after(&before, &plan);
        let (a, b) = (then[&GroupId(1)].load.unwrap_or(0), then[&GroupId(2)].load.unwrap_or(0));
        assert!(a.abs_diff(b) <= 100, "{a} and {b}");
        assert_eq!(rebalance(&then, 5), []);
        // One slot has all the load: moving it would only exchange the groups.
        let before = groups([group(0..1, Some(1000), 1), group(1..2, Some(0), 1)]);
        assert_eq!(rebalance(&before, 5), []);
    }

    #[test]
    fn slots_that_move_already_are_left_alone() {
        let mut before = groups([group(0..10, None, 1), group(0..0, None, 1)]);
        before.get_mut(&GroupId(1)).expect("it is there").movable = (0..2).map(SlotId).collect();
        let plan = rebalance(&before, 0);
        assert_eq!(plan.len(), 1);
        assert_eq!(plan[0].slots, (0..2).map(SlotId).collect());
    }

    #[test]
    fn a_drained_group_is_empty_and_the_others_are_balanced() {
        let before = groups([group(0..400, None, 1), group(400..700, None, 1), group(700..1024, None, 1)]);
        let plan = drain(&before, GroupId(3));
        assert!(plan.iter().all(|m| m.from == GroupId(3)));
        assert_eq!(sizes(&after(&before, &plan)), [512, 512, 0]);
        let alone = groups([group(0..1024, None, 1)]);
        assert_eq!(drain(&alone, GroupId(1)), []);
        assert_eq!(drain(&alone, GroupId(9)), []);
    }

    /// With any groups, loads and weights, a plan moves only movable slots, balances as far as whole slots can, and the
    /// next plan is empty.
    #[test]
    fn any_plan_is_idempotent() {
        for seed in 0..3000u64 {
            let mut random = fastrand::Rng::with_seed(seed);
            let n = random.usize(1..7);
            let mut at = 0u16;
            let counted = random.bool();
            let list: Vec<GroupLoad> = (0..n)
                .map(|_| {
                    let slots = random.u16(0..200);
                    at += slots;
                    let load = (!counted).then(|| random.u64(0..10_000) * u64::from(slots));
                    group(at - slots..at, load, random.u32(0..4))
                })
                .collect();
            let before = groups(list);
            let plan = rebalance(&before, TOLERANCE_PERCENT);
            let then = after(&before, &plan);
            assert!(plan.iter().all(|m| m.from != m.to && before[&m.to].weight > 0), "seed {seed}: {plan:?}");
            let pairs: BTreeSet<_> = plan.iter().map(|m| (m.from, m.to)).collect();
            assert_eq!(pairs.len(), plan.len(), "seed {seed}");
            if counted {
                assert_eq!(rebalance(&then, TOLERANCE_PERCENT), [], "seed {seed}");
                let weights: u32 = before.values().map(|g| g.weight).sum();
                for g in then.values().filter(|_| weights > 0) {
                    let share = f64::from(at) * f64::from(g.weight) / f64::from(weights);
                    assert!((g.slots.len() as f64 - share).abs() < 1.0, "seed {seed}");
                }
            } else {
                let off = |groups: &BTreeMap<GroupId, GroupLoad>| -> f64 {
                    let total: u64 = before.values().filter_map(|g| g.load).sum();
                    let weights: u32 = before.values().map(|g| g.weight).sum::<u32>().max(1);
                    let share = |g: &GroupLoad| total as f64 * f64::from(g.weight) / f64::from(weights);
                    groups.values().map(|g| (g.load.unwrap_or(0) as f64 - share(g)).abs()).sum()
                };
                // Half a slot of rounding for each move.
                assert!(off(&then) <= off(&before) + plan.len() as f64, "seed {seed}");
            }
        }
    }
}
