//! Session keys with a short time to live, which clients refresh: while the last refresh was acknowledged in time, the
//! key must exist. After a refresh that failed, nothing is expected.

use std::{
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::{CallResult, Caller, KEYS, Shared};
use crate::{client::Reply, wait::let_pass};

/// The time to live. It is short: a staged copy that keeps the time to live of its fetch expires within a test.
const TTL: Duration = Duration::from_secs(3);
const REFRESH_EVERY: Duration = Duration::from_secs(1);
/// Allowance for the rounding of servers and for clock differences. The design allows one second.
const SKEW: Duration = Duration::from_secs(1);

pub(crate) fn spawn(mut caller: Caller, shared: Shared, n: usize) -> JoinHandle<Caller> {
    std::thread::spawn(move || {
        let keys: Vec<String> = (0..KEYS).map(|k| format!("session{n}-{k}")).collect();
        // The time until which each key must exist.
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

/// What a client knows about a key.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// The key exists at least until this time.
    due: Instant,
    /// The time at which the last refresh was acknowledged.
    acked: Instant,
}

fn visit(caller: &mut Caller, shared: &Shared, key: &str, until: &mut Option<Known>) {
    if let Some(Known { due, acked }) = *until {
        let result = caller.call(&["GET", key]);
        // The time of the reply counts: if the key was missing at this time, it expired too early.
        let early = Instant::now() + SKEW < due;
        match result {
            CallResult::Reply(Reply::Null) if early => {
                shared.wrong_unless_lost(key, acked, format!("{key} expired {:?} too early", due - Instant::now()));
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
                shared.wrong_unless_lost(key, acked, format!("{key} did not exist when it was refreshed"));
                false
            }
            CallResult::Reply(_) => false,
            // The refresh may or may not have been executed: the previous knowledge remains valid.
            CallResult::NotExecuted(_) | CallResult::Unknown(_) => return,
        },
        None => matches!(caller.call(&["SET", key, "session", "PX", &ttl]), CallResult::Reply(Reply::Simple(_))),
    };
    *until = refreshed.then(|| Known { due: asked + TTL, acked: Instant::now() });
    if refreshed {
        shared.answered();
    }
}
