//! With `min-acks`, a primary is killed and is back within `down-after` with less than it had: its append-only file lost
//! its end, as after a power cut. Its replicas have every acknowledged write and must not copy the loss.

#![allow(clippy::unwrap_used)]

use std::{fs, path::PathBuf};

use cluster_tests::{
    client::{Client, Reply},
    cluster::Cluster,
    redis::RedisOptions,
    wait::{GENEROUS, wait_for, wait_until},
};

/// The ACL user with which replicas log in.
const USER: &str = "pontoon-replication";
/// How many writes are acknowledged before the primary is killed.
const WRITES: u32 = 1_000;
/// How many bytes the file of the primary loses: some hundred of these writes.
const LOST_BYTES: u64 = 20_000;

/// `fsync`: `everysec`, or `no`: then a server has written everything that it has answered (see
/// `RedisServer::restart`).
fn options(config_file: bool, fsync: &str) -> RedisOptions {
    let more = ["--appendonly", "yes", "--appendfsync", fsync];
    RedisOptions { more: more.map(str::to_owned).to_vec(), config_file, ..RedisOptions::default() }
}

/// Three nodes, a group of three servers with `min-acks=1`, and its servers, the primary first. No server is down before
/// a minute has passed.
fn start(options: &RedisOptions) -> (Cluster, Vec<usize>) {
    let mut cluster = Cluster::start(3);
    let servers = cluster.add_group_with_replicas(1, "0-1023", 2, options);
    let cli = cluster.cli();
    cli.ok(&["group", "set", "1", "down-after=60s"]);
    cli.ok(&["product", "set", "default", "min-acks=1", "--wait", "--timeout", "40s"]);
    (1..=3).for_each(|id| cluster.wait_answers(id));
    wait_replication_user(&cluster, &servers);
    (cluster, servers)
}

/// Waits until all replicas would log in as the replication user.
#[track_caller]
fn wait_replication_user(cluster: &Cluster, replicas: &[usize]) {
    for replica in &replicas[1..] {
        wait_until("the replica to have the replication user", GENEROUS, || {
            masteruser(cluster, *replica) == Reply::bulk(USER)
        });
    }
}

/// The user as which a replica logs in at its primary.
fn masteruser(cluster: &Cluster, replica: usize) -> Reply {
    match cluster.servers[replica].call(&["CONFIG", "GET", "masteruser"]) {
        Reply::Array(mut pair) => pair.pop().unwrap(),
        other => panic!("{other:?}"),
    }
}

/// Writes keys until this many are acknowledged; returns their number.
fn write(cluster: &Cluster, node: u16, prefix: &str) -> Vec<String> {
    let mut client = Client::connect(cluster.node(node).client_port).unwrap();
    let mut keys = Vec::new();
    for n in 0..WRITES {
        let key = format!("{prefix}:{n}");
        if client.call(&["SET", &key, "a value of some length"]).unwrap() == Reply::ok() {
            keys.push(key);
        }
    }
    assert!(keys.len() > 900, "only {} writes were acknowledged", keys.len());
    keys
}

/// The newest part of a server's append-only file.
fn append_only_file(cluster: &Cluster, server: usize) -> PathBuf {
    let dir = cluster.servers[server].home().join("appendonlydir");
    let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.to_string_lossy().ends_with(".incr.aof")).max().unwrap()
}

/// Kills a server, cuts off the end of its append-only file, and starts it again at once.
fn restart_with_less(cluster: &mut Cluster, server: usize) {
    cluster.servers[server].kill9();
    let path = append_only_file(cluster, server);
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    let length = file.metadata().unwrap().len();
    // On a busy disk the server has written even less.
    file.set_len(length.saturating_sub(LOST_BYTES)).unwrap();
    cluster.servers[server].launch_again();
}

/// The primary of the group, as a node knows it.
fn primary_at(cluster: &Cluster, node: u16) -> String {
    cluster.node(node).cli().json(&["slot", "key", "any"])["server"].as_str().unwrap_or_default().to_owned()
}

/// Waits until writes are acknowledged again, by another primary.
#[track_caller]
fn wait_other_primary(cluster: &Cluster, node: u16, than: usize) {
    let than = cluster.servers[than].addr();
    wait_for("another primary to acknowledge writes", GENEROUS, || {
        let now = primary_at(cluster, node);
        let mut client = Client::connect(cluster.node(node).client_port).map_err(|error| error.to_string())?;
        let reply = client.call(&["SET", "after", "1"]).map_err(|error| error.to_string())?;
        if now != than && reply == Reply::ok() {
            return Ok(());
        }
        Err(format!("{now}: {reply:?}; {}", cluster.node(node).cli().json(&["status"])))
    });
}

fn primary(cluster: &Cluster) -> String {
    primary_at(cluster, 1)
}

#[track_caller]
fn check_kept(cluster: &Cluster, node: u16, keys: &[String]) {
    let mut client = Client::connect(cluster.node(node).client_port).unwrap();
    let lost = keys.iter().filter(|key| client.call(&["GET", key]).unwrap() == Reply::Null).count();
    assert_eq!(lost, 0, "of {} acknowledged writes", keys.len());
}

/// Waits until the others follow the primary with their links up.
#[track_caller]
fn wait_healthy(cluster: &Cluster, servers: &[usize]) {
    wait_for("all replicas to follow", GENEROUS, || {
        let primary = primary(cluster);
        for server in servers.iter().filter(|server| cluster.servers[**server].addr() != primary) {
            let info = cluster.servers[*server].try_call(&["INFO", "replication"]);
            let info = info.map_err(|error| error.to_string())?.text();
            let port = primary.rsplit(':').next().unwrap_or_default();
            if !(info.contains("master_link_status:up") && info.contains(&format!("master_port:{port}\r"))) {
                return Err(info);
            }
        }
        Ok(())
    });
}

fn acknowledged_writes_survive(options: &RedisOptions) {
    let (mut cluster, servers) = start(options);
    for round in ["first", "second"] {
        let old = *servers.iter().find(|server| cluster.servers[**server].addr() == primary(&cluster)).unwrap();
        let keys = write(&cluster, 1, round);
        restart_with_less(&mut cluster, old);
        wait_other_primary(&cluster, 1, old);
        check_kept(&cluster, 1, &keys);
        wait_healthy(&cluster, &servers);
        let replicas: Vec<usize> =
            servers.iter().copied().filter(|server| cluster.servers[*server].addr() != primary(&cluster)).collect();
        wait_replication_user(&cluster, &[&[old], replicas.as_slice()].concat());
    }
}

/// The second primary was promoted and has saved its configuration with the replication user in it.
#[test]
fn acknowledged_writes_survive_a_primary_that_restarts_with_less() {
    acknowledged_writes_survive(&options(true, "everysec"));
}

/// Servers without a configuration file restart without the user.
#[test]
fn acknowledged_writes_survive_at_servers_that_cannot_save_their_configuration() {
    let (mut cluster, servers) = start(&options(false, "everysec"));
    let keys = write(&cluster, 1, "only");
    restart_with_less(&mut cluster, servers[0]);
    wait_other_primary(&cluster, 1, servers[0]);
    check_kept(&cluster, 1, &keys);
    wait_healthy(&cluster, &servers);
}

/// The leader dies together with the primary: nothing is copied before the next leader has decided.
#[test]
fn acknowledged_writes_survive_when_the_leader_dies_too() {
    let (mut cluster, servers) = start(&options(true, "everysec"));
    let (leader, other) = (cluster.leader(), cluster.follower());
    let keys = write(&cluster, other, "leader");
    cluster.node_mut(leader).kill9();
    restart_with_less(&mut cluster, servers[0]);
    wait_other_primary(&cluster, other, servers[0]);
    check_kept(&cluster, other, &keys);
    cluster.node_mut(leader).start();
    cluster.wait_answers(leader);
    wait_healthy(&cluster, &servers);
}

/// While a replica hangs that may have more than the others, nothing is decided, and nothing is copied.
#[test]
fn nothing_is_copied_while_too_few_replicas_answer() {
    let (mut cluster, servers) = start(&options(true, "everysec"));
    let keys = write(&cluster, 1, "few");
    cluster.servers[servers[2]].pause();
    restart_with_less(&mut cluster, servers[0]);
    wait_for("status to say what is waited for", GENEROUS, || {
        let status = cluster.cli().json(&["status"]).to_string();
        if status.contains("so 2 of the 2 replicas must answer") { Ok(()) } else { Err(status) }
    });
    let has = |server: usize, key: &str| cluster.servers[server].call(&["EXISTS", key]) == Reply::Integer(1);
    let last = keys.last().unwrap();
    assert!(!has(servers[0], last), "without this, the test proves nothing");
    assert!(has(servers[1], last), "the replica must have kept its data");
    cluster.servers[servers[2]].resume();
    wait_other_primary(&cluster, 1, servers[0]);
    check_kept(&cluster, 1, &keys);
    wait_healthy(&cluster, &servers);
}

/// When all servers of a group were restarted, none has more than its disk had: the primary stays, and its replicas copy
/// it without an operator.
#[test]
fn a_group_that_was_restarted_as_a_whole_keeps_its_primary() {
    let (mut cluster, servers) = start(&options(true, "no"));
    let keys = write(&cluster, 1, "whole");
    for server in &servers {
        cluster.servers[*server].kill9();
    }
    for server in &servers {
        cluster.servers[*server].launch_again();
    }
    wait_healthy(&cluster, &servers);
    assert_eq!(primary(&cluster), cluster.servers[servers[0]].addr());
    check_kept(&cluster, 1, &keys);
    wait_until("writes to be acknowledged", GENEROUS, || {
        let mut client = Client::connect(cluster.node(1).client_port).unwrap();
        client.call(&["SET", "again", "1"]).unwrap() == Reply::ok()
    });
}

/// No file has the user switched on, and the file of the primary was written while replicas are linked. Without
/// `min-acks` replicas log in as before.
#[test]
fn the_replication_user_is_on_in_memory_only_and_goes_with_min_acks() {
    let (cluster, servers) = start(&options(true, "everysec"));
    let replica = cluster.servers[servers[1]].addr();
    cluster.cli().ok(&["group", "promote", "1", &replica]);
    wait_until("the replica to be the primary", GENEROUS, || primary(&cluster) == replica);
    wait_healthy(&cluster, &servers);
    let users = cluster.servers[servers[1]].call(&["ACL", "LIST"]);
    let Reply::Array(users) = users else { panic!("{users:?}") };
    let on = format!("user {USER} on ");
    assert!(users.iter().any(|user| user.text().starts_with(&on)), "{users:?}");
    for server in &servers {
        let config = cluster.servers[*server].config();
        let saved = config.lines().find(|line| line.starts_with(&format!("user {USER}"))).unwrap_or_default();
        assert!(saved.is_empty() || saved.starts_with(&format!("user {USER} off")), "{saved}");
    }
    cluster.cli().ok(&["product", "set", "default", "min-acks=0", "--wait", "--timeout", "40s"]);
    for server in [servers[0], servers[2]] {
        wait_until("the replica to log in as before", GENEROUS, || masteruser(&cluster, server) == Reply::bulk(""));
    }
    wait_healthy(&cluster, &servers);
}

/// A restarted primary lacks what its replicas have: slots that left it would lose that, and slots that came to it would
/// be lost when a replica replaces it.
#[test]
fn slots_move_neither_from_nor_to_a_primary_that_restarted_with_less() {
    let options = options(true, "everysec");
    let mut cluster = Cluster::start(3);
    let servers = cluster.add_group_with_replicas(1, "0-511", 1, &options);
    let others = cluster.add_group_with_replicas(2, "512-1023", 1, &options);
    let cli = cluster.cli();
    ["1", "2"].iter().for_each(|id| _ = cli.ok(&["group", "set", id, "down-after=60s"]));
    cli.ok(&["product", "set", "default", "min-acks=1", "--wait", "--timeout", "40s"]);
    (1..=3).for_each(|id| cluster.wait_answers(id));
    wait_replication_user(&cluster, &servers);
    wait_replication_user(&cluster, &others);
    for (n, (slots, to)) in [("0-99", "2"), ("900-1023", "1")].into_iter().enumerate() {
        let keys = write(&cluster, 1, slots);
        // Nothing replaces the primary for now.
        cluster.cli().ok(&["maintenance", "on"]);
        restart_with_less(&mut cluster, servers[n]);
        wait_for("the restarted primary to answer", GENEROUS, || {
            cluster.servers[servers[n]].try_call(&["PING"]).map(drop).map_err(|error| error.to_string())
        });
        cluster.cli().ok(&["migrate", "start", slots, "--to", to]);
        let all = cluster.cli().json(&["migrate", "ls"]);
        let newest = all.as_array().unwrap().iter().filter_map(|migration| migration["id"].as_u64()).max();
        let id = newest.unwrap().to_string();
        wait_for("the migration to be refused", GENEROUS, || {
            let shown = cluster.cli().ok(&["migrate", "show", &id]).out;
            if shown.contains("was restarted, and may have less") { Ok(()) } else { Err(shown) }
        });
        cluster.cli().ok(&["maintenance", "off"]);
        wait_for("the migration to be done", GENEROUS, || {
            let now = cluster.cli().json(&["migrate", "show", &id]);
            if now["state"] == "done" { Ok(()) } else { Err(now.to_string()) }
        });
        check_kept(&cluster, 1, &keys);
        wait_replication_user(&cluster, &[servers[1 - n], servers[n]]);
    }
}
