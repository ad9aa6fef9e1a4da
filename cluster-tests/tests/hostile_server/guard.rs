//! The guard: primaries that fail together are not failed over, which an event and `status` say; groups that have been
//! dead for long have an event, too, and keep no other group from a failover.

use std::time::Duration;

use cluster_tests::{
    cluster::Cluster,
    redis::RedisOptions,
    wait::{holds_for, let_pass},
};
use pontoon::plan::guard::TOGETHER_MS;

use crate::fixture::{events, primary_of, wait_event, wait_other_primary, wait_status};

/// Three nodes and four groups with a replica each. Of those, two may fail together.
fn four_groups() -> (Cluster, Vec<Vec<usize>>) {
    let mut cluster = Cluster::start(3);
    let groups = (1..=4)
        .map(|id| {
            let slots = format!("{}-{}", 256 * (id - 1), 256 * id - 1);
            let servers = cluster.add_group_with_replicas(id, &slots, 1, &RedisOptions::default());
            cluster.cli().ok(&["group", "set", &id.to_string(), "down-after=2s"]);
            servers
        })
        .collect();
    (cluster, groups)
}

#[test]
fn what_the_guard_holds_back_is_told_by_an_event_and_in_the_status() {
    let (mut cluster, groups) = four_groups();
    let primaries: Vec<String> = groups.iter().map(|servers| cluster.servers[servers[0]].addr()).collect();
    (0..3).for_each(|n| cluster.servers[groups[n][0]].kill9());
    for id in 1..=3 {
        wait_event(&cluster, "failover-held-back", id, "3 of 4 primaries have failed together");
        wait_status(&cluster, "waiting_on", &format!("primary of group {id} of product 'default', is down"));
    }
    wait_status(&cluster, "waiting_on", "nothing is failed over automatically when more than 2 do");
    let same = || (1..=3).all(|id| primary_of(&cluster, id).is_ok_and(|now| now == primaries[usize::from(id) - 1]));
    assert!(holds_for(Duration::from_secs(3), same));
    assert_eq!(events(&cluster, "failover-held-back").len(), 3, "one event for each group");
    // One of them is back: two are not too many.
    cluster.servers[groups[2][0]].restart();
    (1..=2).for_each(|id| wait_other_primary(&cluster, id, &primaries[usize::from(id) - 1]));
}

#[test]
fn groups_that_are_dead_for_long_keep_no_other_group_from_a_failover() {
    let (mut cluster, groups) = four_groups();
    for servers in &groups[1..3] {
        servers.iter().for_each(|server| cluster.servers[*server].kill9());
    }
    wait_status(&cluster, "waiting_on", "primary of group 2 of product 'default', is down");
    (2..=3).for_each(|id| wait_event(&cluster, "not-failed-over", id, "no replica can replace it"));
    let_pass(Duration::from_millis(TOGETHER_MS));
    let primary = cluster.servers[groups[0][0]].addr();
    cluster.servers[groups[0][0]].kill9();
    wait_other_primary(&cluster, 1, &primary);
    assert_eq!(events(&cluster, "failover-held-back").len(), 0);
    assert_eq!(events(&cluster, "not-failed-over").len(), 2, "one event for each group, and none for a failover");
}
