//! Random changes of migrations, runs and sweeps that have a chance of being accepted in the state they meet.

use std::collections::{BTreeMap, BTreeSet};

use pontoon::model::{
    change::{
        CancelMigration, Change, Cleaned, EndSweep, MigrationProgress, OpenHold, PauseMigration, PlanMigration,
        Release, RestartMigration, ResumeMigration, SetMigration, StartMigration, StartRun, Switch,
    },
    ids::{Epoch, GroupId, HostPort, MigrationId, NodeId, ProductId, SlotId, Term},
    migration::{Counters, Job, Limits, Migration, MigrationOptions, MigrationPhase, ProgressPhase, Verified, Verify},
    promotion::ReplicationOffset,
    route::HoldKind,
    state::{Cause, ClusterState, Group, Position},
};

use super::pick;

/// Number of kinds that `resolve` knows.
pub const KINDS: u8 = 30;

/// The numbers decide: mostly the next step of an open migration, sometimes a wrong change.
pub fn resolve(kind: u8, numbers: [u16; 6], state: &ClusterState, at: Position) -> Change {
    let [a, b, c, d, e, f] = numbers;
    let term = if f % 16 == 0 { Term(at.term.0 + 1) } else { at.term };
    let Some(m) = pick(state.migrations.values(), a).filter(|_| kind % KINDS > 3) else {
        return match kind % 2 {
            0 => plan(numbers, state),
            _ => sweep(numbers, state, term),
        };
    };
    let id = if e % 16 == 0 { MigrationId(m.id.0 + 1) } else { m.id };
    let why = "w".repeat(usize::from(b % 700));
    match kind % KINDS {
        4 => plan(numbers, state),
        5 => sweep(numbers, state, term),
        6 => Change::RestartMigration(RestartMigration { migration: id, why }),
        7 => Change::CancelMigration(CancelMigration { migration: id, why }),
        8 => Change::PauseMigration(PauseMigration { migration: id, why }),
        9 => Change::ResumeMigration(ResumeMigration { migration: id }),
        10 => Change::SetMigration(SetMigration {
            migration: id,
            keys_per_second: (b % 2 == 0).then_some(u64::from(c)),
            bytes_per_second: (d % 2 == 0).then_some(u64::from(c)),
            hold_ms_max: (c % 2 == 0).then_some(u32::from(d % 12_000)),
        }),
        11 => Change::Release(Release { hold: m.hold().unwrap_or_default(), why }),
        _ => next(m, id, numbers, state, term),
    }
}

/// The next change of a leader, sometimes with one wrong value.
fn next(m: &Migration, id: MigrationId, [_, b, c, d, e, _]: [u16; 6], state: &ClusterState, term: Term) -> Change {
    let wrong = |n: u16| u32::from(n.is_multiple_of(12));
    let (from, to) = (server(state, m.product, m.from), server(state, m.product, m.to));
    let mut group_epochs = epochs(state, m);
    if e % 12 == 1 {
        group_epochs.pop_last();
    }
    let node = pick(state.members.keys().copied(), b).unwrap_or(NodeId(7));
    let attempt = m.attempt + wrong(c);
    let run = m.runs + wrong(d);
    let cleaned = |deleted| Change::Cleaned(Cleaned { job: Job::Migration(id), run, term, deleted });
    match m.phase {
        MigrationPhase::Planned => {
            let (feed, target) = if d % 12 == 0 { (to, from) } else { (from, to) };
            Change::StartMigration(StartMigration {
                migration: id,
                attempt: attempt + 1,
                node,
                feed,
                target,
                group_epochs,
                term,
            })
        }
        MigrationPhase::CleaningTarget | MigrationPhase::Copying => Change::MigrationProgress(MigrationProgress {
            migration: id,
            attempt,
            phase: if b % 2 == 0 { ProgressPhase::Copying } else { ProgressPhase::CaughtUp },
            counters: Counters { keys: u64::from(c), bytes: u64::from(d), ..Counters::default() },
            verified: (d % 4 == 0).then_some(Verified { keys: u64::from(c), different: 0 }),
        }),
        MigrationPhase::CaughtUp => Change::OpenHold(OpenHold {
            cause: Cause::Migration(id),
            attempt,
            kind: if d % 12 == 0 { HoldKind::Abandon } else { HoldKind::Wait },
            reason: "test".to_owned(),
        }),
        MigrationPhase::Held(hold) => {
            let target_offset = ReplicationOffset { replid: "ab".repeat(usize::from(d % 40)), offset: b.into() };
            Change::Switch(Switch { migration: id, attempt, hold, term, group_epochs, target_offset })
        }
        MigrationPhase::Switched | MigrationPhase::Cancelling if m.run.is_some() && b % 8 != 0 => cleaned(u64::from(b)),
        MigrationPhase::Switched | MigrationPhase::Cancelling => {
            let right = if m.phase == MigrationPhase::Switched { from } else { to };
            Change::StartRun(StartRun { job: Job::Migration(id), run: run + 1, node, server: right, term })
        }
        MigrationPhase::Paused => Change::ResumeMigration(ResumeMigration { migration: id }),
    }
}

/// Some slots of a group that owns some, mostly to another group of its product.
fn plan([a, b, c, d, e, f]: [u16; 6], state: &ClusterState) -> Change {
    let owners = state.products.values().flat_map(|p| p.groups.values().map(move |g| (p, g.id)));
    let owning = owners.filter(|(p, g)| p.slots.iter().any(|s| s.owner == Some(*g)));
    let Some((product, from)) = pick(owning, a) else {
        let slots = BTreeSet::from([SlotId(c)]);
        let (from, to) = (GroupId(1), GroupId(2));
        return Change::PlanMigration(PlanMigration { product: ProductId(1), slots, from, to, options: options(e, f) });
    };
    let owned: Vec<SlotId> =
        (0u16..).zip(&product.slots).filter(|(_, s)| s.owner == Some(from)).map(|(i, _)| SlotId(i)).collect();
    let first = usize::from(c) % owned.len();
    let mut slots: BTreeSet<SlotId> = owned[first..].iter().copied().take(1 + usize::from(d % 60)).collect();
    if e % 16 == 0 {
        slots.insert(SlotId(f));
    }
    let others = product.groups.keys().copied().filter(|g| *g != from || b % 16 == 0);
    let to = pick(others, b).unwrap_or(GroupId(1));
    Change::PlanMigration(PlanMigration { product: product.id, slots, from, to, options: options(e, f) })
}

fn options(e: u16, f: u16) -> MigrationOptions {
    let limits =
        Limits { keys_per_second: u64::from(e), bytes_per_second: u64::from(f), hold_ms_max: u32::from(e % 3) * 200 };
    MigrationOptions {
        verify: [Verify::None, Verify::Sample, Verify::Full][usize::from(f % 3)],
        wipe: e.is_multiple_of(5),
        limits,
    }
}

/// The next step of a sweep of a group, mostly one that has given away slots.
fn sweep([a, b, c, d, _, _]: [u16; 6], state: &ClusterState, term: Term) -> Change {
    let all = || state.products.values().flat_map(|p| p.groups.values().map(move |g| (p, g)));
    let worth = all().filter(|(_, g)| !g.given_away.is_empty() || b % 16 == 0);
    let Some((product, group)) = pick(worth, a) else {
        let (product, group) = (ProductId(1), GroupId(1));
        return Change::EndSweep(EndSweep { product, group, run: 1, term, why: String::new() });
    };
    let (product, group, open) = (product.id, group.id, group.sweep.as_ref());
    let job = Job::Sweep { product, group };
    let current = open.map_or(1, |s| s.run.run) + u32::from(c % 12 == 0);
    match d % 4 {
        0 if open.is_some() => {
            Change::EndSweep(EndSweep { product, group, run: current, term, why: "test".to_owned() })
        }
        1 if open.is_some() => Change::Cleaned(Cleaned { job, run: current, term, deleted: u64::from(c) }),
        _ => Change::StartRun(StartRun {
            job,
            run: state.next_run(job).unwrap_or(1) + u32::from(c % 12 == 0),
            node: pick(state.members.keys().copied(), b).unwrap_or(NodeId(7)),
            server: server(state, product, group),
            term,
        }),
    }
}

fn server(state: &ClusterState, product: ProductId, group: GroupId) -> HostPort {
    let group: Option<&Group> = state.products.get(&product).and_then(|p| p.groups.get(&group));
    group.map_or_else(|| HostPort::parse("127.0.0.1:1").unwrap(), |g| g.servers[0].addr.clone())
}

fn epochs(state: &ClusterState, m: &Migration) -> BTreeMap<GroupId, Epoch> {
    let groups = state.products.get(&m.product).map(|p| &p.groups);
    [m.from, m.to].into_iter().filter_map(|id| Some((id, groups?.get(&id)?.epoch))).collect()
}

/// Names of the phases, ends and kinds of runs in a state: a set of random logs must reach all of them.
pub fn shown(state: &ClusterState) -> BTreeSet<String> {
    let mut seen: BTreeSet<String> = state.migrations.values().map(|m| m.phase.name().to_owned()).collect();
    seen.extend(state.ended_migrations.iter().map(|e| e.end.name().to_owned()));
    let runs = state.migrations.values().filter_map(|m| m.run.as_ref());
    let sweeps =
        state.products.values().flat_map(|p| p.groups.values()).filter_map(|g| g.sweep.as_ref().map(|s| &s.run));
    seen.extend(runs.chain(sweeps).map(|r| format!("{:?}", r.kind)));
    seen.extend(state.events.iter().map(|e| format!("event {}", e.kind.name())));
    if state.migrations.values().any(|m| m.attempt > 1) {
        seen.insert("second attempt".to_owned());
    }
    seen
}
