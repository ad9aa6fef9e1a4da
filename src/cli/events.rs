//! `pontoon events`: what happened, with the evidence.

use std::time::Duration;

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
}

pub(super) async fn run(args: EventsArgs, remote: &Remote) -> Result<(), CliError> {
    let mut events = after(remote, 0, Duration::ZERO).await?;
    if !args.follow && remote.json() {
        return output::print_json(&events);
    }
    let mut last = 0;
    loop {
        for event in &events {
            // One JSON value per line, so that a program can read each event when it happens.
            let line = if remote.json() { serde_json::json!(event).to_string() } else { to_text(event) };
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

fn to_text(e: &Event) -> String {
    // Groups of different products can have the same id. The default product is not named.
    let product = match e.product.as_deref() {
        None | Some(DEFAULT_PRODUCT) => String::new(),
        Some(name) => format!(" of '{name}'"),
    };
    format!("{}  {}{product}  {}: {}", output::utc(e.at_ms), e.subject, output::name(e.kind()), e.text)
}

#[cfg(test)]
mod tests {
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
}
