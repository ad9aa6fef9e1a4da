//! Session keys with a short time to live, refreshed all the time: as long as a refresh was acknowledged in time, the key is there.
//! Knows nothing of why a refresh may fail; it then expects nothing.

use std::{
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::{CallResult, Caller, KEYS, Shared};
use crate::{client::Reply, wait::let_pass};

/// Time to live, and how often it is renewed. A staged copy with the time to live of its fetch dies within a test.
const TTL: Duration = Duration::from_secs(3);
const REFRESH_EVERY: Duration = Duration::from_secs(1);
/// Servers round and clocks differ by this; the design allows a second.
const SKEW: Duration = Duration::from_secs(1);

pub(crate) fn spawn(mut caller: Caller, shared: Shared, n: usize) -> JoinHandle<Caller> {
    std::thread::spawn(move || {
        let keys: Vec<String> = (0..KEYS).map(|k| format!("session{n}-{k}")).collect();
        // Until when each key must be there.
        let mut until: Vec<Option<Known>> = vec![None; keys.len()];
        while !shared.stopped() {
            let began = Instant::now();
            for (key, until) in keys.iter().zip(&mut until) {
                visit(&mut caller, &shared, key, until);
                if shared.stopped() {
                    break;
                }
            }
            let_pass(REFRESH_EVERY.saturating_sub(began.elapsed()).min(Duration::from_millis(200)));
        }
        caller
    })
}

/// What a client knows of a key.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// It is there until then.
    due: Instant,
    /// When the refresh that says so was acknowledged.
    acked: Instant,
}

fn visit(caller: &mut Caller, shared: &Shared, key: &str, until: &mut Option<Known>) {
    if let Some(Known { due, acked }) = *until {
        let result = caller.call(&["GET", key]);
        // What counts is when the answer was there: a key that was seen missing by then was missing too early.
        let early = Instant::now() + SKEW < due;
        match result {
            CallResult::Reply(Reply::Null) if early => {
                shared.wrong_unless_lost(
                    key,
                    acked,
                    format!("{key} vanished {:?} before its time", due - Instant::now()),
                );
                *until = None;
            }
            CallResult::Reply(_) => shared.answered(),
            CallResult::NotExecuted(_) | CallResult::Unknown(_) => {}
        }
    }
    let asked = Instant::now();
    let ttl = TTL.as_millis().to_string();
    let refreshed = match *until {
        Some(Known { due, acked }) => match caller.call(&["PEXPIRE", key, &ttl]) {
            CallResult::Reply(Reply::Integer(1)) => true,
            CallResult::Reply(Reply::Integer(_)) if Instant::now() + SKEW < due => {
                shared.wrong_unless_lost(key, acked, format!("{key} was not there to be refreshed"));
                false
            }
            CallResult::Reply(_) => false,
            // It may have been refreshed, or not: what was known before holds on.
            CallResult::NotExecuted(_) | CallResult::Unknown(_) => return,
        },
        None => matches!(caller.call(&["SET", key, "session", "PX", &ttl]), CallResult::Reply(Reply::Simple(_))),
    };
    *until = refreshed.then(|| Known { due: asked + TTL, acked: Instant::now() });
    if refreshed {
        shared.answered();
    }
}
