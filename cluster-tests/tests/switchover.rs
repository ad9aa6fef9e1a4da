//! Switchovers whose replica does not answer when it is told to be the primary: its slots stay held until it is known what it
//! is, and whatever it is by then, nothing is lost. Knows nothing of how it is found out.

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

/// Longer than one answer may take (1 s), and shorter than it is asked what it is (3 s) and requests are parked (5 s).
const LATE: Duration = Duration::from_millis(1500);

/// Three nodes, one group of a primary and a replica, and how they stand when the replica is about to be told that it is the
/// primary: its slots are held.
fn about_to_be_told(options: &RedisOptions) -> (Cluster, [usize; 2]) {
    let mut cluster = Cluster::start(3);
    let servers = cluster.add_group_with_replicas(1, "0-1023", 1, options);
    // A machine that does much else needs longer for a hold than the default.
    cluster.cli().ok(&["cluster", "set", "hold-max=1s", "--timeout", "40s"]);
    (1..=3).for_each(|id| cluster.wait_answers(id));
    cluster.pause_at(Point::PromotionSent);
    (cluster, [servers[0], servers[1]])
}

fn ports(cluster: &Cluster) -> Vec<u16> {
    cluster.nodes.iter().map(|n| n.client_port).collect()
}

fn tell(cluster: &Cluster, to: usize) {
    cluster.cli().ok(&["group", "promote", "1", &cluster.servers[to].addr()]);
    cluster.wait_reached(Point::PromotionSent);
}

fn events(cluster: &Cluster) -> String {
    cluster.cli().ok(&["events"]).out
}

fn primary(cluster: &Cluster) -> String {
    cluster.cli().json(&["group", "ls"])[0]["servers"][0]["address"].as_str().unwrap_or_default().to_owned()
}

/// Waits until the group's primary is this one, and the other one follows it and is a candidate.
#[track_caller]
fn wait_well(cluster: &Cluster, leads: usize, follows: usize) {
    let [leads, follows] = [&cluster.servers[leads], &cluster.servers[follows]];
    let port = format!("master_port:{}\r", leads.port);
    wait_for(&format!("{} to lead", leads.addr()), GENEROUS, || {
        let groups = cluster.cli().try_json(&["group", "ls"])?;
        let servers = &groups[0]["servers"];
        let own = leads.call(&["INFO", "replication"]).text();
        let theirs = follows.call(&["INFO", "replication"]).text();
        let stand = own.contains("role:master") && theirs.contains(&port) && theirs.contains("master_link_status:up");
        let known = servers[0]["address"] == leads.addr().as_str() && servers[1]["diverged"] == false;
        if stand && known { Ok(()) } else { Err(format!("{own}\n{theirs}\n{groups}\n{}", events(cluster))) }
    });
}

fn finish_unnoticed(cluster: &Cluster, mix: Mix) -> Noticed {
    mix.wait_more(100);
    let noticed = mix.finish(cluster);
    assert!(noticed.errors.is_empty(), "clients received errors: {:?}", noticed.errors);
    noticed
}

/// It stands still for longer than any answer may take, and does then what it was told.
#[test]
fn an_answer_that_is_late_is_waited_for() {
    let (cluster, [first, second]) = about_to_be_told(&RedisOptions::default());
    let mix = Mix::start(&ports(&cluster), 500);
    mix.wait_more(100);
    tell(&cluster, second);
    cluster.servers[second].pause();
    cluster.go_on(Point::PromotionSent);
    let_pass(LATE);
    cluster.servers[second].resume();
    wait_well(&cluster, second, first);
    finish_unnoticed(&cluster, mix);
    let events = events(&cluster);
    assert!(!events.contains("promotion-given-up") && !events.contains("promotion-released"), "{events}");
}

/// The connection on which it is told breaks: it is not a primary, and never will be, so it is told again.
#[test]
fn one_that_was_never_told_is_told_again() {
    let (cluster, [first, second]) = about_to_be_told(&RedisOptions::default());
    let mix = Mix::start(&ports(&cluster), 500);
    mix.wait_more(100);
    tell(&cluster, second);
    let listed = cluster.servers[second].call(&["CLIENT", "LIST"]).text();
    let control = listed.lines().find(|line| line.contains(":ctl:")).unwrap();
    let id = control.split(' ').next().and_then(|field| field.strip_prefix("id=")).unwrap();
    assert_eq!(cluster.servers[second].call(&["CLIENT", "KILL", "ID", id]), Reply::Integer(1));
    cluster.go_on(Point::PromotionSent);
    wait_well(&cluster, second, first);
    finish_unnoticed(&cluster, mix);
    let events = events(&cluster);
    assert!(events.contains("promotion-released") && !events.contains("promotion-given-up"), "{events}");
}

/// It stands still for too long, and does what it was told long after the old primary has taken writes again, and died: it
/// must not lead without them.
#[test]
fn one_that_becomes_a_primary_too_late_leads_nobody() {
    let more = ["--appendonly", "yes", "--appendfsync", "always"];
    let options = RedisOptions { more: more.map(str::to_owned).to_vec(), ..RedisOptions::default() };
    let (mut cluster, [first, second]) = about_to_be_told(&options);
    cluster.cli().ok(&["group", "set", "1", "down-after=800ms"]);
    let written = Written::start(&ports(&cluster), "w");
    written.wait_acknowledged(|_| true);
    tell(&cluster, second);
    cluster.servers[second].pause();
    cluster.go_on(Point::PromotionSent);
    wait_for("the promotion to be given up", GENEROUS, || {
        let events = events(&cluster);
        if events.contains("promotion-given-up") { Ok(()) } else { Err(events) }
    });
    written.wait_acknowledged(|_| true);
    // Nobody has copied these.
    cluster.servers[first].kill9();
    cluster.servers[second].resume();
    wait_for("it to do what it was told", GENEROUS, || {
        let role = cluster.servers[second].call(&["ROLE"]).text();
        if role.starts_with("master") { Ok(()) } else { Err(role) }
    });
    let old = cluster.servers[first].addr();
    assert!(holds_for(Duration::from_secs(3), || primary(&cluster) == old), "{}", events(&cluster));
    cluster.servers[first].restart();
    wait_well(&cluster, first, second);
    written.wait_acknowledged(|_| true);
    let (all, lost) = written.finish(cluster.node(1).client_port);
    assert!(lost.is_empty(), "{} of {} writes are lost: {lost:?}", lost.len(), all.len());
}
