//! Who is to follow whom: what differs, in each group, between the replication that nodes see and the one that the log wants,
//! and what is to be done about it. Only about servers of groups, nothing new in maintenance, never while a promotion is open.
//! Knows nothing of how it is done at a server.

use std::collections::BTreeSet;

use super::{
    failover::{choose, today},
    observation::{Look, Observation, RoleSeen},
};
use crate::model::{
    ids::{Epoch, GroupId, HostPort, NodeId, ProductId},
    route::Mode,
    state::{ClusterState, Group, Product, Server},
};

/// A link that has been down for so long, while its primary answers, is perhaps refused: milliseconds. Longer than a replica
/// takes to connect again (it tries every second).
const LINK_DOWN_MS: u64 = 2_000;

/// Something to do, in one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wire {
    /// In which product.
    pub product: ProductId,
    /// Of which group.
    pub group: GroupId,
    /// Epoch of the group when this was decided.
    pub epoch: Epoch,
    /// Which server.
    pub addr: HostPort,
    /// What.
    pub act: Act,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Make it follow the group's primary.
    Repoint {
        /// The primary.
        to: HostPort,
        /// What it does instead, for people.
        why: String,
    },
    /// Note in the log which process the primary is, and under which replication id it writes.
    Note {
        /// The id.
        replid: String,
        /// The process; empty: it does not tell.
        run_id: String,
        /// Keys that it has.
        keys: u64,
    },
    /// It follows its primary, which answers, and does not get through: give it the group's password again.
    Login,
    /// It seems to follow its primary again: look closely, and say so in the log.
    Resynced {
        /// The primary.
        of: HostPort,
        /// Under this replication id.
        replid: String,
    },
    /// It is the primary, and follows somebody whom it has never reached since it was started: make it one again.
    Lead {
        /// Of its process, which has the data that it was started with.
        run_id: String,
    },
    /// It was made the primary: let it keep that in its own configuration, once. Else it follows somebody again when it is
    /// started anew. A promotion does not do it: clients wait for that.
    Save {
        /// When it was: the log index of the entry that made it one.
        promoted: Epoch,
    },
}

/// Primaries of which the log remembers that they were promoted, and that answer: also in maintenance, since that belongs to
/// what was done then. Whoever acts on it knows which of them it has seen to.
fn to_save<'a>(state: &'a ClusterState, seen: &'a Observation) -> impl Iterator<Item = Wire> + 'a {
    let groups = state.products.values().flat_map(|p| p.groups.values().map(move |g| (p.id, g)));
    groups.filter_map(|(product, group)| {
        let primary = &group.servers.first()?.addr;
        let ended = state.ended_promotions.iter().rev();
        let mut ended = ended.filter(|e| (e.promotion.product, e.promotion.group) == (product, group.id));
        let last = ended.find(|e| e.failed.is_none()).filter(|e| e.promotion.to == *primary)?;
        let answers = today(seen, primary).is_some_and(|look| !look.loading);
        let promoted = state.promotion_of(product, group.id).is_some();
        let act = Act::Save { promoted: last.at };
        let wire = Wire { product, group: group.id, epoch: group.epoch, addr: primary.clone(), act };
        (answers && !promoted).then_some(wire)
    })
}

/// Primaries that are `astray` (see `plan::failover`), that no replica can replace, and whose data is what they were started
/// with: their link was never up since. They are then what a primary is that was started again, and nothing is lost by it that
/// was not lost before; while whoever they follow may come back any moment, and would overwrite it. Not where another server
/// of the group answers and has data that may be the better one (diverged data is not), nor where this one has none: then
/// an operator has to choose. `me`: the leader.
#[must_use]
pub fn to_lead(state: &ClusterState, seen: &Observation, astray: &BTreeSet<HostPort>, me: NodeId) -> Vec<Wire> {
    let groups = state.products.values().flat_map(|p| p.groups.values().map(move |g| (p.id, g)));
    let wire = |(product, group): (ProductId, &Group)| {
        let addr = &group.servers.first()?.addr;
        let quiet = state.settings.maintenance || group.options.maintenance;
        if quiet || !astray.contains(addr) || state.promotion_of(product, group.id).is_some() {
            return None;
        }
        let look = today(seen, addr).filter(|look| !look.loading)?;
        let own = matches!(look.role, RoleSeen::Replica { link_up: false, link_down_ms: u64::MAX, syncing: false, .. });
        let has_data =
            |server: &Server| !server.diverged && today(seen, &server.addr).is_some_and(|l| l.keys > 0 || l.loading);
        let best = look.keys > 0 && !group.servers.iter().skip(1).any(has_data);
        let act = Act::Lead { run_id: look.run_id.clone() };
        let wire = Wire { product, group: group.id, epoch: group.epoch, addr: addr.clone(), act };
        (own && best && !look.run_id.is_empty() && choose(group, seen, me).best().is_none()).then_some(wire)
    };
    groups.filter_map(wire).collect()
}

/// What is to be done, in all groups, and sentences about what is odd and is left to the operator.
#[must_use]
pub fn wiring(state: &ClusterState, seen: &Observation) -> (Vec<Wire>, Vec<String>) {
    let (mut wires, mut odd): (Vec<Wire>, _) = (to_save(state, seen).collect(), Vec::new());
    if state.settings.maintenance {
        return (wires, odd);
    }
    for product in state.products.values() {
        for group in product.groups.values().filter(|group| !group.options.maintenance) {
            let promoted = |(id, g): (ProductId, GroupId)| id == product.id && g == group.id;
            if !state.promotions.values().any(|p| promoted((p.product, p.group))) {
                wire_group(product, group, seen, &mut wires, &mut odd);
            }
        }
    }
    (wires, odd)
}

fn wire_group(product: &Product, group: &Group, seen: &Observation, wires: &mut Vec<Wire>, odd: &mut Vec<String>) {
    let Some((primary, replicas)) = group.servers.split_first() else { return };
    // Where the primary does not answer, a replica keeps what it has and goes on trying by itself.
    let Some(look) = today(seen, &primary.addr).filter(|look| !look.loading) else { return };
    let wire = |addr: &HostPort, act| Wire {
        product: product.id,
        group: group.id,
        epoch: group.epoch,
        addr: addr.clone(),
        act,
    };
    let name = format!("group {} of product '{}'", group.id, product.name);
    if let RoleSeen::Replica { of, .. } = &look.role {
        odd.push(format!(
            "{}, primary of {name}, is a replica of {of} and takes no writes; if its data is the right one, run REPLICAOF \
             NO ONE there, else promote another server (pontoon group promote)",
            primary.addr
        ));
        return;
    }
    let other = !look.run_id.is_empty() && look.run_id != group.run_id;
    if !look.replid.is_empty() && (other || look.replid != group.replid) {
        let (replid, run_id) = (look.replid.clone(), look.run_id.clone());
        wires.push(wire(&primary.addr, Act::Note { replid, run_id, keys: look.keys }));
    }
    let restarts = other && !group.run_id.is_empty();
    let began_with = if restarts { Some(look.keys) } else { group.restarted_with };
    let leads = Leads { addr: &primary.addr, look, began_with, cache: product.mode == Mode::Cache };
    let password = group.credentials.is_some();
    for server in replicas {
        let Some(theirs) = today(seen, &server.addr).filter(|look| !look.loading) else { continue };
        match replica(server, theirs, &leads, password, seen) {
            Ok(Some(act)) => wires.push(wire(&server.addr, act)),
            Ok(None) => {}
            Err(why) => odd.push(format!("{} of {name} {why}", server.addr)),
        }
    }
}

/// A group's primary that answers, as one.
struct Leads<'a> {
    addr: &'a HostPort,
    look: &'a Look,
    /// It restarted since it became the primary, and began with so many keys.
    began_with: Option<u64>,
    /// Its keys may be lost.
    cache: bool,
}

impl Leads<'_> {
    /// Whether a server that does not follow it was seen in step with what it writes now: then it has been overwritten already,
    /// and what it has is of it.
    fn was_followed_by(&self, addr: &HostPort, seen: &Observation) -> bool {
        let mut sights = seen.get(addr).into_iter().flat_map(|by_node| by_node.values());
        sights.any(|reported| {
            reported.sight.linked.as_ref().is_some_and(|l| l.to == *self.addr && l.replid == self.look.replid)
        })
    }

    /// Why a server with data of its own must not be made its replica, which deletes that: the rest of a sentence.
    ///
    /// A primary that lives on has what counts, and its old primary heals by itself. One that restarted may have come back
    /// with nothing, or little, and then that server's is the last copy. What clients have written since does not tell: so
    /// less than half of what that server has is too few to have begun with, however many they are by now.
    fn must_not_wipe(&self, server: &Server, theirs: &Look, seen: &Observation) -> Option<String> {
        let (keys, now) = (theirs.keys, self.look.keys);
        if keys == 0 || (self.cache && server.diverged) {
            return None;
        }
        let has = match self.began_with {
            _ if now == 0 => "has none".to_owned(),
            Some(began) if !self.cache && (now < keys || began <= keys / 2) => {
                if self.was_followed_by(&server.addr, seen) {
                    return None;
                }
                format!("restarted with {began} keys and has {now}")
            }
            Some(_) | None => return None,
        };
        Some(format!(
            "does not follow the primary {}, and has {keys} keys, while that {has}: it is not made a replica, since that would \
             delete them; if they are what is wanted, promote it (pontoon group promote --force), else delete them \
             (FLUSHALL there)",
            self.addr
        ))
    }
}

/// What is to be done at a replica; `Err`: left to the operator, the rest of a sentence.
fn replica(
    server: &Server,
    theirs: &Look,
    leads: &Leads<'_>,
    password: bool,
    seen: &Observation,
) -> Result<Option<Act>, String> {
    let repoint = |why: String, own: bool| match leads.must_not_wipe(server, theirs, seen).filter(|_| own) {
        Some(why_not) => Err(why_not),
        None => Ok(Some(Act::Repoint { to: leads.addr.clone(), why })),
    };
    match &theirs.role {
        RoleSeen::Primary { .. } => repoint("it is a primary".into(), true),
        RoleSeen::Replica { of, link_up, .. } if of != leads.addr => repoint(format!("it follows {of}"), !link_up),
        RoleSeen::Replica { link_up: false, link_down_ms, syncing: false, .. } => {
            Ok((password && *link_down_ms >= LINK_DOWN_MS).then_some(Act::Login))
        }
        RoleSeen::Replica { link_up, syncing, .. } => {
            let in_step = *link_up && !syncing && theirs.replid == leads.look.replid;
            let resynced = Act::Resynced { of: leads.addr.clone(), replid: leads.look.replid.clone() };
            Ok((server.diverged && in_step).then_some(resynced))
        }
    }
}
