//! CLIENT PAUSE and UNPAUSE, for the clients of the product at this node.
//! Knows nothing of how requests wait.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{super::Operation, finish_ok, product, workers, wrong_arguments};
use crate::{
    commands::Args,
    proxy::{inquiry::Unanswered, pause::Paused},
    resp::number,
};

/// Pause between two looks at what is in flight.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// Longest pause, a year: later times could not be counted with. A longer one is a mistake in the unit.
const PAUSE_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// Runs CLIENT PAUSE. Its answer says that nothing that it concerns is executed for clients of this node any more.
pub(super) async fn pause(operation: Operation) {
    let (time, kind) = match options(&operation) {
        Ok(options) => options,
        Err(text) => return operation.refuse(&text),
    };
    let (workers, product) = (workers(&operation), product(&operation));
    let until = Instant::now() + time;
    if let Err(unanswered) = workers.ask_all(move |worker| worker.pause(product, kind, until)).await {
        return operation.refuse(&format!("ERR {unanswered}"));
    }
    // What was sent before is executed first, as if the pause had come later.
    let give_up = (Instant::now() + operation.worker.config.limits.request_deadline).min(until);
    let done: Result<(), Unanswered> = loop {
        match workers.ask_all(move |worker| worker.has_in_flight(product, kind)).await {
            Ok(in_flight) if in_flight.contains(&true) && Instant::now() < give_up => sleep(LOOK_AGAIN).await,
            Ok(_) => break Ok(()),
            Err(unanswered) => break Err(unanswered),
        }
    };
    finish_ok(operation, done);
}

fn options(operation: &Operation) -> Result<(Duration, Paused), String> {
    let call = operation.call();
    let kind = match (call.len(), (call.len() > 3).then(|| call.get(3).to_ascii_lowercase()).as_deref()) {
        (5.., _) => return Err(wrong_arguments(operation)),
        (_, None | Some(b"all")) => Paused::All,
        (_, Some(b"write")) => Paused::Writes,
        _ => return Err("ERR CLIENT PAUSE mode must be WRITE or ALL".into()),
    };
    match number::parse(call.get(2)) {
        None => Err("ERR timeout is not an integer or out of range".into()),
        Some(ms) if ms < 0 => Err("ERR timeout is negative".into()),
        Some(ms) => Ok((Duration::from_millis(ms.unsigned_abs()).min(PAUSE_MAX), kind)),
    }
}

/// Runs CLIENT UNPAUSE.
pub(super) async fn unpause(operation: Operation) {
    let (workers, product) = (workers(&operation), product(&operation));
    let done = workers.ask_all(move |worker| worker.unpause(product)).await;
    finish_ok(operation, done.map(|_| ()));
}
