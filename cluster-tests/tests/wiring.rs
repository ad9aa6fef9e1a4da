//! What the servers of a group are made to be, and whether they still are that when they are started again: their own
//! configuration files, and passwords. Knows nothing of how it is decided.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use cluster_tests::{
    client::Reply,
    cluster::Cluster,
    redis::RedisOptions,
    wait::{GENEROUS, wait_for, wait_until},
    workload::Written,
};
use pontoon::faults::Point;

/// Everything that was answered is on the disk: a server that was killed comes back with it.
fn durable() -> RedisOptions {
    let more = ["--appendonly", "yes", "--appendfsync", "always"];
    RedisOptions { more: more.map(str::to_owned).to_vec(), ..RedisOptions::default() }
}

/// The line of a configuration file that says whom a server follows.
fn follows_by_file(cluster: &Cluster, server: usize) -> Option<String> {
    let config = cluster.servers[server].config();
    config.lines().find(|line| line.starts_with("replicaof ")).map(|line| line.replace('"', ""))
}

#[track_caller]
fn wait_file(cluster: &Cluster, server: usize, follows: Option<usize>) {
    let wanted = follows.map(|primary| format!("replicaof 127.0.0.1 {}", cluster.servers[primary].port));
    wait_for("the server's own configuration to say what it is", GENEROUS, || {
        let says = follows_by_file(cluster, server);
        if says == wanted { Ok(()) } else { Err(format!("{says:?} instead of {wanted:?}")) }
    });
}

/// Waits until the group's primary is this one, by the log and by its own words, and the other one follows it.
#[track_caller]
fn wait_led_by(cluster: &Cluster, primary: usize, replica: usize) {
    let addr = cluster.servers[primary].addr();
    let port = format!("master_port:{}\r", cluster.servers[primary].port);
    wait_for(&format!("{addr} to lead"), GENEROUS, || {
        let groups = cluster.cli().try_json(&["group", "ls"])?;
        if groups[0]["servers"][0]["address"] != addr.as_str() {
            return Err(groups.to_string());
        }
        let info = |server: usize| cluster.servers[server].try_call(&["INFO", "replication"]);
        let own = info(primary).map_err(|e| e.to_string())?.text();
        let theirs = info(replica).map_err(|e| e.to_string())?.text();
        let follows = theirs.contains(&port) && theirs.contains("master_link_status:up");
        if own.contains("role:master") && follows { Ok(()) } else { Err(format!("{own}\n{theirs}\n{groups}")) }
    });
}

/// Waits until the other server of the group could replace this one.
#[track_caller]
fn wait_candidate(cluster: &Cluster, primary: usize, replica: usize) {
    let offset = |server: usize, name: &str| {
        let info = cluster.servers[server].call(&["INFO", "replication"]).text();
        let told = info.lines().find_map(|line| line.strip_prefix(name)).map(|told| told.trim().parse::<u64>());
        told.and_then(Result::ok).unwrap_or_default()
    };
    // A primary sends nothing to a new replica for up to a second behind its copy.
    let written_by_now = offset(primary, "master_repl_offset:");
    wait_until("the replica to have what was written", GENEROUS, || {
        offset(replica, "slave_repl_offset:") >= written_by_now.max(1)
    });
    wait_for("the other one to be a candidate", GENEROUS, || {
        let group = cluster.cli().try_json(&["group", "show", "1"])?;
        let info = cluster.servers[primary].call(&["INFO", "replication"]).text();
        let known = group["replid"].as_str().is_some_and(|id| info.contains(&format!("master_replid:{id}")));
        let candidate = group["servers"][1]["observed"]["link"] == "up" && group["servers"][1]["diverged"] == false;
        if known && candidate { Ok(()) } else { Err(group.to_string()) }
    });
}

fn written(cluster: &Cluster) -> Written {
    (1..=3).for_each(|id| cluster.wait_answers(id));
    let ports: Vec<u16> = cluster.nodes.iter().map(|n| n.client_port).collect();
    let written = Written::start(&ports, "w");
    written.wait_acknowledged(|_| true);
    written
}

/// The replica has `replicaof` in its own file. Promoted, it has it no more: killed and started again, it is the primary again.
#[test]
fn a_promoted_server_is_the_primary_after_a_restart() {
    let mut cluster = Cluster::start(3);
    let options = RedisOptions { config_file: true, ..durable() };
    let servers = cluster.add_group_with_replicas(1, "0-1023", 1, &options);
    let [first, second] = servers[..] else { panic!("{servers:?}") };
    assert!(follows_by_file(&cluster, second).is_some(), "the test shows nothing");
    cluster.cli().ok(&["group", "set", "1", "down-after=30s"]);
    let written = written(&cluster);

    let addr = cluster.servers[second].addr();
    cluster.cli().ok(&["group", "promote", "1", &addr, "--wait", "--timeout", "40s"]);
    wait_file(&cluster, second, None);
    wait_file(&cluster, first, Some(second));
    written.wait_acknowledged(|_| true);

    // Both die, and come back as what their files say before anybody could have seen to them.
    cluster.servers[first].kill9();
    cluster.servers[second].kill9();
    cluster.servers[second].launch_again();
    cluster.servers[first].launch_again();
    wait_led_by(&cluster, second, first);
    written.wait_acknowledged(|_| true);

    cluster.cli().ok(&["group", "set", "1", "down-after=800ms"]);
    wait_candidate(&cluster, second, first);
    let died = Instant::now();
    cluster.servers[second].kill9();
    wait_for("the other one to be promoted", GENEROUS, || {
        let groups = cluster.cli().try_json(&["group", "ls"])?;
        let led = groups[0]["servers"][0]["address"] == cluster.servers[first].addr().as_str();
        if led { Ok(()) } else { Err(cluster.cli().try_json(&["status"])?.to_string()) }
    });
    written.wait_acknowledged(|_| true);
    wait_file(&cluster, first, None);
    cluster.servers[second].launch_again();
    wait_led_by(&cluster, first, second);
    wait_file(&cluster, second, Some(first));

    let (all, lost) = written.finish(cluster.node(1).client_port);
    assert!(lost.iter().all(|w| w.at <= died && w.at + Duration::from_secs(1) >= died), "{lost:?}");
    println!("{} writes, {} of them lost with the primary of the failover", all.len(), lost.len());
}

/// Servers that want a password, and do not know the one of their primary: the wiring tells them.
#[test]
fn a_server_is_told_the_password_of_its_primary() {
    let mut cluster = Cluster::start(3);
    let options = RedisOptions {
        password: Some("backend pass".into()),
        no_masterauth: true,
        config_file: true,
        ..RedisOptions::default()
    };
    let (first, second) = (cluster.add_server(&options), cluster.add_server(&options));
    let addrs = [first, second].map(|server| cluster.servers[server].addr());
    let file = cluster.secret_file("backend", "backend pass");
    let cli = cluster.cli();
    cli.ok(&["group", "create", "1", "--primary", &addrs[0], "--password-file", file.to_str().unwrap()]);
    cli.ok(&["slot", "assign", "0-1023", "1", "--wait", "--timeout", "40s"]);
    let written = written(&cluster);
    cli.ok(&["group", "add-server", "1", &addrs[1]]);
    wait_led_by(&cluster, first, second);
    wait_file(&cluster, second, Some(first));
    assert!(cluster.servers[second].config().contains("masterauth \"backend pass\""));

    wait_for("it to be promoted", GENEROUS, || {
        let ran = cli.run(&["group", "promote", "1", &addrs[1], "--wait", "--timeout", "40s"]);
        if ran.code == 0 { Ok(()) } else { Err(ran.err) }
    });
    wait_led_by(&cluster, second, first);
    written.wait_acknowledged(|_| true);
    assert_eq!(cluster.servers[first].call(&["CONFIG", "GET", "masterauth"]).text(), "masterauth backend pass");
    let (all, lost) = written.finish(cluster.node(1).client_port);
    assert!(lost.is_empty() && all.iter().all(|w| w.error.is_none()), "clients noticed");
    assert_eq!(cluster.servers[second].call(&["PING"]), Reply::Simple("PONG".into()));
    for node in &cluster.nodes {
        assert!(!node.log().contains("backend pass"), "a password is in the log");
    }
}

/// A promoted server that cannot keep what it is (it has no configuration file) is started again as the replica that it was:
/// it follows the one that follows it, and nobody takes writes. The other one, which has everything, takes over.
#[test]
fn a_primary_that_is_started_again_as_a_replica_is_replaced() {
    let mut cluster = Cluster::start(3);
    let servers = cluster.add_group_with_replicas(1, "0-1023", 1, &durable());
    let [first, second] = servers[..] else { panic!("{servers:?}") };
    let written = written(&cluster);
    let addr = cluster.servers[second].addr();
    cluster.cli().ok(&["group", "promote", "1", &addr, "--wait", "--timeout", "40s"]);
    wait_led_by(&cluster, second, first);
    wait_candidate(&cluster, second, first);
    written.wait_acknowledged(|_| true);

    let died = Instant::now();
    cluster.servers[second].kill9();
    cluster.servers[second].launch_again();
    wait_led_by(&cluster, first, second);
    written.wait_acknowledged(|_| true);
    let (_, lost) = written.finish(cluster.node(1).client_port);
    assert!(lost.iter().all(|w| w.at <= died && w.at + Duration::from_secs(1) >= died), "{lost:?}");
}

/// The same, and the one that it was a replica of is dead: nobody else has the data, and when the other one is back, with what
/// it had when it died, it must not overwrite it.
#[test]
fn a_primary_that_is_started_again_as_a_replica_of_a_dead_one_leads_again() {
    let mut cluster = Cluster::start(3);
    let servers = cluster.add_group_with_replicas(1, "0-1023", 1, &durable());
    let [first, second] = servers[..] else { panic!("{servers:?}") };
    cluster.cli().ok(&["group", "set", "1", "down-after=800ms"]);
    let written = written(&cluster);
    wait_candidate(&cluster, first, second);
    let died = Instant::now();
    cluster.servers[first].kill9();
    written.wait_acknowledged(|_| true);
    cluster.servers[second].kill9();
    cluster.servers[second].launch_again();
    written.wait_acknowledged(|_| true);
    cluster.servers[first].launch_again();
    wait_led_by(&cluster, second, first);
    written.wait_acknowledged(|_| true);
    let (_, lost) = written.finish(cluster.node(1).client_port);
    assert!(lost.iter().all(|w| w.at <= died && w.at + Duration::from_secs(1) >= died), "{lost:?}");
}

fn wired(cluster: &Cluster, part: &str) -> usize {
    let events = cluster.cli().try_json(&["events"]).unwrap_or_default();
    let of =
        |e: &&serde_json::Value| e["kind"] == "wired" && e["text"].as_str().is_some_and(|text| text.contains(part));
    events.as_array().into_iter().flatten().filter(of).count()
}

/// A replica whose link breaks after its password was changed is given the right one, and what is done at a server is in the
/// events, however often it drifts: not more than once a minute.
#[test]
fn what_is_mended_at_a_server_is_in_the_events() {
    let mut cluster = Cluster::start(3);
    let options = RedisOptions { password: Some("backend pass".into()), ..RedisOptions::default() };
    let primary = cluster.add_server(&options);
    let replica = RedisOptions { primary: Some(cluster.servers[primary].port), ..options };
    let (first, second) = (cluster.add_server(&replica), cluster.add_server(&replica));
    let addrs = [primary, first, second].map(|server| cluster.servers[server].addr());
    let file = cluster.secret_file("backend", "backend pass");
    let create = ["group", "create", "1", "--primary", &addrs[0], "--replica", &addrs[1], "--replica", &addrs[2]];
    cluster.cli().ok(&[&create[..], &["--password-file", file.to_str().unwrap()]].concat());
    wait_led_by(&cluster, primary, first);
    wait_led_by(&cluster, primary, second);

    let _ = cluster.servers[first].call(&["CONFIG", "SET", "masterauth", "wrong"]);
    let _ = cluster.servers[first].call(&["CLIENT", "KILL", "TYPE", "master"]);
    let _ = cluster.servers[primary].call(&["CLIENT", "KILL", "TYPE", "replica"]);
    wait_until("it to have the right password", GENEROUS, || {
        cluster.servers[first].call(&["CONFIG", "GET", "masterauth"]).text() == "masterauth backend pass"
    });
    wait_led_by(&cluster, primary, first);
    wait_until("it to be told", GENEROUS, || wired(&cluster, &format!("{} was given the password", addrs[1])) == 1);

    for _ in 0..3 {
        let _ = cluster.servers[second].call(&["REPLICAOF", "NO", "ONE"]);
        wait_led_by(&cluster, primary, second);
        let made = format!("{} was made a replica of {}, its group's primary: it is a primary", addrs[2], addrs[0]);
        wait_until("it to be told once", GENEROUS, || wired(&cluster, &made) == 1);
    }
    for node in &cluster.nodes {
        assert!(!node.log().contains("backend pass"), "a password is in the log");
    }
}

/// Between the decision and REPLICAOF the server is taken out of the group: it is somebody else's then, and is left alone.
#[test]
fn a_server_that_is_taken_out_meanwhile_is_left_alone() {
    let mut cluster = Cluster::start(3);
    let servers = cluster.add_group_with_replicas(1, "0-1023", 1, &RedisOptions::default());
    let [first, second] = servers[..] else { panic!("{servers:?}") };
    wait_candidate(&cluster, first, second);
    cluster.pause_at(Point::Reconciliation);
    let _ = cluster.servers[second].call(&["REPLICAOF", "NO", "ONE"]);
    let leader = cluster.wait_reached(Point::Reconciliation);
    let addr = cluster.servers[second].addr();
    cluster.cli().ok(&["group", "remove-server", "1", &addr]);
    cluster.go_on(Point::Reconciliation);
    wait_for("it to be given up", GENEROUS, || {
        let log = cluster.node(leader).log();
        let gave_up =
            log.lines().any(|line| line.contains("could not be made to follow") && line.contains("has changed"));
        if gave_up { Ok(()) } else { Err("nothing was given up") }
    });
    let info = cluster.servers[second].call(&["INFO", "replication"]).text();
    assert!(info.contains("role:master"), "{info}");
}
