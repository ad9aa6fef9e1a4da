//! Growing lists: every acknowledged element must exist exactly once, in its client's order.
//! The order of elements of different clients is not checked.

use std::{
    collections::{BTreeMap, BTreeSet},
    thread::JoinHandle,
    time::Instant,
};

use super::{CallResult, Caller, KEYS, Reader, Shared};
use crate::{
    client::Reply,
    loss::{self, Acked, Losses},
};

/// The elements that one client pushed, by key.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pushed {
    /// (element, the moment before it was sent, the moment after it was answered).
    acknowledged: BTreeMap<String, Vec<(String, Instant, Instant)>>,
    unknown: BTreeMap<String, BTreeSet<String>>,
}

pub(crate) fn spawn(mut caller: Caller, shared: Shared, n: usize) -> JoinHandle<(Pushed, Caller)> {
    std::thread::spawn(move || {
        let mut pushed = Pushed::default();
        let mut turn = 0u64;
        while !shared.stopped() {
            let key = format!("list{}", (turn as usize + n) % KEYS);
            let element = format!("{n}:{turn}");
            turn += 1;
            let begin = Instant::now();
            match caller.call(&["RPUSH", &key, &element]) {
                CallResult::Reply(Reply::Integer(_)) => {
                    pushed.acknowledged.entry(key).or_default().push((element, begin, Instant::now()));
                    shared.answered();
                }
                CallResult::Reply(other) => shared.wrong(format!("RPUSH {key} was answered {other:?}")),
                CallResult::Unknown(_) => {
                    pushed.unknown.entry(key).or_default().insert(element);
                }
                CallResult::NotExecuted(_) => {}
            }
        }
        (pushed, caller)
    })
}

/// Checks all lists. Returns the number of acknowledged elements that are lost.
pub(crate) fn check(all: &[Pushed], losses: &Losses, reader: &mut Reader, wrong: &mut Vec<String>) -> usize {
    let keys: BTreeSet<&String> = all.iter().flat_map(|p| p.acknowledged.keys().chain(p.unknown.keys())).collect();
    let mut writes = Vec::new();
    for key in keys {
        let items = match reader.read(&["LRANGE", key, "0", "-1"]) {
            Reply::Array(items) => items.iter().map(Reply::text).collect(),
            other => {
                wrong.push(format!("{key} is not a list: {other:?}"));
                Vec::new()
            }
        };
        let mut places = BTreeMap::new();
        for (at, item) in items.iter().enumerate() {
            if places.insert(item.clone(), at).is_some() {
                wrong.push(format!("{key}: {item} is in the list twice"));
            }
        }
        for pushed in all {
            let own = pushed.acknowledged.get(key).map(Vec::as_slice).unwrap_or_default();
            writes.extend(own.iter().map(|(element, begin, end)| Acked {
                key: key.clone(),
                what: element.clone(),
                begin: *begin,
                end: *end,
                kept: places.contains_key(element),
            }));
            if !own.iter().filter_map(|(e, ..)| places.get(e)).is_sorted() {
                wrong.push(format!("{key}: the elements of one client are out of order"));
            }
        }
        let known = |item: &String| {
            all.iter().any(|p| {
                p.acknowledged.get(key).is_some_and(|l| l.iter().any(|(e, ..)| e == item))
                    || p.unknown.get(key).is_some_and(|l| l.contains(item))
            })
        };
        if let Some(item) = items.iter().find(|i| !known(i)) {
            wrong.push(format!(
                "{key}: {item} is in the list, although no client pushed it, or its push was answered 'not executed'"
            ));
        }
    }
    loss::check(&writes, losses, wrong)
}
