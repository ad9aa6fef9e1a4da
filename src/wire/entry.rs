//! Entries of the log to bytes and back: the durable format (proto/state.proto).
//! Knows nothing of indexes and terms, which the log keeps beside an entry.

use prost::Message;

use super::{
    convert::{
        DecodeError, LEVEL, LEVEL_FIRST, LEVEL_MIGRATIONS, LEVEL_PROMOTIONS, addr_from, bad, cause_from, cause_to,
        credentials_from, credentials_to, id_from, id_to, kind_from, kind_to, level, member_from, member_to,
        min_acks_from, need, product_from, product_to, role_from, role_to, server_from, server_is_new, server_to,
        slots_from, slots_to, u16_from,
    },
    ejection::{shares_from, shares_to},
    migration::{
        counters_from, counters_to, epochs_from, epochs_to, job_from, job_to, options_from, options_to, progress_from,
        progress_to, verified_from, verified_to,
    },
    pb::state as pb,
    promotion::{offset_from, offset_to, promotion_kind_from, promotion_kind_to},
    reads::{set_reads_from, set_reads_to},
};
use crate::model::{
    change::Change,
    ids::{AssignmentId, Epoch, GroupId, HoldId, MigrationId, NodeId, ProductId, PromotionId, Term},
    state::{Cause, Entry},
};

/// Bytes an entry may have. The largest real one, every second slot of 16384 named, has about 70 KB.
pub const ENTRY_LEN_MAX: usize = 1 << 20;

/// The bytes of an entry. Equal entries give equal bytes.
#[must_use]
pub fn encode_entry(entry: &Entry) -> Vec<u8> {
    pb::Entry {
        id: id_to(entry.id),
        at_ms: entry.at_ms,
        level: level_of(&entry.change),
        change: Some(pb::Change { kind: Some(change_to(&entry.change)) }),
    }
    .encode_to_vec()
}

/// The entry that `bytes` are.
///
/// # Errors
/// `TooNew` when a later version wrote it (also: an unknown kind of change), else what is wrong with it.
pub fn decode_entry(bytes: &[u8]) -> Result<Entry, DecodeError> {
    if bytes.len() > ENTRY_LEN_MAX {
        return Err(DecodeError::TooLong { what: "an entry", len: bytes.len(), max: ENTRY_LEN_MAX });
    }
    let entry = pb::Entry::decode(bytes).map_err(|e| DecodeError::Damaged(e.to_string()))?;
    level(entry.level)?;
    // A kind this program does not know is dropped by the decoder: then no kind is left. A writer that makes such
    // an entry says a higher level, so this is one that forgot to.
    let Some(kind) = need(entry.change, "the change of an entry")?.kind else {
        return Err(DecodeError::TooNew { needs: LEVEL + 1 });
    };
    Ok(Entry { id: id_from(entry.id, "a change id")?, at_ms: entry.at_ms, change: change_from(kind)? })
}

/// The level a node needs for this change: what was there before migrations is written as it always was.
fn level_of(change: &Change) -> u32 {
    match change {
        Change::StartPromotion { .. }
        | Change::FinishPromotion { .. }
        | Change::GiveUpPromotion { .. }
        | Change::NotePrimary { .. }
        | Change::NoteProcess { .. }
        | Change::NoteReconciled { .. }
        | Change::MarkResynced { .. }
        | Change::SetGroup { .. }
        | Change::SetServer { .. }
        | Change::Eject { .. }
        | Change::Reinstate { .. }
        | Change::SetProduct { min_acks: Some(_), .. }
        | Change::SetProduct { min_acks_ms: Some(_), .. }
        | Change::SetCluster { maintenance: Some(_), .. }
        | Change::SetCluster { failover_share_max: Some(_), .. }
        | Change::Switch { target_offset: Some(_), .. }
        | Change::Hold { cause: Cause::Promotion(_), .. } => LEVEL_PROMOTIONS,
        Change::SetProduct { reads, .. } if reads.says_something() => LEVEL_PROMOTIONS,
        Change::CreateGroup { servers, .. } if servers.iter().any(server_is_new) => LEVEL_PROMOTIONS,
        Change::AddServer { server, .. } if server_is_new(server) => LEVEL_PROMOTIONS,
        Change::PlanMigration { .. }
        | Change::StartMigration { .. }
        | Change::MigrationProgress { .. }
        | Change::Switch { .. }
        | Change::RestartMigration { .. }
        | Change::CancelMigration { .. }
        | Change::PauseMigration { .. }
        | Change::ResumeMigration { .. }
        | Change::SetMigration { .. }
        | Change::StartRun { .. }
        | Change::Cleaned { .. }
        | Change::EndSweep { .. }
        | Change::SetProduct { auto_rebalance: Some(_), .. }
        | Change::StartAssign { abandon: true, .. }
        | Change::Hold { cause: Cause::Migration(_), .. } => LEVEL_MIGRATIONS,
        _ => LEVEL_FIRST,
    }
}

fn change_to(change: &Change) -> pb::change::Kind {
    use pb::change::Kind;
    match change {
        Change::Bootstrap { members, port } => {
            Kind::Bootstrap(pb::Bootstrap { members: members.iter().map(member_to).collect(), port: u32::from(*port) })
        }
        Change::AddMember(member) => Kind::AddMember(member_to(member)),
        Change::Admit { member, start } => {
            Kind::Admit(pb::Admit { member: Some(member_to(member)), start: id_to(*start) })
        }
        Change::BeginRemove { node, assume_dead } => {
            Kind::BeginRemove(pb::BeginRemove { node: node.0, assume_dead: *assume_dead })
        }
        Change::FinishRemove { node, uuid, term } => {
            Kind::FinishRemove(pb::FinishRemove { node: node.0, uuid: id_to(*uuid), term: term.0 })
        }
        Change::SetRole { node, role } => Kind::SetRole(pb::SetRole { node: node.0, role: role_to(*role) }),
        Change::Recover { keep } => Kind::Recover(pb::Recover { keep: keep.0 }),
        Change::CreateProduct(product) => Kind::CreateProduct(product_to(product)),
        Change::SetProduct { product, port, databases, auth, auto_rebalance, min_acks, min_acks_ms, reads } => {
            Kind::SetProduct(pb::SetProduct {
                product: product.0,
                port: port.map(u32::from),
                databases: *databases,
                auth: auth.as_ref().map(|a| pb::SetAuth { credentials: a.as_ref().map(credentials_to) }),
                auto_rebalance: *auto_rebalance,
                min_acks: min_acks.map(u32::from),
                min_acks_ms: *min_acks_ms,
                reads: set_reads_to(*reads),
            })
        }
        Change::RemoveProduct { product } => Kind::RemoveProduct(pb::RemoveProduct { product: product.0 }),
        Change::CreateGroup { product, group, servers, credentials } => Kind::CreateGroup(pb::CreateGroup {
            product: product.0,
            group: group.0,
            servers: servers.iter().map(server_to).collect(),
            credentials: credentials.as_ref().map(credentials_to),
        }),
        Change::AddServer { product, group, server } => {
            Kind::AddServer(pb::AddServer { product: product.0, group: group.0, server: Some(server_to(server)) })
        }
        Change::RemoveServer { product, group, addr } => {
            Kind::RemoveServer(pb::RemoveServer { product: product.0, group: group.0, addr: addr.to_string() })
        }
        Change::RemoveGroup { product, group } => {
            Kind::RemoveGroup(pb::RemoveGroup { product: product.0, group: group.0 })
        }
        Change::AssignFree { product, slots, to } => {
            Kind::AssignFree(pb::Assign { product: product.0, slots: slots_to(slots), to: to.0, abandon: false })
        }
        Change::StartAssign { product, slots, to, abandon } => {
            let abandon = *abandon;
            Kind::StartAssign(pb::Assign { product: product.0, slots: slots_to(slots), to: to.0, abandon })
        }
        Change::Hold { cause, attempt, kind, reason } => Kind::Hold(pb::OpenHold {
            cause: cause_to(*cause),
            attempt: *attempt,
            kind: kind_to(*kind),
            reason: reason.clone(),
        }),
        Change::Release { hold, why } => Kind::Release(pb::Release { hold: hold.0, why: why.clone() }),
        Change::FinishAssign { assignment, hold, term, group_epochs } => Kind::FinishAssign(pb::FinishAssign {
            assignment: assignment.0,
            hold: hold.0,
            term: term.0,
            group_epochs: epochs_to(group_epochs),
        }),
        Change::GiveUpAssign { assignment, why } => {
            Kind::GiveUpAssign(pb::GiveUpAssign { assignment: assignment.0, why: why.clone() })
        }
        Change::SetCluster { voters, hold_ms_max, maintenance, failover_share_max } => {
            Kind::SetCluster(pb::SetCluster {
                voters: voters.map(u32::from),
                hold_ms_max: *hold_ms_max,
                maintenance: *maintenance,
                failover_share_max: failover_share_max.map(u32::from),
            })
        }
        Change::PlanMigration { product, slots, from, to, options } => Kind::PlanMigration(pb::PlanMigration {
            product: product.0,
            slots: slots_to(slots),
            from: from.0,
            to: to.0,
            options: Some(options_to(options)),
        }),
        Change::StartMigration { migration, attempt, node, feed, target, group_epochs, term } => {
            Kind::StartMigration(pb::StartMigration {
                migration: migration.0,
                attempt: *attempt,
                node: node.0,
                feed: feed.to_string(),
                target: target.to_string(),
                group_epochs: epochs_to(group_epochs),
                term: term.0,
            })
        }
        Change::MigrationProgress { migration, attempt, phase, counters, verified } => {
            Kind::MigrationProgress(pb::MigrationProgress {
                migration: migration.0,
                attempt: *attempt,
                phase: progress_to(*phase),
                counters: Some(counters_to(counters)),
                verified: verified_to(*verified),
            })
        }
        Change::Switch { migration, attempt, hold, term, group_epochs, target_offset } => Kind::Switch(pb::Switch {
            migration: migration.0,
            attempt: *attempt,
            hold: hold.0,
            term: term.0,
            group_epochs: epochs_to(group_epochs),
            target_offset: offset_to(target_offset.as_ref()),
        }),
        Change::RestartMigration { migration, why } => Kind::RestartMigration(end_to(*migration, why)),
        Change::CancelMigration { migration, why } => Kind::CancelMigration(end_to(*migration, why)),
        Change::PauseMigration { migration, why } => Kind::PauseMigration(end_to(*migration, why)),
        Change::ResumeMigration { migration } => Kind::ResumeMigration(pb::ResumeMigration { migration: migration.0 }),
        Change::SetMigration { migration, keys_per_second, bytes_per_second, hold_ms_max } => {
            Kind::SetMigration(pb::SetMigration {
                migration: migration.0,
                keys_per_second: *keys_per_second,
                bytes_per_second: *bytes_per_second,
                hold_ms_max: *hold_ms_max,
            })
        }
        Change::StartRun { job, run, node, server, term } => Kind::StartRun(pb::StartRun {
            job: job_to(*job),
            run: *run,
            node: node.0,
            server: server.to_string(),
            term: term.0,
        }),
        Change::Cleaned { job, run, term, deleted } => {
            Kind::Cleaned(pb::Cleaned { job: job_to(*job), run: *run, term: term.0, deleted: *deleted })
        }
        Change::EndSweep { product, group, run, term, why } => Kind::EndSweep(pb::EndSweep {
            product: product.0,
            group: group.0,
            run: *run,
            term: term.0,
            why: why.clone(),
        }),
        Change::StartPromotion { product, group, to, kind, group_epoch, required_offset, forced, why } => {
            Kind::StartPromotion(pb::StartPromotion {
                product: product.0,
                group: group.0,
                to: to.to_string(),
                kind: promotion_kind_to(*kind),
                group_epoch: group_epoch.0,
                required_offset: offset_to(required_offset.as_ref()),
                forced: *forced,
                why: why.clone(),
            })
        }
        Change::FinishPromotion { promotion, hold, term } => {
            Kind::FinishPromotion(pb::FinishPromotion { promotion: promotion.0, hold: hold.0, term: term.0 })
        }
        Change::GiveUpPromotion { promotion, why, primary_back, forced } => {
            Kind::GiveUpPromotion(pb::GiveUpPromotion {
                promotion: promotion.0,
                why: why.clone(),
                primary_back: *primary_back,
                forced: *forced,
            })
        }
        Change::NotePrimary { product, group, epoch, replid } => Kind::NotePrimary(pb::NotePrimary {
            product: product.0,
            group: group.0,
            epoch: epoch.0,
            replid: replid.clone(),
        }),
        Change::NoteProcess { product, group, epoch, replid, run_id, keys, keys_before } => {
            Kind::NoteProcess(pb::NoteProcess {
                product: product.0,
                group: group.0,
                epoch: epoch.0,
                replid: replid.clone(),
                run_id: run_id.clone(),
                keys: *keys,
                keys_before: *keys_before,
            })
        }
        Change::NoteReconciled { product, group, addr, text } => Kind::NoteReconciled(pb::NoteReconciled {
            product: product.0,
            group: group.0,
            addr: addr.to_string(),
            text: text.clone(),
        }),
        Change::MarkResynced { product, group, addr, epoch } => Kind::MarkResynced(pb::MarkResynced {
            product: product.0,
            group: group.0,
            addr: addr.to_string(),
            epoch: epoch.0,
        }),
        Change::SetGroup { product, group, down_after_ms, maintenance, eject_after_ms } => {
            Kind::SetGroup(pb::SetGroup {
                product: product.0,
                group: group.0,
                down_after_ms: *down_after_ms,
                maintenance: *maintenance,
                eject_after_ms: *eject_after_ms,
            })
        }
        Change::Eject { product, group, group_epoch, to, why } => Kind::Eject(pb::Eject {
            product: product.0,
            group: group.0,
            group_epoch: group_epoch.0,
            to: shares_to(to),
            why: why.clone(),
        }),
        Change::Reinstate { product, group, ejection, group_epoch } => Kind::Reinstate(pb::Reinstate {
            product: product.0,
            group: group.0,
            ejection: ejection.0,
            group_epoch: group_epoch.0,
        }),
        Change::SetServer { product, group, addr, priority, zone } => Kind::SetServer(pb::SetServer {
            product: product.0,
            group: group.0,
            addr: addr.to_string(),
            priority: *priority,
            zone: zone.clone(),
        }),
    }
}

fn end_to(migration: MigrationId, why: &str) -> pb::StopMigration {
    pb::StopMigration { migration: migration.0, why: why.to_owned() }
}

fn change_from(kind: pb::change::Kind) -> Result<Change, DecodeError> {
    use pb::change::Kind;
    Ok(match kind {
        Kind::Bootstrap(c) => Change::Bootstrap {
            members: c.members.into_iter().map(member_from).collect::<Result<_, _>>()?,
            port: u16_from(c.port, "a port")?,
        },
        Kind::AddMember(member) => Change::AddMember(member_from(member)?),
        Kind::Admit(c) => Change::Admit {
            member: member_from(need(c.member, "the node of an admission")?)?,
            start: id_from(c.start, "the start of an admission")?,
        },
        Kind::BeginRemove(c) => Change::BeginRemove { node: NodeId(c.node), assume_dead: c.assume_dead },
        Kind::FinishRemove(c) => {
            Change::FinishRemove { node: NodeId(c.node), uuid: id_from(c.uuid, "a node's uuid")?, term: Term(c.term) }
        }
        Kind::SetRole(c) => Change::SetRole { node: NodeId(c.node), role: role_from(c.role)? },
        Kind::Recover(c) => Change::Recover { keep: NodeId(c.keep) },
        Kind::CreateProduct(product) => Change::CreateProduct(product_from(product)?),
        Kind::SetProduct(c) => Change::SetProduct {
            product: ProductId(c.product),
            port: c.port.map(|p| u16_from(p, "a port")).transpose()?,
            databases: c.databases,
            auth: c.auth.map(|a| a.credentials.map(credentials_from)),
            auto_rebalance: c.auto_rebalance,
            min_acks: c.min_acks.map(min_acks_from).transpose()?,
            min_acks_ms: c.min_acks_ms,
            reads: set_reads_from(c.reads)?,
        },
        Kind::RemoveProduct(c) => Change::RemoveProduct { product: ProductId(c.product) },
        Kind::CreateGroup(c) => Change::CreateGroup {
            product: ProductId(c.product),
            group: GroupId(c.group),
            servers: c.servers.into_iter().map(server_from).collect::<Result<_, _>>()?,
            credentials: c.credentials.map(credentials_from),
        },
        Kind::AddServer(c) => Change::AddServer {
            product: ProductId(c.product),
            group: GroupId(c.group),
            server: server_from(need(c.server, "a server")?)?,
        },
        Kind::RemoveServer(c) => {
            Change::RemoveServer { product: ProductId(c.product), group: GroupId(c.group), addr: addr_from(&c.addr)? }
        }
        Kind::RemoveGroup(c) => Change::RemoveGroup { product: ProductId(c.product), group: GroupId(c.group) },
        Kind::AssignFree(c) => {
            Change::AssignFree { product: ProductId(c.product), slots: slots_from(&c.slots)?, to: GroupId(c.to) }
        }
        Kind::StartAssign(c) => Change::StartAssign {
            product: ProductId(c.product),
            slots: slots_from(&c.slots)?,
            to: GroupId(c.to),
            abandon: c.abandon,
        },
        Kind::Hold(c) => {
            Change::Hold { cause: cause_from(c.cause)?, attempt: c.attempt, kind: kind_from(c.kind)?, reason: c.reason }
        }
        Kind::Release(c) => Change::Release { hold: HoldId(c.hold), why: c.why },
        Kind::FinishAssign(c) => Change::FinishAssign {
            assignment: AssignmentId(c.assignment),
            hold: HoldId(c.hold),
            term: Term(c.term),
            group_epochs: epochs_from(&c.group_epochs),
        },
        Kind::GiveUpAssign(c) => Change::GiveUpAssign { assignment: AssignmentId(c.assignment), why: c.why },
        Kind::SetCluster(c) => Change::SetCluster {
            voters: c.voters.map(|v| u8::try_from(v).or_else(|_| bad("the number of voters", v))).transpose()?,
            hold_ms_max: c.hold_ms_max,
            maintenance: c.maintenance,
            failover_share_max: c
                .failover_share_max
                .map(|percent| u8::try_from(percent).or_else(|_| bad("a share of primaries", percent)))
                .transpose()?,
        },
        Kind::PlanMigration(c) => Change::PlanMigration {
            product: ProductId(c.product),
            slots: slots_from(&c.slots)?,
            from: GroupId(c.from),
            to: GroupId(c.to),
            options: options_from(c.options)?,
        },
        Kind::StartMigration(c) => Change::StartMigration {
            migration: MigrationId(c.migration),
            attempt: c.attempt,
            node: NodeId(c.node),
            feed: addr_from(&c.feed)?,
            target: addr_from(&c.target)?,
            group_epochs: epochs_from(&c.group_epochs),
            term: Term(c.term),
        },
        Kind::MigrationProgress(c) => Change::MigrationProgress {
            migration: MigrationId(c.migration),
            attempt: c.attempt,
            phase: progress_from(c.phase)?,
            counters: counters_from(c.counters)?,
            verified: verified_from(c.verified),
        },
        Kind::Switch(c) => Change::Switch {
            migration: MigrationId(c.migration),
            attempt: c.attempt,
            hold: HoldId(c.hold),
            term: Term(c.term),
            group_epochs: epochs_from(&c.group_epochs),
            target_offset: offset_from(c.target_offset),
        },
        Kind::RestartMigration(c) => Change::RestartMigration { migration: MigrationId(c.migration), why: c.why },
        Kind::CancelMigration(c) => Change::CancelMigration { migration: MigrationId(c.migration), why: c.why },
        Kind::PauseMigration(c) => Change::PauseMigration { migration: MigrationId(c.migration), why: c.why },
        Kind::ResumeMigration(c) => Change::ResumeMigration { migration: MigrationId(c.migration) },
        Kind::SetMigration(c) => Change::SetMigration {
            migration: MigrationId(c.migration),
            keys_per_second: c.keys_per_second,
            bytes_per_second: c.bytes_per_second,
            hold_ms_max: c.hold_ms_max,
        },
        Kind::StartRun(c) => Change::StartRun {
            job: job_from(c.job)?,
            run: c.run,
            node: NodeId(c.node),
            server: addr_from(&c.server)?,
            term: Term(c.term),
        },
        Kind::Cleaned(c) => {
            Change::Cleaned { job: job_from(c.job)?, run: c.run, term: Term(c.term), deleted: c.deleted }
        }
        Kind::EndSweep(c) => Change::EndSweep {
            product: ProductId(c.product),
            group: GroupId(c.group),
            run: c.run,
            term: Term(c.term),
            why: c.why,
        },
        Kind::StartPromotion(c) => Change::StartPromotion {
            product: ProductId(c.product),
            group: GroupId(c.group),
            to: addr_from(&c.to)?,
            kind: promotion_kind_from(c.kind)?,
            group_epoch: Epoch(c.group_epoch),
            required_offset: offset_from(c.required_offset),
            forced: c.forced,
            why: c.why,
        },
        Kind::FinishPromotion(c) => {
            let (promotion, hold) = (PromotionId(c.promotion), HoldId(c.hold));
            Change::FinishPromotion { promotion, hold, term: Term(c.term) }
        }
        Kind::GiveUpPromotion(c) => Change::GiveUpPromotion {
            promotion: PromotionId(c.promotion),
            why: c.why,
            primary_back: c.primary_back,
            forced: c.forced,
        },
        Kind::NotePrimary(c) => Change::NotePrimary {
            product: ProductId(c.product),
            group: GroupId(c.group),
            epoch: Epoch(c.epoch),
            replid: c.replid,
        },
        Kind::NoteProcess(c) => Change::NoteProcess {
            product: ProductId(c.product),
            group: GroupId(c.group),
            epoch: Epoch(c.epoch),
            replid: c.replid,
            run_id: c.run_id,
            keys: c.keys,
            keys_before: c.keys_before,
        },
        Kind::NoteReconciled(c) => Change::NoteReconciled {
            product: ProductId(c.product),
            group: GroupId(c.group),
            addr: addr_from(&c.addr)?,
            text: c.text,
        },
        Kind::MarkResynced(c) => Change::MarkResynced {
            product: ProductId(c.product),
            group: GroupId(c.group),
            addr: addr_from(&c.addr)?,
            epoch: Epoch(c.epoch),
        },
        Kind::SetGroup(c) => Change::SetGroup {
            product: ProductId(c.product),
            group: GroupId(c.group),
            down_after_ms: c.down_after_ms,
            maintenance: c.maintenance,
            eject_after_ms: c.eject_after_ms,
        },
        Kind::Eject(c) => Change::Eject {
            product: ProductId(c.product),
            group: GroupId(c.group),
            group_epoch: Epoch(c.group_epoch),
            to: shares_from(c.to)?,
            why: c.why,
        },
        Kind::Reinstate(c) => Change::Reinstate {
            product: ProductId(c.product),
            group: GroupId(c.group),
            ejection: Epoch(c.ejection),
            group_epoch: Epoch(c.group_epoch),
        },
        Kind::SetServer(c) => Change::SetServer {
            product: ProductId(c.product),
            group: GroupId(c.group),
            addr: addr_from(&c.addr)?,
            priority: c.priority,
            zone: c.zone,
        },
    })
}
