//! Checks that several families of changes share.

use std::collections::BTreeSet;

use crate::model::{
    ids::{Epoch, GroupId, HostPort, NodeId, ProductId, SlotId, Term},
    limits::{CREDENTIAL_LEN_MAX, REPLID_LEN_MAX},
    reject::{EjectionReject, MigrationReject, PromotionReject, Reject},
    secret::Credentials,
    state::{ClusterState, Group, Position, Product},
};

/// Refuses an empty set, slots that the layout does not have, and slots of an open assignment or migration.
pub(super) fn slots_usable(state: &ClusterState, product: &Product, slots: &BTreeSet<SlotId>) -> Result<(), Reject> {
    let Some(highest) = slots.last() else { return Err(Reject::NoSlots) };
    if highest.0 >= product.layout.slots() {
        let last = SlotId(product.layout.slots() - 1);
        return Err(Reject::SlotRange { slot: *highest, product: product.name.clone(), last });
    }
    for open in state.assignments.values().filter(|a| a.product == product.id) {
        if let Some(slot) = slots.intersection(&open.slots).next() {
            return Err(Reject::SlotInAssignment { slot: *slot, assignment: open.id, to: open.to });
        }
    }
    for open in state.migrations.values().filter(|m| m.product == product.id) {
        if let Some(slot) = slots.intersection(&open.slots).next() {
            let (slot, migration, from, to) = (*slot, open.id, open.from, open.to);
            return Err(MigrationReject::SlotMigrates { slot, migration, from, to }.into());
        }
    }
    Ok(())
}

pub(super) fn same_term(verdict: Term, at: Position) -> Result<(), Reject> {
    if verdict == at.term { Ok(()) } else { Err(Reject::OtherTerm { verdict, entry: at.term }) }
}

pub(super) fn credentials_usable(credentials: &Credentials) -> Result<(), Reject> {
    let password = credentials.password.reveal();
    if password.is_empty() {
        return Err(Reject::BadCredentials("the password is empty"));
    }
    if password.len() > CREDENTIAL_LEN_MAX {
        return Err(Reject::BadCredentials("the password is longer than 512 bytes"));
    }
    let Some(user) = &credentials.username else { return Ok(()) };
    if user.is_empty() || user.len() > CREDENTIAL_LEN_MAX {
        return Err(Reject::BadCredentials("the user name must have 1 to 512 bytes"));
    }
    if user.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(Reject::BadCredentials("the user name contains white space"));
    }
    Ok(())
}

/// Refuses while one of the groups is being promoted.
pub(super) fn no_promotion_open(
    state: &ClusterState,
    product: ProductId,
    groups: impl IntoIterator<Item = GroupId>,
) -> Result<(), Reject> {
    for group in groups {
        if let Some(open) = state.promotion_of(product, group) {
            let (promotion, to) = (open.id, open.to.clone());
            return Err(PromotionReject::GroupPromoted { group, promotion, to }.into());
        }
    }
    Ok(())
}

pub(super) fn same_epoch(group: &Group, given: Epoch) -> Result<(), Reject> {
    if group.epoch == given {
        return Ok(());
    }
    Err(Reject::GroupChanged { group: group.id, given, now: group.epoch })
}

/// Whether it is a replication id or run id: 1 to `REPLID_LEN_MAX` letters and digits.
pub(super) fn replid_allowed(replid: &str) -> bool {
    (1..=REPLID_LEN_MAX).contains(&replid.len()) && replid.bytes().all(|b| b.is_ascii_alphanumeric())
}

/// Refuses to give slots to an ejected group: it is flushed before it gets its own slots back.
pub(super) fn not_ejected(group: &Group) -> Result<(), Reject> {
    if group.ejection.is_some() { Err(EjectionReject::Ejected(group.id).into()) } else { Ok(()) }
}

/// Refuses while a sweep of the group is open: a late UNLINK could delete keys of slots that come to it.
pub(super) fn not_swept(to: &Group) -> Result<(), Reject> {
    if to.sweep.is_some() { Err(MigrationReject::SweepOpen(to.id).into()) } else { Ok(()) }
}

/// Refuses a node that is not a member or is being removed: no run may begin there.
pub(super) fn node_can_run(state: &ClusterState, node: NodeId) -> Result<(), Reject> {
    let member = state.members.get(&node).ok_or(Reject::UnknownNode(node))?;
    if member.leaving.is_some() { Err(Reject::NodeLeaving(node)) } else { Ok(()) }
}

pub(super) fn is_primary(group: &Group, addr: &HostPort) -> Result<(), Reject> {
    if group.servers.first().is_some_and(|s| s.addr == *addr) {
        return Ok(());
    }
    Err(not_server(addr, "the primary", group.id))
}

pub(super) fn not_server(addr: &HostPort, what: &'static str, group: GroupId) -> Reject {
    MigrationReject::NotServer { addr: addr.clone(), what, group }.into()
}
