//! Keys of several types that no client touches: at the end, each must be in exactly one group, with its original
//! value, and expire at its original millisecond. No other key may be in two groups either. Brief keys expire meanwhile
//! and must not come back.

use std::collections::BTreeMap;

use pontoon::model::{ids::SlotId, slot::Layout};
use serde_json::Value;

use super::{Reader, unix_ms};
use crate::{
    client::{Client, Reply, request},
    cluster::Cluster,
    wait::{GENEROUS, wait_for},
};

/// Number of requests that are in flight while the keys are created or read.
const WINDOW: usize = 500;

/// Until a cold key expires, in milliseconds: longer than any test.
const LIFE_MS: i64 = 3_600_000;
/// Elements of the only big key, which is copied in pieces.
const BIG: usize = 6000;
/// Number of brief keys. Each expires [`BRIEF_STEP_MS`] after the one before it, so that some do in every phase.
const BRIEF: usize = 120;
const BRIEF_STEP_MS: i64 = 100;

/// The cold keys.
#[derive(Clone, Copy, Debug)]
pub struct Cold {
    keys: usize,
    /// When they were created, in milliseconds since the epoch.
    created: i64,
}

/// Returns the `n`-th key, the command that creates it, the command that reads it, and the expected reply.
fn key(n: usize) -> (String, Vec<String>, Vec<String>, Reply) {
    let key = format!("cold{n}");
    let owned = |args: &[&str]| args.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>();
    let value = format!("value-{n}");
    if n == 0 {
        let elements = (0..BIG).map(|i| i.to_string());
        let make = owned(&["RPUSH", &key]).into_iter().chain(elements).collect();
        return (key.clone(), make, owned(&["LLEN", &key]), Reply::Integer(BIG as i64));
    }
    let (make, read, is) = match n % 5 {
        0 => (owned(&["HSET", &key, "f", &value]), owned(&["HGET", &key, "f"]), Reply::bulk(&value)),
        1 => (
            owned(&["RPUSH", &key, "a", &value]),
            owned(&["LRANGE", &key, "0", "-1"]),
            Reply::Array(vec![Reply::bulk("a"), Reply::bulk(&value)]),
        ),
        2 => (owned(&["ZADD", &key, "1.5", &value]), owned(&["ZSCORE", &key, &value]), Reply::bulk("1.5")),
        3 => (owned(&["SADD", &key, &value]), owned(&["SISMEMBER", &key, &value]), Reply::Integer(1)),
        _ => (owned(&["SET", &key, &value]), owned(&["GET", &key]), Reply::bulk(&value)),
    };
    (key, make, read, is)
}

impl Cold {
    /// Creates `n` keys through the node at `port`.
    ///
    /// # Panics
    /// When a key cannot be created.
    #[must_use]
    pub fn load(port: u16, n: usize) -> Self {
        let mut client = Client::connect(port).expect("a node answers");
        let cold = Self { keys: n, created: unix_ms() };
        for i in 0..BRIEF {
            let set = ["SET", &brief(i), "x", "PXAT", &cold.brief_expires_at(i).to_string()].map(str::to_owned);
            let reply = client.call(&set.each_ref().map(String::as_str)).expect("a node answers");
            assert!(!matches!(reply, Reply::Error(_)), "{set:?}: {reply:?}");
        }
        for from in (0..n).step_by(WINDOW) {
            let to = n.min(from + WINDOW);
            let mut bytes = Vec::new();
            for n in from..to {
                let (key, make, ..) = key(n);
                bytes.extend(request(&make.iter().map(String::as_str).collect::<Vec<_>>()));
                match cold.expires_at(n) {
                    -1 => bytes.extend(request(&["PERSIST", &key])),
                    at => bytes.extend(request(&["PEXPIREAT", &key, &at.to_string()])),
                }
            }
            client.send(&bytes).expect("requests can be sent");
            for n in (from..to).flat_map(|n| [n, n]) {
                let reply = client.read().expect("a node answers");
                assert!(!matches!(reply, Reply::Error(_)), "cold{n}: {reply:?}");
            }
        }
        cold
    }

    /// When the `n`-th key expires, in milliseconds since the epoch; -1: never, as PEXPIRETIME says it.
    fn expires_at(&self, n: usize) -> i64 {
        if n % 3 == 1 { -1 } else { self.created + LIFE_MS + n as i64 }
    }

    fn brief_expires_at(&self, n: usize) -> i64 {
        self.created + 1000 + n as i64 * BRIEF_STEP_MS
    }

    fn check_brief(&self, reader: &mut Reader, wrong: &mut Vec<String>) {
        for n in 0..BRIEF {
            let (key, at) = (brief(n), self.brief_expires_at(n));
            match reader.read(&["PEXPIRETIME", &key]) {
                Reply::Integer(there) if there == at => {}
                Reply::Integer(-2) if unix_ms() >= at => {}
                other => wrong.push(format!("{key} expires at {other:?}, not at {at}; it is {}", unix_ms())),
            }
        }
    }

    /// Checks the keys through the nodes and at every server.
    pub(crate) fn check(&self, reader: &mut Reader, cluster: &Cluster, wrong: &mut Vec<String>) {
        let mut lost = Vec::new();
        self.check_brief(reader, wrong);
        for n in 0..self.keys {
            let (key, _, read, is) = key(n);
            // All keys are checked at their servers below. Through the proxy, a sample is enough.
            if n % 50 == 0 && reader.read(&read.iter().map(String::as_str).collect::<Vec<_>>()) != is {
                lost.push(key);
            }
        }
        if !lost.is_empty() {
            wrong.push(format!("{} cold keys are lost or changed: {lost:?}", lost.len()));
        }
        everything_is_in_one_group(*self, cluster, wrong);
    }
}

fn brief(n: usize) -> String {
    format!("brief{n}")
}

fn owners(cluster: &Cluster) -> Vec<u64> {
    let slots = wait_for("the slot table", GENEROUS, || {
        let ids = cluster.nodes.iter();
        let mut answers = ids.map(|n| n.cli().try_json(&["slot", "ls", "--timeout", "5s"]));
        answers.find_map(Result::ok).ok_or("no node answers")
    });
    owners_in(&slots)
}

/// Converts the output of `slot ls` to the owner group of each slot. 0: the slot has no owner.
#[must_use]
pub fn owners_in(ranges: &Value) -> Vec<u64> {
    let mut owners = vec![0; usize::from(Layout::Codis.slots())];
    let ranges = ranges.get("ranges").unwrap_or(ranges);
    for range in ranges.as_array().cloned().unwrap_or_default() {
        let bound = |name: &str| range[name].as_u64().unwrap_or(0) as usize;
        for owner in owners.iter_mut().take(bound("last") + 1).skip(bound("first")) {
            *owner = range["group"].as_u64().unwrap_or(0);
        }
    }
    owners
}

fn everything_is_in_one_group(cold: Cold, cluster: &Cluster, wrong: &mut Vec<String>) {
    let owners = owners(cluster);
    let groups = cluster.nodes.iter().find_map(|n| n.cli().try_json(&["group", "ls", "--timeout", "5s"]).ok());
    let Some(groups) = groups else { return wrong.push("no node answers `group ls`".into()) };
    let groups = groups.get("groups").cloned().unwrap_or(groups);
    let mut places: BTreeMap<String, u64> = BTreeMap::new();
    for group in groups.as_array().cloned().unwrap_or_default() {
        let id = group["id"].as_u64().unwrap_or(0);
        let addr = group["servers"][0]["address"].as_str().unwrap_or_default().to_owned();
        let port: u16 = addr.rsplit_once(':').and_then(|(_, p)| p.parse().ok()).unwrap_or(0);
        let mut server = match Client::connect(port) {
            Ok(server) => server,
            Err(e) => {
                wrong.push(format!("group {id} at {addr} does not answer: {e}"));
                continue;
            }
        };
        let mut cursor = "0".to_owned();
        loop {
            let Ok(Reply::Array(page)) = server.call(&["SCAN", &cursor, "COUNT", "1000"]) else {
                wrong.push(format!("group {id} at {addr} cannot be scanned"));
                break;
            };
            if let Some(Reply::Array(keys)) = page.get(1) {
                for key in keys.iter().map(Reply::text) {
                    let SlotId(slot) = Layout::Codis.slot(key.as_bytes());
                    let owner = owners[usize::from(slot)];
                    if owner != id {
                        wrong.push(format!("'{key}' of slot {slot} is in group {id}; group {owner} owns the slot"));
                    } else if places.insert(key.clone(), id).is_some_and(|other| other != id) {
                        wrong.push(format!("'{key}' is in two groups"));
                    }
                }
            }
            cursor = page.first().map(Reply::text).unwrap_or_default();
            if cursor == "0" {
                break;
            }
        }
        values(cold, &mut server, &addr, |k| places.get(k) == Some(&id), wrong);
    }
    let count = cold.keys;
    let missing: Vec<String> = (0..count).map(|n| key(n).0).filter(|k| !places.contains_key(k)).collect();
    if !missing.is_empty() {
        wrong.push(format!("{} of {count} cold keys are in no group, the first {}", missing.len(), missing[0]));
    }
    wrong.truncate(40);
}

/// Checks the values of the cold keys that are at this server.
fn values(cold: Cold, server: &mut Client, addr: &str, here: impl Fn(&str) -> bool, wrong: &mut Vec<String>) {
    let mine: Vec<usize> = (0..cold.keys).filter(|n| here(&key(*n).0)).collect();
    for part in mine.chunks(WINDOW) {
        let mut bytes = Vec::new();
        for n in part {
            let (key, _, read, _) = key(*n);
            bytes.extend(request(&read.iter().map(String::as_str).collect::<Vec<_>>()));
            bytes.extend(request(&["PEXPIRETIME", &key]));
        }
        if server.send(&bytes).is_err() {
            return wrong.push(format!("{addr} does not answer"));
        }
        for n in part {
            let (key, _, _, is) = key(*n);
            match server.read() {
                Ok(reply) if reply == is => {}
                other => wrong.push(format!("{key} at {addr} is {other:?}, not {is:?}")),
            }
            match server.read() {
                Ok(Reply::Integer(at)) if at == cold.expires_at(*n) => {}
                other => wrong.push(format!("{key} at {addr} expires at {other:?}, not at {}", cold.expires_at(*n))),
            }
        }
    }
}
