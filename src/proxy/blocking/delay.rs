//! DEBUG SLEEP: the call waits as one that blocks does, so that the worker goes on with others, and the end of the client
//! ends it. Knows nothing of servers.

use tokio::time::{Instant, sleep_until};

use super::{call::Registration, decision::Unblock, keyed::UNBLOCKED};
use crate::proxy::{
    local::{DEBUG_NOT_ALLOWED, sleep_time},
    operation::Operation,
};

/// Runs DEBUG SLEEP.
pub(in crate::proxy) async fn run(operation: Operation) {
    if !operation.routes().rules.debug_commands {
        return operation.refuse(DEBUG_NOT_ALLOWED);
    }
    let time = match sleep_time(&operation.call()) {
        Ok(time) => time,
        Err(text) => return operation.refuse(&text),
    };
    let until = Instant::now() + time;
    let registration = Registration::new(&operation.worker, &operation.session, None);
    registration.count();
    let session = operation.session.clone();
    let unblock = loop {
        let call = &registration.call;
        if session.is_closed() || session.is_closing() || call.has_client_ended() {
            return;
        }
        if call.unblock().is_some() {
            break call.unblock();
        }
        tokio::select! {
            () = sleep_until(until) => break None,
            () = call.changed() => {}
        }
    };
    drop(registration);
    match unblock {
        Some(Unblock::Error) => operation.refuse(UNBLOCKED),
        Some(Unblock::Timeout) | None => operation.finish(b"+OK\r\n"),
    }
}
