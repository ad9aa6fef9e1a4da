//! Session keys with a short time to live, which clients refresh: the key must exist and expire when the last refresh
//! says, to the millisecond. After a refresh that failed, it may also expire later.

use std::{
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::{CallResult, Caller, KEYS, Shared, unix_ms};
use crate::{client::Reply, wait::let_pass};

/// The time to live. It is short: a staged copy that keeps the time to live of its fetch expires within a test.
const TTL: Duration = Duration::from_secs(3);
const REFRESH_EVERY: Duration = Duration::from_secs(1);

pub(crate) fn spawn(mut caller: Caller, shared: Shared, n: usize) -> JoinHandle<Caller> {
    std::thread::spawn(move || {
        let keys: Vec<String> = (0..KEYS).map(|k| format!("session{n}-{k}")).collect();
        let mut sessions = vec![Session::default(); keys.len()];
        while !shared.stopped() {
            let began = Instant::now();
            for (key, session) in keys.iter().zip(&mut sessions) {
                visit(&mut caller, &shared, key, session);
                if shared.stopped() {
                    break;
                }
            }
            let_pass(REFRESH_EVERY.saturating_sub(began.elapsed()).min(Duration::from_millis(200)));
        }
        caller
    })
}

/// A key, as its client knows it.
#[derive(Clone, Copy, Debug, Default)]
struct Session {
    known: Option<Known>,
    /// The outcome of a request was unknown: it may have refreshed the key, or may still do so.
    unknown_outcome: bool,
}

/// What the last refresh says about a key.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// The key expires at or after this instant, in milliseconds since the epoch: counted from before the refresh.
    from: i64,
    /// It expires at or before this instant, counted from the acknowledgement, if no other request has refreshed it.
    until: i64,
    /// The time at which the last refresh was acknowledged.
    acked: Instant,
}

fn visit(caller: &mut Caller, shared: &Shared, key: &str, session: &mut Session) {
    if let Some(Known { from, until, acked }) = session.known {
        let result = caller.call(&["PEXPIRETIME", key]);
        let now = unix_ms();
        match result {
            CallResult::Reply(Reply::Integer(-2)) => {
                // The time of the reply counts: if the key was missing at this time, it expired too early.
                if now < from {
                    shared.wrong_unless_lost(key, acked, format!("{key} expired {} ms too early", from - now));
                }
                session.known = None;
            }
            CallResult::Reply(Reply::Integer(at)) if at < from || (at > until && !session.unknown_outcome) => {
                let what = format!("{key} expires at {at}, which is not within {from} and {until}");
                shared.wrong_unless_lost(key, acked, what);
                session.known = None;
            }
            CallResult::Reply(_) => shared.answered(),
            CallResult::NotExecuted(_) | CallResult::Unknown(_) => {}
        }
    }
    let asked = unix_ms();
    let (ms, ttl) = (TTL.as_millis() as i64, TTL.as_millis().to_string());
    let result = match session.known {
        Some(_) => caller.call(&["PEXPIRE", key, &ttl]),
        None => caller.call(&["SET", key, "session", "PX", &ttl]),
    };
    let now = unix_ms();
    match result {
        CallResult::Reply(Reply::Integer(1) | Reply::Simple(_)) => {
            session.known = Some(Known { from: asked + ms, until: now + ms, acked: Instant::now() });
            shared.answered();
        }
        CallResult::Reply(_) => {
            if let Some(Known { from, acked, .. }) = session.known.take()
                && now < from
            {
                shared.wrong_unless_lost(key, acked, format!("{key} did not exist when it was refreshed"));
            }
        }
        // What is known remains valid, except that the key may live longer.
        CallResult::Unknown(_) => session.unknown_outcome = true,
        CallResult::NotExecuted(_) => {}
    }
}
