//! Every change that alters the state writes an event: a table of all changes, with those that need none and why. Then
//! what events say, who signs them, and how many are kept.
#![allow(clippy::unwrap_used)]

#[path = "../golden/logs.rs"]
mod logs;
mod rest;

use std::collections::{BTreeMap, BTreeSet};

use pontoon::model::{
    apply::apply,
    author::{Author, Requester},
    change::{BeginRemove, Bootstrap, Change, FlushScripts, LoadScript, NodeNote, NoteNode, SetCluster},
    event::{Event, EventClass, EventKind},
    ids::{Epoch, NodeId, ProductId, Term, Uuid},
    limits::{ACTOR_LEN_MAX, ADDRESS_LEN_MAX, EVENTS_MAX},
    outcome::Outcome,
    state::{ClusterState, Entry, Position},
};

/// Changes some of which alter the state without an event, and why they may.
const SILENT: [(&str, &str); 2] = [
    (
        "MigrationProgress",
        "counters within a phase come every second and decide nothing; phases and comparisons have events",
    ),
    ("NotePrimary", "what a primary is, noted for the first time, is no news; that it is another one has an event"),
];

/// The state without the bookkeeping of every entry, and without the events.
fn decided(state: &ClusterState) -> ClusterState {
    ClusterState {
        applied: Epoch(0),
        results: BTreeMap::new(),
        results_order: Default::default(),
        events: Default::default(),
        ..state.clone()
    }
}

fn operator() -> Author {
    Author::Request(Requester {
        actor: "cluster secret".into(),
        declared: "alice@desk: pontoon".into(),
        address: "10.0.0.7:4711".into(),
        node: NodeId(2),
    })
}

/// A state, and the number of its entries.
#[derive(Default)]
struct World {
    state: ClusterState,
    index: u64,
}

impl World {
    fn applies(&mut self, change: Change, author: Author) -> Result<Outcome, String> {
        self.index += 1;
        let entry = Entry { id: Uuid(self.index.into()), request_hash: 0, at_ms: self.index, author, change };
        let at = Position { index: Epoch(self.index), term: Term(1) };
        apply(&mut self.state, &entry, at).map_err(|reject| reject.to_string())
    }

    /// The event of the last entry, if it has one.
    fn event(&self) -> Option<&Event> {
        self.state.events.back().map(|event| &**event).filter(|event| event.index.0 == self.index)
    }
}

#[test]
fn every_change_that_alters_the_state_writes_an_event() {
    let (mut with, mut without) = (BTreeSet::new(), BTreeSet::new());
    for log in logs::all().into_iter().chain(rest::logs()) {
        let mut world = World::default();
        for (_, change) in log {
            let (name, before) = (change.name(), decided(&world.state));
            let done = world.applies(change.clone(), operator());
            let altered = decided(&world.state) != before;
            assert!(!altered || done.is_ok_and(|outcome| outcome != Outcome::Unchanged), "{change:?}");
            let Some(event) = world.event() else {
                if altered {
                    without.insert(name);
                }
                continue;
            };
            with.insert(name);
            assert_eq!((event.actor.as_str(), event.address.as_str()), ("cluster secret", "10.0.0.7:4711"));
            assert_eq!((event.declared.as_str(), event.node), ("alice@desk: pontoon", Some(NodeId(2))));
            // What a node notes of itself is not in the state.
            let compared = altered || matches!(change, Change::NoteNode(_)) && !event.after.is_empty();
            assert_eq!(compared, !event.before.is_empty() && !event.after.is_empty(), "{change:?}: {event:?}");
            assert_eq!(compared, event.before != event.after, "{change:?}: {event:?}");
            let named = event.product.is_none() == event.product_name.is_empty();
            assert!(named && !event.subject.is_empty() && !event.text.is_empty(), "{change:?}: {event:?}");
        }
    }
    let missing: Vec<_> = Change::NAMES.iter().filter(|name| !with.contains(**name)).collect();
    assert!(missing.is_empty(), "no log of this test has an event of {missing:?}");
    // Not more than these, and none of them for nothing.
    assert_eq!(without.into_iter().collect::<Vec<_>>(), SILENT.map(|(name, _)| name));
}

/// What events say about settings: as the command line has them, and never a password.
#[test]
fn events_say_what_changed() {
    let mut world = World::default();
    let mut said = Vec::new();
    for (name, change) in rest::audited() {
        let made = world.applies(change, operator());
        made.unwrap_or_else(|why| panic!("{name}: {why}"));
        if name != logs::STEP {
            let event = world.event().unwrap_or_else(|| panic!("{name} has no event"));
            assert!(!format!("{event:?}").contains(rest::PASSWORD), "a password is shown: {event:?}");
            said.push((name, event.kind, event.before.clone(), event.after.clone()));
        }
    }
    let said: Vec<_> = said.iter().map(|(name, kind, b, a)| (*name, kind.name(), b.as_str(), a.as_str())).collect();
    assert_eq!(said, rest::SAID, "{said:#?}");
}

#[test]
fn the_leader_signs_what_nobody_asked_for() {
    let mut world = World::default();
    let Some((_, bootstrap)) = logs::changes().into_iter().next() else { panic!("an empty log") };
    world.applies(bootstrap, Author::Leader(NodeId(3))).unwrap();
    let event = world.event().unwrap();
    assert_eq!((event.kind, event.actor.as_str()), (EventKind::Bootstrapped, "node 3, leader in term 1"));
    assert_eq!((event.declared.as_str(), event.address.as_str(), event.node), ("", "", None));
}

#[test]
fn texts_from_outside_are_short_and_printable() {
    let mut world = World::default();
    world.applies(logs::changes().swap_remove(0).1, Author::Unknown).unwrap();
    let author = Author::Request(Requester {
        actor: "\x1b[2J".repeat(1000),
        declared: "a\n\u{202e}".repeat(1000),
        address: "\0".repeat(1000),
        node: NodeId(1),
    });
    let text = "x\r".repeat(10_000);
    world
        .applies(
            Change::NoteNode(NoteNode {
                node: NodeId(1),
                note: NodeNote::LogSet,
                before: text.clone(),
                after: "log=debug".into(),
                text,
            }),
            author,
        )
        .unwrap();
    let event = world.event().unwrap();
    assert!(event.actor.len() <= ACTOR_LEN_MAX && event.actor.starts_with("\\u{1b}[2J"), "{event:?}");
    assert!(event.declared.len() <= ACTOR_LEN_MAX && event.declared.starts_with("a\\u{a}\\u{202e}"), "{event:?}");
    assert!(event.address.len() <= ADDRESS_LEN_MAX && event.text.starts_with("x\\u{d}"), "{event:?}");
    assert_eq!((&event.before, event.after.as_str()), (&event.text, "log=debug"));
    for text in [&event.actor, &event.declared, &event.address, &event.text] {
        assert!(!text.contains(char::is_control), "{text:?}");
    }
}

/// What the cluster does by itself, as often as it likes, displaces nothing that an operator has asked for.
#[test]
fn each_class_has_its_own_bound() {
    let mut world = World::default();
    world.applies(logs::changes().swap_remove(0).1, Author::Leader(NodeId(1))).unwrap();
    let remove = Change::BeginRemove(BeginRemove { node: NodeId(3), assume_dead: false });
    world.applies(remove, operator()).unwrap();
    let note = || {
        Change::NoteNode(NoteNode {
            node: NodeId(1),
            note: NodeNote::ClientsClosed,
            text: "often".into(),
            before: String::new(),
            after: String::new(),
        })
    };
    for _ in 0..EVENTS_MAX + 50 {
        world.applies(note(), Author::Leader(NodeId(1))).unwrap();
    }
    let of = |world: &World, class| world.state.events.iter().filter(|event| event.class() == class).count();
    assert_eq!((of(&world, EventClass::Automatic), of(&world, EventClass::Asked)), (EVENTS_MAX, 2));
    assert_eq!(world.state.events[0].kind, EventKind::Bootstrapped);
    assert_eq!(world.state.events[1].kind, EventKind::NodeLeaving);
    for n in 0..EVENTS_MAX as u32 + 50 {
        let set = SetCluster { voters: None, hold_ms_max: Some(100 + n), maintenance: None, failover_share_max: None };
        world.applies(Change::SetCluster(set), operator()).unwrap();
    }
    assert_eq!((of(&world, EventClass::Automatic), of(&world, EventClass::Asked)), (EVENTS_MAX, EVENTS_MAX));
    assert!(world.state.events.iter().is_sorted_by_key(|event| event.index));
    // A client that wants to hide what was done before.
    let product = ProductId(1);
    for n in 0..EVENTS_MAX / 2 + 50 {
        let body = format!("return {n}").into();
        world.applies(Change::LoadScript(LoadScript { product, body }), operator()).unwrap();
        world.applies(Change::FlushScripts(FlushScripts { product }), operator()).unwrap();
    }
    for class in [EventClass::Automatic, EventClass::Asked, EventClass::Client] {
        assert_eq!(of(&world, class), EVENTS_MAX, "{class:?}");
    }
}

#[test]
fn what_changes_nothing_and_what_is_refused_has_no_event() {
    let mut world = World::default();
    let first = logs::changes().swap_remove(0).1;
    let Change::Bootstrap(Bootstrap { members, .. }) = first.clone() else { panic!("{first:?}") };
    world.applies(first.clone(), operator()).unwrap();
    world.applies(first, operator()).unwrap_err();
    assert_eq!(world.event(), None);
    assert_eq!(world.applies(Change::AddMember(members[0].clone()), operator()), Ok(Outcome::Unchanged));
    assert_eq!(world.event(), None);
}
