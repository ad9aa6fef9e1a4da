//! Counters: no acknowledged INCR is lost, none is done twice.
//! Knows nothing of who else counts: the answers of all clients are compared at the end.

use std::{
    collections::{BTreeMap, BTreeSet},
    thread::JoinHandle,
};

use super::{Caller, KEYS, Reader, Shared, Told};
use crate::client::Reply;

/// What one client was told, by key.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counted {
    answers: BTreeMap<String, Vec<i64>>,
    unknown: BTreeMap<String, i64>,
}

pub(crate) fn spawn(mut caller: Caller, shared: Shared, n: usize) -> JoinHandle<(Counted, Caller)> {
    std::thread::spawn(move || {
        let mut counted = Counted::default();
        let mut turn = n;
        while !shared.stopped() {
            let key = format!("counter{}", turn % KEYS);
            turn += 1;
            match caller.call(&["INCR", &key]) {
                Told::Reply(Reply::Integer(value)) => {
                    let answers = counted.answers.entry(key.clone()).or_default();
                    if let Some(last) = answers.last().filter(|last| **last >= value) {
                        shared.wrong(format!("{key}: one client was told {last}, and later {value}"));
                    }
                    answers.push(value);
                    shared.answered();
                }
                Told::Reply(other) => shared.wrong(format!("INCR {key} was answered {other:?}")),
                Told::Unknown(_) => *counted.unknown.entry(key).or_default() += 1,
                Told::NotExecuted(_) => {}
            }
        }
        (counted, caller)
    })
}

/// Every answer came once, and the last value is what was counted.
pub(crate) fn check(all: &[Counted], reader: &mut Reader, wrong: &mut Vec<String>) {
    let keys: BTreeSet<&String> = all.iter().flat_map(|c| c.answers.keys().chain(c.unknown.keys())).collect();
    for key in keys {
        let mut seen = BTreeSet::new();
        for value in all.iter().filter_map(|c| c.answers.get(key)).flatten() {
            if !seen.insert(*value) {
                wrong.push(format!("{key}: two clients were told {value}"));
            }
        }
        let acknowledged = seen.len() as i64;
        let unknown: i64 = all.iter().filter_map(|c| c.unknown.get(key)).sum();
        let Reply::Bulk(text) = reader.read(&["GET", key]) else {
            if acknowledged > 0 {
                wrong.push(format!("{key} is gone after {acknowledged} acknowledged INCR"));
            }
            continue;
        };
        let value: i64 = String::from_utf8_lossy(&text).parse().unwrap_or(-1);
        let highest = seen.last().copied().unwrap_or(0);
        if value < acknowledged || value > acknowledged + unknown || value < highest {
            wrong.push(format!(
                "{key} is {value}: {acknowledged} INCR were acknowledged (the highest answer was {highest}), {unknown} unknown"
            ));
        }
    }
}
