//! The event of a change whose family writes none of its own. What has changed is in its facts; the text says the rest.

use std::{collections::BTreeSet, fmt::Display};

use super::{common, facts, subject::Subject};
use crate::model::{
    change::{BeginRemove, Change, FinishAssign, OpenHold, Release, StartAssign},
    event::EventKind,
    ids::{AssignmentId, GroupId, ProductId, SlotId},
    outcome::Outcome,
    slot::brief,
    state::{Cause, ClusterState},
};

/// What to record of a change.
pub(super) struct DefaultEvent {
    pub(super) kind: EventKind,
    pub(super) product: Option<ProductId>,
    /// What it happened to.
    pub(super) subject: String,
    pub(super) text: String,
}

/// A change that was made.
#[derive(Clone, Copy)]
pub(super) struct Made<'a> {
    pub(super) change: &'a Change,
    pub(super) outcome: &'a Outcome,
    pub(super) subject: &'a Subject,
    /// Whether the subject existed before.
    pub(super) existed: bool,
}

impl DefaultEvent {
    /// `None`: the family writes one, or this effect of the change needs none. `state`: after the change.
    pub(super) fn of(made: Made<'_>, state: &ClusterState) -> Option<Self> {
        use EventKind as Kind;
        let Made { change, outcome, subject, existed } = made;
        Some(match change {
            Change::Bootstrap(c) => {
                of_cluster(Kind::Bootstrapped, format!("the cluster is formed; product 'default' has port {}", c.port))
            }
            Change::AddMember(c) if existed => of_node(Kind::NodeMoved, c.id, "it has another address"),
            Change::AddMember(c) => of_node(Kind::NodeJoined, c.id, "it is a member"),
            Change::Admit(c) if matches!(outcome, Outcome::Admitted(_)) => {
                of_node(Kind::NodeStarted, c.member.id, "its process was started and is admitted")
            }
            Change::Admit(c) => of_node(Kind::NodeMoved, c.member.id, "it has another address"),
            Change::BeginRemove(c) => of_node(Kind::NodeLeaving, c.node, leaving(c)),
            Change::FinishRemove(c) => of_node(Kind::NodeRemoved, c.node, "it is not a member any more"),
            Change::SetRole(c) => of_node(Kind::NodeSet, c.node, "another role is wanted"),
            Change::NoteMembership(_) => of_cluster(Kind::MembershipChanged, "Raft has other voters or learners"),
            Change::Recover(c) => {
                of_cluster(Kind::Recovered, format!("node {} was made a cluster of one by pontoon recover", c.keep))
            }
            Change::SetCluster(_) => of_cluster(Kind::ClusterSet, "settings"),
            Change::CreateProduct(_) => of_product(Kind::ProductCreated, created(outcome), subject, "created"),
            Change::SetProduct(c) => of_product(Kind::ProductSet, Some(c.product), subject, "settings"),
            Change::RemoveProduct(c) => of_product(Kind::ProductRemoved, Some(c.product), subject, "removed"),
            Change::CreateGroup(c) => of_group(Kind::GroupCreated, c.product, c.group, "created"),
            Change::AddServer(c) => of_group(Kind::ServerAdded, c.product, c.group, c.server.addr.as_str()),
            Change::RemoveServer(c) => of_group(Kind::ServerRemoved, c.product, c.group, c.addr.as_str()),
            Change::RemoveGroup(c) => of_group(Kind::GroupRemoved, c.product, c.group, "removed"),
            Change::SetGroup(c) => of_group(Kind::GroupSet, c.product, c.group, "settings"),
            Change::SetServer(c) => of_group(Kind::ServerSet, c.product, c.group, c.addr.as_str()),
            Change::SetDataUser(c) => {
                of_group(Kind::DataUserSet, c.product, c.group, "nodes carry out what clients ask for as another user")
            }
            Change::SetControlUser(c) => {
                of_group(Kind::ControlUserSet, c.product, c.group, "nodes log in at its servers with other credentials")
            }
            Change::ForgetFormer(c) => of_group(
                Kind::FormerPasswordRemoved,
                c.product,
                c.group,
                "no server accepts the former credentials any more",
            ),
            Change::AssignFree(c) => assigned(c.product, c.to, &c.slots),
            Change::StartAssign(c) => assignment_started(c, outcome, state),
            Change::FinishAssign(c) => return assignment_finished(c, subject, state),
            Change::GiveUpAssign(c) => {
                of_assignment(Kind::AssignmentGivenUp, product_of(subject), c.assignment, c.why.as_str())
            }
            Change::OpenHold(c) => return assignment_held(c, outcome, subject),
            Change::Release(c) => return assignment_released(c, subject, state),
            Change::Reinstate(c) => {
                let Outcome::Assignment(id) = *outcome else { return None };
                let text = format!("slots {} go back to group {}, which was ejected", slots_of(subject), c.group);
                of_assignment(Kind::AssignmentStarted, Some(c.product), id, text)
            }
            // Their families write an event. None has progress of a migration within a phase, and the first note of a
            // primary: they come often, and nobody decides anything by them.
            Change::PlanMigration(_)
            | Change::StartMigration(_)
            | Change::MigrationProgress(_)
            | Change::Switch(_)
            | Change::RestartMigration(_)
            | Change::CancelMigration(_)
            | Change::PauseMigration(_)
            | Change::ResumeMigration(_)
            | Change::SetMigration(_)
            | Change::StartRun(_)
            | Change::Cleaned(_)
            | Change::EndSweep(_)
            | Change::StartPromotion(_)
            | Change::FinishPromotion(_)
            | Change::GiveUpPromotion(_)
            | Change::NotePrimary(_)
            | Change::NoteReconciled(_)
            | Change::MarkResynced(_)
            | Change::Eject(_)
            | Change::NoteGroup(_)
            | Change::NoteNode(_)
            | Change::LoadScript(_)
            | Change::FlushScripts(_)
            | Change::LoadLibrary(_)
            | Change::DeleteLibraries(_) => return None,
        })
    }
}

fn of_cluster(kind: EventKind, text: impl Into<String>) -> DefaultEvent {
    DefaultEvent { kind, product: None, subject: "cluster".to_owned(), text: text.into() }
}

fn of_node(kind: EventKind, node: impl Display, text: impl Into<String>) -> DefaultEvent {
    DefaultEvent { kind, product: None, subject: format!("node {node}"), text: text.into() }
}

fn of_product(kind: EventKind, product: Option<ProductId>, subject: &Subject, text: &str) -> DefaultEvent {
    let name = if let Subject::Product(name) = subject { name.as_str() } else { "" };
    DefaultEvent { kind, product, subject: format!("product {name}"), text: text.to_owned() }
}

fn of_group(kind: EventKind, product: ProductId, group: GroupId, text: impl Into<String>) -> DefaultEvent {
    DefaultEvent { kind, product: Some(product), subject: common::subject(group), text: text.into() }
}

fn of_assignment(
    kind: EventKind,
    product: Option<ProductId>,
    id: AssignmentId,
    text: impl Into<String>,
) -> DefaultEvent {
    DefaultEvent { kind, product, subject: format!("assignment {id}"), text: text.into() }
}

const fn leaving(change: &BeginRemove) -> &'static str {
    if change.assume_dead {
        "it is removed at once: the operator vouches that it is dead"
    } else {
        "it is removed when it has provably stopped serving"
    }
}

const fn created(outcome: &Outcome) -> Option<ProductId> {
    if let Outcome::Product(id) = outcome { Some(*id) } else { None }
}

fn assigned(product: ProductId, to: GroupId, slots: &BTreeSet<SlotId>) -> DefaultEvent {
    of_group(EventKind::SlotsAssigned, product, to, format!("slots {} without an owner", brief(slots)))
}

fn assignment_started(change: &StartAssign, outcome: &Outcome, state: &ClusterState) -> DefaultEvent {
    let product = change.product;
    // The owners stay until the end of the assignment.
    let owners = state.products.get(&product).map(|p| facts::owners(p, &change.slots)).unwrap_or_default();
    let slots = format!("{} of {owners}", brief(&change.slots));
    let abandoned = if change.abandon { "; the keys that are in them are abandoned" } else { "" };
    match (outcome, change.to) {
        (Outcome::Assignment(id), Some(to)) => {
            let text = format!("slots {slots} to group {to}{abandoned}");
            of_assignment(EventKind::AssignmentStarted, Some(product), *id, text)
        }
        (Outcome::Assignment(id), None) => {
            let text = format!("slots {slots} are released{abandoned}");
            of_assignment(EventKind::AssignmentStarted, Some(product), *id, text)
        }
        // None of the slots had an owner.
        (_, to) => assigned(product, to.unwrap_or_default(), &change.slots),
    }
}

fn assignment_finished(change: &FinishAssign, subject: &Subject, state: &ClusterState) -> Option<DefaultEvent> {
    let Subject::Slots(product, slots) = subject else { return None };
    let first = slots.first().and_then(|slot| state.products.get(product)?.slots.get(usize::from(slot.0)));
    let text = format!("slots {}", brief(slots));
    Some(match first.and_then(|slot| slot.owner) {
        Some(to) => {
            let text = format!("{text} to group {to}");
            of_assignment(EventKind::SlotsAssigned, Some(*product), change.assignment, text)
        }
        None => of_assignment(EventKind::SlotsReleased, Some(*product), change.assignment, text),
    })
}

/// The families of migrations and promotions write the events of their holds.
fn assignment_held(change: &OpenHold, outcome: &Outcome, subject: &Subject) -> Option<DefaultEvent> {
    let (Cause::Assignment(id), Outcome::Held(hold)) = (change.cause, outcome) else { return None };
    let text = format!("hold {hold} (attempt {}): {}", change.attempt, change.reason);
    Some(of_assignment(EventKind::Held, product_of(subject), id, text))
}

fn assignment_released(change: &Release, subject: &Subject, state: &ClusterState) -> Option<DefaultEvent> {
    let Subject::Slots(product, slots) = subject else { return None };
    let open = state.assignments.values().find(|a| a.product == *product && a.slots == *slots)?;
    let text = format!("hold {}: {}", change.hold, change.why);
    Some(of_assignment(EventKind::Released, Some(*product), open.id, text))
}

const fn product_of(subject: &Subject) -> Option<ProductId> {
    if let Subject::Slots(product, _) = subject { Some(*product) } else { None }
}

fn slots_of(subject: &Subject) -> String {
    if let Subject::Slots(_, slots) = subject { brief(slots) } else { String::new() }
}
