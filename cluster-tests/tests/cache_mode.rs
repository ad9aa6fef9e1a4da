//! A cache whose group dies without a replica: its slots are served by the others, and when it is back it starts empty, so that
//! nothing of before is read. Clients at work, real servers that keep their data.
//! Knows nothing of how it is decided.

#![allow(clippy::unwrap_used)]

use std::{path::Path, time::Instant};

use cluster_tests::{
    cli::Cli,
    client::{Client, Reply},
    cluster::Cluster,
    redis::RedisOptions,
    wait::{GENEROUS, wait_for},
    workload::{Write, Written},
};
use pontoon::{
    faults::Point,
    model::{ids::SlotId, slot::Layout},
};

/// Group 1 has slots 0 to 399 in all tests.
const THREE: &[(&str, &str)] = &[("1", "0-399"), ("2", "400-699"), ("3", "700-1023")];
const TWO: &[(&str, &str)] = &[("1", "0-399"), ("2", "400-1023")];

struct Cache {
    cluster: Cluster,
    /// Of product `cache` on each node.
    ports: Vec<u16>,
}

impl Cache {
    /// Three nodes; product `cache` with these groups and their slots, of one server each, which keeps its data.
    fn start(groups: &[(&str, &str)]) -> Self {
        let mut cluster = Cluster::start(3);
        let port = cluster.ports.product(1);
        let ports = (1..=3).map(|id| port + id).collect();
        let wait = ["--wait", "--timeout", "40s"];
        let create = ["product", "create", "cache", "--port", &port.to_string(), "--mode", "cache"];
        cluster.cli().ok(&[&create[..], &wait].concat());
        let more = ["--appendonly", "yes", "--appendfsync", "always"].map(str::to_owned).to_vec();
        let options = RedisOptions { more, ..RedisOptions::default() };
        for (gid, slots) in groups {
            let server = cluster.add_server(&options);
            let of = ["--product", "cache"];
            let addr = cluster.servers[server].addr();
            cluster.cli().ok(&[&["group", "create", gid, "--primary", &addr][..], &of].concat());
            cluster.cli().ok(&[&["slot", "assign", slots, gid][..], &of, &wait].concat());
        }
        let cache = Self { cluster, ports };
        cache.set("down-after=800ms");
        cache.set("eject-after=1500ms");
        cache
    }

    fn cli(&self) -> Cli {
        self.cluster.cli()
    }

    fn set(&self, what: &str) {
        self.cli().ok(&["group", "set", "1", what, "--product", "cache"]);
    }

    /// Through any node.
    fn group_1(&self) -> Result<serde_json::Value, String> {
        let asked = self
            .cluster
            .nodes
            .iter()
            .map(|node| node.cli().try_json(&["group", "show", "1", "--product", "cache", "--timeout", "2s"]));
        asked.filter_map(Result::ok).next().ok_or_else(|| "no node answers".to_owned())
    }

    #[track_caller]
    fn wait_out(&self, out: bool) {
        wait_for(if out { "group 1 to be out" } else { "group 1 to be back" }, GENEROUS, || {
            let shown = self.group_1()?;
            let is = !shown["ejection"].is_null();
            if is == out && (shown["slot_count"] == 0) == out { Ok(()) } else { Err(shown.to_string()) }
        });
    }

    fn events(&self) -> String {
        let asked = self.cluster.nodes.iter().map(|node| node.cli().run(&["events"]));
        asked.filter(|ran| ran.code == 0).map(|ran| ran.out).next().unwrap_or_default()
    }

    /// What every node says of a key.
    fn read(&self, key: &str) -> Vec<Reply> {
        let get = |port: &u16| Client::connect(*port).unwrap().call(&["GET", key]).unwrap();
        self.ports.iter().map(get).collect()
    }

    #[track_caller]
    fn wait_written(&self, port: u16, key: &str, value: &str) {
        wait_for("a write to be taken", GENEROUS, || {
            match Client::connect(port).and_then(|mut client| client.call(&["SET", key, value])) {
                Ok(Reply::Simple(_)) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
    }
}

fn in_group_1(key: &str) -> bool {
    Layout::Codis.slot(key.as_bytes()) < SlotId(400)
}

/// Replaces what is at `to`.
fn copy_files(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    std::fs::create_dir(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

/// A key of group 1.
fn key() -> String {
    (0..).map(|n| format!("key{n}")).find(|key| in_group_1(key)).unwrap()
}

#[test]
fn a_dead_group_lends_its_slots_and_comes_back_empty() {
    let mut cache = Cache::start(THREE);
    let key = key();
    cache.wait_written(cache.ports[0], &key, "old");
    let written = Written::start(&cache.ports, "w");
    written.wait_acknowledged(|w| in_group_1(&w.key));
    let before = cache.cluster.servers[0].call(&["DBSIZE"]);
    assert_ne!(before, Reply::Integer(0));

    cache.cluster.servers[0].kill9();
    cache.wait_out(true);
    let out = Instant::now();
    let shown = cache.group_1().unwrap();
    let counts: Vec<u64> = shown["ejection"]["temporary_owners"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["slot_count"].as_u64().unwrap())
        .collect();
    assert_eq!(counts, [200, 200], "{shown}");
    assert!(cache.events().contains("400 slot(s) go to group 2 (200), group 3 (200): "), "{}", cache.events());
    let told = cache.cli().ok(&["group", "show", "1", "--product", "cache"]).out;
    assert!(told.contains("ejected  "), "{told}");
    cache.wait_written(cache.ports[1], &key, "new");
    assert_eq!(cache.read(&key), vec![Reply::bulk("new"); 3]);

    // It is back with what it had, and nobody reads that.
    cache.cluster.servers[0].restart();
    assert_eq!(cache.cluster.servers[0].call(&["GET", &key]), Reply::bulk("old"));
    cache.wait_out(false);
    assert_eq!(cache.read(&key), vec![Reply::Null; 3], "neither what was there before nor what was written meanwhile");
    assert!(cache.events().contains("400 slot(s) are back from group(s) 2, 3, flushed first"), "{}", cache.events());
    written.wait_acknowledged(|w| in_group_1(&w.key));
    let owned: Vec<u64> = cache
        .cli()
        .json(&["slot", "ls", "--product", "cache"])
        .as_array()
        .unwrap()
        .iter()
        .map(|run| run["group"].as_u64().unwrap())
        .collect();
    assert_eq!(owned, [1, 2, 3], "as it was");

    // Who had a slot is not lent it again before it has deleted what it had of it; another one may have it at once.
    cache.cluster.servers[0].kill9();
    cache.wait_out(true);
    let again = cache.group_1().unwrap();
    for share in again["ejection"]["temporary_owners"].as_array().unwrap() {
        let slots = if share["group"] == 2 { "200-399" } else { "0-199" };
        assert_eq!(share["slots"], slots, "{again}");
    }

    let (all, _) = written.finish(cache.ports[0]);
    let noticed = |w: &&Write| w.error.is_some() && w.at > out;
    let of_others: Vec<_> = all.iter().filter(|w| w.error.is_some() && !in_group_1(&w.key)).collect();
    assert!(of_others.is_empty(), "clients of other groups noticed: {of_others:?}");
    // What its dead server was sent before it was out may be answered as late as five seconds after.
    let first_dead = all.iter().filter(noticed).filter(|w| in_group_1(&w.key)).map(|w| w.at).min();
    println!("first error after it was out: {:?}", first_dead.map(|at| at - out));
}

/// It wakes with a client's late write, and as its leader changes: still nothing of before is read.
#[test]
fn a_group_that_stood_still_comes_back_empty_under_another_leader() {
    let mut cache = Cache::start(THREE);
    let key = key();
    cache.wait_written(cache.ports[0], &key, "old");
    cache.cluster.servers[0].pause();
    let late = {
        let (port, key) = (cache.ports[0], key.clone());
        std::thread::spawn(move || Client::connect(port).unwrap().call(&["SET", &key, "late"]))
    };
    cache.wait_out(true);
    cache.wait_written(cache.ports[1], &key, "new");
    let answer = late.join().unwrap();
    assert!(matches!(&answer, Ok(Reply::Error(_)) | Err(_)), "nobody can have executed it: {answer:?}");
    let leader = cache.cluster.leader();
    cache.cluster.node_mut(leader).kill9();
    let left: Vec<u16> = (1..=3).filter(|id| *id != leader).collect();
    cache.cluster.leader_of(&left);
    cache.cluster.servers[0].resume();
    // Long enough for it to take the late write; its slots are not its own yet.
    let port = cache.ports[usize::from(left[0]) - 1];
    let read = || Client::connect(port).unwrap().call(&["GET", &key]).unwrap();
    wait_for("the group to be back", GENEROUS, || {
        let value = read();
        assert!(value == Reply::bulk("new") || value == Reply::Null, "{value:?}");
        let shown = cache.group_1()?;
        if shown["ejection"].is_null() { Ok(()) } else { Err(shown.to_string()) }
    });
    wait_for("the key to be gone", GENEROUS, || match read() {
        Reply::Null => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(cache.cluster.servers[0].call(&["DBSIZE"]), Reply::Integer(0));
    cache.cluster.node_mut(leader).start();
    cache.cluster.wait_serving(&[1, 2, 3]);
    cache.wait_written(cache.ports[usize::from(leader) - 1], &key, "newer");
    assert_eq!(cache.read(&key), vec![Reply::bulk("newer"); 3]);
}

/// Its slots are held already when it is started again with what it had before it was emptied.
#[test]
fn a_group_that_restarts_while_it_gets_its_slots_back_is_emptied_again() {
    let mut cache = Cache::start(THREE);
    let key = key();
    cache.wait_written(cache.ports[0], &key, "old");
    cache.cluster.servers[0].kill9();
    let data = cache.cluster.servers[0].home().join("appendonlydir");
    let kept = cache.cluster.servers[0].home().join("kept");
    copy_files(&data, &kept);
    cache.wait_out(true);
    cache.cluster.pause_at(Point::Returning);
    cache.cluster.servers[0].restart();
    cache.cluster.wait_reached(Point::Returning);
    cache.cluster.servers[0].kill9();
    copy_files(&kept, &data);
    cache.cluster.servers[0].restart();
    assert_eq!(cache.cluster.servers[0].call(&["GET", &key]), Reply::bulk("old"));
    cache.cluster.go_on(Point::Returning);
    cache.wait_out(false);
    assert_eq!(cache.read(&key), vec![Reply::Null; 3], "it came back with what it had before");
}

/// A node that may serve and does not answer is not waited for.
#[test]
fn a_group_comes_back_while_a_node_stands_still() {
    let mut cache = Cache::start(THREE);
    let key = key();
    cache.wait_written(cache.ports[0], &key, "old");
    cache.cluster.servers[0].kill9();
    cache.wait_out(true);
    let still = cache.cluster.follower();
    let awake: Vec<u16> = (1..=3).filter(|id| *id != still).collect();
    cache.cluster.node(still).pause();
    cache.cluster.servers[0].restart();
    cache.wait_out(false);
    let read = |id: u16| {
        let mut client = Client::connect(cache.ports[usize::from(id) - 1]).map_err(|e| e.to_string())?;
        client.call(&["GET", &key]).map_err(|e| e.to_string())
    };
    for id in awake {
        assert_eq!(read(id), Ok(Reply::Null));
    }
    cache.cluster.node(still).resume();
    wait_for("the node to hear of it", GENEROUS, || {
        let value = read(still)?;
        assert_ne!(value, Reply::bulk("old"), "what was there before the group was out");
        if value == Reply::Null { Ok(()) } else { Err(format!("{value:?}")) }
    });
}

#[test]
fn a_slot_is_not_lent_again_before_it_is_clean() {
    let mut cache = Cache::start(TWO);
    let key = key();
    cache.cluster.servers[0].kill9();
    cache.wait_out(true);
    cache.wait_written(cache.ports[0], &key, "lent");
    assert_eq!(cache.cluster.servers[1].call(&["GET", &key]), Reply::bulk("lent"));
    cache.cluster.servers[0].restart();
    cache.wait_out(false);
    // Not deleted yet; lent again now, it would come alive.
    assert_eq!(cache.cluster.servers[1].call(&["GET", &key]), Reply::bulk("lent"));
    cache.cluster.servers[0].kill9();
    let mut waited = false;
    wait_for("group 1 to be out again", GENEROUS, || {
        let shown = cache.group_1()?;
        waited |= shown["waiting_on"].to_string().contains("before it has deleted what it had of it");
        if shown["ejection"].is_null() { Err(shown.to_string()) } else { Ok(()) }
    });
    assert!(waited, "slots were lent to a group that had not deleted what it had of them");
    assert_eq!(cache.read(&key), vec![Reply::Null; 3]);
    assert!(cache.events().contains(" leftover keys deleted"), "{}", cache.events());
}
