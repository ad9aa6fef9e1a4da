//! A primary that loads its data for long is replaced by a replica that was in step with it.

use cluster_tests::{
    redis::RedisOptions,
    wait::{GENEROUS, wait_for},
};

use crate::fixture::{one_group, wait_event, wait_other_primary, wait_status};

/// Keys that the primary loads, each in [`DELAY_US`]: in all longer than a busy machine needs to replace it.
const KEYS: usize = 300;
/// Microseconds.
const DELAY_US: &str = "100000";

#[test]
fn a_primary_that_loads_for_long_is_replaced_without_a_loss() {
    // Without compression each key has more bytes than the interval, so the server answers after each.
    let more =
        ["--key-load-delay", DELAY_US, "--loading-process-events-interval-bytes", "1024", "--rdbcompression", "no"];
    let options = RedisOptions { more: more.map(str::to_owned).to_vec(), ..RedisOptions::default() };
    let (mut cluster, servers) = one_group(1, &options);
    // Enough for the restart; meanwhile it does not answer.
    cluster.cli().ok(&["group", "set", "1", "down-after=20s", "loading-failover-after=3s"]);
    let mut client = cluster.node(1).client();
    let value = "v".repeat(2_000);
    for key in 0..KEYS {
        let set = client.call(&["SET", &format!("key:{key}"), &value]).unwrap();
        assert_eq!(set.text(), "OK");
    }
    let (primary, replica) = (servers[0], servers[1]);
    let keys = |server: usize| cluster.servers[server].call(&["DBSIZE"]).text();
    wait_for("the replica to have all writes", GENEROUS, || {
        if keys(primary) == keys(replica) { Ok(()) } else { Err(keys(replica)) }
    });
    assert_eq!(cluster.servers[primary].call(&["SAVE"]).text(), "OK");
    let addr = cluster.servers[primary].addr();
    cluster.servers[primary].launch_again();
    wait_status(&cluster, "warnings", &format!("{addr}, primary of group 1 of product 'default', has been loading"));
    wait_other_primary(&cluster, 1, &addr);
    wait_event(&cluster, "promotion-started", 1, "has been loading its data");
    (1..=3).for_each(|id| cluster.wait_answers(id));
    let mut client = cluster.node(1).client();
    for key in 0..KEYS {
        assert_eq!(client.call(&["GET", &format!("key:{key}")]).unwrap().text(), value, "key {key}");
    }
}
