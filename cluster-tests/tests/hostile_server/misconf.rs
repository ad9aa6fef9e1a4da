//! A primary that cannot write to its disk refuses writes (`-MISCONF`): `status` and an event say so, and a switchover
//! replaces it if the group is set so.

use cluster_tests::{
    redis::RedisOptions,
    wait::{GENEROUS, wait_for},
};

use crate::fixture::{events, one_group, primary_of, wait_event, wait_other_primary, wait_status};

#[test]
fn a_primary_with_a_full_disk_is_shown_and_replaced_by_a_switchover_if_the_group_is_set_so() {
    let more = ["--save", "3600 1"].map(str::to_owned).to_vec();
    let (cluster, servers) = one_group(1, &RedisOptions { more, limitable: true, ..RedisOptions::default() });
    let primary = &cluster.servers[servers[0]];
    let addr = primary.addr();
    let mut client = cluster.node(1).client();
    assert_eq!(client.call(&["SET", "k", "before"]).unwrap().text(), "OK");
    primary.limit_files(Some(1));
    wait_for("a save to start", GENEROUS, || {
        // The replica's first synchronization may still save.
        let saving = primary.call(&["BGSAVE"]).text();
        if saving.contains("started") { Ok(()) } else { Err(saving) }
    });
    wait_for("writes to be refused", GENEROUS, || {
        let set = client.call(&["SET", "k", "refused"]).unwrap();
        if set.is_error("MISCONF") { Ok(()) } else { Err(set.text()) }
    });
    wait_status(
        &cluster,
        "warnings",
        &format!("{addr}, primary of group 1 of product 'default', has refused all writes"),
    );
    wait_status(&cluster, "warnings", "writes of its 1024 slots are not served");
    wait_event(&cluster, "writes-refused", 1, "MISCONF");
    assert_eq!(primary_of(&cluster, 1).unwrap(), addr, "by default the operator decides");
    cluster.cli().ok(&["group", "set", "1", "misconf-failover-after=1s"]);
    wait_other_primary(&cluster, 1, &addr);
    wait_event(&cluster, "promotion-started", 1, "switchover");
    (1..=3).for_each(|id| cluster.wait_answers(id));
    let mut client = cluster.node(1).client();
    let kept = client.call(&["GET", "k"]).unwrap().text();
    assert!(["before", "refused"].contains(&kept.as_str()), "{kept}");
    assert_eq!(events(&cluster, "writes-refused").len(), 1);
}
