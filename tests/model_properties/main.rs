//! Properties of every log: random sequences of changes against the model, its invariants and the durable format.
#![allow(clippy::unwrap_used)]

mod ejections;
mod events;
mod migrations;
mod promotions;
mod scripts;

use std::collections::{BTreeMap, BTreeSet};

use pontoon::{
    model::{
        apply::{apply, dry_run, first_index, note_applied},
        change::{
            AddServer, Admit, AssignFree, BeginRemove, Bootstrap, Change, CreateGroup, FinishAssign, FinishRemove,
            GiveUpAssign, NewMember, NewProduct, NodeNote, NoteMembership, NoteNode, OpenHold, Recover, Release,
            RemoveGroup, RemoveProduct, RemoveServer, SetAuth, SetCluster, SetProduct, SetRole, StartAssign,
        },
        check::check,
        client_rules::SetClientRules,
        event::EventKind,
        ids::{AssignmentId, Epoch, GroupId, HoldId, HostPort, NodeId, ProductId, SlotId, Term, Uuid},
        outcome::Outcome,
        reads::{ReadFrom, SetReads},
        redis_version::ToldVersion,
        reject::Reject,
        route::{HoldKind, Isolated, Mode, RouteTable},
        secret::{Credentials, Secret},
        slot::Layout,
        state::{Assignment, Cause, ClusterState, Entry, Position, RaftMembership, Role, Server},
    },
    wire::{
        entry::{decode_entry, encode_entry},
        snapshot::{decode_state, encode_state},
    },
};
use proptest::{prelude::*, strategy::ValueTree};

/// Random numbers that `resolve` turns into a change that has a chance of being accepted in the state it meets.
type Raw = (u8, [u16; 6]);

fn pick<T: Copy>(from: impl Iterator<Item = T>, n: u16) -> Option<T> {
    let all: Vec<T> = from.collect();
    if all.is_empty() { None } else { Some(all[usize::from(n) % all.len()]) }
}

fn member(n: u16, m: u16) -> NewMember {
    let id = 1 + u64::from(n % 5);
    // Mostly its own uuid and ports, sometimes those of another member.
    let other = if m.is_multiple_of(7) { 1 + u64::from(m % 5) } else { id };
    NewMember {
        id: NodeId(id),
        uuid: Uuid(u128::from(if m.is_multiple_of(11) { other } else { id })),
        admin: HostPort::parse(&format!("127.0.0.1:{}", 19100 + other)).unwrap(),
        advertise: if m.is_multiple_of(2) { "localhost".into() } else { "127.0.0.1".into() },
        port_offset: other as u16,
    }
}

fn server(n: u16) -> Server {
    let n = n % 12;
    Server::new(HostPort::parse(&format!("127.0.0.1:{}", 19200 + n)).unwrap(), format!("{:040x}", n % 11), 0)
}

fn slots(a: u16, b: u16) -> BTreeSet<SlotId> {
    let first = a % 1030;
    (first..first + 1 + b % 200).map(SlotId).collect()
}

fn auth(n: u16) -> Option<Credentials> {
    let password = Secret::new(format!("secret{}", n % 3));
    n.is_multiple_of(2).then(|| Credentials { username: n.is_multiple_of(4).then(|| "app".to_owned()), password })
}

/// Kinds below: everything except migrations and promotions, somewhat less than half of all changes. From here on:
/// migrations.
const OTHER_KINDS: u8 = 112;
/// From here on: promotions, a fifth of all changes, in half of the logs. (They end many attempts, so that migrations
/// rarely get far in those logs.)
const PROMOTIONS: u8 = 204;

fn resolve((kind, [a, b, c, d, e, f]): Raw, state: &ClusterState, at: Position) -> Change {
    let product = pick(state.products.keys().copied(), a).filter(|_| f % 16 != 0).unwrap_or(ProductId(9));
    let group = GroupId(u32::from(b % 5));
    let assignment = pick(state.assignments.keys().copied(), a).unwrap_or(AssignmentId(3));
    let hold = pick(state.holds.keys().copied(), b).unwrap_or(HoldId(4));
    let term = if f % 8 == 0 { Term(at.term.0 + 1) } else { at.term };
    if kind >= PROMOTIONS {
        return promotions::resolve(kind - PROMOTIONS, [a, b, c, d, e, f], state, at);
    }
    if kind >= OTHER_KINDS {
        return migrations::resolve(kind - OTHER_KINDS, [a, b, c, d, e, f], state, at);
    }
    match kind % 28 {
        0 => Change::Bootstrap(Bootstrap { members: (0..1 + a % 3).map(|i| member(i, b)).collect(), port: 19000 }),
        1 => Change::AddMember(member(a, b)),
        2 | 3 => Change::Admit(Admit { member: member(a, b), start: Uuid(u128::from(c % 3)) }),
        4 => Change::BeginRemove(BeginRemove { node: NodeId(u64::from(a % 6)), assume_dead: b % 2 == 0 }),
        5 => {
            let node = pick(state.members.values(), a);
            Change::FinishRemove(FinishRemove {
                node: node.map_or(NodeId(1), |m| m.id),
                uuid: node.map_or(Uuid(1), |m| m.uuid),
                term,
            })
        }
        6 if d % 3 == 0 => Change::NoteNode(NoteNode {
            node: NodeId(u64::from(a % 6)),
            note: [NodeNote::LogSet, NodeNote::SecretsSet, NodeNote::ClientsKilled, NodeNote::ServersAsked]
                [usize::from(b % 4)],
            text: "debug".to_owned(),
            before: String::new(),
            after: String::new(),
        }),
        6 => {
            let role = [Role::Auto, Role::Voter, Role::Learner][usize::from(b % 3)];
            Change::SetRole(SetRole { node: NodeId(u64::from(a % 6)), role })
        }
        7 if a % 4 == 1 => Change::NoteMembership(NoteMembership {
            membership: RaftMembership {
                voters: (0..1 + b % 4).map(|n| NodeId(u64::from(n + c % 3))).collect(),
                learners: (0..d % 3).map(|n| NodeId(u64::from(10 + n))).collect(),
            },
        }),
        7 if a % 4 == 0 => Change::Recover(Recover { keep: NodeId(u64::from(b % 6)) }),
        7 | 8 => Change::CreateProduct(NewProduct {
            name: ["one", "two", "three", "-bad", "default"][usize::from(a % 5)].to_owned(),
            port: [19010, 19020, 19099, 19000, 65533][usize::from(b % 5)],
            layout: [Layout::Codis, Layout::Redis][usize::from(c % 2)],
            mode: [Mode::Store, Mode::Cache][usize::from(d % 2)],
            isolated: [Isolated::Refuse, Isolated::Serve][usize::from(e % 2)],
            databases: u32::from(f % 20),
            auth: auth(f),
        }),
        9 => Change::SetProduct(SetProduct {
            product,
            port: (b % 2 == 0).then_some(19010 + b % 100),
            databases: (c % 2 == 0).then_some(u32::from(c % 30)),
            auth: match (d % 6, auth(e)) {
                (0 | 2, credentials) => Some(SetAuth::Replace(credentials)),
                (1 | 3, Some(credentials)) => Some(SetAuth::Add(credentials)),
                (4, _) => Some(SetAuth::RemoveFormer),
                _ => None,
            },
            auto_rebalance: (e % 3 == 0).then_some(f % 2 == 0),
            min_acks: (e % 4 == 0).then_some((f % 18) as u8),
            min_acks_ms: (e % 5 == 0).then_some(u32::from(f) * 8),
            reads: SetReads {
                from: (a % 3 == 0).then_some(ReadFrom::ALL[usize::from(b % 4)]),
                max_lag_ms: (c % 3 == 0).then_some(u32::from(d) * 10),
                own_writes: (d % 3 == 0).then_some(e % 2 == 0),
                confirmed: (f % 7 == 0).then_some(e % 4 == 0),
            },
            clients_max: (f % 3 == 0).then_some(u32::from(a) * 40_000),
            rules: SetClientRules {
                ops_max: (f % 5 == 0).then_some(u32::from(a).saturating_mul(4_000_000)),
                bytes_max: (f % 7 == 0).then_some(u64::from(a) << 34),
                scripts_off: (f % 2 == 0).then_some(a % 2 == 0),
                script_loads_max: (f % 13 == 0).then_some(u32::from(a) * 300),
                errors_detailed: (f % 3 == 1).then_some(a % 3 == 0),
                blocked_errors: (f % 5 == 1).then_some(a % 3 == 1),
                server_commands: (f % 7 == 1).then_some(a % 2 == 1),
                debug_commands: (f % 7 == 3).then_some(a % 2 == 0),
                redis_version: (f % 7 == 2).then(|| ToldVersion::of_number(a.into()).unwrap_or_default()),
                idle_ms: (f % 11 == 0).then_some(u32::from(a) * 100),
            },
        }),
        10 if d % 3 != 0 => scripts::resolve(product, [b, c, d, e]),
        10 => Change::RemoveProduct(RemoveProduct { product }),
        11..=13 => Change::CreateGroup(CreateGroup {
            product,
            group,
            servers: (0..1 + d % 3).map(|i| server(c + i)).collect(),
            credentials: auth(e),
            data_user: None,
        }),
        14 => Change::AddServer(AddServer { product, group, server: server(c) }),
        15 => Change::RemoveServer(RemoveServer { product, group, addr: server(c).addr }),
        16 => Change::RemoveGroup(RemoveGroup { product, group, keys_left: None }),
        17 | 18 => Change::AssignFree(AssignFree { product, slots: slots(c, d), to: group }),
        19 | 20 => Change::StartAssign(StartAssign {
            product,
            slots: slots(c, d),
            to: (e % 5 > 0).then_some(group),
            abandon: e % 4 == 0,
        }),
        21 | 22 => Change::OpenHold(OpenHold {
            cause: Cause::Assignment(assignment),
            attempt: state.assignments.get(&assignment).map_or(1, |a| a.attempts + 1 + u32::from(c % 8 == 0)),
            kind: if d % 8 == 0 { HoldKind::Abandon } else { HoldKind::Wait },
            reason: "test".to_owned(),
        }),
        23 => Change::Release(Release { hold, why: "test".to_owned() }),
        24 | 25 => {
            let cause = state.holds.get(&hold).map(|h| h.cause);
            let assignment = match cause {
                Some(Cause::Assignment(id)) => id,
                Some(Cause::Migration(_) | Cause::Promotion(_)) | None => assignment,
            };
            let mut epochs = state.assignments.get(&assignment).map_or(BTreeMap::new(), |a| group_epochs(state, a));
            if c % 8 == 0 {
                epochs.pop_first();
            }
            Change::FinishAssign(FinishAssign { assignment, hold, term, group_epochs: epochs })
        }
        26 => Change::GiveUpAssign(GiveUpAssign { assignment, why: "x".repeat(usize::from(c % 2000)) }),
        _ => Change::SetCluster(SetCluster {
            voters: (a % 2 == 0).then_some((b % 9) as u8),
            hold_ms_max: (c % 2 == 0).then_some(u32::from(d)),
            maintenance: (e % 3 == 0).then_some(f % 2 == 0),
            failover_share_max: (f % 3 == 0).then_some((e % 110) as u8),
        }),
    }
}

/// The state without the bookkeeping that every entry changes.
fn decided(state: &ClusterState) -> ClusterState {
    ClusterState { applied: Epoch(0), results: BTreeMap::new(), results_order: Default::default(), ..state.clone() }
}

fn table(state: &ClusterState) -> RouteTable {
    RouteTable { epoch: Epoch(0), ..RouteTable::derive(state) }
}

fn bootstrap() -> Change {
    Change::Bootstrap(Bootstrap { members: (0..3).map(|i| member(i, 1)).collect(), port: 19000 })
}

/// The begin of most logs, so that the random rest finds groups with slots.
fn opening(i: usize) -> Option<Change> {
    let product = ProductId(1);
    let group = |n: u32, s: u16| {
        Change::CreateGroup(CreateGroup {
            product,
            group: GroupId(n),
            servers: vec![server(s), server(s + 2)],
            credentials: None,
            data_user: None,
        })
    };
    match i {
        0 => Some(bootstrap()),
        1 => Some(group(1, 1)),
        2 => Some(group(2, 2)),
        3 => Some(Change::AssignFree(AssignFree { product, slots: (0..1000).map(SlotId).collect(), to: GroupId(1) })),
        _ => None,
    }
}

/// Runs a log of these changes and checks each step; returns the log and the state after each entry.
fn run(raws: &[Raw]) -> (Vec<(Entry, Position)>, Vec<ClusterState>) {
    let mut state = ClusterState::default();
    let (mut log, mut states): (Vec<(Entry, Position)>, Vec<ClusterState>) = (Vec::new(), Vec::new());
    let first = raws.first().map_or(0, |(_, numbers)| numbers[0]);
    let (promotes, ejects) = (first.is_multiple_of(2), first % 4 == 1);
    for (i, raw) in raws.iter().enumerate() {
        let at = Position { index: Epoch(1 + i as u64 * 2), term: Term(1 + i as u64 / 20) };
        // Without promotions, their share goes to ejections or to migrations.
        let kind = match raw.0 {
            kind if kind < PROMOTIONS || promotes => kind,
            kind if ejects => PROMOTIONS + promotions::EJECTIONS + kind % (promotions::KINDS - promotions::EJECTIONS),
            kind => kind - (PROMOTIONS - OTHER_KINDS),
        };
        let raw = &(kind, raw.1);
        // The first change is mostly Bootstrap; later some entries repeat an earlier one.
        let entry = match raw.1[5] {
            n if n % 13 == 0 && i > 3 => log[usize::from(n) % log.len()].0.clone(),
            n => Entry {
                id: Uuid(1000 + i as u128),
                request_hash: i as u64,
                at_ms: 7,
                author: events::author(raw.1[4]),
                change: if n % 9 != 0 { opening(i) } else { None }.unwrap_or_else(|| resolve(*raw, &state, at)),
            },
        };
        let before = state.clone();
        let summary = dry_run(&before, &entry.change);
        let result = apply(&mut state, &entry, at);
        let problems = check(&state);
        assert!(problems.is_empty(), "after {entry:?}: {problems:?}");
        assert_eq!(state.applied, at.index);
        if result.is_err() {
            assert_eq!(decided(&state), decided(&before), "a refusal changed the state: {entry:?}");
        }
        if let Some(first) = before.results.get(&entry.id) {
            assert_eq!(result, first.outcome, "a repeat gets the first result");
            assert_eq!(first_index(&state, entry.id), Some(first.index));
            assert_eq!(decided(&state), decided(&before), "a repeat changed the state");
        } else {
            // A dry run assumes the term of the verdict; the entry may have another.
            let other_term = matches!(result, Err(Reject::OtherTerm { .. }));
            assert!(other_term || summary.is_ok() == result.is_ok(), "dry run and act differ: {entry:?}");
            assert_eq!(first_index(&state, entry.id), Some(at.index));
            events::check(&before, &state, &entry, at);
        }
        epochs_advance(&before, &state, at);
        let admission = matches!(entry.change, Change::Admit(_));
        if !admission {
            assert_eq!(table(&before) != table(&state), before.route_epoch != state.route_epoch, "{entry:?}");
        }
        assert_eq!(RouteTable::derive(&state), RouteTable::derive_from(&state, &before, &RouteTable::derive(&before)));
        assert_eq!(decode_entry(&encode_entry(&entry)).unwrap(), entry);
        log.push((entry, at));
        states.push(state.clone());
    }
    (log, states)
}

/// Epochs only grow: a changed primary is a changed group epoch, and a changed owner or a changed primary of it a
/// changed slot epoch: this entry's index.
fn epochs_advance(before: &ClusterState, after: &ClusterState, at: Position) {
    assert!(after.route_epoch == before.route_epoch || after.route_epoch == at.index);
    for (id, new) in &after.products {
        let Some(old) = before.products.get(id) else { continue };
        let mut promoted = BTreeSet::new();
        for (group, was) in new.groups.values().filter_map(|g| Some((g, old.groups.get(&g.id)?))) {
            let another = group.servers[0].addr != was.servers[0].addr;
            assert_eq!(group.epoch, if another { at.index } else { was.epoch });
            if another {
                promoted.insert(group.id);
                assert!(was.servers.iter().all(|s| group.servers.iter().any(|now| now.addr == s.addr)), "one is lost");
            }
        }
        for (a, b) in old.slots.iter().zip(&new.slots) {
            assert!(b.epoch == a.epoch || b.epoch == at.index);
            let same = a.owner == b.owner && b.owner.is_none_or(|owner| !promoted.contains(&owner));
            assert_eq!(same, a.epoch == b.epoch);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    /// No invariant is broken after any sequence; a reject and a repeat change nothing; a replay gives the same state;
    /// a snapshot at any point and the rest of the log give the same state as the whole log.
    #[test]
    fn any_log(raws in prop::collection::vec(any::<Raw>(), 1..90), cut in any::<prop::sample::Index>()) {
        let (log, states) = run(&raws);
        let mut replayed = ClusterState::default();
        for ((entry, at), expected) in log.iter().zip(&states) {
            let _ = apply(&mut replayed, entry, *at);
            assert_eq!(&replayed, expected);
        }
        let cut = cut.index(log.len());
        let bytes = encode_state(&states[cut]);
        let mut restored = decode_state(&bytes).unwrap();
        assert_eq!(restored, states[cut]);
        assert_eq!(encode_state(&restored), bytes, "equal states give equal bytes");
        for (entry, at) in &log[cut + 1..] {
            let _ = apply(&mut restored, entry, *at);
        }
        assert_eq!(Some(&restored), states.last());
    }

    /// Damaged bytes give an error or another value, and never a panic.
    #[test]
    fn damage_is_survived(raws in prop::collection::vec(any::<Raw>(), 30), hits in prop::collection::vec(any::<(prop::sample::Index, u8)>(), 1..8)) {
        let (log, states) = run(&raws);
        for mut bytes in [encode_state(&states[29]), encode_entry(&log[29].0)] {
            for (place, value) in &hits {
                let place = place.index(bytes.len());
                bytes[place] = *value;
            }
            let _ = decode_state(&bytes);
            let _ = decode_entry(&bytes);
        }
    }
}

/// The same for migrations and promotions: every phase, every end, every kind of run and of event.
#[test]
fn random_logs_reach_every_phase_of_a_migration_and_end_of_a_promotion() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let strategy = prop::collection::vec(any::<Raw>(), 110);
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..96 {
        let raws = strategy.new_tree(&mut runner).unwrap().current();
        let (_, states) = run(&raws);
        let shown: BTreeSet<String> = states
            .iter()
            .flat_map(|state| migrations::shown(state).into_iter().chain(promotions::shown(state)))
            .collect();
        shown.into_iter().for_each(|what| *seen.entry(what).or_default() += 1);
    }
    let phases = ["planned", "cleaning-target", "copying", "caught-up", "held", "switched", "cancelling", "paused"];
    let rest = ["done", "cancelled", "Copy", "CleanSource", "WipeTarget", "Sweep", "second attempt"];
    let ends = ["failover finished", "failover given up", "switchover finished", "switchover given up"];
    let promotions =
        ["second hold", "restarted a migration", "diverged", "required_offset", "noted", "hold of no slots"];
    let events = EventKind::ALL.iter().map(|kind| format!("event {}", kind.name()));
    let wanted = phases.iter().chain(&rest).chain(&ends).chain(&promotions).map(|name| (*name).to_owned());
    let missing: Vec<String> = wanted.chain(events).filter(|name| !seen.contains_key(name)).collect();
    assert!(missing.is_empty(), "no log reached {missing:?}; reached were {seen:?}");
    println!("{seen:?}");
}

/// The random logs are useful only if they reach deep states. This test proves that they do.
#[test]
fn random_logs_reach_owner_changes() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let strategy = prop::collection::vec(any::<Raw>(), 90);
    let (mut held, mut finished, mut given_away) = (0, 0, 0);
    for _ in 0..40 {
        let raws = strategy.new_tree(&mut runner).unwrap().current();
        let (_, states) = run(&raws);
        held += usize::from(states.iter().any(|s| !s.holds.is_empty()));
        let last = states.last().unwrap();
        finished += usize::from(last.ended_assignments.iter().any(|e| e.failed.is_none()));
        let mut groups = last.products.values().flat_map(|p| p.groups.values());
        given_away += usize::from(groups.any(|g| !g.given_away.is_empty()));
    }
    assert!(held > 0 && finished > 0 && given_away > 0, "{held} held, {finished} finished, {given_away} given away");
}

#[test]
fn entries_without_a_change_advance_applied() {
    let mut state = ClusterState::default();
    note_applied(&mut state, Epoch(5));
    assert_eq!(state.applied, Epoch(5));
    let entry = Entry { id: Uuid(1), request_hash: 0, at_ms: 0, author: Default::default(), change: bootstrap() };
    let old = apply(&mut state, &entry, Position { index: Epoch(5), term: Term(1) });
    assert_eq!(old, Err(Reject::OldEntry { index: Epoch(5), applied: Epoch(5) }));
    assert!(apply(&mut state, &entry, Position { index: Epoch(6), term: Term(1) }).is_ok());
}

#[test]
fn a_repeated_request_gets_the_first_result_and_another_request_is_refused() {
    let mut state = ClusterState::default();
    let at = |index| Position { index: Epoch(index), term: Term(1) };
    let first = Entry { id: Uuid(1), request_hash: 7, at_ms: 0, author: Default::default(), change: bootstrap() };
    assert_eq!(apply(&mut state, &first, at(1)), Ok(Outcome::Done));
    // The same request, evaluated to another change at another node.
    let evaluated = Entry { change: Change::Recover(Recover { keep: NodeId(1) }), ..first.clone() };
    assert_eq!(apply(&mut state, &evaluated, at(2)), Ok(Outcome::Done));
    // Another request, evaluated to the same change.
    let other = Entry { request_hash: 8, ..first };
    let reused = apply(&mut state, &other, at(3));
    assert_eq!(reused, Err(Reject::ChangeIdReused { id: Uuid(1), first: Epoch(1) }));
    // A refusal is recorded like any result.
    let refused = Entry { id: Uuid(2), ..other.clone() };
    let Err(reject) = apply(&mut state, &refused, at(4)) else { panic!("a second bootstrap") };
    let repeated = Entry { change: evaluated.change, ..refused };
    assert_eq!(apply(&mut state, &repeated, at(5)), Err(Reject::First(reject.to_string())));
    assert_eq!((state.members.len(), first_index(&state, Uuid(2))), (3, Some(Epoch(4))));
}

/// Epochs of the owners and the target, as the leader puts them into FinishAssign.
fn group_epochs(state: &ClusterState, assignment: &Assignment) -> BTreeMap<GroupId, Epoch> {
    let Some(product) = state.products.get(&assignment.product) else { return BTreeMap::new() };
    let owners = assignment.slots.iter().filter_map(|s| product.slots[usize::from(s.0)].owner);
    let concerned = owners.chain(assignment.to).filter_map(|id| product.groups.get(&id));
    concerned.map(|g| (g.id, g.epoch)).collect()
}
