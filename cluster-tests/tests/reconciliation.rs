//! Replication reconciliation: the replication commands that the leader sends to servers, and whether servers keep
//! their role after a restart. Concerns roles, configuration files and passwords.

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

/// Options of a server that has written everything to disk that it has answered, so that a killed server returns with
/// its data.
fn durable() -> RedisOptions {
    let more = ["--appendonly", "yes", "--appendfsync", "no"];
    RedisOptions { more: more.map(str::to_owned).to_vec(), ..RedisOptions::default() }
}

/// Returns the line of a server's configuration file that names its primary.
fn follows_by_file(cluster: &Cluster, server: usize) -> Option<String> {
    let config = cluster.servers[server].config();
    config.lines().find(|line| line.starts_with("replicaof ")).map(|line| line.replace('"', ""))
}

#[track_caller]
fn wait_file(cluster: &Cluster, server: usize, follows: Option<usize>) {
    let wanted = follows.map(|primary| format!("replicaof 127.0.0.1 {}", cluster.servers[primary].port));
    wait_for("the server's configuration file to contain its role", GENEROUS, || {
        let line = follows_by_file(cluster, server);
        if line == wanted { Ok(()) } else { Err(format!("{line:?} instead of {wanted:?}")) }
    });
}

/// Waits until `primary` is the group's primary, according to the log and to the server itself, and `replica` follows
/// it.
#[track_caller]
fn wait_roles(cluster: &Cluster, primary: usize, replica: usize) {
    let addr = cluster.servers[primary].addr();
    let port = format!("master_port:{}\r", cluster.servers[primary].port);
    wait_for(&format!("{addr} to be the primary"), GENEROUS, || {
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

/// Waits until `replica` is a candidate.
#[track_caller]
fn wait_candidate(cluster: &Cluster, primary: usize, replica: usize) {
    let offset = |server: usize, name: &str| {
        let info = cluster.servers[server].call(&["INFO", "replication"]).text();
        let field = info.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().parse::<u64>());
        field.and_then(Result::ok).unwrap_or_default()
    };
    // After the full copy, a primary sends nothing to a new replica for up to a second.
    let written_by_now = offset(primary, "master_repl_offset:");
    wait_until("the replica to have all writes", GENEROUS, || {
        offset(replica, "slave_repl_offset:") >= written_by_now.max(1)
    });
    wait_for("the replica to be a candidate", GENEROUS, || {
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

/// The replica has `replicaof` in its configuration file. After its promotion, the line is gone: killed and restarted,
/// it is the primary again.
#[test]
fn a_promoted_server_is_the_primary_after_a_restart() {
    let mut cluster = Cluster::start(3);
    let options = RedisOptions { config_file: true, ..durable() };
    let servers = cluster.add_group_with_replicas(1, "0-1023", 1, &options);
    let [first, second] = servers[..] else { panic!("{servers:?}") };
    assert!(follows_by_file(&cluster, second).is_some(), "without the line, the test proves nothing");
    cluster.cli().ok(&["group", "set", "1", "down-after=30s"]);
    let written = written(&cluster);

    let addr = cluster.servers[second].addr();
    cluster.cli().ok(&["group", "promote", "1", &addr, "--wait", "--timeout", "40s"]);
    wait_file(&cluster, second, None);
    wait_file(&cluster, first, Some(second));
    written.wait_acknowledged(|_| true);

    // Both servers die, and restart with the roles in their files, before the leader can send commands to them.
    cluster.servers[first].kill9();
    cluster.servers[second].kill9();
    cluster.servers[second].launch_again();
    cluster.servers[first].launch_again();
    wait_roles(&cluster, second, first);
    written.wait_acknowledged(|_| true);

    cluster.cli().ok(&["group", "set", "1", "down-after=800ms"]);
    wait_candidate(&cluster, second, first);
    cluster.servers[second].kill9();
    let died = Instant::now();
    wait_for("the other server to be promoted", GENEROUS, || {
        let groups = cluster.cli().try_json(&["group", "ls"])?;
        let promoted = groups[0]["servers"][0]["address"] == cluster.servers[first].addr().as_str();
        if promoted { Ok(()) } else { Err(cluster.cli().try_json(&["status"])?.to_string()) }
    });
    written.wait_acknowledged(|_| true);
    wait_file(&cluster, first, None);
    cluster.servers[second].launch_again();
    wait_roles(&cluster, first, second);
    wait_file(&cluster, second, Some(first));

    let (all, lost) = written.finish(cluster.node(1).client_port);
    assert!(lost.iter().all(|w| w.at <= died && w.at + Duration::from_secs(1) >= died), "{lost:?}");
    println!("{} writes, {} of them lost with the primary of the failover", all.len(), lost.len());
}

/// Servers that require a password and do not know the password of their primary: reconciliation sets it.
#[test]
fn a_server_gets_the_password_of_its_primary() {
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
    wait_roles(&cluster, first, second);
    wait_file(&cluster, second, Some(first));
    assert!(cluster.servers[second].config().contains("masterauth \"backend pass\""));

    wait_for("the replica to be promoted", GENEROUS, || {
        let ran = cli.run(&["group", "promote", "1", &addrs[1], "--wait", "--timeout", "40s"]);
        if ran.code == 0 { Ok(()) } else { Err(ran.err) }
    });
    wait_roles(&cluster, second, first);
    written.wait_acknowledged(|_| true);
    assert_eq!(cluster.servers[first].call(&["CONFIG", "GET", "masterauth"]).text(), "masterauth backend pass");
    let (all, lost) = written.finish(cluster.node(1).client_port);
    assert!(lost.is_empty() && all.iter().all(|w| w.error.is_none()), "clients received errors");
    assert_eq!(cluster.servers[second].call(&["PING"]), Reply::Simple("PONG".into()));
    for node in &cluster.nodes {
        assert!(!node.log().contains("backend pass"), "a password is in the log");
    }
}

/// A promoted server has no configuration file, so it cannot save its role and restarts as a replica. The two servers
/// then follow each other, and neither accepts writes. The other server, which has all data, is promoted.
#[test]
fn a_primary_configured_as_a_replica_is_replaced() {
    let mut cluster = Cluster::start(3);
    let servers = cluster.add_group_with_replicas(1, "0-1023", 1, &durable());
    let [first, second] = servers[..] else { panic!("{servers:?}") };
    let written = written(&cluster);
    let addr = cluster.servers[second].addr();
    cluster.cli().ok(&["group", "promote", "1", &addr, "--wait", "--timeout", "40s"]);
    wait_roles(&cluster, second, first);
    wait_candidate(&cluster, second, first);
    written.wait_acknowledged(|_| true);

    cluster.servers[second].kill9();
    let died = Instant::now();
    cluster.servers[second].launch_again();
    wait_roles(&cluster, first, second);
    written.wait_acknowledged(|_| true);
    let (_, lost) = written.finish(cluster.node(1).client_port);
    assert!(lost.iter().all(|w| w.at <= died && w.at + Duration::from_secs(1) >= died), "{lost:?}");
}

/// As above, but the former primary is dead: no other server has the data. When the former primary returns with its old
/// data, it must not overwrite the newer data.
#[test]
fn a_primary_configured_as_a_replica_of_a_dead_server_stays_the_primary() {
    let mut cluster = Cluster::start(3);
    let servers = cluster.add_group_with_replicas(1, "0-1023", 1, &durable());
    let [first, second] = servers[..] else { panic!("{servers:?}") };
    cluster.cli().ok(&["group", "set", "1", "down-after=800ms"]);
    let written = written(&cluster);
    wait_candidate(&cluster, first, second);
    cluster.servers[first].kill9();
    let died = Instant::now();
    written.wait_acknowledged(|_| true);
    cluster.servers[second].kill9();
    cluster.servers[second].launch_again();
    written.wait_acknowledged(|_| true);
    cluster.servers[first].launch_again();
    wait_roles(&cluster, second, first);
    written.wait_acknowledged(|_| true);
    let (_, lost) = written.finish(cluster.node(1).client_port);
    assert!(lost.iter().all(|w| w.at <= died && w.at + Duration::from_secs(1) >= died), "{lost:?}");
}

fn reconciled(cluster: &Cluster, part: &str) -> usize {
    let events = cluster.cli().try_json(&["events"]).unwrap_or_default();
    let of = |e: &&serde_json::Value| {
        e["kind"] == "reconciled" && e["text"].as_str().is_some_and(|text| text.contains(part))
    };
    events.as_array().into_iter().flatten().filter(of).count()
}

/// A replica with a wrong `masterauth` whose link breaks gets the right password. Each action at a server is in the
/// events, but at most once a minute if it is repeated.
#[test]
fn actions_of_reconciliation_are_in_the_events() {
    let mut cluster = Cluster::start(3);
    let options = RedisOptions { password: Some("backend pass".into()), ..RedisOptions::default() };
    let primary = cluster.add_server(&options);
    let replica = RedisOptions { primary: Some(cluster.servers[primary].port), ..options };
    let (first, second) = (cluster.add_server(&replica), cluster.add_server(&replica));
    let addrs = [primary, first, second].map(|server| cluster.servers[server].addr());
    let file = cluster.secret_file("backend", "backend pass");
    let create = ["group", "create", "1", "--primary", &addrs[0], "--replica", &addrs[1], "--replica", &addrs[2]];
    cluster.cli().ok(&[&create[..], &["--password-file", file.to_str().unwrap()]].concat());
    wait_roles(&cluster, primary, first);
    wait_roles(&cluster, primary, second);

    let _ = cluster.servers[first].call(&["CONFIG", "SET", "masterauth", "wrong"]);
    let _ = cluster.servers[first].call(&["CLIENT", "KILL", "TYPE", "master"]);
    let _ = cluster.servers[primary].call(&["CLIENT", "KILL", "TYPE", "replica"]);
    wait_until("the replica to have the right password", GENEROUS, || {
        cluster.servers[first].call(&["CONFIG", "GET", "masterauth"]).text() == "masterauth backend pass"
    });
    wait_roles(&cluster, primary, first);
    wait_until("the event about the password", GENEROUS, || {
        reconciled(&cluster, &format!("{} got the password", addrs[1])) == 1
    });

    for _ in 0..3 {
        let _ = cluster.servers[second].call(&["REPLICAOF", "NO", "ONE"]);
        wait_roles(&cluster, primary, second);
        let made = format!("{} was made a replica of {}, its group's primary: it is a primary", addrs[2], addrs[0]);
        wait_until("exactly one event", GENEROUS, || reconciled(&cluster, &made) == 1);
    }
    for node in &cluster.nodes {
        assert!(!node.log().contains("backend pass"), "a password is in the log");
    }
}

/// The server is removed from its group between the leader's decision and REPLICAOF. It then does not belong to the
/// cluster, and must not be changed.
#[test]
fn a_server_that_is_removed_meanwhile_is_not_changed() {
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
    wait_for("the reconciliation to be given up", GENEROUS, || {
        let log = cluster.node(leader).log();
        let gave_up =
            log.lines().any(|line| line.contains("could not be made to follow") && line.contains("has changed"));
        if gave_up { Ok(()) } else { Err("the log has no such line") }
    });
    let info = cluster.servers[second].call(&["INFO", "replication"]).text();
    assert!(info.contains("role:master"), "{info}");
}
