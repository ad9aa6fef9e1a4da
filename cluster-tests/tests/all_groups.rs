//! Commands over all groups with real nodes and servers: a scan of keys that are there all the time is complete while slots
//! move to and fro and primaries change, and FLUSHALL during moves leaves nothing.

#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use cluster_tests::{
    client::{Client, Reply},
    cluster::Cluster,
    redis::RedisOptions,
    stock,
    wait::{GENEROUS, wait_for, wait_until},
};
use pontoon::faults::Point;
use serde_json::Value;

/// Keys of the product that are never deleted, and elements of each of the big keys.
const KEYS: usize = 3000;
const ELEMENTS: usize = 2000;

fn key(i: usize) -> String {
    format!("kept:{i}")
}

/// The kinds of big keys: how an element is added, how the key is scanned, the key.
const BIG: [(&str, &str, &str); 3] =
    [("HSET", "HSCAN", "big:h"), ("SADD", "SSCAN", "big:s"), ("ZADD", "ZSCAN", "big:z")];

#[track_caller]
fn call(client: &mut Client, words: &[&str]) -> Reply {
    client.call(words).unwrap()
}

/// Writes all keys through a node.
fn fill(client: &mut Client) {
    let keys: Vec<String> = (0..KEYS).map(key).collect();
    let sets: Vec<Vec<&str>> = keys.iter().map(|key| vec!["SET", key, "v"]).collect();
    let elements: Vec<String> = (0..ELEMENTS).map(|i| format!("element:{i}")).collect();
    let adds = BIG.iter().flat_map(|(add, _, key)| {
        elements.iter().map(move |element| match *add {
            "HSET" => vec![*add, key, element, "v"],
            "ZADD" => vec![*add, key, "1", element],
            _ => vec![*add, key, element],
        })
    });
    let requests: Vec<Vec<&str>> = sets.into_iter().chain(adds).collect();
    for requests in requests.chunks(500) {
        let replies = client.pipeline(requests).unwrap();
        assert!(replies.iter().all(|reply| !matches!(reply, Reply::Error(_))), "{replies:?}");
    }
}

/// Scans through all nodes in turn, as long as it is wanted. `words` are a call with the cursor in place of `{}`.
struct Scanner {
    ports: Vec<u16>,
    words: Vec<String>,
    wanted: BTreeSet<String>,
    stop: Arc<AtomicBool>,
    completed: Arc<AtomicU64>,
}

impl Scanner {
    fn run(self) {
        let mut clients: Vec<Option<Client>> = self.ports.iter().map(|_| None).collect();
        let mut seed = 1_usize;
        while !self.stop.load(Ordering::Relaxed) {
            let (mut cursor, mut found) = (String::from("0"), BTreeSet::new());
            loop {
                if self.stop.load(Ordering::Relaxed) {
                    return;
                }
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let node = (seed >> 33) % self.ports.len();
                let Some((next, page)) = self.page(&mut clients[node], self.ports[node], &cursor) else { continue };
                found.extend(page);
                if next == "0" && cursor != "restart" {
                    break;
                }
                if next == "restart" {
                    (cursor, found) = (String::from("0"), BTreeSet::new());
                } else {
                    cursor = next;
                }
            }
            let missing: Vec<_> = self.wanted.difference(&found).take(5).collect();
            assert!(missing.is_empty(), "{:?} did not return {missing:?}, {} found", self.words, found.len());
            self.completed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// One page; `None`: nothing was answered, and the same cursor is used again. The cursor `restart`: the scan begins anew.
    fn page(&self, client: &mut Option<Client>, port: u16, cursor: &str) -> Option<(String, Vec<String>)> {
        let words: Vec<&str> = self.words.iter().map(|word| if word == "{}" { cursor } else { word }).collect();
        if client.is_none() {
            *client = Client::connect(port).ok();
        }
        match client.as_mut()?.call(&words) {
            Ok(Reply::Array(items)) => {
                let [next, Reply::Array(page)] = &items[..] else { panic!("{items:?}") };
                Some((next.text(), page.iter().map(Reply::text).collect()))
            }
            Ok(Reply::Error(text)) if text.contains("slots have moved too often") => Some(("restart".into(), vec![])),
            Ok(Reply::Error(text)) => {
                let passing = ["TRYAGAIN", "CLUSTERDOWN", "ERR its server is down", "LOADING", "READONLY"];
                assert!(passing.iter().any(|start| text.starts_with(start)), "{words:?}: {text}");
                None
            }
            Ok(other) => panic!("{words:?}: {other:?}"),
            Err(_) => {
                *client = None;
                None
            }
        }
    }
}

/// Starts scanners of all keys and of the big keys.
fn start_scanners(cluster: &Cluster) -> (Arc<AtomicBool>, Vec<Arc<AtomicU64>>, Vec<thread::JoinHandle<()>>) {
    let stop = Arc::new(AtomicBool::new(false));
    let ports: Vec<u16> = cluster.nodes.iter().map(|node| node.client_port).collect();
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let keys: BTreeSet<String> = (0..KEYS).map(key).chain(BIG.iter().map(|(_, _, key)| (*key).to_owned())).collect();
    let elements: BTreeSet<String> = (0..ELEMENTS).map(|i| format!("element:{i}")).collect();
    let mut scans = vec![(words("SCAN {} COUNT 40"), keys.clone()), (words("SCAN {} COUNT 1000"), keys)];
    scans.extend(BIG.iter().map(|(_, scan, key)| (words(&format!("{scan} {key} {{}} COUNT 40")), elements.clone())));
    let (mut counts, mut threads) = (Vec::new(), Vec::new());
    for (words, wanted) in scans {
        let completed = Arc::new(AtomicU64::new(0));
        counts.push(completed.clone());
        let scanner = Scanner { ports: ports.clone(), words, wanted, stop: stop.clone(), completed };
        threads.push(thread::spawn(move || scanner.run()));
    }
    (stop, counts, threads)
}

#[track_caller]
fn migrate(cluster: &Cluster, slots: &str, to: &str) {
    cluster.cli().ok(&["migrate", "start", slots, "--to", to]);
    wait_migrated(cluster);
}

#[track_caller]
fn wait_migrated(cluster: &Cluster) {
    wait_for("all migrations to be done", GENEROUS, || {
        let all = cluster.cli().try_json(&["migrate", "ls"])?;
        let open = |m: &Value| m["state"] != "done" && m["state"] != "cancelled";
        match all.as_array().and_then(|all| all.iter().find(|m| open(m))) {
            None => Ok(()),
            Some(open) => Err(open.to_string()),
        }
    });
}

/// Makes `to` the primary of a group.
#[track_caller]
fn promote(cluster: &Cluster, group: &str, to: &str) {
    wait_for(&format!("{to} to become the primary of group {group}"), GENEROUS, || {
        let shown = cluster.cli().try_json(&["group", "show", group])?;
        if shown["servers"][0]["address"] == to {
            return Ok(());
        }
        // It may be refused while the replica is not in sync.
        let _ = cluster.cli().run(&["group", "promote", group, to]);
        Err(shown.to_string())
    });
}

#[test]
fn scans_are_complete_while_slots_move_and_primaries_change() {
    let mut cluster = Cluster::start(3);
    let groups: Vec<Vec<usize>> = [("0-340", 1), ("341-681", 2), ("682-1023", 3)]
        .map(|(slots, group)| cluster.add_group_with_replicas(group, slots, 1, &RedisOptions::default()))
        .into();
    cluster.cli().ok(&["cluster", "set", "hold-max=1s", "--timeout", "40s"]);
    (1..=3).for_each(|id| cluster.wait_answers(id));
    fill(&mut cluster.node(1).client());
    groups.iter().for_each(|servers| cluster.wait_replicated(servers));
    let (stop, counts, threads) = start_scanners(&cluster);
    // Each scan is completed a few times under each change.
    let more = || {
        let before: Vec<u64> = counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        wait_until("every scan to be completed", GENEROUS, || {
            threads.iter().any(thread::JoinHandle::is_finished)
                || counts.iter().zip(&before).all(|(count, before)| count.load(Ordering::Relaxed) > *before)
        });
    };
    more();
    for round in 0..3 {
        migrate(&cluster, "682-1023", "1");
        migrate(&cluster, "0-200", "3");
        let to = &cluster.servers[groups[1][(round + 1) % 2]].addr();
        promote(&cluster, "2", to);
        more();
        migrate(&cluster, "682-1023", "2");
        migrate(&cluster, "0-200", "1");
        promote(&cluster, "1", &cluster.servers[groups[0][(round + 1) % 2]].addr());
        migrate(&cluster, "682-1023", "3");
        more();
    }
    // A failover.
    cluster.wait_replicated(&groups[2]);
    cluster.servers[groups[2][0]].kill9();
    let replica = cluster.servers[groups[2][1]].addr();
    wait_for("a failover", GENEROUS, || {
        let shown = cluster.cli().try_json(&["group", "show", "3"])?;
        if shown["servers"][0]["address"] == replica.as_str() { Ok(()) } else { Err(shown.to_string()) }
    });
    more();
    stop.store(true, Ordering::Relaxed);
    for thread in threads {
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }
}

/// Calls FLUSHALL until it is acknowledged.
fn flush(port: u16) {
    let mut client = Client::connect(port).unwrap();
    wait_for("FLUSHALL to be executed", GENEROUS, || match client.call(&["FLUSHALL"]) {
        Ok(Reply::Simple(_)) => Ok(()),
        Ok(other) => Err(other.text()),
        Err(error) => panic!("{error}"),
    });
}

/// FLUSHALL at every point of a migration: what was acknowledged before it is gone for good.
#[test]
fn flushall_during_moves_leaves_nothing() {
    let cluster = Cluster::serving(2);
    (1..=3).for_each(|id| cluster.wait_answers(id));
    let keys: Vec<String> = (0..KEYS).map(key).collect();
    let points = [
        Point::CleaningTarget,
        Point::Copying,
        Point::BeforeHold,
        Point::BeforeAck,
        Point::Held,
        Point::BarrierPassed,
        Point::Finished,
        Point::BeforeSwitch,
        Point::Switched,
        Point::CleaningSource,
    ];
    for (i, point) in points.into_iter().enumerate() {
        let mut client = cluster.node(1).client();
        for keys in keys.chunks(500) {
            let sets: Vec<Vec<&str>> = keys.iter().map(|key| vec!["SET", key, point.name()]).collect();
            assert!(client.pipeline(&sets).unwrap().iter().all(|reply| *reply == Reply::ok()));
        }
        cluster.pause_at(point);
        cluster.cli().ok(&["migrate", "start", "0-511", "--to", if i % 2 == 0 { "2" } else { "1" }]);
        cluster.wait_reached(point);
        let port = cluster.node(i as u16 % 3 + 1).client_port;
        let flushing = thread::spawn(move || flush(port));
        // It may wait for a hold, which waits here: whether it does is not what is tested.
        let held = [Point::BeforeAck, Point::Held, Point::BarrierPassed, Point::Finished, Point::BeforeSwitch];
        wait_until("FLUSHALL to be acknowledged or parked", GENEROUS, || {
            flushing.is_finished() || held.contains(&point)
        });
        cluster.go_on(point);
        flushing.join().unwrap();
        let left = |when: &str| {
            for node in &cluster.nodes {
                let mut client = node.client();
                let exists: Vec<&str> = std::iter::once("EXISTS").chain(keys.iter().map(String::as_str)).collect();
                assert_eq!(call(&mut client, &exists), Reply::Integer(0), "{when}, {}", point.name());
            }
        };
        left("after the reply");
        wait_migrated(&cluster);
        left("after the migration");
        assert_eq!(call(&mut client, &["KEYS", "kept:*"]), Reply::Array(vec![]));
    }
}

#[test]
fn sizes_and_keys_are_those_of_the_product_while_slots_move() {
    let cluster = Cluster::serving(2);
    (1..=3).for_each(|id| cluster.wait_answers(id));
    let mut client = cluster.node(1).client();
    call(&mut client, &["FLUSHALL"]);
    fill(&mut client);
    let all = Reply::Integer((KEYS + BIG.len()) as i64);
    assert_eq!(call(&mut client, &["DBSIZE"]), all);
    // Everything is copied, nothing is switched.
    cluster.pause_at(Point::BeforeHold);
    cluster.cli().ok(&["migrate", "start", "0-511", "--to", "2"]);
    cluster.wait_reached(Point::BeforeHold);
    for node in &cluster.nodes {
        let mut client = node.client();
        assert_eq!(call(&mut client, &["DBSIZE"]), all);
        let Reply::Array(keys) = call(&mut client, &["KEYS", "*"]) else { panic!("no keys") };
        assert_eq!(keys.len(), KEYS + BIG.len());
        let kept = |reply: Reply| reply.text().starts_with("kept:") || reply.text().starts_with("big:");
        assert!((0..50).all(|_| kept(call(&mut client, &["RANDOMKEY"]))));
    }
    cluster.go_on(Point::BeforeHold);
    wait_migrated(&cluster);
    assert_eq!(call(&mut client, &["DBSIZE"]), all);
}

/// The programs that users scan with.
#[test]
fn redis_cli_and_redis_py_scan() {
    let cluster = Cluster::serving(3);
    cluster.wait_answers(1);
    call(&mut cluster.node(1).client(), &["FLUSHALL"]);
    fill(&mut cluster.node(1).client());
    let port = cluster.node(1).client_port.to_string();
    let cli = |args: &[&str]| stock::run(Command::new("redis-cli").args(["-p", &port]).args(args)).out;
    let scanned = cli(&["--scan"]);
    let found: BTreeSet<&str> = scanned.lines().collect();
    assert_eq!(found.len(), KEYS + BIG.len());
    assert_eq!(cli(&["--scan", "--pattern", "big:*"]).lines().count(), BIG.len());
    for option in ["--bigkeys", "--memkeys"] {
        let summary = cli(&[option]);
        assert!(summary.contains(&format!("Sampled {} keys in the keyspace", KEYS + BIG.len())), "{summary}");
        assert!(summary.contains("big:h") && summary.contains("big:z"), "{summary}");
    }
    let ran = stock::run(Command::new(stock::python()).arg(stock::script("redis_py_scan.py")).arg(&port));
    assert_eq!(ran.out.trim(), format!("{} keys, {ELEMENTS} fields", KEYS + BIG.len()));
}
