//! Lists that grow: every acknowledged element is there once, in its client's order.
//! Knows nothing of how elements of different clients mix.

use std::{
    collections::{BTreeMap, BTreeSet},
    thread::JoinHandle,
};

use super::{Caller, KEYS, Reader, Shared, Told};
use crate::client::Reply;

/// What one client pushed, by key.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pushed {
    acknowledged: BTreeMap<String, Vec<String>>,
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
            match caller.call(&["RPUSH", &key, &element]) {
                Told::Reply(Reply::Integer(_)) => {
                    pushed.acknowledged.entry(key).or_default().push(element);
                    shared.answered();
                }
                Told::Reply(other) => shared.wrong(format!("RPUSH {key} was answered {other:?}")),
                Told::Unknown(_) => {
                    pushed.unknown.entry(key).or_default().insert(element);
                }
                Told::NotExecuted(_) => {}
            }
        }
        (pushed, caller)
    })
}

pub(crate) fn check(all: &[Pushed], reader: &mut Reader, wrong: &mut Vec<String>) {
    let keys: BTreeSet<&String> = all.iter().flat_map(|p| p.acknowledged.keys().chain(p.unknown.keys())).collect();
    for key in keys {
        let Reply::Array(items) = reader.read(&["LRANGE", key, "0", "-1"]) else {
            wrong.push(format!("{key} is no list"));
            continue;
        };
        let items: Vec<String> = items.iter().map(Reply::text).collect();
        let mut places = BTreeMap::new();
        for (at, item) in items.iter().enumerate() {
            if places.insert(item.clone(), at).is_some() {
                wrong.push(format!("{key}: {item} is there twice"));
            }
        }
        for pushed in all {
            let own = pushed.acknowledged.get(key).map(Vec::as_slice).unwrap_or_default();
            let lost: Vec<&String> = own.iter().filter(|e| !places.contains_key(*e)).collect();
            if !lost.is_empty() {
                wrong.push(format!("{key}: {} acknowledged elements are lost, the first {}", lost.len(), lost[0]));
            }
            if !own.iter().filter_map(|e| places.get(e)).is_sorted() {
                wrong.push(format!("{key}: elements of one client are out of their order"));
            }
        }
        let known = |item: &String| {
            all.iter().any(|p| {
                p.acknowledged.get(key).is_some_and(|l| l.contains(item))
                    || p.unknown.get(key).is_some_and(|l| l.contains(item))
            })
        };
        if let Some(item) = items.iter().find(|i| !known(i)) {
            wrong.push(format!("{key}: {item} is there, and nobody pushed it or was told it was not executed"));
        }
    }
}
