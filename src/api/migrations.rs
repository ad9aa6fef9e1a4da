//! Changes of migrations: start, cancel, pause, resume, set; and their list.
//! Knows nothing of how migrations proceed; that is for the leader's tasks.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tokio::task::JoinSet;
use tonic::{Request, Response, Status};

use super::{
    Api,
    call::MutationCall,
    change::{self, ChangeSummary, MutationHandler, forwardable},
    error::CallFailure,
    forward, migration_view,
    show::present,
    validate,
};
use crate::{
    clock::boottime_ns,
    control::{
        admission::migration::{self, MigrationRequest},
        leadership::view::LeaderView,
    },
    model::{
        apply,
        change::{CancelMigration, Change, PauseMigration, PlanMigration, ResumeMigration, SetMigration},
        ids::{Epoch, GroupId, MigrationId, ProductId, SlotId, Uuid},
        migration::{EndPhase, EndedMigration, MigrationOptions},
        outcome::Outcome,
        reject::Reject,
        slot::{brief, spans},
        state::{ClusterState, Product},
    },
    plan::rebalance::SlotMove,
    wire::pb::admin::{
        self, CancelMigrationRequest, ChangeReply, ListMigrationsReply, ListMigrationsRequest, PauseMigrationRequest,
        ResumeMigrationRequest, SetMigrationRequest, StartMigrationRequest,
    },
};

/// The recorded reason of a change that an operator made.
const BY_OPERATOR: &str = "an operator asked for it";
/// Sources whose servers are probed at the same time: enough that a large cluster fits into a call's deadline, few
/// enough that the load on their common target is negligible.
const ADMIT_AT_ONCE: usize = 8;

impl MutationHandler for StartMigrationRequest {
    forwardable!(start_migration);

    async fn perform(&self, api: &Api, call: &MutationCall) -> Result<ChangeReply, CallFailure> {
        let to = validate::group(self.to)?;
        let limits = validate::limits(self.limits)?;
        let options = MigrationOptions { verify: validate::verification(self.verification)?, wipe: self.wipe, limits };
        let state = api.state();
        let product = change::product(&state, &self.product).map_err(change::refused)?;
        let slots = validate::slots(&self.slots, product.layout)?;
        if !product.groups.contains_key(&to) {
            return Err(Reject::UnknownGroup { product: product.name.clone(), group: to }.into());
        }
        // A repeat finds the migrations that an earlier call under this id planned, and plans the rest.
        let pairs = product.groups.keys().map(|from| (*from, to));
        let earlier = if call.dry_run { Vec::new() } else { planned_before(&state, pairs, call)? };
        let owners = by_owner(product, &slots, to, &earlier_slots(&state, &earlier))?;
        let moves: Vec<SlotMove> = owners.into_iter().map(|(from, slots)| SlotMove { from, to, slots }).collect();
        if !self.force {
            moves.iter().try_for_each(|m| api.keeps_replicas(call, &plan(product, m, options)))?;
        }
        start(api, call, &state, product, moves, earlier, options).await
    }
}

/// Checks the servers, then plans a migration for each move. `earlier`: migrations that a call under this id has
/// planned.
pub(super) async fn start(
    api: &Api,
    call: &MutationCall,
    state: &Arc<ClusterState>,
    product: &Product,
    moves: Vec<SlotMove>,
    earlier: Vec<(Epoch, MigrationId)>,
    options: MigrationOptions,
) -> Result<ChangeReply, CallFailure> {
    let mut summary = ChangeSummary::default().about(&product.name);
    let mut started = earlier;
    let mut would = Vec::new();
    for m in &moves {
        would.extend(apply::dry_run(state, &plan(product, m, options))?);
    }
    // The log would accept all of them. The servers are checked before the first is planned.
    summary.warnings = admit_all(state, product.id, &moves, options, call).await?;
    if call.dry_run {
        let unchanged = moves.is_empty();
        let (done, moves) = (would, moves.iter().map(shown).collect());
        return Ok(ChangeReply { done, unchanged, moves, warnings: summary.warnings, ..ChangeReply::default() });
    }
    for m in &moves {
        let part = MutationCall { id: part_id(call.id, (m.from, m.to)), ..call.clone() };
        match api.propose(&part, plan(product, m, options)).await {
            Ok((index, Outcome::Migration(id))) => started.push((index, id)),
            Ok(_) => {}
            // The migrations that are already planned go on; a repeat under the same id plans the rest.
            Err(CallFailure::Refused(why)) if !started.is_empty() => {
                return Err(CallFailure::Stuck(format!(
                    "{} planned, but the slots of group {} were refused: {why}",
                    names(&started),
                    m.from
                )));
            }
            Err(failure) => return Err(failure),
        }
    }
    started.sort_unstable();
    started.dedup();
    let ids: Vec<MigrationId> = started.iter().map(|(_, id)| *id).collect();
    let made = moves_of(&api.state(), &ids);
    summary.done = made.iter().map(|(id, m)| describe(*id, m)).collect();
    if call.wait && !ids.is_empty() {
        match api.control.wait_migrations(&ids, call.deadline).await {
            Ok(Ok(())) => summary.done.push(format!("{} done", names(&started))),
            Ok(Err(why)) => return Err(CallFailure::Stuck(why)),
            Err(missing) => {
                return Err(CallFailure::Deadline(format!(
                    "not done at the deadline, it goes on: {missing}; `pontoon migrate watch` shows its progress"
                )));
            }
        }
    }
    let index = started.last().map_or(Epoch(0), |(index, _)| *index);
    let reply = api.conclude(call, index, ids.is_empty(), summary).await?;
    let moves = made.iter().map(|(_, m)| shown(m)).collect();
    Ok(ChangeReply { migrations: ids.iter().map(|id| id.0).collect(), moves, ..reply })
}

/// Checks all servers concerned, several sources at a time. Returns the warnings, each once.
async fn admit_all(
    state: &Arc<ClusterState>,
    product: ProductId,
    moves: &[SlotMove],
    options: MigrationOptions,
    call: &MutationCall,
) -> Result<Vec<String>, CallFailure> {
    let mut warnings = Vec::new();
    let mut asking = JoinSet::new();
    let mut left = moves.iter();
    loop {
        while asking.len() < ADMIT_AT_ONCE
            && let Some(SlotMove { from, to, slots }) = left.next().cloned()
        {
            let (state, deadline) = (state.clone(), call.deadline);
            asking.spawn(async move {
                let Some(product) = state.products.get(&product) else {
                    return Err(Reject::UnknownProduct.to_string());
                };
                migration::admit(MigrationRequest { product, from, to, slots: &slots, options }, deadline).await
            });
        }
        // On a failure the checks that still run are dropped together with the set.
        match asking.join_next().await {
            None => return Ok(warnings),
            Some(Ok(Ok(more))) => {
                let new: Vec<String> = more.into_iter().filter(|w| !warnings.contains(w)).collect();
                warnings.extend(new);
            }
            Some(Ok(Err(why))) => return Err(CallFailure::Refused(why)),
            Some(Err(broken)) => {
                return Err(CallFailure::Refused(format!("the servers could not be checked: {broken}")));
            }
        }
    }
}

fn plan(product: &Product, m: &SlotMove, options: MigrationOptions) -> Change {
    let SlotMove { from, to, slots } = m.clone();
    Change::PlanMigration(PlanMigration { product: product.id, slots, from, to, options })
}

/// A change id for each pair of groups of one call. Different pairs have different ids: an odd factor maps no two
/// numbers to the same one.
const fn part_id(call: Uuid, (from, to): (GroupId, GroupId)) -> Uuid {
    let pair = ((from.0 as u128) << 32) | to.0 as u128;
    Uuid(call.0 ^ pair.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835))
}

/// Migrations that an earlier call under this id has planned for these pairs (from, to).
pub(super) fn planned_before(
    state: &ClusterState,
    pairs: impl Iterator<Item = (GroupId, GroupId)>,
    call: &MutationCall,
) -> Result<Vec<(Epoch, MigrationId)>, CallFailure> {
    let mut planned = Vec::new();
    for pair in pairs {
        let Some(first) = state.results.get(&part_id(call.id, pair)) else { continue };
        if first.request_hash != call.request_hash {
            return Err(Reject::ChangeIdReused { id: call.id, first: first.index }.into());
        }
        match &first.outcome {
            Ok(Outcome::Migration(id)) => planned.push((first.index, *id)),
            Ok(_) => {}
            Err(why) => return Err(why.clone().into()),
        }
    }
    Ok(planned)
}

/// Slots of these migrations, open or ended.
fn earlier_slots(state: &ClusterState, planned: &[(Epoch, MigrationId)]) -> BTreeSet<SlotId> {
    let mut slots = BTreeSet::new();
    for (_, id) in planned {
        slots.extend(state.migrations.get(id).into_iter().flat_map(|m| &m.slots));
        slots.extend(state.ended_migrations.iter().filter(|e| e.id == *id).flat_map(|e| &e.slots));
    }
    slots
}

/// The slots that have to move, by owner.
fn by_owner(
    product: &Product,
    slots: &BTreeSet<SlotId>,
    to: GroupId,
    planned: &BTreeSet<SlotId>,
) -> Result<BTreeMap<GroupId, BTreeSet<SlotId>>, CallFailure> {
    let mut owners: BTreeMap<GroupId, BTreeSet<SlotId>> = BTreeMap::new();
    let mut free = BTreeSet::new();
    for slot in slots.difference(planned) {
        match product.slots.get(usize::from(slot.0)).and_then(|state| state.owner) {
            Some(owner) if owner == to => {}
            Some(owner) => {
                owners.entry(owner).or_default().insert(*slot);
            }
            None => {
                free.insert(*slot);
            }
        }
    }
    if free.is_empty() {
        return Ok(owners);
    }
    let (named, all) = (brief(&free), spans(&free));
    let typed = if named == all { all.replace(' ', "") } else { "SLOTS".into() };
    Err(CallFailure::Refused(format!(
        "slots {named} have no owner, so there is nothing to migrate; assign them: pontoon slot assign {typed} {to}"
    )))
}

/// "migrations 17, 18 are", "migration 17 is".
fn names(started: &[(Epoch, MigrationId)]) -> String {
    let ids: Vec<String> = started.iter().map(|(_, id)| id.to_string()).collect();
    let plural = if ids.len() == 1 { (" ", "is") } else { ("s ", "are") };
    format!("migration{}{} {}", plural.0, ids.join(", "), plural.1)
}

/// What each of these migrations moves, ascending by id.
fn moves_of(state: &ClusterState, ids: &[MigrationId]) -> Vec<(MigrationId, SlotMove)> {
    let open = ids.iter().filter_map(|id| state.migrations.get(id)).map(|m| (m.id, &m.slots, m.from, m.to));
    let ended = state.ended_migrations.iter().filter(|e| ids.contains(&e.id)).map(|e| (e.id, &e.slots, e.from, e.to));
    let all = open.chain(ended).map(|(id, slots, from, to)| (id, SlotMove { from, to, slots: slots.clone() }));
    let mut all: Vec<_> = all.collect();
    all.sort_unstable_by_key(|(id, _)| *id);
    all
}

fn describe(id: MigrationId, m: &SlotMove) -> String {
    format!("migration {id}: slots {} from group {} to group {}", brief(&m.slots), m.from, m.to)
}

/// A move as data.
pub(super) fn shown(m: &SlotMove) -> admin::SlotMove {
    let SlotMove { from, to, slots } = m;
    admin::SlotMove { from: from.0, to: to.0, slots: spans(slots), slot_count: slots.len() as u32 }
}

impl MutationHandler for CancelMigrationRequest {
    forwardable!(cancel_migration);

    async fn perform(&self, api: &Api, call: &MutationCall) -> Result<ChangeReply, CallFailure> {
        let migration = validate::migration(self.id)?;
        let cancelled = |ended: &EndedMigration| ended.id == migration && ended.end == EndPhase::Cancelled;
        if api.state().ended_migrations.iter().any(cancelled) && api.recorded(call)?.is_none() {
            return api.already(call, format!("migration {migration} is cancelled")).await;
        }
        let summary =
            ChangeSummary::of(format!("migration {migration} is cancelled; the copied keys are deleted at the target"));
        let reply = api
            .make(call, Change::CancelMigration(CancelMigration { migration, why: BY_OPERATOR.into() }), summary)
            .await?;
        if call.wait && !call.dry_run {
            api.control.wait_migration_over(migration, call.deadline).await?;
        }
        Ok(reply)
    }
}

impl MutationHandler for PauseMigrationRequest {
    forwardable!(pause_migration);

    async fn perform(&self, api: &Api, call: &MutationCall) -> Result<ChangeReply, CallFailure> {
        let migration = validate::migration(self.id)?;
        let summary = ChangeSummary::of(format!(
            "migration {migration} is paused; to resume it: pontoon migrate resume {migration}"
        ));
        api.make(call, Change::PauseMigration(PauseMigration { migration, why: BY_OPERATOR.into() }), summary).await
    }
}

impl MutationHandler for ResumeMigrationRequest {
    forwardable!(resume_migration);

    async fn perform(&self, api: &Api, call: &MutationCall) -> Result<ChangeReply, CallFailure> {
        let migration = validate::migration(self.id)?;
        let summary = ChangeSummary::of(format!("migration {migration} is resumed and starts from the beginning"));
        api.make(call, Change::ResumeMigration(ResumeMigration { migration }), summary).await
    }
}

impl MutationHandler for SetMigrationRequest {
    forwardable!(set_migration);

    async fn perform(&self, api: &Api, call: &MutationCall) -> Result<ChangeReply, CallFailure> {
        let migration = validate::migration(self.id)?;
        let (keys_per_second, bytes_per_second) = (self.keys_per_second, self.bytes_per_second);
        let hold_ms_max = self.hold_max_ms.map(validate::migration_hold_max_ms).transpose()?;
        if keys_per_second.is_none() && bytes_per_second.is_none() && hold_ms_max.is_none() {
            let text = "nothing to set; give keys-per-second=N, bytes-per-second=N or hold-max=250ms";
            return Err(CallFailure::Bad(text.into()));
        }
        let summary = ChangeSummary::of(format!("the limits of migration {migration} are changed"));
        let change = Change::SetMigration(SetMigration { migration, keys_per_second, bytes_per_second, hold_ms_max });
        api.make(call, change, summary).await
    }
}

impl Api {
    /// The migrations, with the movers' last reports, which only the leader has. If the leader cannot be asked, as the
    /// log has them.
    ///
    /// # Errors
    /// NOT_FOUND if a product is named that does not exist.
    pub async fn migrations(
        &self,
        request: Request<ListMigrationsRequest>,
    ) -> Result<Response<ListMigrationsReply>, Status> {
        let forwarded = forward::was_forwarded(&request);
        let wanted = request.into_inner();
        if !wanted.product.is_empty() {
            change::product(&self.state(), &wanted.product)?;
        }
        let ask = |mut client: forward::Client, asked| async move { client.list_migrations(asked).await };
        let not_asked = match self.answer_of_leader(forwarded, wanted.clone(), ask).await {
            Ok(reply) => return Ok(reply),
            Err(why) => why,
        };
        let (state, view): (_, Arc<LeaderView>) = (self.state(), self.control.view.borrow().clone());
        let mut migrations = migration_view::all(&state, &view, boottime_ns());
        migrations.retain(|m| wanted.product.is_empty() || m.product == wanted.product);
        migrations.retain(|m| wanted.ids.is_empty() || wanted.ids.contains(&m.id));
        Ok(Response::new(ListMigrationsReply { migrations, not_observed_because: present(&not_asked) }))
    }
}
