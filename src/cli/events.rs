//! `pontoon events`: what happened, with the evidence; who asked for it, from where, and what it changed.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::Args;

use super::{DEFAULT_PRODUCT, Remote, client::Client, error::CliError, output};
use crate::wire::pb::admin::{Event, ListEventsRequest};

/// How long one call waits for an event. Shorter than the timeout of a call.
const WAIT: Duration = Duration::from_secs(5);

/// `pontoon events`
#[derive(Args, Debug)]
pub struct EventsArgs {
    /// Keep running, and print each event when it happens
    #[arg(long)]
    follow: bool,
    /// Only events since then: a time ago, as 30m or 2d, or a moment, as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<Since>,
    /// Only the last N of them
    #[arg(short = 'n', long, value_name = "N")]
    number: Option<usize>,
    /// Only events of this group, its migrations and assignments included; of --product, or of any product
    #[arg(long, value_name = "GID", value_parser = clap::value_parser!(u32).range(1..))]
    group: Option<u32>,
}

pub(super) async fn run(args: EventsArgs, remote: &Remote) -> Result<(), CliError> {
    let mut filter = Filter { product: remote.common.product.clone(), ..Filter::new(&args) };
    let first = after(remote, 0, Duration::ZERO).await?;
    let mut last = first.last().map_or(0, |event| event.index);
    let mut events = filter.keep(first);
    if let Some(number) = args.number {
        events.drain(..events.len().saturating_sub(number));
    }
    if !args.follow && remote.json() {
        return output::print_json(&events);
    }
    loop {
        for event in &events {
            // One JSON value per line, so that a program can read each event when it happens.
            let line = if remote.json() { serde_json::json!(event).to_string() } else { to_text(event) };
            output::print_text(&format!("{line}\n"));
        }
        if !args.follow {
            return Ok(());
        }
        let new = after(remote, last, WAIT).await?;
        output::end_without_reader();
        last = new.last().map_or(last, |event| event.index);
        events = filter.keep(new);
    }
}

async fn after(remote: &Remote, after: u64, wait: Duration) -> Result<Vec<Event>, CliError> {
    let wait_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
    let call = |mut c: Client| async move { c.list_events(ListEventsRequest { after, wait_ms }).await };
    Ok(remote.read(call).await?.events)
}

/// From when on events are asked for. The same words mean the same, whenever they are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Since {
    /// This long ago.
    Ago(Duration),
    /// Milliseconds since the Unix epoch.
    At(u64),
}

impl Since {
    /// Milliseconds since the Unix epoch.
    fn moment(self) -> u64 {
        match self {
            Self::At(ms) => ms,
            Self::Ago(ago) => SystemTime::now().checked_sub(ago).and_then(unix_ms).unwrap_or(0),
        }
    }
}

fn unix_ms(at: SystemTime) -> Option<u64> {
    at.duration_since(UNIX_EPOCH).ok()?.as_millis().try_into().ok()
}

/// A duration, or an RFC 3339 text.
fn since(text: &str) -> Result<Since, String> {
    let since = match humantime::parse_duration(text) {
        Ok(ago) => SystemTime::now().checked_sub(ago).and_then(unix_ms).map(|_| Since::Ago(ago)),
        Err(_) => humantime::parse_rfc3339_weak(text).ok().and_then(unix_ms).map(Since::At),
    };
    since.ok_or_else(|| {
        format!("'{text}' is neither a time ago, such as 30m or 2d, nor a moment, such as 2026-01-31T12:00:00Z")
    })
}

/// Which events are asked for.
#[derive(Debug, Default)]
struct Filter {
    since: u64,
    product: Option<String>,
    group: Option<u32>,
    /// Migrations and assignments of the group: (product, subject). Not all of their events name the group.
    jobs: BTreeSet<(Option<String>, String)>,
}

impl Filter {
    fn new(args: &EventsArgs) -> Self {
        Self { since: args.since.map_or(0, Since::moment), group: args.group, ..Self::default() }
    }

    /// Those that are asked for. Expects all events, in their order.
    fn keep(&mut self, events: Vec<Event>) -> Vec<Event> {
        events.into_iter().filter(|event| self.is_of_group(event) && self.is_wanted(event)).collect()
    }

    fn is_wanted(&self, event: &Event) -> bool {
        event.at_ms >= self.since && (self.product.is_none() || event.product == self.product)
    }

    fn is_of_group(&mut self, event: &Event) -> bool {
        let Some(group) = self.group else { return true };
        let name = format!("group {group}");
        let of = (event.product.clone(), event.subject.clone());
        if !["migration ", "assignment "].iter().any(|job| event.subject.starts_with(job)) {
            return event.subject == name;
        }
        if names(&event.text, &name) || event.before.as_deref().is_some_and(|before| names(before, &name)) {
            self.jobs.insert(of.clone());
        }
        self.jobs.contains(&of)
    }
}

/// Whether a text contains a name that ends with a number, and not only the beginning of a longer number.
fn names(text: &str, name: &str) -> bool {
    text.match_indices(name).any(|(at, _)| !text[at + name.len()..].starts_with(|c: char| c.is_ascii_digit()))
}

fn to_text(e: &Event) -> String {
    // Groups of different products can have the same id. The default product is not named, and no product twice.
    let product = match e.product.as_deref() {
        Some(name) if name != DEFAULT_PRODUCT && !e.subject.starts_with("product ") => format!(" of '{name}'"),
        _ => String::new(),
    };
    let change = match (e.before.as_deref(), e.after.as_deref()) {
        (Some(before), Some(after)) => format!(": {before} -> {after}"),
        _ => String::new(),
    };
    let (time, subject, kind, text) = (output::utc(e.at_ms), &e.subject, output::name(e.kind()), &e.text);
    format!("{time}  {subject}{product}  {kind}: {text}{change}{}", by(e))
}

/// Who asked for the change, and from where; what the client says of itself is marked as such.
fn by(e: &Event) -> String {
    let Some(actor) = &e.actor else { return String::new() };
    let from = e.origin.as_ref().map_or_else(String::new, |address| format!(" from {address}"));
    let at = e.node.map_or_else(String::new, |node| format!(" at node {node}"));
    let says = e.declared.as_ref().map_or_else(String::new, |declared| format!("; says: {declared}"));
    format!("  [{actor}{from}{at}{says}]")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::wire::pb::admin::EventKind;

    #[test]
    fn a_line_has_time_subject_kind_and_evidence() {
        let event = Event {
            index: 7,
            at_ms: 1_700_000_000_123,
            kind: EventKind::Held.into(),
            subject: "migration 17".into(),
            text: "hold 30: cut-over".into(),
            ..Event::default()
        };
        assert_eq!(to_text(&event), "2023-11-14T22:13:20.123Z  migration 17  held: hold 30: cut-over");
        let of = |product: &str| to_text(&Event { product: Some(product.into()), ..event.clone() });
        assert_eq!(of("shop"), "2023-11-14T22:13:20.123Z  migration 17 of 'shop'  held: hold 30: cut-over");
        assert_eq!(of("default"), to_text(&event));
    }

    #[test]
    fn a_line_has_the_change_and_who_asked_for_it() {
        let event = Event {
            at_ms: 1_700_000_000_123,
            kind: EventKind::ProductSet.into(),
            product: Some("shop".into()),
            subject: "product shop".into(),
            text: "settings".into(),
            actor: Some("cluster secret".into()),
            declared: Some("alice@desk: pontoon product set".into()),
            origin: Some("10.0.0.7:4711".into()),
            node: Some(2),
            before: Some("ops-max=none".into()),
            after: Some("ops-max=1000".into()),
            ..Event::default()
        };
        assert_eq!(
            to_text(&event),
            "2023-11-14T22:13:20.123Z  product shop  product-set: settings: ops-max=none -> ops-max=1000  \
             [cluster secret from 10.0.0.7:4711 at node 2; says: alice@desk: pontoon product set]"
        );
        let of_the_leader =
            Event { actor: Some("node 2, leader in term 7".into()), declared: None, origin: None, node: None, ..event };
        assert!(to_text(&of_the_leader).ends_with("ops-max=1000  [node 2, leader in term 7]"));
    }

    #[test]
    fn moments() {
        assert_eq!(since("2023-11-14T22:13:20Z"), Ok(Since::At(1_700_000_000_000)));
        assert_eq!(since("2023-11-14 22:13:20"), Ok(Since::At(1_700_000_000_000)));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
        let ago = now - since("2d").unwrap().moment();
        assert!((172_000_000..173_000_000).contains(&ago), "{ago}");
        for bad in ["", "yesterday", "5", "9999999999d"] {
            assert!(since(bad).is_err_and(|why| why.contains("30m")), "{bad}");
        }
    }

    #[test]
    fn events_are_chosen_by_moment_product_and_group() {
        let event = |index: u64, product: &str, subject: &str, text: &str| Event {
            index,
            at_ms: index * 1000,
            product: Some(product.into()),
            subject: subject.into(),
            text: text.into(),
            ..Event::default()
        };
        let all = vec![
            event(1, "shop", "group 3", "promoted"),
            event(2, "shop", "group 30", "promoted"),
            event(3, "shop", "migration 17", "slots 0-9 from group 1 to group 3"),
            event(4, "other", "group 3", "promoted"),
            event(5, "shop", "migration 17", "held"),
            event(6, "shop", "migration 18", "slots 0-9 from group 30 to group 2"),
            event(7, "shop", "assignment 7", "slots 0-9 are released"),
            Event {
                before: Some("owner=group 3 (10 slots)".into()),
                ..event(8, "shop", "assignment 8", "slots 0-9 are released")
            },
        ];
        let check = |mut filter: Filter, expected: &[u64]| {
            let kept: Vec<u64> = filter.keep(all.clone()).iter().map(|e| e.index).collect();
            assert_eq!(kept, expected, "{filter:?}");
        };
        check(Filter::default(), &[1, 2, 3, 4, 5, 6, 7, 8]);
        check(Filter { product: Some("shop".into()), ..Filter::default() }, &[1, 2, 3, 5, 6, 7, 8]);
        check(Filter { group: Some(3), ..Filter::default() }, &[1, 3, 4, 5, 8]);
        // A migration is known by its first event, also if that is too old to be shown.
        check(Filter { group: Some(3), since: 4000, product: Some("shop".into()), ..Filter::default() }, &[5, 8]);
    }
}
