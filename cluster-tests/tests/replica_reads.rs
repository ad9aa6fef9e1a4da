//! Reads at replicas, with real servers: reads go to replicas. When a replica fails, they go to the primary within the
//! promised time. No read is staler than promised, also during migrations and promotions.

#![allow(clippy::unwrap_used)]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use cluster_tests::{
    client::{Client, Reply},
    cluster::Cluster,
    redis::{RedisOptions, RedisServer},
    wait::{GENEROUS, holds_for, wait_for, wait_until},
};
use pontoon::model::{ids::SlotId, slot::Layout};

/// The setting `max-lag` of the products in these tests.
const MAX_LAG: Duration = Duration::from_secs(1);
/// Maximum staleness: a read shows all writes that were answered at least this long before the read was sent. It is the
/// lag plus the precision of the probes.
const BOUND: Duration = Duration::from_secs(2);

/// Creates group `id` with a primary and replicas, and returns their indices in `cluster.servers`.
fn group(cluster: &mut Cluster, id: u16, replicas: usize) -> Vec<usize> {
    let primary = cluster.add_server(&RedisOptions::default());
    let port = cluster.servers[primary].port;
    let mut places = vec![primary];
    let mut args =
        vec!["group".into(), "create".into(), id.to_string(), "--primary".into(), cluster.servers[primary].addr()];
    for _ in 0..replicas {
        let replica = cluster.add_server(&RedisOptions { primary: Some(port), ..RedisOptions::default() });
        args.extend(["--replica".into(), cluster.servers[replica].addr()]);
        places.push(replica);
    }
    cluster.cli().ok(&args.iter().map(String::as_str).collect::<Vec<_>>());
    places
}

/// Returns the number of GETs that a server has executed.
fn gets(server: &RedisServer) -> u64 {
    let stats = server.call(&["INFO", "commandstats"]).text();
    let calls = stats.lines().find_map(|line| line.strip_prefix("cmdstat_get:calls="));
    calls.and_then(|rest| rest.split(',').next()?.parse().ok()).unwrap_or(0)
}

fn get(client: &mut Client, key: &str) -> Reply {
    client.call(&["GET", key]).unwrap()
}

fn offset(server: &RedisServer) -> String {
    let info = server.call(&["INFO", "replication"]).text();
    let line = info.lines().find(|line| line.starts_with("master_repl_offset:"));
    line.unwrap_or_default().to_owned()
}

#[test]
fn reads_go_to_replicas_and_back_to_the_primary() {
    let mut cluster = Cluster::prepared(1);
    // Requests to a stopped server must not fail by their own deadline.
    cluster.nodes[0].more.extend(["--set".to_owned(), "proxy.request_deadline_ms=600000".to_owned()]);
    cluster.start_all();
    let places = group(&mut cluster, 1, 1);
    let cli = cluster.cli();
    cli.ok(&["slot", "assign", "0-1023", "1", "--wait", "--timeout", "40s"]);
    cli.ok(&["product", "set", "default", "read-from=prefer-replica", "max-lag=1s"]);
    let listed = cli.json(&["product", "ls"]);
    assert_eq!((&listed[0]["read_from"], &listed[0]["max_lag_ms"]), (&"prefer-replica".into(), &1000.into()));

    let (primary, replica) = (&cluster.servers[places[0]], &cluster.servers[places[1]]);
    let mut client = cluster.node(1).client();
    assert_eq!(client.call(&["SET", "k", "v"]).unwrap(), Reply::ok());
    let at_replica = |client: &mut Client| {
        wait_until("reads at the replica", GENEROUS, || {
            let before = gets(replica);
            get(client, "k") == Reply::bulk("v") && gets(replica) > before
        });
    };
    at_replica(&mut client);
    // While the replica is in sync, all reads go to it.
    let (before, at_primary) = (gets(replica), gets(primary));
    let asked = AtomicU64::new(0);
    assert!(holds_for(Duration::from_secs(3), || {
        asked.fetch_add(1, Ordering::Relaxed);
        get(&mut client, "k") == Reply::bulk("v")
    }));
    let (asked, there) = (asked.into_inner(), gets(replica) - before);
    println!("{there} of {asked} reads went to the replica");
    assert!(there * 10 >= asked * 8, "{there} of {asked}");
    assert!(gets(primary) - at_primary <= asked - there + 1);

    // The replica hangs: the primary answers the reads that wait for the replica, and all later reads.
    let stopped = Instant::now();
    replica.pause();
    assert_eq!(get(&mut client, "k"), Reply::bulk("v"));
    println!("first reply {} ms after the replica was stopped; the limit is 2000 ms", stopped.elapsed().as_millis());
    assert_eq!(client.call(&["SET", "k", "w"]).unwrap(), Reply::ok());
    wait_until("reads at the primary", GENEROUS, || get(&mut client, "k") == Reply::bulk("w"));
    replica.resume();
    assert_eq!(client.call(&["SET", "k", "v"]).unwrap(), Reply::ok());
    at_replica(&mut client);

    // The replica answers, but its link is down: it must not serve reads, and new values are read at once.
    assert_eq!(primary.call(&["ACL", "SETUSER", "default", "-psync", "-sync"]), Reply::ok());
    let _ = primary.call(&["CLIENT", "KILL", "TYPE", "replica"]);
    assert_eq!(client.call(&["SET", "k", "new"]).unwrap(), Reply::ok());
    let written = Instant::now();
    let began = wait_for("the new value", GENEROUS, || {
        let began = Instant::now();
        if get(&mut client, "k") == Reply::bulk("new") { Ok(began) } else { Err("the value is old") }
    });
    assert!(began.duration_since(written) <= BOUND + Duration::from_millis(100), "a read was staler than promised");
    wait_until("no reads at the replica", GENEROUS, || {
        let before = gets(replica);
        get(&mut client, "k") == Reply::bulk("new") && gets(replica) == before
    });
    assert!(holds_for(Duration::from_secs(1), || get(&mut client, "k") == Reply::bulk("new")));
    let only_replicas = ["product", "set", "default", "read-from=replica"];
    cli.refused(&only_replicas, &["no replica of group(s) 1 of product 'default' is in sync", "--force"]);
    cli.ok(&[&only_replicas[..], &["--force"]].concat());
    wait_until("an error with the reason", GENEROUS, || {
        let reply = get(&mut client, "k");
        reply.is_error("TRYAGAIN no replica of group 1 may serve now") && reply.text().contains("has lost its primary")
    });
    // SYNC stays forbidden: a replica that falls back to it never learns the replication id, and gets no reads.
    assert_eq!(primary.call(&["ACL", "SETUSER", "default", "+psync"]), Reply::ok());
    wait_until("reads at the replica again", GENEROUS, || get(&mut client, "k") == Reply::bulk("new"));
    cli.ok(&["product", "set", "default", "read-from=primary"]);
    wait_until("all reads to go to the primary", GENEROUS, || {
        let before = gets(primary);
        get(&mut client, "k") == Reply::bulk("new") && gets(primary) > before
    });
}

#[test]
fn a_session_reads_its_own_writes_while_a_replica_hangs_repeatedly() {
    let mut cluster = Cluster::start(1);
    let places = group(&mut cluster, 1, 1);
    let cli = cluster.cli();
    cli.ok(&["slot", "assign", "0-1023", "1", "--wait", "--timeout", "40s"]);
    cli.ok(&["product", "set", "default", "read-from=prefer-replica", "read-your-writes=on"]);
    let replica = &cluster.servers[places[1]];
    let mut client = cluster.node(1).client();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // The replica is stopped for three quarters of the time. Its probes are still answered in time.
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                replica.pause();
                let _ = holds_for(Duration::from_millis(150), || true);
                replica.resume();
                let _ = holds_for(Duration::from_millis(50), || true);
            }
        });
        for n in 0..8 {
            let value = n.to_string();
            assert_eq!(client.call(&["SET", "k", &value]).unwrap(), Reply::ok());
            // The reads go first to the primary and later to the replica. None may be old.
            let began = Instant::now();
            while began.elapsed() < MAX_LAG + Duration::from_millis(500) {
                assert_eq!(get(&mut client, "k"), Reply::bulk(&value));
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(gets(replica) > 0, "no read went to the replica");
}

/// One client writes ascending numbers to all keys and reads each of them back. Other clients read the keys. Every read
/// that is staler than promised is recorded.
struct Checked {
    stop: Arc<AtomicBool>,
    /// The writing client pauses.
    paused: Arc<AtomicBool>,
    /// The last number that was written to all keys.
    written: Arc<AtomicU64>,
    wrong: Arc<Mutex<Vec<String>>>,
    threads: Vec<JoinHandle<()>>,
}

type Acked = Arc<Mutex<Vec<(Instant, u64)>>>;

impl Checked {
    fn start(ports: &[u16], keys: &[String]) -> Self {
        let mut checked = Self {
            stop: Arc::default(),
            paused: Arc::default(),
            written: Arc::default(),
            wrong: Arc::default(),
            threads: Vec::new(),
        };
        let acked = Acked::default();
        let (stop, paused, written, wrong) =
            (checked.stop.clone(), checked.paused.clone(), checked.written.clone(), checked.wrong.clone());
        let (port, mine, noted) = (ports[0], keys.to_vec(), acked.clone());
        checked.threads.push(std::thread::spawn(move || {
            let mut client = None;
            let mut n = 1;
            while !stop.load(Ordering::Relaxed) {
                if paused.load(Ordering::Relaxed) || !write_all(&mut client, port, &mine, n, &wrong) {
                    let _ = holds_for(Duration::from_millis(20), || true);
                    continue;
                }
                noted.lock().unwrap().push((Instant::now(), n));
                written.store(n, Ordering::Relaxed);
                n += 1;
            }
        }));
        for port in ports {
            let (port, keys, acked, stop, wrong) =
                (*port, keys.to_vec(), acked.clone(), checked.stop.clone(), checked.wrong.clone());
            checked.threads.push(std::thread::spawn(move || read_all(port, &keys, &acked, &stop, &wrong)));
        }
        checked
    }

    #[track_caller]
    fn wait_more(&self) {
        let now = self.written.load(Ordering::Relaxed);
        wait_until("more to be written", GENEROUS, || self.written.load(Ordering::Relaxed) > now + 5);
    }

    #[track_caller]
    fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        let wrong = self.wrong.lock().unwrap();
        assert!(wrong.is_empty(), "{} reads, the first: {}", wrong.len(), wrong[0]);
    }
}

/// Writes a number to all keys, and reads each of them back. Returns false if a write failed and must be repeated.
fn write_all(client: &mut Option<Client>, port: u16, keys: &[String], n: u64, wrong: &Mutex<Vec<String>>) -> bool {
    let text = n.to_string();
    for key in keys {
        if client.is_none() {
            *client = Client::connect(port).ok();
        }
        let Some(open) = client.as_mut() else { return false };
        match open.call(&["SET", key, &text]) {
            Ok(reply) if reply == Reply::ok() => {}
            Ok(_) => return false,
            Err(_) => {
                *client = None;
                return false;
            }
        }
        match open.call(&["GET", key]) {
            Ok(reply) if reply == Reply::bulk(&text) || reply.is_error("") => {}
            Ok(reply) => wrong.lock().unwrap().push(format!("{key} is {} after its own write of {n}", reply.text())),
            Err(_) => *client = None,
        }
    }
    true
}

fn read_all(port: u16, keys: &[String], acked: &Acked, stop: &AtomicBool, wrong: &Mutex<Vec<String>>) {
    let mut client = None;
    while !stop.load(Ordering::Relaxed) {
        for key in keys {
            if client.is_none() {
                client = Client::connect(port).ok();
            }
            let Some(open) = client.as_mut() else { continue };
            let began = Instant::now();
            let least = {
                let acked = acked.lock().unwrap();
                let old = acked.iter().rev().find(|(at, _)| began.duration_since(*at) >= BOUND);
                old.map_or(0, |(_, n)| *n)
            };
            match open.call(&["GET", key]) {
                Ok(reply) if reply.is_error("") => {}
                Ok(reply) => {
                    let value = reply.text().parse::<u64>().unwrap_or(0);
                    if value < least {
                        let took = began.elapsed().as_millis();
                        wrong
                            .lock()
                            .unwrap()
                            .push(format!("{key} is {}, not at least {least} ({took} ms)", reply.text()));
                    }
                }
                Err(_) => client = None,
            }
        }
        let _ = holds_for(Duration::from_millis(5), || true);
    }
}

#[test]
fn no_read_is_too_stale_during_a_migration_and_a_failover() {
    let mut cluster = Cluster::start(3);
    let first = group(&mut cluster, 1, 2);
    let second = group(&mut cluster, 2, 1);
    let cli = cluster.cli();
    cli.ok(&["slot", "assign", "0-1023", "1", "--wait", "--timeout", "40s"]);
    cli.ok(&["product", "set", "default", "read-from=prefer-replica", "read-your-writes=on"]);
    for id in 1..=3 {
        cluster.wait_answers(id);
    }
    // Half of the keys move.
    let moves = |key: &String| Layout::Codis.slot(key.as_bytes()) < SlotId(512);
    let all = || (0..).map(|n| format!("key{}", n * 7919));
    let keys: Vec<String> = all().filter(moves).take(4).chain(all().filter(|key| !moves(key)).take(4)).collect();
    let ports: Vec<u16> = cluster.nodes.iter().map(|node| node.client_port).collect();
    let checked = Checked::start(&ports, &keys);
    let read_at = |what: &str, servers: &[usize], cluster: &Cluster| {
        let all = || servers.iter().map(|place| gets(&cluster.servers[*place])).sum::<u64>();
        let before = all();
        wait_until(what, GENEROUS, || all() > before + 20);
    };
    read_at("reads at the replicas", &first[1..], &cluster);
    checked.wait_more();

    cli.ok(&["migrate", "start", "0-511", "--to", "2"]);
    wait_until("the migration to be done", GENEROUS, || cli.json(&["migrate", "ls"]).to_string().contains("\"done\""));
    read_at("reads at the target's replica", &second[1..], &cluster);
    checked.wait_more();

    // All answered writes are at both replicas when the primary dies, so no write may be lost.
    checked.paused.store(true, Ordering::Relaxed);
    wait_until("the replicas to have all writes", GENEROUS, || {
        let offsets: Vec<_> = first.iter().map(|place| offset(&cluster.servers[*place])).collect();
        holds_for(Duration::from_millis(300), || true)
            && offsets.iter().all(|o| *o == offsets[0])
            && offset(&cluster.servers[first[0]]) == offsets[0]
    });
    cluster.servers[first[0]].kill9();
    checked.paused.store(false, Ordering::Relaxed);
    checked.wait_more();
    read_at("reads at the remaining servers of the group", &first[1..], &cluster);
    checked.wait_more();
    checked.finish();
}

/// All safety settings together: writes need the confirmation of a replica, and reads go to replicas. One primary dies,
/// and one is replaced by an operator, while clients continue. Every acknowledged write must be visible, also to reads
/// at replicas.
#[test]
fn confirmed_writes_are_visible_after_a_failover_and_a_switchover() {
    let mut cluster = Cluster::start(3);
    let places = group(&mut cluster, 1, 2);
    let cli = cluster.cli();
    cli.ok(&["slot", "assign", "0-1023", "1", "--wait", "--timeout", "40s"]);
    cli.ok(&["group", "set", "1", "down-after=800ms"]);
    let sets = ["min-acks=1", "min-acks-timeout=2s", "read-from=prefer-replica", "read-your-writes=on"];
    let set = [&["product", "set", "default"], &sets[..], &["--wait", "--timeout", "40s"]].concat();
    cli.ok(&set);
    (1..=3).for_each(|id| cluster.wait_answers(id));
    let keys: Vec<String> = (0..8).map(|n| format!("key{}", n * 7919)).collect();
    let ports: Vec<u16> = cluster.nodes.iter().map(|node| node.client_port).collect();
    let checked = Checked::start(&ports, &keys);
    let read_at_replicas = |cluster: &Cluster| {
        let primary = cluster.locate("any")["server"].as_str().unwrap_or_default().to_owned();
        let replicas = || cluster.servers.iter().filter(|server| server.addr() != primary).map(gets).sum::<u64>();
        let before = replicas();
        wait_until("reads at replicas", GENEROUS, || replicas() > before + 20);
    };
    checked.wait_more();
    read_at_replicas(&cluster);

    // The primary dies while clients write.
    let old = cluster.servers[places[0]].addr();
    cluster.servers[places[0]].kill9();
    wait_until("another primary", GENEROUS, || cluster.locate("any")["server"] != old.as_str());
    checked.wait_more();
    cluster.servers[places[0]].restart();
    wait_until("the old primary to follow", GENEROUS, || {
        cluster.servers[places[0]].call(&["INFO", "replication"]).text().contains("master_link_status:up")
    });
    read_at_replicas(&cluster);

    // The switchover back to the old primary is possible as soon as it is a candidate.
    wait_for("the old primary to be promoted again", GENEROUS, || {
        let ran = cli.run(&["group", "promote", "1", &old, "--wait", "--timeout", "40s"]);
        if ran.code == 0 { Ok(()) } else { Err(ran.err) }
    });
    assert_eq!(cluster.locate("any")["server"], old.as_str());
    checked.wait_more();
    read_at_replicas(&cluster);
    let last = checked.written.clone();
    checked.finish();
    let last = last.load(Ordering::Relaxed);
    for key in &keys {
        let value: u64 = cluster.servers[places[0]].call(&["GET", key]).text().parse().unwrap();
        assert!(value >= last, "{key} is {value}, but {last} was acknowledged");
    }
}
