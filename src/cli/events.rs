//! `pontoon events`: what happened, with its evidence.
//! Knows nothing of what it means.

use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use super::{DEFAULT_PRODUCT, Remote, client::Client, error::CliError, output};
use crate::wire::pb::admin::{Event, ListEventsRequest};

/// How long one call waits for news; shorter than a call may take.
const WAIT: Duration = Duration::from_secs(5);

/// `pontoon events`
#[derive(Args, Debug)]
pub struct EventsArgs {
    /// Go on, and write each event as it comes
    #[arg(long)]
    follow: bool,
}

pub(super) async fn run(args: EventsArgs, remote: &Remote) -> Result<(), CliError> {
    let mut events = after(remote, 0, Duration::ZERO).await?;
    if !args.follow && remote.json() {
        output::print_json(&Value::Array(events.iter().map(to_json).collect()));
        return Ok(());
    }
    let mut last = 0;
    loop {
        for event in &events {
            // One JSON value a line, so that a program can read them as they come.
            let line = if remote.json() { to_json(event).to_string() } else { to_text(event) };
            output::print_text(&format!("{line}\n"));
            last = event.index;
        }
        if !args.follow {
            return Ok(());
        }
        events = after(remote, last, WAIT).await?;
    }
}

async fn after(remote: &Remote, after: u64, wait: Duration) -> Result<Vec<Event>, CliError> {
    let wait_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
    let call = |mut c: Client| async move { c.list_events(ListEventsRequest { after, wait_ms }).await };
    Ok(remote.read(call).await?.events)
}

fn to_json(e: &Event) -> Value {
    json!({
        "index": e.index,
        "at_ms": e.at_ms,
        "kind": e.kind,
        "product": (!e.product.is_empty()).then_some(&e.product),
        "subject": e.subject,
        "text": e.text,
    })
}

fn to_text(e: &Event) -> String {
    // Groups of several products have the same numbers; one without a word is of the product that commands mean by default.
    let product = match e.product.as_str() {
        "" | DEFAULT_PRODUCT => String::new(),
        name => format!(" of '{name}'"),
    };
    format!("{}  {}{product}  {}: {}", output::utc(e.at_ms), e.subject, e.kind, e.text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_time_subject_kind_and_evidence() {
        let event = Event {
            index: 7,
            at_ms: 1_700_000_000_123,
            kind: "held".into(),
            subject: "migration 17".into(),
            text: "hold 30: cut-over".into(),
            ..Event::default()
        };
        assert_eq!(to_text(&event), "2023-11-14T22:13:20.123Z  migration 17  held: hold 30: cut-over");
        assert!(to_json(&event)["product"].is_null());
        let of = |product: &str| to_text(&Event { product: product.into(), ..event.clone() });
        assert_eq!(of("shop"), "2023-11-14T22:13:20.123Z  migration 17 of 'shop'  held: hold 30: cut-over");
        assert_eq!(of("default"), to_text(&event));
    }
}
