//! Scripts that keep a server busy: a slow one causes no failover, one that has written nothing is ended, and one that
//! cannot be ended is replaced if the group is set so.

use std::time::Duration;

use cluster_tests::{
    client::Reply,
    cluster::Cluster,
    redis::RedisOptions,
    wait::{GENEROUS, holds_for, wait_for},
};

use crate::fixture::{events, one_group, primary_of, wait_event, wait_other_primary, wait_status};

/// Runs for ever.
const FOREVER: &str = "while true do end";

/// Waits until the servers answer that they are busy after a second.
fn wait_prepared(cluster: &Cluster, servers: &[usize]) {
    for server in servers {
        wait_for("a shorter busy-reply-threshold", GENEROUS, || {
            let shown = cluster.servers[*server].call(&["CONFIG", "GET", "lua-time-limit"]).text();
            if shown.ends_with(" 1000") { Ok(()) } else { Err(shown) }
        });
    }
}

/// A script that runs for ever was ended. On a busy machine, its client's deadline of 5 s may pass first.
#[track_caller]
fn check_ended(cluster: &Cluster, server: usize, answer: &Reply) {
    assert!(answer.text().contains("killed by user") || answer.is_error("ERR outcome unknown"), "{answer:?}");
    wait_for("the server to execute commands again", GENEROUS, || {
        let pong = cluster.servers[server].call(&["PING"]);
        if pong.text() == "PONG" { Ok(()) } else { Err(pong.text()) }
    });
}

#[test]
fn a_slow_script_causes_no_failover_and_an_endless_one_is_ended() {
    let (cluster, servers) = one_group(1, &RedisOptions::default());
    wait_prepared(&cluster, &servers);
    let primary = cluster.servers[servers[0]].addr();
    let mut client = cluster.node(1).client();
    // Longer than down-after, which is 3 s.
    let slow = "local t = redis.call('TIME'); local e = t[1] * 1000 + t[2] / 1000 + 4500 \
                repeat t = redis.call('TIME') until t[1] * 1000 + t[2] / 1000 > e; return 'done'";
    assert_eq!(client.call(&["EVAL", slow, "1", "k"]).unwrap().text(), "done");
    cluster.cli().ok(&["group", "set", "1", "script-kill-after=2s"]);
    let ended = client.call(&["EVAL", FOREVER, "1", "k"]).unwrap();
    check_ended(&cluster, servers[0], &ended);
    wait_event(&cluster, "script-ended", 1, &format!("{primary} had been busy with scripts"));
    // A function is ended, too.
    let library = "#!lua name=l\nredis.register_function('f', function() while true do end end)";
    let server = &cluster.servers[servers[0]];
    assert_eq!(server.call(&["FUNCTION", "LOAD", library]).text(), "l");
    let ended = client.call(&["FCALL", "f", "1", "k"]).unwrap();
    check_ended(&cluster, servers[0], &ended);
    assert!(holds_for(Duration::from_secs(4), || primary_of(&cluster, 1).is_ok_and(|now| now == primary)));
    assert_eq!(events(&cluster, "promotion-started").len(), 0);
    assert_eq!(events(&cluster, "script-ended").len(), 1, "at most one event in a minute");
    let counted: u64 = cluster.nodes.iter().map(|node| node.counter("pontoon_scripts_ended_total")).sum();
    assert_eq!(counted, 2);
}

#[test]
fn a_script_that_has_written_is_not_ended_and_its_server_is_replaced_if_the_group_is_set_so() {
    let (cluster, servers) = one_group(1, &RedisOptions::default());
    wait_prepared(&cluster, &servers);
    cluster.cli().ok(&["group", "set", "1", "script-kill-after=1s"]);
    let primary = cluster.servers[servers[0]].addr();
    let mut client = cluster.node(1).client();
    let written = format!("redis.call('SET', KEYS[1], 1) {FOREVER}");
    let answer = client.call(&["EVAL", &written, "1", "k"]).unwrap();
    assert!(answer.is_error("ERR outcome unknown"), "{answer:?}");
    wait_status(&cluster, "waiting_on", "its script has written, so it cannot be ended without a loss");
    wait_status(&cluster, "warnings", &format!("{primary}, primary of group 1 of product 'default', has been busy"));
    assert_eq!(primary_of(&cluster, 1).unwrap(), primary, "by default the operator decides");
    cluster.cli().ok(&["group", "set", "1", "busy-failover-after=1s"]);
    wait_other_primary(&cluster, 1, &primary);
    (1..=3).for_each(|id| cluster.wait_answers(id));
    wait_event(&cluster, "promotion-started", 1, "has been busy with a script");
    assert_eq!(events(&cluster, "script-ended").len(), 0);
}
