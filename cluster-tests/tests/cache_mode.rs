//! Ejection: a cache group without replicas dies. Temporary owners serve its slots, and when the group is reinstated,
//! it is empty, so that no old value is read. The servers keep their data on disk.

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

/// The groups and their slots. Group 1 has slots 0 to 399 in all tests.
const THREE: &[(&str, &str)] = &[("1", "0-399"), ("2", "400-699"), ("3", "700-1023")];
const TWO: &[(&str, &str)] = &[("1", "0-399"), ("2", "400-1023")];

struct Cache {
    cluster: Cluster,
    /// The port of product `cache` on each node.
    ports: Vec<u16>,
}

impl Cache {
    /// Starts three nodes, and creates product `cache` with these groups and slots. Each group has one server, which
    /// keeps its data over a restart.
    fn start(groups: &[(&str, &str)]) -> Self {
        let mut cluster = Cluster::start(3);
        let port = cluster.ports.product(1);
        let ports = (1..=3).map(|id| port + id).collect();
        let wait = ["--wait", "--timeout", "40s"];
        let create = ["product", "create", "cache", "--port", &port.to_string(), "--mode", "cache"];
        cluster.cli().ok(&[&create[..], &wait].concat());
        let more = ["--appendonly", "yes", "--appendfsync", "no"].map(str::to_owned).to_vec();
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

    /// Returns the output of `group show 1`, from the first node that answers.
    fn group_1(&self) -> Result<serde_json::Value, String> {
        let asked = self
            .cluster
            .nodes
            .iter()
            .map(|node| node.cli().try_json(&["group", "show", "1", "--product", "cache", "--timeout", "2s"]));
        asked.filter_map(Result::ok).next().ok_or_else(|| "no node answers".to_owned())
    }

    #[track_caller]
    fn wait_ejected(&self, ejected: bool) {
        wait_for(if ejected { "group 1 to be ejected" } else { "group 1 to be reinstated" }, GENEROUS, || {
            let shown = self.group_1()?;
            let is_ejected = !shown["ejection"].is_null();
            if is_ejected == ejected && (shown["slot_count"] == 0) == ejected { Ok(()) } else { Err(shown.to_string()) }
        });
    }

    fn events(&self) -> String {
        let asked = self.cluster.nodes.iter().map(|node| node.cli().run(&["events"]));
        asked.filter(|ran| ran.code == 0).map(|ran| ran.out).next().unwrap_or_default()
    }

    /// Reads a key through every node.
    fn read(&self, key: &str) -> Vec<Reply> {
        let get = |port: &u16| Client::connect(*port).unwrap().call(&["GET", key]).unwrap();
        self.ports.iter().map(get).collect()
    }

    #[track_caller]
    fn wait_written(&self, port: u16, key: &str, value: &str) {
        wait_for("a write to be acknowledged", GENEROUS, || {
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

/// Copies the files in `from` to `to`, whose former content is deleted.
fn copy_files(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    std::fs::create_dir(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

/// Returns a key of group 1.
fn key() -> String {
    (0..).map(|n| format!("key{n}")).find(|key| in_group_1(key)).unwrap()
}

#[test]
fn a_dead_group_is_ejected_and_reinstated_empty() {
    let mut cache = Cache::start(THREE);
    let key = key();
    cache.wait_written(cache.ports[0], &key, "old");
    let written = Written::start(&cache.ports, "w");
    written.wait_acknowledged(|w| in_group_1(&w.key));
    let before = cache.cluster.servers[0].call(&["DBSIZE"]);
    assert_ne!(before, Reply::Integer(0));

    cache.cluster.servers[0].kill9();
    cache.wait_ejected(true);
    let ejected = Instant::now();
    let shown = cache.group_1().unwrap();
    let counts: Vec<u64> = shown["ejection"]["temporary_owners"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["slot_count"].as_u64().unwrap())
        .collect();
    assert_eq!(counts, [200, 200], "{shown}");
    assert!(cache.events().contains("400 slot(s) go to group 2 (200), group 3 (200): "), "{}", cache.events());
    let shown = cache.cli().ok(&["group", "show", "1", "--product", "cache"]).out;
    assert!(shown.contains("ejected  "), "{shown}");
    cache.wait_written(cache.ports[1], &key, "new");
    assert_eq!(cache.read(&key), vec![Reply::bulk("new"); 3]);

    // The server returns with its old data, which no client may read.
    cache.cluster.servers[0].restart();
    assert_eq!(cache.cluster.servers[0].call(&["GET", &key]), Reply::bulk("old"));
    cache.wait_ejected(false);
    assert_eq!(
        cache.read(&key),
        vec![Reply::Null; 3],
        "neither the old value nor the value written meanwhile may exist"
    );
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
    assert_eq!(owned, [1, 2, 3], "the owners must be the same as before the ejection");

    // A temporary owner does not get a slot again before it has deleted the leftovers of this slot. Another group may
    // get the slot at once.
    cache.cluster.servers[0].kill9();
    cache.wait_ejected(true);
    let again = cache.group_1().unwrap();
    for share in again["ejection"]["temporary_owners"].as_array().unwrap() {
        let slots = if share["group"] == 2 { "200-399" } else { "0-199" };
        assert_eq!(share["slots"], slots, "{again}");
    }

    let (all, _) = written.finish(cache.ports[0]);
    let failed = |w: &&Write| w.error.is_some() && w.at > ejected;
    let of_others: Vec<_> = all.iter().filter(|w| w.error.is_some() && !in_group_1(&w.key)).collect();
    assert!(of_others.is_empty(), "clients of other groups received errors: {of_others:?}");
    // Requests that were sent to the dead server before the ejection may be answered up to five seconds later.
    let first = all.iter().filter(failed).filter(|w| in_group_1(&w.key)).map(|w| w.at).min();
    println!("first error after the ejection: {:?}", first.map(|at| at - ejected));
}

/// The group's server hangs, and continues with a client's late write while the leader changes. No old value may be
/// read.
#[test]
fn a_group_that_hung_is_reinstated_empty_under_another_leader() {
    let mut cache = Cache::start(THREE);
    let key = key();
    cache.wait_written(cache.ports[0], &key, "old");
    cache.cluster.servers[0].pause();
    let late = {
        let (port, key) = (cache.ports[0], key.clone());
        std::thread::spawn(move || Client::connect(port).unwrap().call(&["SET", &key, "late"]))
    };
    cache.wait_ejected(true);
    cache.wait_written(cache.ports[1], &key, "new");
    let answer = late.join().unwrap();
    assert!(matches!(&answer, Ok(Reply::Error(_)) | Err(_)), "no server can have executed the write: {answer:?}");
    let leader = cache.cluster.leader();
    cache.cluster.node_mut(leader).kill9();
    let left: Vec<u16> = (1..=3).filter(|id| *id != leader).collect();
    cache.cluster.leader_of(&left);
    cache.cluster.servers[0].resume();
    // The server executes the late write before the group gets its slots back.
    let port = cache.ports[usize::from(left[0]) - 1];
    let read = || Client::connect(port).unwrap().call(&["GET", &key]).unwrap();
    wait_for("the group to be reinstated", GENEROUS, || {
        // Meanwhile, a group may hold the slot, or be ejected itself on a machine that stalls.
        let value = read();
        assert!(matches!(value, Reply::Error(_) | Reply::Null) || value == Reply::bulk("new"), "{value:?}");
        let shown = cache.group_1()?;
        if shown["ejection"].is_null() { Ok(()) } else { Err(shown.to_string()) }
    });
    wait_for("the key not to exist", GENEROUS, || match read() {
        Reply::Null => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(cache.cluster.servers[0].call(&["DBSIZE"]), Reply::Integer(0));
    cache.cluster.node_mut(leader).start();
    cache.cluster.wait_serving(&[1, 2, 3]);
    cache.wait_written(cache.ports[usize::from(leader) - 1], &key, "newer");
    assert_eq!(cache.read(&key), vec![Reply::bulk("newer"); 3]);
}

/// The server was flushed, and the slots are held for the reinstatement, when the server restarts with its old data.
#[test]
fn a_server_that_restarts_during_the_reinstatement_is_flushed_again() {
    let mut cache = Cache::start(THREE);
    let key = key();
    cache.wait_written(cache.ports[0], &key, "old");
    cache.cluster.servers[0].kill9();
    let data = cache.cluster.servers[0].home().join("appendonlydir");
    let kept = cache.cluster.servers[0].home().join("kept");
    copy_files(&data, &kept);
    cache.wait_ejected(true);
    cache.cluster.pause_at(Point::Reinstating);
    cache.cluster.servers[0].restart();
    cache.cluster.wait_reached(Point::Reinstating);
    cache.cluster.servers[0].kill9();
    copy_files(&kept, &data);
    cache.cluster.servers[0].restart();
    // It answers while it loads, with an error.
    wait_for("the server to have its old data", GENEROUS, || match cache.cluster.servers[0].call(&["GET", &key]) {
        Reply::Bulk(value) if value == b"old" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    cache.cluster.go_on(Point::Reinstating);
    cache.wait_ejected(false);
    assert_eq!(cache.read(&key), vec![Reply::Null; 3], "the group was reinstated with its old data");
}

/// The reinstatement does not wait for a possible server that does not answer.
#[test]
fn a_group_is_reinstated_while_a_node_hangs() {
    let mut cache = Cache::start(THREE);
    let key = key();
    cache.wait_written(cache.ports[0], &key, "old");
    cache.cluster.servers[0].kill9();
    cache.wait_ejected(true);
    let paused = cache.cluster.follower();
    let others: Vec<u16> = (1..=3).filter(|id| *id != paused).collect();
    cache.cluster.node(paused).pause();
    cache.cluster.servers[0].restart();
    cache.wait_ejected(false);
    let read = |id: u16| {
        let mut client = Client::connect(cache.ports[usize::from(id) - 1]).map_err(|e| e.to_string())?;
        client.call(&["GET", &key]).map_err(|e| e.to_string())
    };
    for id in others {
        assert_eq!(read(id), Ok(Reply::Null));
    }
    cache.cluster.node(paused).resume();
    wait_for("the node to have the new route table", GENEROUS, || {
        let value = read(paused)?;
        assert_ne!(value, Reply::bulk("old"), "a value from before the ejection was read");
        if value == Reply::Null { Ok(()) } else { Err(format!("{value:?}")) }
    });
}

#[test]
fn a_temporary_owner_does_not_get_a_slot_again_before_it_is_clean() {
    let mut cache = Cache::start(TWO);
    let key = key();
    cache.cluster.servers[0].kill9();
    cache.wait_ejected(true);
    cache.wait_written(cache.ports[0], &key, "temporary");
    assert_eq!(cache.cluster.servers[1].call(&["GET", &key]), Reply::bulk("temporary"));
    cache.cluster.servers[0].restart();
    cache.wait_ejected(false);
    // The leftover key is not deleted yet. If group 2 got the slot again now, clients would read it.
    assert_eq!(cache.cluster.servers[1].call(&["GET", &key]), Reply::bulk("temporary"));
    cache.cluster.servers[0].kill9();
    let mut waited = false;
    wait_for("group 1 to be ejected again", GENEROUS, || {
        let shown = cache.group_1()?;
        waited |= shown["waiting_on"].to_string().contains("before it has deleted the keys that it has left of it");
        if shown["ejection"].is_null() { Err(shown.to_string()) } else { Ok(()) }
    });
    assert!(waited, "slots were given to a group that had not deleted its leftovers of them");
    assert_eq!(cache.read(&key), vec![Reply::Null; 3]);
    assert!(cache.events().contains(" leftover keys deleted"), "{}", cache.events());
}
