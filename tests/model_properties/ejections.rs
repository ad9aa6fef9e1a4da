//! Random ejections of caches that have a chance of being accepted in the state they meet.

use std::collections::{BTreeMap, BTreeSet};

use pontoon::model::{
    change::{
        AssignFree, Change, CreateGroup, Eject, FinishAssign, NewProduct, OpenHold, Reinstate, SetGroup, SetImpaired,
    },
    ids::{Epoch, GroupId, HostPort, ProductId, SlotId, Term},
    route::{HoldKind, Isolated, Mode},
    slot::Layout,
    state::{Cause, ClusterState, Group, Keys, Product, Server},
};

use super::pick;

/// Mostly the ejection of a group of a cache or the reinstatement of an ejected one; sometimes a wrong change.
pub fn resolve([a, b, c, d, e, _]: [u16; 6], state: &ClusterState, term: Term) -> Change {
    if let Some(change) = next(state, term).filter(|_| e % 4 != 0) {
        return change;
    }
    let all = || state.products.values().flat_map(|p| p.groups.values().map(move |g| (p, g)));
    let caches = all().filter(|(p, _)| p.mode == Mode::Cache || d % 16 == 0);
    let Some((product, group)) = pick(caches, a).filter(|(p, _)| ready(p)) else { return prepare(state, a) };
    let group_epoch = Epoch(group.epoch.0 + u64::from(e % 16 == 0));
    match &group.ejection {
        Some(ejection) if b % 4 != 0 => Change::Reinstate(Reinstate {
            product: product.id,
            group: group.id,
            ejection: Epoch(ejection.id.0 + u64::from(c % 16 == 0)),
            group_epoch,
        }),
        Some(_) | None => {
            let to = shares(product, group, c);
            Change::Eject(Eject {
                product: product.id,
                group: group.id,
                group_epoch,
                to,
                why: "w".repeat(usize::from(d % 700)),
            })
        }
    }
}

/// The next step of an assignment that gives slots back.
fn next(state: &ClusterState, term: Term) -> Option<Change> {
    let open = state.assignments.values().find(|a| a.keys == Keys::Ejected)?;
    let cause = Cause::Assignment(open.id);
    let Some(hold) = state.holds.values().find(|h| h.cause == cause) else {
        let (attempt, reason) = (open.attempts + 1, "a test".to_owned());
        return Some(Change::OpenHold(OpenHold { cause, attempt, kind: HoldKind::Wait, reason }));
    };
    let group_epochs = state.products.get(&open.product)?.groups.values().map(|g| (g.id, g.epoch)).collect();
    Some(Change::FinishAssign(FinishAssign { assignment: open.id, hold: hold.id, term, group_epochs }))
}

/// There are groups to eject slots to, and slots to eject.
fn ready(product: &Product) -> bool {
    product.groups.len() > 2 && product.slots.iter().any(|s| s.owner.is_some())
}

/// A change that prepares that.
fn prepare(state: &ClusterState, n: u16) -> Change {
    let Some(product) = state.products.values().find(|p| p.mode == Mode::Cache) else {
        return Change::CreateProduct(NewProduct {
            name: "ejections".into(),
            port: 19_030,
            layout: Layout::Codis,
            mode: Mode::Cache,
            isolated: Isolated::Serve,
            databases: 16,
            auth: None,
        });
    };
    if product.groups.len() < 3 {
        let group = GroupId(1 + product.groups.keys().last().map_or(0, |last| last.0));
        // Other ones than the other changes use.
        let (port, run_id) = (19_300 + n % 500, format!("{:040x}", 1_000 + n % 500));
        let servers = vec![Server::new(HostPort::parse(&format!("127.0.0.1:{port}")).unwrap(), run_id, 0)];
        return Change::CreateGroup(CreateGroup {
            product: product.id,
            group,
            servers,
            credentials: None,
            data_user: None,
        });
    }
    let to = pick(product.groups.keys().copied(), n).unwrap_or(GroupId(1));
    Change::AssignFree(AssignFree { product: product.id, slots: (0..50 + n % 100).map(SlotId).collect(), to })
}

pub fn set(product: ProductId, group: GroupId, eject_after_ms: Option<u32>) -> Change {
    Change::SetGroup(SetGroup {
        product,
        group,
        down_after_ms: None,
        maintenance: None,
        eject_after_ms,
        impaired: SetImpaired::default(),
    })
}

/// All slots that it owns, in turn to the other groups; sometimes without one slot.
fn shares(product: &Product, ejected_group: &Group, c: u16) -> BTreeMap<GroupId, BTreeSet<SlotId>> {
    let others: Vec<GroupId> =
        product.groups.values().filter(|g| g.id != ejected_group.id && g.ejection.is_none()).map(|g| g.id).collect();
    let mut to: BTreeMap<GroupId, BTreeSet<SlotId>> = BTreeMap::new();
    for (n, slot) in product.owned(ejected_group.id).into_iter().enumerate().skip(usize::from(c.is_multiple_of(16))) {
        if let Some(other) = others.get(n * others.len() / 1024) {
            to.entry(*other).or_default().insert(slot);
        }
    }
    to
}
