//! Migrations, runs, sweeps and events to messages and back: parts of entries and of the state.

use std::collections::BTreeMap;

use super::{
    convert::{DecodeError, addr_from, bad, need, slots_from, slots_to},
    pb::state as pb,
};
use crate::model::{
    event::{Event, EventKind, for_every_event_kind},
    ids::{Epoch, GroupId, HoldId, MigrationId, NodeId, ProductId, Term},
    migration::{
        Counters, EndPhase, EndedMigration, Job, Limits, Migration, MigrationOptions, MigrationPhase, ProgressPhase,
        Run, RunKind, Sweep, Verified, Verify,
    },
};

pub(super) fn options_to(o: &MigrationOptions) -> pb::MigrationOptions {
    pb::MigrationOptions {
        verify: match o.verify {
            Verify::None => pb::Verify::None,
            Verify::Sample => pb::Verify::Sample,
            Verify::Full => pb::Verify::Full,
        }
        .into(),
        wipe: o.wipe,
        keys_per_second: o.limits.keys_per_second,
        bytes_per_second: o.limits.bytes_per_second,
        hold_ms_max: o.limits.hold_ms_max,
    }
}

pub(super) fn options_from(o: Option<pb::MigrationOptions>) -> Result<MigrationOptions, DecodeError> {
    let o = need(o, "the options of a migration")?;
    Ok(MigrationOptions {
        verify: match o.verify() {
            pb::Verify::None => Verify::None,
            pb::Verify::Sample => Verify::Sample,
            pb::Verify::Full => Verify::Full,
            pb::Verify::Unspecified => return bad("what is compared", o.verify),
        },
        wipe: o.wipe,
        limits: Limits {
            keys_per_second: o.keys_per_second,
            bytes_per_second: o.bytes_per_second,
            hold_ms_max: o.hold_ms_max,
        },
    })
}

pub(super) const fn counters_to(c: &Counters) -> pb::Counters {
    let Counters { scanned, keys, bytes, refetched, deleted, cleaned, dirty } = *c;
    pb::Counters { scanned, keys, bytes, refetched, deleted, cleaned, dirty }
}

pub(super) fn counters_from(c: Option<pb::Counters>) -> Result<Counters, DecodeError> {
    let pb::Counters { scanned, keys, bytes, refetched, deleted, cleaned, dirty } =
        need(c, "the counters of a migration")?;
    Ok(Counters { scanned, keys, bytes, refetched, deleted, cleaned, dirty })
}

pub(super) fn verified_to(v: Option<Verified>) -> Option<pb::Verified> {
    v.map(|Verified { keys, different }| pb::Verified { keys, different })
}

pub(super) fn verified_from(v: Option<pb::Verified>) -> Option<Verified> {
    v.map(|pb::Verified { keys, different }| Verified { keys, different })
}

pub(super) fn progress_to(phase: ProgressPhase) -> i32 {
    match phase {
        ProgressPhase::Copying => pb::ProgressPhase::Copying,
        ProgressPhase::CaughtUp => pb::ProgressPhase::CaughtUp,
    }
    .into()
}

pub(super) fn progress_from(phase: i32) -> Result<ProgressPhase, DecodeError> {
    match pb::ProgressPhase::try_from(phase) {
        Ok(pb::ProgressPhase::Copying) => Ok(ProgressPhase::Copying),
        Ok(pb::ProgressPhase::CaughtUp) => Ok(ProgressPhase::CaughtUp),
        Ok(pb::ProgressPhase::Unspecified) | Err(_) => bad("the progress of a migration", phase),
    }
}

pub(super) fn job_to(job: Job) -> Option<pb::Job> {
    let kind = match job {
        Job::Migration(id) => pb::job::Kind::Migration(id.0),
        Job::Sweep { product, group } => pb::job::Kind::Sweep(pb::SweepOf { product: product.0, group: group.0 }),
    };
    Some(pb::Job { kind: Some(kind) })
}

pub(super) fn job_from(job: Option<pb::Job>) -> Result<Job, DecodeError> {
    Ok(match need(job.and_then(|j| j.kind), "the job of a run")? {
        pb::job::Kind::Migration(id) => Job::Migration(MigrationId(id)),
        pb::job::Kind::Sweep(of) => Job::Sweep { product: ProductId(of.product), group: GroupId(of.group) },
    })
}

pub(super) fn epochs_to(epochs: &BTreeMap<GroupId, Epoch>) -> Vec<pb::GroupEpoch> {
    epochs.iter().map(|(g, e)| pb::GroupEpoch { group: g.0, epoch: e.0 }).collect()
}

pub(super) fn epochs_from(epochs: &[pb::GroupEpoch]) -> BTreeMap<GroupId, Epoch> {
    epochs.iter().map(|g| (GroupId(g.group), Epoch(g.epoch))).collect()
}

fn run_to(r: &Run) -> pb::Run {
    pb::Run {
        run: r.run,
        kind: match r.kind {
            RunKind::Copy => pb::RunKind::Copy,
            RunKind::CleanSource => pb::RunKind::CleanSource,
            RunKind::WipeTarget => pb::RunKind::WipeTarget,
            RunKind::Sweep => pb::RunKind::Sweep,
        }
        .into(),
        node: r.node.0,
        feed: r.feed.as_ref().map(ToString::to_string),
        server: r.server.to_string(),
        group_epochs: epochs_to(&r.group_epochs),
        term: r.term.0,
        began: r.began.0,
    }
}

fn run_from(r: pb::Run) -> Result<Run, DecodeError> {
    Ok(Run {
        run: r.run,
        kind: match r.kind() {
            pb::RunKind::Copy => RunKind::Copy,
            pb::RunKind::CleanSource => RunKind::CleanSource,
            pb::RunKind::WipeTarget => RunKind::WipeTarget,
            pb::RunKind::Sweep => RunKind::Sweep,
            pb::RunKind::Unspecified => return bad("the kind of a run", r.kind),
        },
        node: NodeId(r.node),
        feed: r.feed.map(|addr| addr_from(&addr)).transpose()?,
        server: addr_from(&r.server)?,
        group_epochs: epochs_from(&r.group_epochs),
        term: Term(r.term),
        began: Epoch(r.began),
    })
}

pub(super) fn sweep_to(s: &Sweep) -> pb::Sweep {
    pb::Sweep { run: Some(run_to(&s.run)), slots: slots_to(&s.slots) }
}

pub(super) fn sweep_from(s: pb::Sweep) -> Result<Sweep, DecodeError> {
    Ok(Sweep { run: run_from(need(s.run, "the run of a sweep")?)?, slots: slots_from(&s.slots)? })
}

pub(super) fn migration_to(m: &Migration) -> pb::Migration {
    pb::Migration {
        id: m.id.0,
        product: m.product.0,
        slots: slots_to(&m.slots),
        from: m.from.0,
        to: m.to.0,
        options: Some(options_to(&m.options)),
        phase: match m.phase {
            MigrationPhase::Planned => pb::MigrationPhase::Planned,
            MigrationPhase::CleaningTarget => pb::MigrationPhase::CleaningTarget,
            MigrationPhase::Copying => pb::MigrationPhase::Copying,
            MigrationPhase::CaughtUp => pb::MigrationPhase::CaughtUp,
            MigrationPhase::Held(_) => pb::MigrationPhase::Held,
            MigrationPhase::Switched => pb::MigrationPhase::Switched,
            MigrationPhase::Cancelling => pb::MigrationPhase::Cancelling,
            MigrationPhase::Paused => pb::MigrationPhase::Paused,
        }
        .into(),
        hold: m.hold().map_or(0, |hold| hold.0),
        attempt: m.attempt,
        runs: m.runs,
        run: m.run.as_ref().map(run_to),
        staged: m.staged,
        releases: m.releases,
        counters: Some(counters_to(&m.counters)),
        verified: verified_to(m.verified),
        why: m.why.clone(),
        planned_ms: m.planned_ms,
        changed_ms: m.changed_ms,
    }
}

pub(super) fn migration_from(m: pb::Migration) -> Result<Migration, DecodeError> {
    let phase = match m.phase() {
        pb::MigrationPhase::Planned => MigrationPhase::Planned,
        pb::MigrationPhase::CleaningTarget => MigrationPhase::CleaningTarget,
        pb::MigrationPhase::Copying => MigrationPhase::Copying,
        pb::MigrationPhase::CaughtUp => MigrationPhase::CaughtUp,
        pb::MigrationPhase::Held => MigrationPhase::Held(HoldId(m.hold)),
        pb::MigrationPhase::Switched => MigrationPhase::Switched,
        pb::MigrationPhase::Cancelling => MigrationPhase::Cancelling,
        pb::MigrationPhase::Paused => MigrationPhase::Paused,
        pb::MigrationPhase::Unspecified => return bad("the phase of a migration", m.phase),
    };
    Ok(Migration {
        id: MigrationId(m.id),
        product: ProductId(m.product),
        slots: slots_from(&m.slots)?,
        from: GroupId(m.from),
        to: GroupId(m.to),
        options: options_from(m.options)?,
        phase,
        attempt: m.attempt,
        runs: m.runs,
        run: m.run.map(run_from).transpose()?,
        staged: m.staged,
        releases: m.releases,
        counters: counters_from(m.counters)?,
        verified: verified_from(m.verified),
        why: m.why,
        planned_ms: m.planned_ms,
        changed_ms: m.changed_ms,
    })
}

pub(super) fn ended_to(e: &EndedMigration) -> pb::EndedMigration {
    pb::EndedMigration {
        id: e.id.0,
        product: e.product.0,
        from: e.from.0,
        to: e.to.0,
        slots: slots_to(&e.slots),
        attempt: e.attempt,
        counters: Some(counters_to(&e.counters)),
        verified: verified_to(e.verified),
        end: match e.end {
            EndPhase::Done => pb::EndPhase::Done,
            EndPhase::Cancelled => pb::EndPhase::Cancelled,
        }
        .into(),
        why: e.why.clone(),
        planned_ms: e.planned_ms,
        ended_ms: e.ended_ms,
        at: e.at.0,
    }
}

pub(super) fn ended_from(e: pb::EndedMigration) -> Result<EndedMigration, DecodeError> {
    let end = match e.end() {
        pb::EndPhase::Done => EndPhase::Done,
        pb::EndPhase::Cancelled => EndPhase::Cancelled,
        pb::EndPhase::Unspecified => return bad("the end of a migration", e.end),
    };
    Ok(EndedMigration {
        id: MigrationId(e.id),
        product: ProductId(e.product),
        from: GroupId(e.from),
        to: GroupId(e.to),
        slots: slots_from(&e.slots)?,
        attempt: e.attempt,
        counters: counters_from(e.counters)?,
        verified: verified_from(e.verified),
        end,
        why: e.why,
        planned_ms: e.planned_ms,
        ended_ms: e.ended_ms,
        at: Epoch(e.at),
    })
}

pub(super) fn event_to(e: &Event) -> pb::Event {
    pb::Event {
        index: e.index.0,
        at_ms: e.at_ms,
        kind: kind_to(e.kind).into(),
        product: e.product.map_or(0, |id| id.0),
        subject: e.subject.clone(),
        text: e.text.clone(),
        product_name: e.product_name.clone(),
        actor: e.actor.clone(),
        declared: e.declared.clone(),
        address: e.address.clone(),
        node: e.node.map_or(0, |id| id.0),
        before: e.before.clone(),
        after: e.after.clone(),
    }
}

pub(super) fn event_from(e: pb::Event) -> Result<Event, DecodeError> {
    let same = |kind: &EventKind| i32::from(kind_to(*kind)) == e.kind;
    let Some(kind) = EventKind::ALL.iter().copied().find(same) else { return bad("the kind of an event", e.kind) };
    Ok(Event {
        index: Epoch(e.index),
        at_ms: e.at_ms,
        kind,
        product: (e.product != 0).then_some(ProductId(e.product)),
        product_name: e.product_name,
        subject: e.subject,
        text: e.text,
        actor: e.actor,
        declared: e.declared,
        address: e.address,
        node: (e.node != 0).then_some(NodeId(e.node)),
        before: e.before,
        after: e.after,
    })
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal,)*) => {
        const fn kind_to(kind: EventKind) -> pb::EventKind {
            match kind {
                $(EventKind::$kind => pb::EventKind::$kind,)*
            }
        }
    };
}
for_every_event_kind!(kinds);
