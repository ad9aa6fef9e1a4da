//! The durable format stands still: bytes written once are read, and written again, as they were.
//! When a kind is added, add a value, run once with PONTOON_GOLDEN_WRITE=1 and keep the new file; never rewrite an old one.
#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, path::PathBuf};

use pontoon::{
    model::{
        apply::apply,
        change::{Change, NewMember, NewProduct},
        ids::{AssignmentId, Epoch, GroupId, HoldId, HostPort, NodeId, ProductId, SlotId, Term, Uuid},
        route::{HoldKind, Isolated, Mode},
        secret::{Credentials, Secret},
        slot::Layout,
        state::{Cause, ClusterState, Entry, Position, Role, Server},
    },
    wire::{
        convert::DecodeError,
        entry::{decode_entry, encode_entry},
        snapshot::{decode_state, encode_state},
    },
};

fn member(id: u64) -> NewMember {
    let admin = HostPort::parse(&format!("10.0.0.{id}:19101")).unwrap();
    NewMember {
        id: NodeId(id),
        uuid: Uuid(7 << 64 | u128::from(id)),
        admin,
        advertise: format!("n{id}"),
        port_offset: 0,
    }
}

fn server(n: u16) -> Server {
    let addr = HostPort::parse(&format!("10.0.1.{n}:6379")).unwrap();
    Server { addr, run_id: format!("{n:040x}"), keys_when_added: 3 }
}

fn auth() -> Option<Credentials> {
    Some(Credentials { username: Some("app".into()), password: Secret::new("secret".into()) })
}

/// One of each kind; together a log whose last state has one of everything too.
fn changes() -> Vec<(&'static str, Change)> {
    let product = ProductId(1);
    let slots = |from: u16, to: u16| (from..=to).map(SlotId).collect();
    let group = |group: u32, n: u16| Change::CreateGroup {
        product,
        group: GroupId(group),
        servers: vec![server(n), server(n + 1)],
        credentials: auth(),
    };
    let start = Change::StartAssign { product, slots: slots(10, 20), to: GroupId(2), abandon: false };
    let hold = |attempt: u32| Change::Hold {
        cause: Cause::Assignment(AssignmentId(10)),
        attempt,
        kind: HoldKind::Wait,
        reason: "why".into(),
    };
    vec![
        ("bootstrap", Change::Bootstrap { members: vec![member(1), member(2), member(3)], port: 19000 }),
        ("add_member", Change::AddMember(member(4))),
        ("admit", Change::Admit { member: member(1), start: Uuid(99) }),
        ("set_role", Change::SetRole { node: NodeId(2), role: Role::Learner }),
        ("begin_remove", Change::BeginRemove { node: NodeId(4), assume_dead: true }),
        ("create_group", group(1, 1)),
        ("create_group_2", group(2, 11)),
        ("add_server", Change::AddServer { product, group: GroupId(1), server: server(3) }),
        ("assign_free", Change::AssignFree { product, slots: slots(0, 511), to: GroupId(1) }),
        ("start_assign", start),
        ("hold", hold(1)),
        ("release", Change::Release { hold: HoldId(11), why: "budget spent".into() }),
        ("hold_2", hold(2)),
        (
            "finish_assign",
            Change::FinishAssign {
                assignment: AssignmentId(10),
                hold: HoldId(13),
                term: Term(1),
                group_epochs: BTreeMap::from([(GroupId(1), Epoch(6)), (GroupId(2), Epoch(7))]),
            },
        ),
        ("give_up_assign", Change::GiveUpAssign { assignment: AssignmentId(10), why: "ended".into() }),
        (
            "create_product",
            Change::CreateProduct(NewProduct {
                name: "cache".into(),
                port: 20000,
                layout: Layout::Redis,
                mode: Mode::Cache,
                isolated: Isolated::Serve,
                databases: 4,
                auth: auth(),
            }),
        ),
        (
            "set_product",
            Change::SetProduct {
                product,
                port: Some(19005),
                databases: Some(8),
                auth: Some(None),
                auto_rebalance: None,
            },
        ),
        ("remove_product", Change::RemoveProduct { product: ProductId(5) }),
        ("remove_server", Change::RemoveServer { product, group: GroupId(1), addr: server(3).addr }),
        ("remove_group", Change::RemoveGroup { product, group: GroupId(1) }),
        ("set_cluster", Change::SetCluster { voters: Some(3), hold_ms_max: Some(400) }),
        ("start_assign_2", Change::StartAssign { product, slots: slots(100, 100), to: GroupId(2), abandon: false }),
        ("finish_remove", Change::FinishRemove { node: NodeId(4), uuid: member(4).uuid, term: Term(2) }),
        ("recover", Change::Recover { keep: NodeId(9) }),
    ]
}

fn entries() -> Vec<(&'static str, Entry)> {
    let number = |(i, (name, change))| (name, Entry { id: Uuid(i), at_ms: 1_700_000_000_000, change });
    (1u128..).zip(changes()).map(number).collect()
}

fn last_state() -> ClusterState {
    let mut state = ClusterState::default();
    for (index, (_, entry)) in (1u64..).zip(entries()) {
        let _ = apply(&mut state, &entry, Position { index: Epoch(index), term: Term(1) });
    }
    state
}

/// The bytes kept under this name; written first where that is asked for and none are there.
fn kept(name: &str, now: &[u8]) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.bin"));
    if std::env::var_os("PONTOON_GOLDEN_WRITE").is_some() && !path.exists() {
        std::fs::write(&path, now).unwrap();
    }
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn entries_are_read_and_written_as_they_were() {
    for (name, entry) in entries() {
        let bytes = encode_entry(&entry);
        let kept = kept(name, &bytes);
        assert_eq!(decode_entry(&kept).unwrap(), entry, "{name}");
        assert_eq!(bytes, kept, "{name}");
    }
}

#[test]
fn a_state_is_read_and_written_as_it_was() {
    let state = last_state();
    // The log above reaches what a state can have.
    assert!(state.ended_assignments.iter().any(|e| e.failed.is_none()));
    assert!(!state.assignments.is_empty() && state.products.len() == 2);
    let bytes = encode_state(&state);
    let kept = kept("state", &bytes);
    assert_eq!(decode_state(&kept).unwrap(), state);
    assert_eq!(bytes, kept);
}

#[test]
fn what_a_later_version_wrote_is_named_as_such() {
    let mut bytes = encode_entry(&entries()[0].1);
    // Field 3, the feature level, stands behind id and time; protobuf takes the last value of a field.
    bytes.extend([3 << 3, 3]);
    assert_eq!(decode_entry(&bytes), Err(DecodeError::TooNew { needs: 3 }));
    let mut bytes = encode_state(&ClusterState::default());
    bytes.extend([1 << 3, 3]);
    assert_eq!(decode_state(&bytes), Err(DecodeError::TooNew { needs: 3 }));
    // An entry whose change is of a kind (field 99, empty) that this version does not know.
    let unknown = [0x0a, 0x02, 0x10, 0x01, 0x18, 0x01, 0x22, 0x03, 0x9a, 0x06, 0x00];
    assert_eq!(decode_entry(&unknown), Err(DecodeError::TooNew { needs: 3 }));
}
