//! Switchovers whose candidate does not answer REPLICAOF NO ONE: the group's slots stay held until the candidate's role
//! is known. No write may be lost, whatever the role is.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use cluster_tests::{
    client::Reply,
    cluster::Cluster,
    redis::RedisOptions,
    wait::{GENEROUS, holds_for, let_pass, wait_for},
    workload::{Mix, Noticed, Written},
};
use pontoon::faults::Point;

/// Longer than the deadline of one reply (1 s), and shorter than the time in which the leader asks for the role (3 s)
/// and in which requests are parked (5 s).
const LATE: Duration = Duration::from_millis(1500);

/// Starts three nodes and one group of a primary and a replica. A promotion then pauses, with its slots held, just
/// before REPLICAOF NO ONE is sent. Returns the indices of both servers.
fn start_paused_before_replicaof(options: &RedisOptions) -> (Cluster, [usize; 2]) {
    let mut cluster = Cluster::start(3);
    let servers = cluster.add_group_with_replicas(1, "0-1023", 1, options);
    // On a busy machine, a hold needs more time than the default.
    cluster.cli().ok(&["cluster", "set", "hold-max=1s", "--timeout", "40s"]);
    (1..=3).for_each(|id| cluster.wait_answers(id));
    cluster.pause_at(Point::BeforePromote);
    (cluster, [servers[0], servers[1]])
}

fn ports(cluster: &Cluster) -> Vec<u16> {
    cluster.nodes.iter().map(|n| n.client_port).collect()
}

/// Starts a switchover to server `to`, and waits until it pauses.
fn start_switchover(cluster: &Cluster, to: usize) {
    cluster.cli().ok(&["group", "promote", "1", &cluster.servers[to].addr()]);
    cluster.wait_reached(Point::BeforePromote);
}

fn events(cluster: &Cluster) -> String {
    cluster.cli().ok(&["events"]).out
}

fn primary(cluster: &Cluster) -> String {
    cluster.cli().json(&["group", "ls"])[0]["servers"][0]["address"].as_str().unwrap_or_default().to_owned()
}

/// Waits until `primary` is the group's primary, and `replica` follows it and is not diverged.
#[track_caller]
fn wait_roles(cluster: &Cluster, primary: usize, replica: usize) {
    let [primary, replica] = [&cluster.servers[primary], &cluster.servers[replica]];
    let port = format!("master_port:{}\r", primary.port);
    wait_for(&format!("{} to be the primary", primary.addr()), GENEROUS, || {
        let groups = cluster.cli().try_json(&["group", "ls"])?;
        let servers = &groups[0]["servers"];
        let own = primary.call(&["INFO", "replication"]).text();
        let theirs = replica.call(&["INFO", "replication"]).text();
        let roles = own.contains("role:master") && theirs.contains(&port) && theirs.contains("master_link_status:up");
        let known = servers[0]["address"] == primary.addr().as_str() && servers[1]["diverged"] == false;
        if roles && known { Ok(()) } else { Err(format!("{own}\n{theirs}\n{groups}\n{}", events(cluster))) }
    });
}

fn finish_without_errors(cluster: &Cluster, mix: Mix) -> Noticed {
    mix.wait_more(100);
    let noticed = mix.finish(cluster);
    assert!(noticed.errors.is_empty(), "clients received errors: {:?}", noticed.errors);
    noticed
}

/// The candidate hangs for longer than the deadline of a reply, and then executes REPLICAOF NO ONE.
#[test]
fn a_late_reply_is_awaited() {
    let (cluster, [first, second]) = start_paused_before_replicaof(&RedisOptions::default());
    let mix = Mix::start(&ports(&cluster), 500);
    mix.wait_more(100);
    start_switchover(&cluster, second);
    cluster.servers[second].pause();
    cluster.go_on(Point::BeforePromote);
    let_pass(LATE);
    cluster.servers[second].resume();
    wait_roles(&cluster, second, first);
    finish_without_errors(&cluster, mix);
    let events = events(&cluster);
    assert!(!events.contains("promotion-given-up") && !events.contains("promotion-released"), "{events}");
}

/// The control connection breaks before REPLICAOF NO ONE is executed. The candidate has provably not become a primary,
/// so the leader tries again.
#[test]
fn replicaof_that_was_not_executed_is_repeated() {
    let (cluster, [first, second]) = start_paused_before_replicaof(&RedisOptions::default());
    let mix = Mix::start(&ports(&cluster), 500);
    mix.wait_more(100);
    start_switchover(&cluster, second);
    let listed = cluster.servers[second].call(&["CLIENT", "LIST"]).text();
    let control = listed.lines().find(|line| line.contains(":ctl:")).unwrap();
    let id = control.split(' ').next().and_then(|field| field.strip_prefix("id=")).unwrap();
    assert_eq!(cluster.servers[second].call(&["CLIENT", "KILL", "ID", id]), Reply::Integer(1));
    cluster.go_on(Point::BeforePromote);
    wait_roles(&cluster, second, first);
    finish_without_errors(&cluster, mix);
    let events = events(&cluster);
    assert!(events.contains("promotion-released") && !events.contains("promotion-given-up"), "{events}");
}

/// The candidate hangs for too long. It executes REPLICAOF NO ONE after the old primary has accepted further writes and
/// has died. It must not become the group's primary without these writes.
#[test]
fn a_server_that_becomes_a_primary_too_late_is_not_promoted() {
    let more = ["--appendonly", "yes", "--appendfsync", "no"];
    let options = RedisOptions { more: more.map(str::to_owned).to_vec(), ..RedisOptions::default() };
    let (mut cluster, [first, second]) = start_paused_before_replicaof(&options);
    cluster.cli().ok(&["group", "set", "1", "down-after=800ms"]);
    let written = Written::start(&ports(&cluster), "w");
    written.wait_acknowledged(|_| true);
    start_switchover(&cluster, second);
    cluster.servers[second].pause();
    cluster.go_on(Point::BeforePromote);
    wait_for("the promotion to be given up", GENEROUS, || {
        let events = events(&cluster);
        if events.contains("promotion-given-up") { Ok(()) } else { Err(events) }
    });
    written.wait_acknowledged(|_| true);
    // No replica has these writes.
    cluster.servers[first].kill9();
    cluster.servers[second].resume();
    wait_for("the candidate to execute REPLICAOF NO ONE", GENEROUS, || {
        let role = cluster.servers[second].call(&["ROLE"]).text();
        if role.starts_with("master") { Ok(()) } else { Err(role) }
    });
    let old = cluster.servers[first].addr();
    assert!(holds_for(Duration::from_secs(3), || primary(&cluster) == old), "{}", events(&cluster));
    cluster.servers[first].restart();
    wait_roles(&cluster, first, second);
    written.wait_acknowledged(|_| true);
    let (all, lost) = written.finish(cluster.node(1).client_port);
    assert!(lost.is_empty(), "{} of {} writes are lost: {lost:?}", lost.len(), all.len());
}
