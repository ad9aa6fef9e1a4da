//! Counters: no acknowledged INCR may be lost or executed twice.
//! The clients do not coordinate: the replies of all clients are compared at the end.

use std::{
    collections::{BTreeMap, BTreeSet},
    thread::JoinHandle,
    time::Instant,
};

use super::{CallResult, Caller, KEYS, Reader, Shared};
use crate::{client::Reply, loss::Losses};

/// The replies that one client got, by key.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counted {
    /// (reply, time of the reply).
    answers: BTreeMap<String, Vec<(i64, Instant)>>,
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
                CallResult::Reply(Reply::Integer(value)) => {
                    let answers = counted.answers.entry(key.clone()).or_default();
                    answers.push((value, Instant::now()));
                    shared.answered();
                }
                CallResult::Reply(other) => shared.wrong(format!("INCR {key} was answered {other:?}")),
                CallResult::Unknown(_) => *counted.unknown.entry(key).or_default() += 1,
                CallResult::NotExecuted(_) => {}
            }
        }
        (counted, caller)
    })
}

/// Checks all counters: no two clients received the same value, the values of each client are ascending, and the final
/// value is the number of executed INCRs. After a failover that may lose writes, the count continues from the value
/// that was kept.
pub(crate) fn check(all: &[Counted], losses: &Losses, reader: &mut Reader, wrong: &mut Vec<String>) {
    let keys: BTreeSet<&String> = all.iter().flat_map(|c| c.answers.keys().chain(c.unknown.keys())).collect();
    for key in keys {
        let cuts = losses.of_key(key);
        // Replies of different primaries are independent.
        let phase = |at: Instant| cuts.iter().filter(|cut| cut.at < at).count();
        let mut seen: BTreeMap<usize, BTreeSet<i64>> = BTreeMap::new();
        for answers in all.iter().filter_map(|c| c.answers.get(key)) {
            for (value, at) in answers {
                if !seen.entry(phase(*at)).or_default().insert(*value) {
                    wrong.push(format!("{key}: two clients got {value}"));
                }
            }
            for pair in answers.windows(2).filter(|pair| phase(pair[0].1) == phase(pair[1].1)) {
                if pair[0].0 >= pair[1].0 {
                    wrong.push(format!("{key}: one client got {}, and later {}", pair[0].0, pair[1].0));
                }
            }
        }
        let answers = || all.iter().filter_map(|c| c.answers.get(key)).flatten();
        let kept = || answers().filter(|(_, at)| !losses.explain(key, *at));
        for (later, values) in &seen {
            let before = kept().filter(|(_, at)| phase(*at) < *later).map(|(value, _)| *value).max();
            if let (Some(before), Some(first)) = (before, values.first())
                && *first <= before
            {
                wrong.push(format!(
                    "{key}: {before} was counted and replicated, but a later primary counts from {first}"
                ));
            }
        }
        let (acknowledged, all_acknowledged) = (kept().count() as i64, answers().count() as i64);
        let unknown: i64 = all.iter().filter_map(|c| c.unknown.get(key)).sum();
        let Reply::Bulk(text) = reader.read(&["GET", key]) else {
            if acknowledged > 0 {
                wrong.push(format!("{key} does not exist after {acknowledged} acknowledged INCR"));
            }
            continue;
        };
        let value: i64 = String::from_utf8_lossy(&text).parse().unwrap_or(-1);
        let highest = kept().map(|(value, _)| *value).max().unwrap_or(0);
        if value < acknowledged || value > all_acknowledged + unknown || value < highest {
            wrong.push(format!(
                "{key} is {value}: {acknowledged} of {all_acknowledged} acknowledged INCR must be kept (the highest \
                 reply was {highest}), {unknown} have an unknown outcome"
            ));
        }
    }
}
