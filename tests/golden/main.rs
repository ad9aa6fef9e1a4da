//! The durable format does not change: bytes that were written once are read, and written again, as they were.
//! For a new kind of change, add a case to logs.rs, run once with PONTOON_GOLDEN_WRITE=1 and commit the new file. Since
//! release 0.1.0, never change an existing file.
#![allow(clippy::unwrap_used)]

mod logs;

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use pontoon::{
    model::{
        apply::apply,
        author::{Author, Requester},
        change::{Bootstrap, Change, NewMember, Recover, SetCluster, SetProduct},
        client_rules::ClientRules,
        event::EventKind,
        ids::{Epoch, GroupId, NodeId, ProductId, Term, Uuid},
        reads::{ReadFrom, ReadPolicy, SetReads},
        redis_version::ToldVersion,
        reject::Reject,
        state::{ClusterState, Entry, GroupOptions, Keys, Position, RaftMembership, RemovedMember},
    },
    wire::{
        convert::DecodeError,
        entry::{decode_entry, encode_entry},
        pb::state as pb,
        snapshot::{decode_state, encode_state},
    },
};
use prost::Message;

use self::logs::{
    Log, STEP, about_debugging, about_servers, all, audited, blocked, changes, ejections, group_notes, limited,
    migrations, node_notes, noted, promotions, rotation, ruled, scripts,
};

/// The golden files of last states.
const STATES: [&str; 17] = [
    "state",
    "state_migrations",
    "state_promotions",
    "state_ejections",
    "state_noted",
    "state_limited",
    "state_removed",
    "state_group_notes",
    "state_node_notes",
    "state_rotation",
    "state_ruled",
    "state_audited",
    "state_blocked",
    "state_former",
    "state_scripts",
    "state_servers",
    "state_debug",
];

/// The golden files of entries that name who asked for them.
const AUTHORED: [&str; 2] = ["set_cluster_by_request", "set_cluster_by_leader"];

fn numbered(changes: Log) -> Vec<(&'static str, Entry)> {
    let number = |(i, (name, change))| {
        (
            name,
            Entry {
                id: Uuid(i),
                request_hash: 0x0123_4567_89ab_cdef ^ i as u64,
                at_ms: 1_700_000_000_000,
                author: Default::default(),
                change,
            },
        )
    };
    (1u128..).zip(changes).map(number).collect()
}

/// The same change as it is asked for by a request, and made by the leader.
fn authored() -> Vec<(&'static str, Entry)> {
    let request = Author::Request(Requester {
        actor: "cluster secret".into(),
        declared: "alice@desk: pontoon cluster set".into(),
        address: "10.0.0.7:4711".into(),
        node: NodeId(2),
    });
    let set = |n: u8| {
        Change::SetCluster(SetCluster {
            voters: Some(n),
            hold_ms_max: None,
            maintenance: None,
            failover_share_max: None,
        })
    };
    let entries = numbered(vec![(AUTHORED[0], set(3)), (AUTHORED[1], set(4))]);
    let authors = [request, Author::Leader(NodeId(3))];
    entries.into_iter().zip(authors).map(|((name, entry), author)| (name, Entry { author, ..entry })).collect()
}

fn last_state(entries: &[(&str, Entry)]) -> ClusterState {
    let mut state = ClusterState::default();
    for (index, (_, entry)) in (1u64..).zip(entries) {
        let _ = apply(&mut state, entry, Position { index: Epoch(index), term: Term(1) });
    }
    state
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// The golden bytes of this name. Writes them first if `PONTOON_GOLDEN_WRITE` is set and the file does not exist.
fn kept(name: &str, now: &[u8]) -> Vec<u8> {
    let path = folder().join(format!("{name}.bin"));
    if std::env::var_os("PONTOON_GOLDEN_WRITE").is_some() && !path.exists() {
        std::fs::write(&path, now).unwrap();
    }
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The state that is kept under this name is read, written as it was, and equal to `state` except for texts for people:
/// a later version may word an event or a reject in another way, and a product may have more settings.
fn assert_kept(name: &str, state: &ClusterState) {
    let kept = kept(name, &encode_state(state));
    let read = decode_state(&kept).unwrap();
    assert!(encode_state(&read) == kept, "{name} is written differently");
    assert!(decode_state(&encode_state(state)).unwrap() == *state, "{name} loses something");
    assert_eq!(without_texts(read), without_texts(state.clone()), "{name}");
}

fn without_texts(mut state: ClusterState) -> ClusterState {
    for event in &mut state.events {
        let event = Arc::make_mut(event);
        [&mut event.text, &mut event.before, &mut event.after].into_iter().for_each(String::clear);
    }
    for result in state.results.values_mut().filter(|result| result.outcome.is_err()) {
        result.outcome = Err(Reject::First(String::new()));
    }
    state
}

#[test]
fn entries_are_read_and_written_as_they_were() {
    let mut names = BTreeSet::new();
    let all = all().into_iter().flat_map(numbered).filter(|(name, _)| *name != STEP);
    for (name, entry) in all.chain(authored()) {
        assert!(names.insert(name), "two golden cases are called {name}");
        let bytes = encode_entry(&entry);
        let kept = kept(name, &bytes);
        assert_eq!(decode_entry(&kept).unwrap(), entry, "{name}");
        assert_eq!(bytes, kept, "{name}");
    }
}

#[test]
fn every_change_has_a_golden_case() {
    let logs = all();
    let kept: BTreeSet<&str> = logs.iter().flatten().filter(|(name, _)| *name != STEP).map(|(_, c)| c.name()).collect();
    let missing: Vec<_> = Change::NAMES.iter().filter(|name| !kept.contains(*name)).collect();
    assert!(missing.is_empty(), "add a golden case of {missing:?} to tests/golden/logs.rs");
}

#[test]
fn every_golden_file_has_a_case() {
    let logs = all();
    let names: BTreeSet<&str> = logs.iter().flatten().map(|(name, _)| *name).chain(STATES).chain(AUTHORED).collect();
    for file in std::fs::read_dir(folder()).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        assert!(path.extension().is_none_or(|e| e != "bin") || names.contains(name), "{} is left over", path.display());
    }
}

#[test]
fn a_state_is_read_and_written_as_it_was() {
    let state = last_state(&numbered(changes()));
    // The log above reaches what a state can have.
    assert!(state.ended_assignments.iter().any(|e| e.failed.is_none()));
    assert!(!state.assignments.is_empty() && state.products.len() == 2);
    assert_kept("state", &state);
}

#[test]
fn a_state_with_migrations_is_read_and_written_as_it_was() {
    let state = last_state(&numbered(migrations()));
    // Every entry was accepted, and there is one of everything that belongs to migrations.
    assert!(state.results.values().all(|r| r.outcome.is_ok()), "{:?}", state.results);
    assert!(state.migrations.values().any(|m| m.run.is_some() && m.run.as_ref().is_some_and(|r| r.feed.is_some())));
    assert!(state.products[&ProductId(1)].groups[&GroupId(1)].sweep.is_some());
    assert!(!state.ended_migrations.is_empty() && state.assignments.values().all(|a| a.keys == Keys::Abandoned));
    assert_kept("state_migrations", &state);
}

#[test]
fn a_state_with_promotions_is_read_and_written_as_it_was() {
    let state = last_state(&numbered(promotions()));
    // Every entry but the last was accepted, and there is one of everything that belongs to promotions.
    let refused = |state: &ClusterState| state.results.values().filter(|r| r.outcome.is_err()).count();
    assert_eq!(refused(&state), 1, "{:?}", state.results);
    let [one, two] = [1, 2].map(|id| &state.products[&ProductId(1)].groups[&GroupId(id)]);
    assert!(one.options != GroupOptions::default() && one.servers.iter().any(|s| s.zone == "eu-1" && s.priority == 7));
    assert!(two.servers.iter().any(|s| s.diverged && s.priority == 0) && two.required_offset.is_some());
    assert_eq!(two.replid, "ab".repeat(20));
    assert!(state.promotions.values().any(|p| state.promotion_hold(p.id).is_some()));
    assert!(state.settings.maintenance && state.settings.failover_share_max == 20);
    let ends: Vec<bool> = state.ended_promotions.iter().map(|e| e.failed.is_some()).collect();
    assert_eq!(ends, [false, true]);
    assert_kept("state_promotions", &state);
}

#[test]
fn a_state_with_ejections_is_read_and_written_as_it_was() {
    let state = last_state(&numbered(ejections()));
    assert!(state.results.values().all(|r| r.outcome.is_ok()), "{:?}", state.results);
    let groups = &state.products[&ProductId(2)].groups;
    let ejected = |id| groups[&GroupId(id)].ejection.as_ref().map(|ejection| ejection.slots.len());
    assert_eq!([1, 2, 3].map(ejected), [Some(100), Some(100), None]);
    assert_eq!(groups[&GroupId(3)].options.eject_after_ms, 20_000);
    assert!(state.assignments.values().all(|a| a.keys == Keys::Ejected) && !state.assignments.is_empty());
    assert_kept("state_ejections", &state);
}

#[test]
fn a_state_with_a_primary_that_restarted_is_read_and_written_as_it_was() {
    let state = last_state(&numbered(noted()));
    assert!(state.results.values().all(|r| r.outcome.is_ok()), "{:?}", state.results);
    let group = &state.products[&ProductId(1)].groups[&GroupId(1)];
    assert_eq!((group.run_id.as_str(), group.restarted_with), ("cd".repeat(10).as_str(), Some(0)));
    let text = |kind| state.events.iter().find(|e| e.kind == kind).map(|e| e.text.as_str()).unwrap();
    let restarted = text(EventKind::PrimaryNoted);
    assert!(restarted.contains("restarted empty: 0 keys, 7 at the last probe before"), "{restarted}");
    assert_eq!(text(EventKind::Reconciled), "10.0.1.2:6379 follows it");
    assert_kept("state_noted", &state);
}

#[test]
fn a_state_with_a_limit_of_clients_is_read_and_written_as_it_was() {
    let state = last_state(&numbered(limited()));
    assert_eq!(state.products[&ProductId(1)].clients_max, 300);
    // A state of an earlier version has no limit.
    assert_eq!(last_state(&numbered(changes())).products[&ProductId(1)].clients_max, 0);
    assert_kept("state_limited", &state);
}

#[test]
fn a_state_with_rules_for_clients_is_read_and_written_as_it_was() {
    let state = last_state(&numbered(ruled()));
    let rules = ClientRules {
        ops_max: 5000,
        bytes_max: 1 << 20,
        scripts_off: true,
        script_loads_max: 0,
        errors_detailed: true,
        blocked_errors: false,
        server_commands: false,
        debug_commands: false,
        redis_version: Default::default(),
        idle_ms: 300_000,
    };
    assert_eq!(state.products[&ProductId(1)].rules, rules);
    assert_kept("state_ruled", &state);
}

#[test]
fn a_state_with_rules_about_servers_is_read_and_written_as_it_was() {
    let state = last_state(&numbered(about_servers()));
    let version = ToldVersion::parse("7.2.4").unwrap();
    let rules = ClientRules { server_commands: true, redis_version: version, ..ClientRules::default() };
    assert_eq!(state.products[&ProductId(1)].rules, rules);
    assert_kept("state_servers", &state);
}

#[test]
fn a_state_with_debug_commands_is_read_and_written_as_it_was() {
    let state = last_state(&numbered(about_debugging()));
    let rules = ClientRules { debug_commands: true, ..ClientRules::default() };
    assert_eq!(state.products[&ProductId(1)].rules, rules);
    assert_kept("state_debug", &state);
}

#[test]
fn a_state_with_a_rule_for_blocked_calls_is_read_and_written_as_it_was() {
    let state = last_state(&numbered(blocked()));
    assert_eq!(state.products[&ProductId(1)].rules, ClientRules { blocked_errors: true, ..ClientRules::default() });
    assert_kept("state_blocked", &state);
}

#[test]
fn a_state_with_scripts_is_read_and_written_as_it_was() {
    let state = last_state(&numbered(scripts()));
    assert!(state.results.values().all(|r| r.outcome.is_ok()), "{:?}", state.results);
    let product = &state.products[&ProductId(1)];
    let loaded = &product.scripts;
    assert_eq!((loaded.scripts().len(), loaded.libraries().len(), loaded.deleted().len()), (2, 1, 1));
    assert_eq!((loaded.flushed, loaded.libraries_at, loaded.recent.count), (Epoch(4), Epoch(9), 5));
    assert_eq!(product.rules.script_loads_max, 50);
    assert_kept("state_scripts", &state);
}

#[test]
fn a_state_with_removed_members_is_read_and_written_as_it_was() {
    let bootstrap = changes().swap_remove(0).1;
    let Change::Bootstrap(Bootstrap { members, .. }) = &bootstrap else { panic!("{bootstrap:?}") };
    let (keep, gone) = (members[0].id, members[1].clone());
    let log = vec![
        (STEP, bootstrap.clone()),
        (STEP, Change::Recover(Recover { keep })),
        // Its uuid never returns, its id may.
        (STEP, Change::AddMember(gone.clone())),
        (STEP, Change::AddMember(NewMember { uuid: Uuid(99), ..gone.clone() })),
    ];
    let state = last_state(&numbered(log));
    assert!(state.removed.contains(&RemovedMember { id: gone.id, uuid: gone.uuid, at: Epoch(2) }), "{state:?}");
    let outcome = |n| state.results[&Uuid(n)].outcome.clone();
    assert!(outcome(3).unwrap_err().to_string().contains("was removed from this cluster"));
    assert!(outcome(4).is_ok() && state.members[&gone.id].uuid == Uuid(99));
    assert_kept("state_removed", &state);
}

#[test]
fn a_state_with_notes_and_options_about_impaired_servers_is_read_and_written_as_it_was() {
    let state = last_state(&numbered(group_notes()));
    assert!(state.results.values().all(|r| r.outcome.is_ok()), "{:?}", state.results);
    let options = state.products[&ProductId(1)].groups[&GroupId(1)].options.impaired;
    assert_eq!(options.named().map(|(_, ms)| ms), [90_000, 0, 0, 2_000]);
    let notes =
        [EventKind::FailoverHeldBack, EventKind::ScriptEnded, EventKind::WritesRefused, EventKind::NotFailedOver];
    assert_eq!(state.events.iter().filter(|e| notes.contains(&e.kind)).count(), 4);
    assert_kept("state_group_notes", &state);
}

#[test]
fn a_state_with_notes_about_nodes_is_read_and_written_as_it_was() {
    let state = last_state(&numbered(node_notes()));
    assert!(state.results.values().all(|r| r.outcome.is_ok()), "{:?}", state.results);
    assert_eq!(state.events.iter().filter(|e| e.kind == EventKind::ClientsClosed).count(), 1);
    assert_kept("state_node_notes", &state);
}

#[test]
fn a_state_with_two_passwords_is_read_and_written_as_it_was() {
    let state = last_state(&numbered(rotation()));
    assert!(state.results.values().all(|r| r.outcome.is_ok()), "{:?}", state.results);
    let auth = &state.products[&ProductId(1)].auth;
    assert_eq!((auth.version, auth.former.as_ref().unwrap().version), (Epoch(5), Epoch(3)));
    assert_kept("state_rotation", &state);
}

#[test]
fn a_state_with_authors_of_events_is_read_and_written_as_it_was() {
    let mut entries = numbered(audited());
    entries.extend(authored());
    for ((_, entry), id) in entries.iter_mut().zip(1..) {
        entry.id = Uuid(id);
    }
    let state = last_state(&entries);
    assert!(state.results.values().all(|r| r.outcome.is_ok()), "{:?}", state.results);
    let actors: Vec<&str> = state.events.iter().map(|e| e.actor.as_str()).collect();
    assert_eq!(actors, ["", "", "", "cluster secret", "node 3, leader in term 1"]);
    assert_eq!(state.raft_membership.learners, [NodeId(3)].into());
    assert_kept("state_audited", &state);
}

/// A state that was written before events said who asked for a change, before Raft's membership was noted, and before
/// changes of groups were remembered for SCAN.
#[test]
fn a_state_without_authors_of_events_is_read() {
    let kept = std::fs::read(folder().join("state_former.bin")).unwrap();
    let read = decode_state(&kept).unwrap();
    assert!(encode_state(&read) == kept, "it is written differently");
    assert!(!read.events.is_empty() && read.events.iter().all(|e| e.actor.is_empty() && e.before.is_empty()));
    assert_eq!(read.raft_membership, RaftMembership::default());
    let mut now = last_state(&numbered(promotions()));
    assert!(now.products.values().any(|product| product.scans.count > 0));
    now.products.values_mut().for_each(|product| product.scans = Default::default());
    assert_eq!((read.products, read.members, read.settings), (now.products, now.members, now.settings));
}

/// Every setting of SetProduct can be given and left out; what is given is in the state.
#[test]
fn settings_of_a_product_are_written_and_read_back() {
    let set_with = |min_acks, min_acks_ms, reads, clients_max| {
        Change::SetProduct(SetProduct {
            product: ProductId(1),
            port: None,
            databases: None,
            auth: None,
            auto_rebalance: None,
            min_acks,
            min_acks_ms,
            reads,
            clients_max,
            rules: Default::default(),
        })
    };
    let set = |min_acks, min_acks_ms, reads| set_with(min_acks, min_acks_ms, reads, None);
    let reads = |from, max_lag_ms, own_writes| SetReads { from, max_lag_ms, own_writes, confirmed: None };
    let cases = [
        (set(Some(2), Some(500), SetReads::default()), (2, 500), ReadPolicy::default()),
        (
            set(None, None, reads(Some(ReadFrom::Nearest), Some(0), Some(true))),
            (2, 500),
            ReadPolicy { from: ReadFrom::Nearest, max_lag_ms: 0, own_writes: true, confirmed: false },
        ),
        (
            set(Some(0), None, reads(None, None, Some(false))),
            (0, 500),
            ReadPolicy { from: ReadFrom::Nearest, max_lag_ms: 0, own_writes: false, confirmed: false },
        ),
        (
            set(None, Some(1000), reads(Some(ReadFrom::Replica), Some(60_000), None)),
            (0, 1000),
            ReadPolicy { from: ReadFrom::Replica, max_lag_ms: 60_000, own_writes: false, confirmed: false },
        ),
    ];
    let mut log = vec![changes().swap_remove(0)];
    for (change, acks, reads) in cases {
        log.push((STEP, change));
        let entries = numbered(log.clone());
        let (_, entry) = entries.last().unwrap();
        assert_eq!(decode_entry(&encode_entry(entry)).unwrap(), *entry);
        let state = last_state(&entries);
        assert_eq!(decode_state(&encode_state(&state)).unwrap(), state);
        let product = &state.products[&ProductId(1)];
        assert_eq!(((product.min_acks, product.min_acks_ms), product.reads), (acks, reads));
        assert_eq!(state.route_epoch, state.applied);
    }
    let before = last_state(&numbered(log.clone())).products;
    for refused in [
        set(Some(16), None, SetReads::default()),
        set(None, Some(9), SetReads::default()),
        set(None, Some(60_001), SetReads::default()),
        set_with(None, None, SetReads::default(), Some(1_000_001)),
        // Reads go to replicas by now.
        set(None, None, SetReads { confirmed: Some(true), ..SetReads::default() }),
    ] {
        log.push((STEP, refused.clone()));
        let state = last_state(&numbered(log.clone()));
        let why = state.results[&Uuid(log.len() as u128)].outcome.clone().unwrap_err().to_string();
        assert!(why.contains("choose"), "{refused:?}: {why}");
        assert_eq!(state.products, before);
    }
}

#[test]
fn everything_has_the_first_level() {
    for log in all() {
        let log = numbered(log);
        for (_, entry) in &log {
            assert_eq!(pb::Entry::decode(&*encode_entry(entry)).unwrap().level, 1);
        }
        assert_eq!(pb::State::decode(&*encode_state(&last_state(&log))).unwrap().level, 1);
    }
}

#[test]
fn what_a_later_version_wrote_is_named_as_such() {
    let mut bytes = encode_entry(&numbered(changes())[0].1);
    // Field 3 is the feature level. Protobuf takes the last value of a field.
    bytes.extend([3 << 3, 2]);
    assert_eq!(decode_entry(&bytes), Err(DecodeError::TooNew { needs: 2 }));
    let mut bytes = encode_state(&ClusterState::default());
    bytes.extend([1 << 3, 2]);
    assert_eq!(decode_state(&bytes), Err(DecodeError::TooNew { needs: 2 }));
    // An entry whose change is of a kind (field 99, empty) that this version does not know.
    let unknown = [0x0a, 0x02, 0x10, 0x01, 0x18, 0x01, 0x2a, 0x03, 0x9a, 0x06, 0x00];
    assert_eq!(decode_entry(&unknown), Err(DecodeError::TooNew { needs: 2 }));
}
