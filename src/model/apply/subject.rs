//! What a change is about. It is looked up before the change is applied, since it may be gone afterwards.

use std::collections::BTreeSet;

use super::facts::{self, Facts};
use crate::model::{
    change::Change,
    ids::{AssignmentId, GroupId, HostPort, MigrationId, NodeId, ProductId, PromotionId, SlotId},
    migration::Job,
    ports::addr_key,
    script::ScriptDigest,
    state::{Cause, ClusterState, Group, Product},
};

/// What a change is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    /// Nothing that has facts.
    Nothing,
    /// The settings of the cluster.
    Settings,
    /// All members.
    Members,
    /// Raft's membership.
    Raft,
    /// A member.
    Member(NodeId),
    /// A product, by its name, which never changes.
    Product(String),
    /// A group: its servers and options.
    Group(ProductId, GroupId),
    /// The primary of a group.
    Primary(ProductId, GroupId),
    /// The slots of a group, and what it must delete.
    SlotsOf(ProductId, GroupId),
    /// A server of a group.
    Server(ProductId, GroupId, HostPort),
    /// Slots of a product.
    Slots(ProductId, BTreeSet<SlotId>),
    /// A migration.
    Migration(MigrationId),
    /// A script.
    Script(ProductId, ScriptDigest),
    /// All scripts of a product.
    Scripts(ProductId),
    /// A library of functions.
    Library(ProductId, String),
    /// All libraries of a product.
    Libraries(ProductId),
}

impl Subject {
    /// What `change` is about. `state`: before it.
    pub(super) fn of(change: &Change, state: &ClusterState) -> Self {
        match change {
            Change::Bootstrap(_) | Change::Recover(_) => Self::Members,
            Change::AddMember(c) => Self::Member(c.id),
            Change::Admit(c) => Self::Member(c.member.id),
            Change::BeginRemove(c) => Self::Member(c.node),
            Change::FinishRemove(c) => Self::Member(c.node),
            Change::SetRole(c) => Self::Member(c.node),
            Change::NoteMembership(_) => Self::Raft,
            Change::SetCluster(_) => Self::Settings,
            Change::CreateProduct(c) => Self::Product(c.name.clone()),
            Change::SetProduct(c) => named(state, c.product),
            Change::RemoveProduct(c) => named(state, c.product),
            Change::CreateGroup(c) => Self::Group(c.product, c.group),
            Change::AddServer(c) => Self::Group(c.product, c.group),
            Change::RemoveServer(c) => Self::Group(c.product, c.group),
            Change::RemoveGroup(c) => Self::Group(c.product, c.group),
            Change::SetGroup(c) => Self::Group(c.product, c.group),
            Change::SetDataUser(c) => Self::Group(c.product, c.group),
            Change::SetControlUser(c) => Self::Group(c.product, c.group),
            Change::ForgetFormer(c) => Self::Group(c.product, c.group),
            Change::SetServer(c) => Self::Server(c.product, c.group, c.addr.clone()),
            Change::AssignFree(c) => Self::Slots(c.product, c.slots.clone()),
            Change::StartAssign(c) => Self::Slots(c.product, c.slots.clone()),
            Change::PlanMigration(c) => Self::Slots(c.product, c.slots.clone()),
            Change::FinishAssign(c) => assigned(state, c.assignment),
            Change::GiveUpAssign(c) => assigned(state, c.assignment),
            Change::OpenHold(c) => held(state, c.cause),
            Change::Release(c) => state.holds.get(&c.hold).map_or(Self::Nothing, |hold| held(state, hold.cause)),
            Change::StartMigration(c) => Self::Migration(c.migration),
            Change::MigrationProgress(c) => Self::Migration(c.migration),
            Change::Switch(c) => Self::Migration(c.migration),
            Change::RestartMigration(c) => Self::Migration(c.migration),
            Change::CancelMigration(c) => Self::Migration(c.migration),
            Change::PauseMigration(c) => Self::Migration(c.migration),
            Change::ResumeMigration(c) => Self::Migration(c.migration),
            Change::SetMigration(c) => Self::Migration(c.migration),
            Change::StartRun(c) => worked_on(c.job),
            Change::Cleaned(c) => worked_on(c.job),
            Change::EndSweep(c) => Self::SlotsOf(c.product, c.group),
            Change::StartPromotion(c) => Self::Primary(c.product, c.group),
            Change::FinishPromotion(c) => promoted(state, c.promotion),
            Change::GiveUpPromotion(c) => promoted(state, c.promotion),
            Change::NotePrimary(c) => Self::Primary(c.product, c.group),
            Change::MarkResynced(c) => Self::Primary(c.product, c.group),
            Change::Eject(c) => Self::SlotsOf(c.product, c.group),
            Change::Reinstate(c) => ejected(state, c.product, c.group),
            Change::LoadScript(c) => Self::Script(c.product, ScriptDigest::of(&c.body)),
            Change::FlushScripts(c) => Self::Scripts(c.product),
            Change::LoadLibrary(c) => Self::Library(c.product, c.name.clone()),
            Change::DeleteLibraries(c) => Self::Libraries(c.product),
            Change::NoteReconciled(_) | Change::NoteGroup(_) | Change::NoteNode(_) => Self::Nothing,
        }
    }

    /// What it is like in `state`; empty if it does not exist there.
    pub(super) fn facts(&self, state: &ClusterState) -> Facts {
        let group = |product: &ProductId, id: &GroupId| -> Option<(&Product, &Group)> {
            let product = state.products.get(product)?;
            Some((product, product.groups.get(id)?))
        };
        let scripts = |product: &ProductId| state.products.get(product).map(|product| &*product.scripts);
        let facts = match self {
            Self::Nothing => None,
            Self::Settings => Some(facts::of_settings(&state.settings)),
            Self::Members => Some(facts::of_members(state)),
            Self::Raft => Some(facts::of_raft(&state.raft_membership)),
            Self::Member(id) => state.members.get(id).map(facts::of_member),
            Self::Product(name) => state.products.values().find(|p| p.name == *name).map(facts::of_product),
            Self::Group(product, id) => group(product, id).map(|(_, group)| facts::of_group(group)),
            Self::Primary(product, id) => group(product, id).map(|(p, group)| facts::of_primary(state, p, group)),
            Self::SlotsOf(product, id) => group(product, id).map(|(p, group)| facts::of_slots_of(p, group)),
            Self::Server(product, id, addr) => group(product, id)
                .and_then(|(_, group)| group.servers.iter().find(|server| addr_key(&server.addr) == addr_key(addr)))
                .map(facts::of_server),
            Self::Slots(product, slots) => state.products.get(product).map(|p| facts::of_slots(state, p, slots)),
            Self::Migration(id) => match state.migrations.get(id) {
                Some(open) => Some(facts::of_migration(state, open)),
                None => state.ended_migrations.iter().rev().find(|e| e.id == *id).map(facts::of_ended_migration),
            },
            Self::Script(product, digest) => {
                scripts(product).and_then(|all| all.scripts().get(digest)).map(facts::of_loaded)
            }
            Self::Scripts(product) => scripts(product).map(facts::of_scripts),
            Self::Library(product, name) => {
                scripts(product).and_then(|all| all.libraries().get(name)).map(facts::of_loaded)
            }
            Self::Libraries(product) => scripts(product).map(facts::of_libraries),
        };
        facts.unwrap_or_default()
    }
}

fn named(state: &ClusterState, id: ProductId) -> Subject {
    state.products.get(&id).map_or(Subject::Nothing, |product| Subject::Product(product.name.clone()))
}

fn assigned(state: &ClusterState, id: AssignmentId) -> Subject {
    state.assignments.get(&id).map_or(Subject::Nothing, |a| Subject::Slots(a.product, a.slots.clone()))
}

fn promoted(state: &ClusterState, id: PromotionId) -> Subject {
    state.promotions.get(&id).map_or(Subject::Nothing, |p| Subject::Primary(p.product, p.group))
}

fn held(state: &ClusterState, cause: Cause) -> Subject {
    match cause {
        Cause::Assignment(id) => assigned(state, id),
        Cause::Migration(id) => Subject::Migration(id),
        Cause::Promotion(id) => promoted(state, id),
    }
}

const fn worked_on(job: Job) -> Subject {
    match job {
        Job::Migration(id) => Subject::Migration(id),
        Job::Sweep { product, group } => Subject::SlotsOf(product, group),
    }
}

/// The slots that an ejected group gets back, or the group if there are none.
fn ejected(state: &ClusterState, product: ProductId, id: GroupId) -> Subject {
    let group = state.products.get(&product).and_then(|p| p.groups.get(&id));
    match group.and_then(|group| group.ejection.as_ref()).filter(|ejection| !ejection.slots.is_empty()) {
        Some(ejection) => Subject::Slots(product, ejection.slots.clone()),
        None => Subject::SlotsOf(product, id),
    }
}
