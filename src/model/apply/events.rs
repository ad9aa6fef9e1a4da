//! Records events: each with who asked for the change, and with what it changed.
//! Knows nothing of their texts, which the families write.

use std::sync::Arc;

use super::{
    default_event::{DefaultEvent, Made},
    facts::{Facts, difference},
    subject::Subject,
};
use crate::model::{
    author::Author,
    event::{Event, EventClass, EventKind},
    ids::ProductId,
    limits::{ACTOR_LEN_MAX, ADDRESS_LEN_MAX, EVENTS_MAX, TEXT_LEN_MAX},
    outcome::Outcome,
    printable::printable,
    state::{ClusterState, Entry, Position},
};

/// Position and time of an entry.
#[derive(Clone, Copy)]
pub(super) struct When {
    /// Its position in the log.
    pub at: Position,
    /// Milliseconds since the Unix epoch, by the clock of the node that proposed it.
    pub ms: u64,
}

/// Adds the event of an entry; [`record`] completes it.
pub(super) fn push(
    state: &mut ClusterState,
    when: When,
    kind: EventKind,
    product: Option<ProductId>,
    subject: String,
    text: &str,
) {
    let product_name = product.and_then(|id| state.products.get(&id)).map_or_else(String::new, |p| p.name.clone());
    state.events.push_back(Arc::new(Event {
        index: when.at.index,
        at_ms: when.ms,
        kind,
        product,
        product_name,
        subject,
        text: printable(text, TEXT_LEN_MAX),
        actor: String::new(),
        declared: String::new(),
        address: String::new(),
        node: None,
        before: String::new(),
        after: String::new(),
    }));
}

/// Says what has changed outside of the state, in the event that was just added.
pub(super) fn changed(state: &mut ClusterState, before: &str, after: &str) {
    if let Some(event) = state.events.back_mut() {
        let event = Arc::make_mut(event);
        (event.before, event.after) = (printable(before, TEXT_LEN_MAX), printable(after, TEXT_LEN_MAX));
    }
}

/// What is known of a change before it is applied.
pub(super) struct Before {
    subject: Subject,
    facts: Facts,
}

impl Before {
    pub(super) fn of(entry: &Entry, state: &ClusterState) -> Self {
        let subject = Subject::of(&entry.change, state);
        let facts = subject.facts(state);
        Self { subject, facts }
    }
}

/// Completes the event of an entry that was applied with this outcome, or adds one if its family has not. Then drops the
/// oldest events.
pub(super) fn record(state: &mut ClusterState, entry: &Entry, when: When, before: &Before, outcome: &Outcome) {
    let is_of_entry = |event: &Arc<Event>| event.index == when.at.index;
    if *outcome != Outcome::Unchanged && !state.events.back().is_some_and(is_of_entry) {
        let (subject, existed) = (&before.subject, !before.facts.is_empty());
        let made = Made { change: &entry.change, outcome, subject, existed };
        if let Some(DefaultEvent { kind, product, subject, text }) = DefaultEvent::of(made, state) {
            push(state, when, kind, product, subject, &text);
        }
    }
    let after = before.subject.facts(state);
    let Some(event) = state.events.back_mut().filter(|event| is_of_entry(event)) else { return };
    let event = Arc::make_mut(event);
    let (was, is) = difference(&before.facts, &after);
    // What is not in the state is there already.
    if !(was.is_empty() && is.is_empty()) {
        (event.before, event.after) = (was, is);
    }
    // A product that this entry has removed.
    if let (true, Subject::Product(name)) = (event.product_name.is_empty(), &before.subject) {
        event.product_name.clone_from(name);
    }
    sign(event, &entry.author, when.at);
    let class = event.class();
    drop_oldest(state, class);
}

/// Adds who asked for the change.
fn sign(event: &mut Event, author: &Author, at: Position) {
    match author {
        Author::Unknown => {}
        // The term is that of the entry: only the leader of a term appends in it.
        Author::Leader(node) => event.actor = format!("node {node}, leader in term {}", at.term),
        Author::Request(by) => {
            event.actor = printable(&by.actor, ACTOR_LEN_MAX);
            event.declared = printable(&by.declared, ACTOR_LEN_MAX);
            event.address = printable(&by.address, ADDRESS_LEN_MAX);
            event.node = Some(by.node);
        }
    }
}

/// Drops the oldest event of a class that has too many.
fn drop_oldest(state: &mut ClusterState, class: EventClass) {
    let is_of_class = |event: &Arc<Event>| event.class() == class;
    if state.events.iter().filter(|event| is_of_class(event)).count() <= EVENTS_MAX {
        return;
    }
    if let Some(oldest) = state.events.iter().position(is_of_class) {
        state.events.remove(oldest);
    }
}
