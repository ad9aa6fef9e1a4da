//! What the groups of a product carry, asked of their primaries, and the moves that would rebalance it; and the loop that
//! makes these moves by itself where a product wants it.
//! Knows nothing of how slots move: moves become migrations, one proposal each.

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
        slot::spans,
        state::{ClusterState, Group, Product},
    },
    plan::rebalance::{GroupLoad, SlotMove, TOLERANCE_PERCENT, drain, rebalance},
    redis::{Client, Info},
};

/// How long one server may take to say what it carries.
const ASK_MAX: Duration = Duration::from_secs(3);
/// What a product that rebalances itself lets pass before it moves anything: twice what an operator's rebalance would leave
/// behind and more, so that it does not follow every wave.
pub const AUTO_TOLERANCE_PERCENT: u64 = 20;
/// Keys per group below which a product that rebalances itself counts slots instead: so few keys say nothing about load.
const KEYS_THAT_COUNT: u64 = 1_000;
/// How often a product that rebalances itself is probed at: groups change by hand, loads drift in minutes.
const POLL_INTERVAL: Duration = Duration::from_secs(10);
/// How long the servers of a move may take to say whether they allow it.
const ADMIT_MAX: Duration = Duration::from_secs(10);
/// A proposal that takes longer has lost its quorum; the next probe proposes it again.
const PROPOSE_WITHIN: Duration = Duration::from_secs(3);

/// What is to be rebalance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RebalanceBy {
    /// Number of slots.
    #[default]
    Slots,
    /// Number of keys.
    Keys,
    /// Bytes of data (`used_memory_dataset`).
    Memory,
    /// Commands a second, as the servers count them (`instantaneous_ops_per_sec`).
    Ops,
}

impl RebalanceBy {
    /// From what operators write.
    ///
    /// # Errors
    /// What can be written.
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

/// The moves that rebalance a product by `by`, where group g counts `weights[g]` (1 if it is not there).
///
/// # Errors
/// A sentence: a group that cannot be asked, a weight for a group that is not there, slots that nobody owns, migrations
/// that would have to end first.
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
            still(state, product)?;
            Some(loads(product, by).await?)
        }
    };
    nothing_ejected(product)?;
    Ok(rebalance(&carried(state, product, loads.as_ref(), weights), TOLERANCE_PERCENT))
}

/// A group that is out gets its slots back by itself; rebalanced meanwhile, they would stay elsewhere.
fn nothing_ejected(product: &Product) -> Result<(), String> {
    match product.groups.values().find(|group| group.ejection.is_some()) {
        None => Ok(()),
        Some(out) => Err(format!(
            "group {} of product '{}' is out and its slots are reinstates: start its primary again and wait until it has them back \
             (pontoon group show {}), or remove the group, and they stay where they are",
            out.id, product.name, out.id
        )),
    }
}

/// The moves that take every slot from `group`.
///
/// # Errors
/// When there is no such group, or none that could take its slots.
pub fn plan_drain(state: &ClusterState, product: &Product, group: GroupId) -> Result<Vec<SlotMove>, String> {
    if !product.groups.contains_key(&group) {
        return Err(format!("product '{}' has no group {group}; its groups: `pontoon group ls`", product.name));
    }
    nothing_ejected(product)?;
    let groups = carried(state, product, None, &BTreeMap::new());
    if groups.len() < 2 && groups.get(&group).is_some_and(|g| !g.slots.is_empty()) {
        return Err(format!(
            "product '{}' has no other group that could take the slots of group {group}",
            product.name
        ));
    }
    Ok(drain(&groups, group))
}

/// The moves that a product which rebalances itself makes now; none while anything of it moves.
///
/// # Errors
/// What cannot be asked.
pub async fn plan_auto(state: &ClusterState, product: &Product) -> Result<Vec<SlotMove>, String> {
    still(state, product)?;
    nothing_ejected(product)?;
    let keys = loads(product, RebalanceBy::Keys).await?;
    let enough = keys.values().sum::<u64>() >= KEYS_THAT_COUNT * product.groups.len() as u64;
    let loads = enough.then_some(&keys);
    Ok(rebalance(&carried(state, product, loads, &BTreeMap::new()), AUTO_TOLERANCE_PERCENT))
}

/// Refused while slots move: their keys are at both ends, and would be counted twice.
fn still(state: &ClusterState, product: &Product) -> Result<(), String> {
    let open: Vec<String> =
        state.migrations.values().filter(|m| m.product == product.id).map(|m| m.id.to_string()).collect();
    if open.is_empty() {
        return Ok(());
    }
    Err(format!(
        "migration {} has not ended, and what moves would be counted twice; wait for it (`pontoon migrate watch`), or \
         rebalance by slots",
        open.join(", ")
    ))
}

/// What each group carries. Slots on their way count where they go, and are left alone.
fn carried(
    state: &ClusterState,
    product: &Product,
    loads: Option<&BTreeMap<GroupId, u64>>,
    weights: &BTreeMap<GroupId, u32>,
) -> BTreeMap<GroupId, GroupLoad> {
    let moving = moving(state, product.id);
    let mut groups: BTreeMap<GroupId, GroupLoad> = product
        .groups
        .keys()
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

/// Where slots of the product are going.
fn moving(state: &ClusterState, product: ProductId) -> BTreeMap<SlotId, GroupId> {
    let migrations = state.migrations.values().filter(|m| m.product == product).map(|m| (&m.slots, m.to));
    let assignments = state.assignments.values().filter(|a| a.product == product).map(|a| (&a.slots, a.to));
    migrations.chain(assignments).flat_map(|(slots, to)| slots.iter().map(move |slot| (*slot, to))).collect()
}

/// Levels products that want it, for as long as this node leads; each probe is one plan and its proposals.
pub async fn by_itself(consensus: Consensus) {
    loop {
        tokio::time::sleep(POLL_INTERVAL).await;
        if !consensus.leadership().borrow().is_me {
            continue;
        }
        let state = consensus.state().borrow().clone();
        for product in state.products.values().filter(|p| p.auto_rebalance && p.groups.len() > 1) {
            match plan_auto(&state, product).await {
                Ok(moves) => propose(&consensus, product, moves).await,
                // It says so itself: `migrate ls` and `group ls` show what goes on.
                Err(why) => debug!(product = product.name, why, "not rebalanced now"),
            }
        }
    }
}

async fn propose(consensus: &Consensus, product: &Product, moves: Vec<SlotMove>) {
    for m in moves {
        let said = sentence(&m, product);
        let options = MigrationOptions::default();
        let wanted = MigrationRequest { product, from: m.from, to: m.to, slots: &m.slots, options };
        match migration::admit(wanted, Instant::now() + ADMIT_MAX).await {
            Ok(warnings) => warnings.iter().for_each(|warning| warn!(product = product.name, warning)),
            Err(why) => {
                warn!(product = product.name, said, why, "the groups are not rebalance, and the move is refused");
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
            Ok(Ok(_)) => info!(product = product.name, said, "rebalanced by itself"),
            Ok(Err(reject)) => debug!(product = product.name, %reject, "a move was refused"),
            Err(error) => {
                debug!(product = product.name, %error, "a move could not be proposed");
                return;
            }
        }
    }
}

/// Asks all primaries at once.
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
        loads.insert(id, answer.map_err(|why| format!("group {id} does not say what it carries: {why}"))?);
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
    of_info(&info, by).ok_or_else(|| format!("INFO {section} of {} has not the field that counts", primary.addr))
}

fn of_info(info: &Info, by: RebalanceBy) -> Option<u64> {
    match by {
        RebalanceBy::Slots => None,
        // A server without keys has an empty section.
        RebalanceBy::Keys => Some(info.keyspace().values().sum()),
        RebalanceBy::Memory => info.get("used_memory_dataset")?.parse().ok(),
        RebalanceBy::Ops => info.get("instantaneous_ops_per_sec")?.parse().ok(),
    }
}

/// A move as people read it.
#[must_use]
pub fn sentence(m: &SlotMove, product: &Product) -> String {
    let (slots, n) = (spans(&m.slots), m.slots.len());
    format!("slots {slots} ({n}) of product '{}' move from group {} to group {}", product.name, m.from, m.to)
}

/// The groups that give or take in more than one of the moves: their migrations wait for each other.
#[must_use]
pub fn waits(moves: &[SlotMove]) -> Vec<String> {
    let count = |of: fn(&SlotMove) -> GroupId| {
        let ids: BTreeSet<GroupId> = moves.iter().map(of).collect();
        ids.into_iter().map(move |id| (id, moves.iter().filter(|m| of(m) == id).count())).collect::<Vec<_>>()
    };
    let gives = count(|m| m.from).into_iter().filter(|(_, n)| *n > 1);
    let takes = count(|m| m.to).into_iter().filter(|(_, n)| *n > 2);
    gives
        .map(|(id, n)| format!("group {id} gives in {n} migrations, one after the other"))
        .chain(takes.map(|(id, n)| format!("group {id} takes in {n} migrations, two at a time")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a_move(from: u32, to: u32) -> SlotMove {
        SlotMove { from: GroupId(from), to: GroupId(to), slots: BTreeSet::from([SlotId(1), SlotId(2), SlotId(7)]) }
    }

    #[test]
    fn what_servers_say() {
        let info = Info::parse("used_memory_dataset:77\r\ninstantaneous_ops_per_sec:5\r\ndb0:keys=3\r\ndb2:keys=4\r\n");
        assert_eq!(of_info(&info, RebalanceBy::Keys), Some(7));
        assert_eq!(of_info(&info, RebalanceBy::Memory), Some(77));
        assert_eq!(of_info(&info, RebalanceBy::Ops), Some(5));
        assert_eq!(of_info(&Info::parse(""), RebalanceBy::Keys), Some(0));
        assert_eq!(of_info(&Info::parse(""), RebalanceBy::Memory), None);
    }

    #[test]
    fn migrations_of_one_group_wait_for_each_other() {
        assert_eq!(waits(&[a_move(1, 2), a_move(3, 2)]), Vec::<String>::new());
        let said = waits(&[a_move(1, 2), a_move(1, 4), a_move(3, 4), a_move(5, 4)]);
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said[0].starts_with("group 1 gives in 2") && said[1].starts_with("group 4 takes in 3"), "{said:?}");
    }

    #[test]
    fn what_can_be_levelled() {
        assert_eq!(RebalanceBy::parse(""), Ok(RebalanceBy::Slots));
        assert_eq!(RebalanceBy::parse("memory"), Ok(RebalanceBy::Memory));
        assert!(RebalanceBy::parse("size").is_err_and(|why| why.contains("slots, keys, memory and ops")));
    }
}
