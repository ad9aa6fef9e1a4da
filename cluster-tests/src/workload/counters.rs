//! Counters: no acknowledged increment may be lost or executed twice, whether it is an INCR, a script, a transaction that watches
//! what it has read, or one of several commands, which is never half executed. The script is loaded once, at one node: a call
//! by its digest finds it everywhere, also in a transaction.
//! The clients do not coordinate: the replies of all clients are compared at the end.

use std::{
    collections::{BTreeMap, BTreeSet},
    thread::JoinHandle,
    time::Instant,
};

use super::{CallResult, Caller, KEYS, Reader, Shared};
use crate::{
    client::{Client, Reply},
    loss::Losses,
};

/// A script that increments a counter.
const SCRIPT: &str = "return redis.call('INCR', KEYS[1])";

/// The replies that one client got, by key.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counted {
    /// (reply, time of the reply).
    answers: BTreeMap<String, Vec<(i64, Instant)>>,
    unknown: BTreeMap<String, i64>,
}

/// Loads the script. Returns its digest.
///
/// # Panics
/// When the node does not load it.
pub(crate) fn load_script(port: u16) -> String {
    let loaded = Client::connect(port).and_then(|mut client| client.call(&["SCRIPT", "LOAD", SCRIPT]));
    match loaded {
        Ok(Reply::Bulk(digest)) => String::from_utf8_lossy(&digest).into_owned(),
        other => panic!("the script of the counters was not loaded: {other:?}"),
    }
}

pub(crate) fn spawn(mut caller: Caller, shared: Shared, n: usize, script: String) -> JoinHandle<(Counted, Caller)> {
    std::thread::spawn(move || {
        let mut counted = Counted::default();
        let mut turn = n;
        while !shared.stopped() {
            let key = format!("counter{}", turn % KEYS);
            let form = (turn / KEYS + n) % 5;
            turn += 1;
            let result = match form {
                0 => caller.call(&["INCR", &key]),
                1 => optimistic(&mut caller, &key),
                2 => caller.call(&["EVALSHA", &script, "1", &key]),
                3 => paired(&mut caller, &["EVALSHA", &script, "1", &key], &key, &shared),
                _ => paired(&mut caller, &["INCR", &key], &key, &shared),
            };
            match result {
                CallResult::Unknown(why) if why.starts_with("NOSCRIPT") => {
                    shared.wrong(format!("a script that the cluster has loaded was not found: {why}"));
                }
                CallResult::Reply(Reply::Integer(value)) => {
                    let answers = counted.answers.entry(key.clone()).or_default();
                    answers.push((value, Instant::now()));
                    shared.answered();
                }
                // Another client was faster.
                CallResult::Reply(Reply::Null) if form == 1 => shared.answered(),
                CallResult::Reply(other) => shared.wrong(format!("incrementing {key} was answered {other:?}")),
                CallResult::Unknown(_) => *counted.unknown.entry(key).or_default() += 1,
                CallResult::NotExecuted(_) => {}
            }
        }
        (counted, caller)
    })
}

/// Increments a counter by a transaction that watches it. `Null`: it was not executed, because the counter has changed.
fn optimistic(caller: &mut Caller, key: &str) -> CallResult {
    let read = match caller.calls(&[&["WATCH", key], &["GET", key]]) {
        Ok(replies) => replies,
        Err(result) => return result,
    };
    let value = match &read[1] {
        Reply::Null => 0,
        other => other.text().parse::<i64>().unwrap_or(i64::MIN),
    };
    let next = (value + 1).to_string();
    match caller.calls(&[&["MULTI"], &["SET", key, &next], &["EXEC"]]) {
        Ok(replies) if replies[2] == Reply::Null => CallResult::Reply(Reply::Null),
        Ok(replies) if replies[2] == Reply::Array(vec![Reply::ok()]) => CallResult::Reply(Reply::Integer(value + 1)),
        Ok(replies) => CallResult::Reply(replies[2].clone()),
        Err(result) => result,
    }
}

/// Increments a counter by `increment`, and its pair, which are equal if no transaction was half executed.
fn paired(caller: &mut Caller, increment: &[&str], key: &str, shared: &Shared) -> CallResult {
    let [one, other] = [format!("{{{key}}}:one"), format!("{{{key}}}:other")];
    match caller.calls(&[&["MULTI"], &["INCR", &one], increment, &["INCR", &other], &["EXEC"]]) {
        Ok(replies) => match &replies[4] {
            Reply::Array(values) if values.len() == 3 => {
                if values[0] != values[2] {
                    shared.wrong(format!("a transaction was half executed: {one} and {other} are {values:?}"));
                }
                CallResult::Reply(values[1].clone())
            }
            other => CallResult::Reply(other.clone()),
        },
        Err(result) => result,
    }
}

/// Checks all counters: no two clients received the same value, the values of each client are ascending, and the final
/// value is the number of executed INCRs. After a failover that may lose writes, the count continues from the value
/// that was kept.
pub(crate) fn check(all: &[Counted], losses: &Losses, reader: &mut Reader, wrong: &mut Vec<String>) {
    let keys: BTreeSet<&String> = all.iter().flat_map(|c| c.answers.keys().chain(c.unknown.keys())).collect();
    for key in keys {
        let [one, other] = ["one", "other"].map(|name| reader.read(&["GET", &format!("{{{key}}}:{name}")]));
        if one != other {
            wrong.push(format!("a transaction was half executed: the pair of {key} is {one:?} and {other:?}"));
        }
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
