//! Every change that alters the state has an event that says who asked for it, from where, and what it changed.

use pontoon::model::{
    author::{Author, Requester},
    change::Change,
    event::EventClass,
    ids::NodeId,
    state::{ClusterState, Entry, Position},
};

/// Changes that may alter the state without an event, and why.
const SILENT: [(&str, &str); 2] = [
    ("MigrationProgress", "the counters of a migration, every second; its phases and its comparison have events"),
    ("NotePrimary", "the first note of what a primary is; every later one has an event"),
];

/// Authors as entries have them, with texts that a terminal must not see.
pub fn author(n: u16) -> Author {
    match n % 4 {
        0 => Author::Unknown,
        1 => Author::Leader(NodeId(2)),
        _ => Author::Request(Requester {
            actor: "cluster secret".repeat(usize::from(n % 20)) + "\x1b[2J",
            declared: "alice\n\u{202e}".repeat(usize::from(n % 30)),
            address: "[::1]:5".repeat(usize::from(n % 12)),
            node: NodeId(u64::from(n % 3) + 1),
        }),
    }
}

/// The state without what every entry changes.
fn decided(state: &ClusterState) -> ClusterState {
    ClusterState { events: Default::default(), ..super::decided(state) }
}

/// Checks the event of an entry that was applied, and is no repeat.
pub fn check(before: &ClusterState, after: &ClusterState, entry: &Entry, at: Position) {
    let altered = decided(before) != decided(after);
    let name = entry.change.name();
    let Some(event) = after.events.back().filter(|event| event.index == at.index) else {
        assert!(!altered || SILENT.iter().any(|(silent, _)| *silent == name), "no event of {entry:?}");
        return;
    };
    let notes = matches!(entry.change, Change::NoteReconciled(_) | Change::NoteGroup(_) | Change::NoteNode(_));
    // A recovery of a cluster of one: it has another cluster id then, which is not in the log.
    let alone = matches!(entry.change, Change::Recover(_));
    assert!(altered || notes || alone, "nothing has changed by {entry:?}: {event:?}");
    assert_eq!(altered, !event.before.is_empty(), "{event:?} of {entry:?}");
    assert_ne!(event.before == event.after, altered, "{event:?} of {entry:?}");
    match &entry.author {
        Author::Unknown => assert_eq!((event.actor.as_str(), event.node), ("", None)),
        Author::Leader(node) => {
            assert_eq!(event.actor, format!("node {node}, leader in term {}", at.term));
            assert_eq!(event.node, None);
        }
        Author::Request(by) => {
            assert!(event.node == Some(by.node) && event.class() != EventClass::Automatic);
            assert!(event.actor.starts_with("cluster secret") || by.actor.starts_with('\x1b'), "{event:?}");
        }
    }
    let text = format!("{event:?}");
    assert!((0..3).all(|n| !text.contains(&format!("secret{n}"))), "a password is shown: {text}");
}
