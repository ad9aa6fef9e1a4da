//! What always holds of events.

use super::Found;
use crate::model::{
    event::EventClass,
    limits::{ACTOR_LEN_MAX, ADDRESS_LEN_MAX, EVENTS_MAX, TEXT_LEN_MAX},
    state::ClusterState,
};

pub(super) fn events(state: &ClusterState, found: &mut Found) {
    let events = &state.events;
    for class in [EventClass::Asked, EventClass::Automatic, EventClass::Client] {
        let count = events.iter().filter(|event| event.class() == class).count();
        found.unless(count <= EVENTS_MAX, || format!("{count} events of class {class:?}"));
    }
    let ascending = events.iter().zip(events.iter().skip(1)).all(|(a, b)| a.index < b.index);
    found.unless(ascending && events.back().is_none_or(|e| e.index <= state.applied), || "events out of order".into());
    for e in events {
        let texts = [(&e.text, TEXT_LEN_MAX), (&e.before, TEXT_LEN_MAX), (&e.after, TEXT_LEN_MAX)];
        let origin = [(&e.actor, ACTOR_LEN_MAX), (&e.declared, ACTOR_LEN_MAX), (&e.address, ADDRESS_LEN_MAX)];
        let allowed = |(text, max): (&String, usize)| text.len() <= max && !text.contains(char::is_control);
        found.unless(texts.into_iter().chain(origin).all(allowed), || {
            format!("event {} has a text that is too long or not printable", e.index)
        });
        found.unless(!e.subject.is_empty() && e.before.is_empty() == e.after.is_empty(), || {
            format!("event {} lacks a subject, or what was before or after it", e.index)
        });
    }
}
