//! Asks the primaries of a product's groups for their loads, plans the moves that rebalance the product, and makes such
//! moves automatically for products with auto-rebalance. Knows nothing of how slots move: each move becomes a
//! migration.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::{
    consensus::Consensus,
    control::admission::migration::{self, MigrationRequest},
    model::{
        change::{Change, PlanMigration},
        ids::{GroupId, ProductId, SlotId, Uuid},
        migration::MigrationOptions,
        slot::brief,
        state::{ClusterState, Group, Product},
    },
    plan::{
        rebalance::{GroupLoad, SlotMove, TOLERANCE_PERCENT, drain, rebalance},
        shortage::can_take_slots,
    },
    redis::{Client, Info},
};

/// How long one server may take to report its load.
const ASK_MAX: Duration = Duration::from_secs(3);
/// By how much of its share, in percent, a group's load may differ before an automatic rebalance moves slots: more than
/// twice what an operator's rebalance may leave, so that it does not follow every fluctuation.
pub const AUTO_TOLERANCE_PERCENT: u64 = 20;
/// With fewer keys per group than this, an automatic rebalance counts slots instead: so few keys say nothing about
/// load.
const KEYS_THAT_COUNT: u64 = 1_000;
/// The interval between two automatic rebalances: operators change groups by hand, and loads drift in minutes.
const POLL_INTERVAL: Duration = Duration::from_secs(10);
/// How long the servers of a move may take for the checks before it.
const ADMIT_MAX: Duration = Duration::from_secs(10);
/// How long a proposal may take: one that takes longer has lost its quorum, and the next rebalance proposes it again.
const PROPOSE_WITHIN: Duration = Duration::from_secs(3);

/// What a rebalance counts as load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RebalanceBy {
    /// Number of slots.
    #[default]
    Slots,
    /// Number of keys.
    Keys,
    /// Bytes of data (`used_memory_dataset`).
    Memory,
    /// Commands per second, as the servers count them (`instantaneous_ops_per_sec`).
    Ops,
}

impl RebalanceBy {
    /// Parses what an operator wrote.
    ///
    /// # Errors
    /// Returns which words are allowed, as text for the operator.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "" | "slots" => Ok(Self::Slots),
            "keys" => Ok(Self::Keys),
            "memory" => Ok(Self::Memory),
            "ops" => Ok(Self::Ops),
            other => Err(format!("'{other}' cannot be rebalanced; slots, keys, memory and ops can")),
        }
    }
}

/// The moves that rebalance a product by `by`. The weight of a group is `weights[id]`, or 1 if it has no entry.
///
/// # Errors
/// Returns why nothing can be planned, as text for the operator: a group cannot be asked, a weight belongs to no group,
/// all weights are 0, migrations must end first, or a group is ejected.
pub async fn plan(
    state: &ClusterState,
    product: &Product,
    by: RebalanceBy,
    weights: &BTreeMap<GroupId, u32>,
) -> Result<Vec<SlotMove>, String> {
    if let Some(unknown) = weights.keys().find(|id| !product.groups.contains_key(id)) {
        return Err(format!("product '{}' has no group {unknown}; its groups: `pontoon group ls`", product.name));
    }
    if !product.groups.is_empty() && product.groups.keys().all(|id| weights.get(id) == Some(&0)) {
        return Err("every group has weight 0, so no group could take a slot; give one of them a weight".into());
    }
    let loads = match by {
        RebalanceBy::Slots => None,
        RebalanceBy::Keys | RebalanceBy::Memory | RebalanceBy::Ops => {
            no_open_migration(state, product)?;
            Some(loads(product, by).await?)
        }
    };
    no_ejected_group(product)?;
    Ok(rebalance(&group_loads(state, product, loads.as_ref(), weights, None), TOLERANCE_PERCENT))
}

/// Fails while a group is ejected: it gets its slots back automatically, which a rebalance would prevent.
fn no_ejected_group(product: &Product) -> Result<(), String> {
    match product.groups.values().find(|group| group.ejection.is_some()) {
        None => Ok(()),
        Some(ejected) => Err(format!(
            "group {} of product '{}' is ejected, and its slots have temporary owners: start its primary again and \
             wait until it has them back (pontoon group show {}), or remove the group, which leaves them with their \
             temporary owners",
            ejected.id, product.name, ejected.id
        )),
    }
}

/// The moves that take every slot from `group`.
///
/// # Errors
/// Returns why nothing can be planned, as text for the operator: there is no such group, no other group could take its
/// slots, or a group is ejected.
pub fn plan_drain(state: &ClusterState, product: &Product, group: GroupId) -> Result<Vec<SlotMove>, String> {
    if !product.groups.contains_key(&group) {
        return Err(format!("product '{}' has no group {group}; its groups: `pontoon group ls`", product.name));
    }
    no_ejected_group(product)?;
    let groups = group_loads(state, product, None, &BTreeMap::new(), Some(group));
    if groups.len() < 2 && groups.get(&group).is_some_and(|g| !g.slots.is_empty()) {
        let short = short_of_replicas(product).into_iter().filter(|id| *id != group).map(|id| id.to_string());
        let short = short.collect::<Vec<_>>().join(", ");
        return Err(format!(
            "product '{}' has no other group that could take the slots of group {group}{}",
            product.name,
            if short.is_empty() {
                String::new()
            } else {
                format!(" (group(s) {short} have fewer replicas than it demands; pontoon group add-server)")
            }
        ));
    }
    Ok(drain(&groups, group))
}

/// The moves of an automatic rebalance now.
///
/// # Errors
/// Returns why nothing can be planned, as text for the log: slots of the product move, a group is ejected, or a group
/// cannot be asked.
pub async fn plan_auto(state: &ClusterState, product: &Product) -> Result<Vec<SlotMove>, String> {
    no_open_migration(state, product)?;
    no_ejected_group(product)?;
    let keys = loads(product, RebalanceBy::Keys).await?;
    let enough = keys.values().sum::<u64>() >= KEYS_THAT_COUNT * product.groups.len() as u64;
    let loads = enough.then_some(&keys);
    Ok(rebalance(&group_loads(state, product, loads, &BTreeMap::new(), None), AUTO_TOLERANCE_PERCENT))
}

/// Fails while slots move: their keys are at both groups, and would be counted twice.
fn no_open_migration(state: &ClusterState, product: &Product) -> Result<(), String> {
    let open: Vec<String> =
        state.migrations.values().filter(|m| m.product == product.id).map(|m| m.id.to_string()).collect();
    if open.is_empty() {
        return Ok(());
    }
    Err(format!(
        "migration {} has not ended, and keys that move would be counted twice; wait for its end (`pontoon migrate \
         watch`), or rebalance by slots",
        open.join(", ")
    ))
}

/// The groups that have fewer replicas than the product demands: they get no slots.
#[must_use]
pub fn short_of_replicas(product: &Product) -> Vec<GroupId> {
    product.groups.values().filter(|group| !can_take_slots(product, group)).map(|group| group.id).collect()
}

/// The slots and the load of each group. Slots that move count for the group to which they move, and are not movable.
/// Groups that are short of replicas are left out, except `drained`.
fn group_loads(
    state: &ClusterState,
    product: &Product,
    loads: Option<&BTreeMap<GroupId, u64>>,
    weights: &BTreeMap<GroupId, u32>,
    drained: Option<GroupId>,
) -> BTreeMap<GroupId, GroupLoad> {
    let moving = moving(state, product.id);
    let short = short_of_replicas(product);
    let mut groups: BTreeMap<GroupId, GroupLoad> = product
        .groups
        .keys()
        .filter(|id| Some(**id) == drained || !short.contains(id))
        .map(|id| {
            let load = loads.map(|l| l.get(id).copied().unwrap_or(0));
            (*id, GroupLoad { weight: weights.get(id).copied().unwrap_or(1), load, ..GroupLoad::default() })
        })
        .collect();
    for (slot, state) in (0u16..).map(SlotId).zip(&product.slots) {
        let to = moving.get(&slot).copied();
        let Some(group) = to.or(state.owner).and_then(|owner| groups.get_mut(&owner)) else { continue };
        group.slots.insert(slot);
        if to.is_none() {
            group.movable.insert(slot);
        }
    }
    groups
}

/// The groups to which slots of the product move.
fn moving(state: &ClusterState, product: ProductId) -> BTreeMap<SlotId, GroupId> {
    let migrations = state.migrations.values().filter(|m| m.product == product).map(|m| (&m.slots, m.to));
    let assignments = state.assignments.values().filter(|a| a.product == product);
    let assignments = assignments.filter_map(|a| Some((&a.slots, a.to?)));
    migrations.chain(assignments).flat_map(|(slots, to)| slots.iter().map(move |slot| (*slot, to))).collect()
}

/// Rebalances products with auto-rebalance at intervals, while this node leads.
pub async fn rebalance_automatically(consensus: Consensus) {
    loop {
        tokio::time::sleep(POLL_INTERVAL).await;
        if !consensus.leadership().borrow().is_me {
            continue;
        }
        let state = consensus.state().borrow().clone();
        for product in state.products.values().filter(|p| p.auto_rebalance && p.groups.len() > 1) {
            match plan_auto(&state, product).await {
                Ok(moves) => propose(&consensus, product, moves).await,
                // At debug level: `migrate ls` and `group ls` show the reason.
                Err(why) => debug!(product = product.name, why, "not rebalanced now"),
            }
        }
    }
}

async fn propose(consensus: &Consensus, product: &Product, moves: Vec<SlotMove>) {
    for m in moves {
        let text = move_text(&m, product);
        let options = MigrationOptions::default();
        let wanted = MigrationRequest { product, from: m.from, to: m.to, slots: &m.slots, options };
        match migration::admit(wanted, Instant::now() + ADMIT_MAX).await {
            Ok(warnings) => warnings.iter().for_each(|warning| warn!(product = product.name, warning)),
            Err(why) => {
                warn!(product = product.name, text, why, "a move of an automatic rebalance is not possible");
                continue;
            }
        }
        let change = Change::PlanMigration(PlanMigration {
            product: product.id,
            slots: m.slots,
            from: m.from,
            to: m.to,
            options,
        });
        let id = Uuid(uuid::Uuid::new_v4().as_u128());
        match consensus.propose(id, change, PROPOSE_WITHIN).await.map(|applied| applied.result) {
            Ok(Ok(_)) => info!(product = product.name, text, "rebalanced automatically"),
            Ok(Err(reject)) => debug!(product = product.name, %reject, "a move was refused"),
            Err(error) => {
                debug!(product = product.name, %error, "a move could not be proposed");
                return;
            }
        }
    }
}

/// Asks all primaries at the same time.
///
/// # Errors
/// Returns which group could not be asked, and why, as text for the operator.
async fn loads(product: &Product, by: RebalanceBy) -> Result<BTreeMap<GroupId, u64>, String> {
    let asked: Vec<_> = product
        .groups
        .values()
        .map(|group| {
            let group = group.clone();
            (group.id, tokio::spawn(async move { load(&group, by).await }))
        })
        .collect();
    let mut loads = BTreeMap::new();
    for (id, answer) in asked {
        let answer = answer.await.map_err(|e| format!("group {id} could not be asked: {e}"))?;
        loads.insert(id, answer.map_err(|why| format!("group {id} does not report its load: {why}"))?);
    }
    Ok(loads)
}

async fn load(group: &Group, by: RebalanceBy) -> Result<u64, String> {
    let Some(primary) = group.servers.first() else { return Ok(0) };
    let deadline = Instant::now() + ASK_MAX;
    let credentials = group.credentials.as_ref();
    let connected = Client::connect(&primary.addr, credentials, "pt:rebalance", deadline).await;
    let mut client = connected.map_err(|e| e.to_string())?;
    let section = match by {
        RebalanceBy::Slots => return Ok(0),
        RebalanceBy::Keys => "keyspace",
        RebalanceBy::Memory => "memory",
        RebalanceBy::Ops => "stats",
    };
    let info = client.info(section, deadline).await.map_err(|e| e.to_string())?;
    load_of_info(&info, by)
        .ok_or_else(|| format!("INFO {section} of {} does not have the required field", primary.addr))
}

fn load_of_info(info: &Info, by: RebalanceBy) -> Option<u64> {
    match by {
        RebalanceBy::Slots => None,
        // A server without keys has an empty section.
        RebalanceBy::Keys => Some(info.keyspace().values().sum()),
        RebalanceBy::Memory => info.get("used_memory_dataset")?.parse().ok(),
        RebalanceBy::Ops => info.get("instantaneous_ops_per_sec")?.parse().ok(),
    }
}

/// A move, for people.
#[must_use]
pub fn move_text(m: &SlotMove, product: &Product) -> String {
    let (slots, n) = (brief(&m.slots), m.slots.len());
    format!("slots {slots} ({n}) of product '{}' move from group {} to group {}", product.name, m.from, m.to)
}

/// The groups that give or take slots in several of the moves, so that their migrations wait for each other; one text
/// for each.
#[must_use]
pub fn waiting_migrations(moves: &[SlotMove]) -> Vec<String> {
    let count = |of: fn(&SlotMove) -> GroupId| {
        let ids: BTreeSet<GroupId> = moves.iter().map(of).collect();
        ids.into_iter().map(move |id| (id, moves.iter().filter(|m| of(m) == id).count())).collect::<Vec<_>>()
    };
    let gives = count(|m| m.from).into_iter().filter(|(_, n)| *n > 1);
    let takes = count(|m| m.to).into_iter().filter(|(_, n)| *n > 2);
    gives
        .map(|(id, n)| format!("group {id} gives slots in {n} migrations, one after the other"))
        .chain(takes.map(|(id, n)| format!("group {id} takes slots in {n} migrations, two at a time")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a_move(from: u32, to: u32) -> SlotMove {
        SlotMove { from: GroupId(from), to: GroupId(to), slots: BTreeSet::from([SlotId(1), SlotId(2), SlotId(7)]) }
    }

    #[test]
    fn loads_are_read_from_info() {
        let info = Info::parse("used_memory_dataset:77\r\ninstantaneous_ops_per_sec:5\r\ndb0:keys=3\r\ndb2:keys=4\r\n");
        assert_eq!(load_of_info(&info, RebalanceBy::Keys), Some(7));
        assert_eq!(load_of_info(&info, RebalanceBy::Memory), Some(77));
        assert_eq!(load_of_info(&info, RebalanceBy::Ops), Some(5));
        assert_eq!(load_of_info(&Info::parse(""), RebalanceBy::Keys), Some(0));
        assert_eq!(load_of_info(&Info::parse(""), RebalanceBy::Memory), None);
    }

    #[test]
    fn migrations_of_one_group_wait_for_each_other() {
        assert_eq!(waiting_migrations(&[a_move(1, 2), a_move(3, 2)]), Vec::<String>::new());
        let texts = waiting_migrations(&[a_move(1, 2), a_move(1, 4), a_move(3, 4), a_move(5, 4)]);
        assert_eq!(texts.len(), 2, "{texts:?}");
        assert!(texts[0].starts_with("group 1 gives slots in 2"), "{texts:?}");
        assert!(texts[1].starts_with("group 4 takes slots in 3"), "{texts:?}");
    }

    #[test]
    fn loads_are_named_by_operators() {
        assert_eq!(RebalanceBy::parse(""), Ok(RebalanceBy::Slots));
        assert_eq!(RebalanceBy::parse("memory"), Ok(RebalanceBy::Memory));
        assert!(RebalanceBy::parse("size").is_err_and(|why| why.contains("slots, keys, memory and ops")));
    }
}
