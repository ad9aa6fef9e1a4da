//! The only function that changes a `ClusterState`. Reads no clock and no randomness: same log, same state.
//! Knows nothing of who proposes a change, and asks nobody: servers were asked before.
//!
//! Each family of changes has a file. In each function everything that can refuse stands above the first assignment,
//! so that a refusal leaves the state as it was (but for the record of the result itself).

mod assign;
mod describe;
mod ejection;
mod events;
mod group;
mod hold;
mod member;
mod migration;
mod noted;
mod product;
mod promotion;
mod run;
mod settings;
mod slot;

use std::collections::BTreeSet;

use super::{
    change::Change,
    fingerprint::fingerprint,
    ids::{Epoch, GroupId, ProductId, SlotId, Term, Uuid},
    limits::{CREDENTIAL_LEN_MAX, RESULTS_MAX, TEXT_LEN_MAX},
    outcome::Outcome,
    reject::{MigrationReject, Reject},
    secret::Credentials,
    state::{ClusterState, Entry, Group, Position, Product, Recorded},
};

/// Applies an entry of the log. Afterwards `state.applied` is its index, whatever came of it.
///
/// A change id that was seen before gets its first result again (`first_index` tells where), and nothing happens.
///
/// # Errors
/// Why nothing changed. A repeat of a refused change gets the same sentence as `Reject::First`.
pub fn apply(state: &mut ClusterState, entry: &Entry, at: Position) -> Result<Outcome, Reject> {
    if at.index <= state.applied {
        return Err(Reject::OldEntry { index: at.index, applied: state.applied });
    }
    state.applied = at.index;
    let fingerprint = fingerprint(&entry.change);
    if let Some(first) = state.results.get(&entry.id) {
        if first.fingerprint != fingerprint {
            return Err(Reject::ChangeIdReused { id: entry.id, first: first.index });
        }
        return first.outcome.clone();
    }
    let result = change(state, entry, at);
    record(state, entry.id, Recorded { index: at.index, fingerprint, outcome: as_recorded(&result) });
    result
}

/// Notes an entry that carries no change (a new leader's blank entry, a membership of Raft).
pub fn note_applied(state: &mut ClusterState, index: Epoch) {
    state.applied = state.applied.max(index);
}

/// Log index of the first entry under a change id, while it is remembered.
#[must_use]
pub fn first_index(state: &ClusterState, id: Uuid) -> Option<Epoch> {
    state.results.get(&id).map(|r| r.index)
}

/// What `change` would do, a sentence each; empty: nothing. `state` is not touched.
///
/// # Errors
/// Why it would be refused.
pub fn dry_run(state: &ClusterState, change: &Change) -> Result<Vec<String>, Reject> {
    let mut after = state.clone();
    let at = Position { index: Epoch(state.applied.0 + 1), term: verdict_term(change) };
    let entry = Entry { id: Uuid::default(), at_ms: 0, change: change.clone() };
    self::change(&mut after, &entry, at)?;
    Ok(describe::differences(state, &after))
}

fn change(state: &mut ClusterState, entry: &Entry, at: Position) -> Result<Outcome, Reject> {
    if let Change::Bootstrap { members, port } = &entry.change {
        return member::bootstrap(state, members, *port, at);
    }
    if state.members.is_empty() {
        return Err(Reject::NotBootstrapped);
    }
    let when = events::When { at, ms: entry.at_ms };
    match &entry.change {
        Change::Bootstrap { .. } => Err(Reject::AlreadyBootstrapped),
        Change::AddMember(new) => member::add(state, new),
        Change::Admit { member, start } => member::admit(state, member, *start, at),
        Change::BeginRemove { node, assume_dead } => member::begin_remove(state, *node, *assume_dead, at),
        Change::FinishRemove { node, uuid, term } => member::finish_remove(state, *node, *uuid, *term, at),
        Change::SetRole { node, role } => member::set_role(state, *node, *role),
        Change::Recover { keep } => member::recover(state, *keep),
        Change::CreateProduct(new) => product::create(state, new, at),
        Change::SetProduct { product, port, databases, auth, auto_rebalance, min_acks, min_acks_ms, reads } => {
            let (numbers, acks) = ((*port, *databases), (*min_acks, *min_acks_ms));
            product::set(state, *product, numbers, auth.as_ref(), *auto_rebalance, acks, *reads, at)
        }
        Change::RemoveProduct { product } => product::remove(state, *product, at),
        Change::CreateGroup { product, group, servers, credentials } => {
            group::create(state, *product, *group, servers, credentials.as_ref(), at)
        }
        Change::AddServer { product, group, server } => group::add_server(state, *product, *group, server, at),
        Change::RemoveServer { product, group, addr } => group::remove_server(state, *product, *group, addr, at),
        Change::RemoveGroup { product, group } => group::remove(state, *product, *group, at),
        Change::AssignFree { product, slots, to } => slot::assign_free(state, *product, slots, *to, at),
        Change::StartAssign { product, slots, to, abandon } => {
            assign::start(state, *product, slots, (*to, *abandon), at)
        }
        Change::Hold { cause, attempt, kind, reason } => hold::open(state, *cause, *attempt, *kind, reason, when),
        Change::Release { hold, why } => hold::release(state, *hold, why, when),
        Change::FinishAssign { assignment, hold, term, group_epochs } => {
            assign::finish(state, *assignment, *hold, *term, group_epochs, when)
        }
        Change::GiveUpAssign { assignment, why } => assign::give_up(state, *assignment, why, at),
        Change::SetCluster { voters, hold_ms_max, maintenance, failover_share_max } => {
            settings::set(state, (*voters, *hold_ms_max), (*maintenance, *failover_share_max), when)
        }
        Change::PlanMigration { product, slots, from, to, options } => {
            migration::plan(state, *product, slots, (*from, *to), *options, when)
        }
        Change::StartMigration { migration: id, attempt, node, feed, target, group_epochs, term } => {
            let (id, attempt, node, term) = (*id, *attempt, *node, *term);
            migration::start(state, &migration::StartCopy { id, attempt, node, feed, target, group_epochs, term }, when)
        }
        Change::MigrationProgress { migration: id, attempt, phase, counters, verified } => {
            migration::progress(state, (*id, *attempt), *phase, *counters, *verified, when)
        }
        Change::Switch { migration: id, attempt, hold, term, group_epochs, target_offset } => {
            migration::switch(state, (*id, *attempt, *hold), *term, group_epochs, target_offset.as_ref(), when)
        }
        Change::RestartMigration { migration: id, why } => migration::restart(state, *id, why, when),
        Change::CancelMigration { migration: id, why } => migration::cancel(state, *id, why, when),
        Change::PauseMigration { migration: id, why } => migration::pause(state, *id, why, when),
        Change::ResumeMigration { migration: id } => migration::resume(state, *id, when),
        Change::SetMigration { migration: id, keys_per_second, bytes_per_second, hold_ms_max } => {
            migration::set(state, *id, (*keys_per_second, *bytes_per_second, *hold_ms_max), when)
        }
        Change::StartRun { job, run, node, server, term } => {
            let (job, run, node, term) = (*job, *run, *node, *term);
            run::start(state, &run::StartRun { job, run, node, server, term }, when)
        }
        Change::Cleaned { job, run, term, deleted } => run::cleaned(state, *job, *run, *term, *deleted, when),
        Change::EndSweep { product, group, run, term, why } => {
            run::end_sweep(state, (*product, *group), *run, *term, why, when)
        }
        Change::StartPromotion { product, group, to, kind, group_epoch, required_offset, forced, why } => {
            let (product, group, kind, group_epoch) = (*product, *group, *kind, *group_epoch);
            let (required_offset, forced) = (required_offset.as_ref(), *forced);
            let new = promotion::StartPromotion { product, group, to, kind, group_epoch, required_offset, forced, why };
            promotion::start(state, &new, when)
        }
        Change::FinishPromotion { promotion: id, hold, term } => promotion::finish(state, *id, *hold, *term, when),
        Change::GiveUpPromotion { promotion: id, why, primary_back, forced } => {
            promotion::give_up(state, *id, why, (*primary_back, *forced), when)
        }
        Change::NotePrimary { product, group, epoch, replid } => {
            promotion::note_primary(state, (*product, *group), *epoch, replid, when)
        }
        Change::NoteProcess { product, group, epoch, replid, run_id, keys, keys_before } => {
            let (group, epoch, keys) = ((*product, *group), *epoch, (*keys, *keys_before));
            noted::process(state, group, epoch, &noted::Process { replid, run_id, keys }, when)
        }
        Change::NoteReconciled { product, group, addr, text } => {
            noted::reconciled(state, (*product, *group), addr, text, when)
        }
        Change::MarkResynced { product, group, addr, epoch } => {
            promotion::mark_resynced(state, (*product, *group), addr, *epoch, when)
        }
        Change::SetGroup { product, group, down_after_ms, maintenance, eject_after_ms } => {
            group::set(state, (*product, *group), (*down_after_ms, *eject_after_ms), *maintenance, when)
        }
        Change::Eject { product, group, group_epoch, to, why } => {
            let (product, group, group_epoch) = (*product, *group, *group_epoch);
            ejection::eject(state, &ejection::Eject { product, group, group_epoch, to, why }, when)
        }
        Change::Reinstate { product, group, ejection, group_epoch } => {
            ejection::give_back(state, (*product, *group), *ejection, *group_epoch, when)
        }
        Change::SetServer { product, group, addr, priority, zone } => {
            group::set_server(state, (*product, *group), addr, *priority, zone.as_deref())
        }
    }
}

/// The term in which a dry run pretends to stand: that of the verdict, where the change carries one.
fn verdict_term(change: &Change) -> Term {
    if let Change::FinishRemove { term, .. }
    | Change::FinishAssign { term, .. }
    | Change::FinishPromotion { term, .. } = change
    {
        *term
    } else {
        migration::verdict_term(change).unwrap_or_default()
    }
}

/// Refusals are kept as their sentence: it is all that a repeat needs, and no later version can read it differently.
fn as_recorded(result: &Result<Outcome, Reject>) -> Result<Outcome, Reject> {
    result.clone().map_err(|reject| Reject::First(clipped(&reject.to_string())))
}

fn record(state: &mut ClusterState, id: Uuid, recorded: Recorded) {
    state.results.insert(id, recorded);
    state.results_order.push_back(id);
    while state.results_order.len() > RESULTS_MAX {
        if let Some(oldest) = state.results_order.pop_front() {
            state.results.remove(&oldest);
        }
    }
}

// What the families share.

/// The state's routes changed at this entry.
fn routed(state: &mut ClusterState, at: Position) {
    state.route_epoch = at.index;
}

fn product(state: &ClusterState, id: ProductId) -> Result<&Product, Reject> {
    state.products.get(&id).ok_or(Reject::UnknownProduct)
}

/// For the part of a function where nothing can refuse any more: the caller has looked with `product` before.
fn product_mut(state: &mut ClusterState, id: ProductId) -> Result<&mut Product, Reject> {
    state.products.get_mut(&id).ok_or(Reject::UnknownProduct)
}

fn group(product: &Product, id: GroupId) -> Result<&Group, Reject> {
    product.groups.get(&id).ok_or_else(|| Reject::UnknownGroup { product: product.name.clone(), group: id })
}

/// Refuses an empty set, slots that the layout has not, and slots of an assignment or migration that has not ended.
fn slots_usable(state: &ClusterState, product: &Product, slots: &BTreeSet<SlotId>) -> Result<(), Reject> {
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

fn same_term(verdict: Term, at: Position) -> Result<(), Reject> {
    if verdict == at.term { Ok(()) } else { Err(Reject::OtherTerm { verdict, entry: at.term }) }
}

fn credentials_usable(credentials: &Credentials) -> Result<(), Reject> {
    let password = credentials.password.reveal();
    if password.is_empty() {
        return Err(Reject::BadCredentials("the password is empty"));
    }
    if password.len() > CREDENTIAL_LEN_MAX {
        return Err(Reject::BadCredentials("the password is longer than 512 bytes"));
    }
    let Some(user) = &credentials.username else { return Ok(()) };
    if user.is_empty() || user.len() > CREDENTIAL_LEN_MAX {
        return Err(Reject::BadCredentials("the user name has 1 to 512 bytes"));
    }
    if user.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(Reject::BadCredentials("the user name has white space in it"));
    }
    Ok(())
}

/// The sentence, cut at `TEXT_LEN_MAX` bytes: what people read must not fill the state.
fn clipped(text: &str) -> String {
    let mut end = text.len().min(TEXT_LEN_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}
