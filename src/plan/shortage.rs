//! Whether a change leaves clients of slots without the replicas that their product demands: for the confirmations of
//! `min-acks`, or for reads that never go to the primary. Knows nothing of which replicas are in sync.

use std::collections::BTreeSet;

use crate::model::{
    ids::{GroupId, SlotId},
    reads::ReadFrom,
    state::{ClusterState, Group, Product},
};

/// Groups that are named in a refusal. The rest is only counted.
const NAMED_MAX: usize = 10;

/// What the clients of a group's slots lack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Shortage {
    /// Slots that the group owns, or that move to it.
    slots: usize,
    /// Replicas that are missing for the confirmation of a write.
    confirmations: usize,
    /// No replica could serve reads, and nothing else may.
    reads: bool,
}

impl Shortage {
    fn of(state: &ClusterState, product: &Product, group: &Group) -> Self {
        let slots = slots(state, product, group.id).len();
        if slots == 0 {
            return Self::default();
        }
        let replicas = group.servers.len().saturating_sub(1);
        Self {
            slots,
            confirmations: usize::from(product.min_acks).saturating_sub(replicas),
            reads: product.reads.from == ReadFrom::Replica && replicas == 0,
        }
    }

    fn writes_worse_than(self, before: Self) -> bool {
        let more_slots = self.confirmations > 0 && self.slots > before.slots;
        self.confirmations > before.confirmations || more_slots
    }

    fn reads_worse_than(self, before: Self) -> bool {
        self.reads && (!before.reads || self.slots > before.slots)
    }
}

/// The slots that a group owns and those that come to it.
fn slots(state: &ClusterState, product: &Product, group: GroupId) -> BTreeSet<SlotId> {
    let owned = (0u16..).map(SlotId).zip(&product.slots).filter(|(_, slot)| slot.owner == Some(group));
    let migrations = state.migrations.values().filter(|m| (m.product, m.to) == (product.id, group)).map(|m| &m.slots);
    let assignments =
        state.assignments.values().filter(|a| (a.product, a.to) == (product.id, Some(group))).map(|a| &a.slots);
    owned.map(|(slot, _)| slot).chain(migrations.chain(assignments).flatten().copied()).collect()
}

/// Whether a group has the replicas that its product demands, so that it can take slots.
#[must_use]
pub fn can_take_slots(product: &Product, group: &Group) -> bool {
    let replicas = group.servers.len().saturating_sub(1);
    replicas >= usize::from(product.min_acks) && (product.reads.from != ReadFrom::Replica || replicas > 0)
}

/// Why a change of the state, from `before` to `after`, must be forced: it makes clients lack replicas, or more of them than
/// before. `None`: it need not be.
#[must_use]
pub fn objection(before: &ClusterState, after: &ClusterState) -> Option<String> {
    after.products.values().find_map(|product| {
        let worse = |by: fn(Shortage, Shortage) -> bool| -> Vec<String> {
            let is_worse = |group: &&Group| {
                let then = before.products.get(&product.id);
                let then = then.and_then(|then| Some(Shortage::of(before, then, then.groups.get(&group.id)?)));
                by(Shortage::of(after, product, group), then.unwrap_or_default())
            };
            product.groups.values().filter(is_worse).map(|group| group.id.to_string()).collect()
        };
        let (writes, reads) = (worse(Shortage::writes_worse_than), worse(Shortage::reads_worse_than));
        let name = &product.name;
        if !writes.is_empty() {
            return Some(format!(
                "group(s) {} of product '{name}' would have slots and fewer than {} replica(s) (min-acks): every write there \
                 would be answered -NOREPLICAS; add replicas first (pontoon group add-server), or --force",
                named(&writes),
                product.min_acks
            ));
        }
        (!reads.is_empty()).then(|| {
            format!(
                "group(s) {} of product '{name}' would have slots and no replica, and its reads go to replicas only \
                 (read-from=replica): all of them would be answered -TRYAGAIN; add replicas first (pontoon group add-server), or use \
                 read-from=prefer-replica, or --force",
                named(&reads)
            )
        })
    })
}

fn named(groups: &[String]) -> String {
    let more = groups.len().saturating_sub(NAMED_MAX);
    let rest = if more == 0 { String::new() } else { format!(" and {more} more") };
    format!("{}{rest}", groups[..groups.len() - more].join(", "))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::model::{
        apply::apply,
        change::{AssignFree, Bootstrap, Change, CreateGroup, NewMember},
        ids::{Epoch, HostPort, NodeId, ProductId, Term, Uuid},
        state::{Entry, Position, Server},
    };

    const SHOP: ProductId = ProductId(1);

    fn addr(host: u32, port: usize) -> HostPort {
        HostPort::parse(&format!("10.0.0.{host}:{port}")).unwrap()
    }

    /// Groups with these numbers of servers and of slots.
    fn state(groups: &[(usize, usize)], min_acks: u8, from: ReadFrom) -> ClusterState {
        let me = NewMember {
            id: NodeId(1),
            uuid: Uuid(1),
            admin: addr(99, 19101),
            advertise: "10.0.0.99".into(),
            port_offset: 0,
        };
        let mut changes = vec![Change::Bootstrap(Bootstrap { members: vec![me], port: 7000 })];
        let mut next = 0;
        for (id, (servers, slots)) in (1..).zip(groups) {
            let servers = (0..*servers).map(|n| Server::new(addr(id, 7000 + n), format!("run{id}{n}"), 0)).collect();
            let (product, group) = (SHOP, GroupId(id));
            changes.push(Change::CreateGroup(CreateGroup {
                product,
                group,
                servers,
                credentials: None,
                data_user: None,
            }));
            if *slots > 0 {
                let slots = (next..next + *slots as u16).map(SlotId).collect();
                changes.push(Change::AssignFree(AssignFree { product, slots, to: group }));
            }
            next += *slots as u16;
        }
        let mut state = ClusterState::default();
        for (index, change) in (1..).zip(changes) {
            let author = Default::default();
            let entry = Entry { id: Uuid(index.into()), request_hash: 0, at_ms: 1, author, change };
            apply(&mut state, &entry, Position { index: Epoch(index), term: Term(1) }).unwrap();
        }
        let product = state.products.get_mut(&SHOP).unwrap();
        product.min_acks = min_acks;
        product.reads.from = from;
        state
    }

    #[test]
    fn what_makes_clients_lack_replicas_must_be_forced() {
        use ReadFrom::{Primary, Replica};
        let check =
            |before: &ClusterState, after: &ClusterState, part: Option<&str>| match (objection(before, after), part) {
                (Some(why), Some(part)) => assert!(why.contains(part) && why.contains("--force"), "{why}"),
                (why, part) => assert_eq!(why.as_deref(), part),
            };
        let writes = |groups: &[(usize, usize)], min_acks| state(groups, min_acks, Primary);
        let (one, two) =
            (Some("group(s) 1 of"), Some("group(s) 2 of product 'default' would have slots and fewer than 1"));
        check(&writes(&[(2, 9)], 1), &writes(&[(1, 9)], 1), one);
        check(&writes(&[(2, 0)], 1), &writes(&[(1, 0)], 1), None);
        check(&writes(&[(2, 9), (1, 0)], 1), &writes(&[(2, 4), (1, 5)], 1), two);
        check(&writes(&[(2, 4), (1, 5)], 1), &writes(&[(2, 3), (1, 6)], 1), two);
        check(&writes(&[(2, 4), (1, 5)], 1), &writes(&[(2, 5), (1, 4)], 1), None);
        check(&writes(&[(2, 9)], 0), &writes(&[(2, 9)], 1), None);
        check(&writes(&[(2, 9), (1, 0)], 0), &writes(&[(2, 9), (1, 0)], 1), None);
        check(&writes(&[(2, 9)], 1), &writes(&[(2, 9)], 2), Some("fewer than 2 replica(s)"));
        check(&writes(&[(1, 9)], 2), &writes(&[(1, 9)], 1), None);
        check(&writes(&[(1, 9)], 0), &writes(&[(1, 10)], 0), None);
        let reads = |groups: &[(usize, usize)], from| state(groups, 0, from);
        check(&reads(&[(1, 9)], Primary), &reads(&[(1, 9)], Replica), Some("answered -TRYAGAIN"));
        check(
            &reads(&[(2, 9)], Replica),
            &reads(&[(1, 9)], Replica),
            Some("group(s) 1 of product 'default' would have slots and no"),
        );
        check(&reads(&[(1, 0)], Primary), &reads(&[(1, 0)], Replica), None);
        check(&reads(&[(1, 9)], Primary), &reads(&[(1, 9)], ReadFrom::PreferReplica), None);
        check(&reads(&[(1, 9)], Replica), &reads(&[(1, 9)], Primary), None);
    }
}
