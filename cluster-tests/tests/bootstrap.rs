//! Bootstrap: how nodes form a cluster from a list of peers, and which nodes are not admitted.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use cluster_tests::{
    cluster::Cluster,
    wait::{GENEROUS, holds_for, wait_for, wait_until},
};

#[test]
fn peers_in_any_order_form_one_cluster_with_the_product_default() {
    let mut cluster = Cluster::prepared(3);
    let list = cluster.node(1).origin.1.clone();
    let mut parts: Vec<_> = list.split(',').collect();
    parts.reverse();
    cluster.node_mut(2).origin.1 = parts.join(",");
    parts.swap(0, 1);
    cluster.node_mut(3).origin.1 = parts.join(",");
    // The node with the lowest id is started last.
    cluster.node_mut(3).start();
    cluster.node_mut(2).start();
    assert!(
        holds_for(Duration::from_secs(1), || {
            // The node is not up yet, or has no leader.
            cluster.node(2).cli().try_json(&["status", "--timeout", "500ms"]).map_or(true, |s| s["leader"].is_null())
        }),
        "two of three listed peers must not form a cluster"
    );
    cluster.node_mut(1).start();
    cluster.wait_formed();
    let ids: Vec<_> =
        (1..=3).map(|id| cluster.node(id).cli().json(&["status"])["cluster_id"].as_str().unwrap().to_owned()).collect();
    assert!(ids[0].len() == 32 && ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    let product = wait_for("the product 'default'", GENEROUS, || {
        let products = cluster.cli().json(&["product", "ls"]);
        if products[0]["name"] == "default" { Ok(products[0].clone()) } else { Err(products.to_string()) }
    });
    assert_eq!(
        (&product["port"], &product["layout"], &product["mode"], &product["isolated"]),
        (&cluster.ports.product(0).into(), &"codis".into(), &"store".into(), &"refuse".into())
    );
}

#[test]
fn one_peer_forms_a_cluster_and_later_ignores_peers() {
    let mut cluster = Cluster::start(1);
    let id = cluster.cli().json(&["status"])["cluster_id"].clone();
    cluster.node_mut(1).kill9();
    // --peers is ignored from now on, with a line in the log.
    cluster.node_mut(1).origin.1 = format!("1=127.0.0.1:{},2=127.0.0.1:1", cluster.ports.admin(1));
    cluster.node_mut(1).start();
    cluster.wait_formed();
    assert_eq!(cluster.cli().json(&["status"])["cluster_id"], id);
    assert!(cluster.node(1).log().contains("--peers and --join are ignored"));
}

#[test]
fn nodes_with_different_lists_form_no_cluster_and_log_why() {
    let mut cluster = Cluster::prepared(2);
    let at = |id| format!("{id}=127.0.0.1:{}", cluster.ports.admin(id));
    let longer = [at(2), at(1), at(3)].join(",");
    cluster.node_mut(2).origin.1 = longer;
    cluster.nodes.iter_mut().for_each(|node| node.start());
    wait_until("the reason in the log", GENEROUS, || cluster.node(1).log().contains("was started with other --peers"));
    assert!(cluster.cli().run(&["product", "ls", "--timeout", "1s"]).out.lines().count() <= 1);
}

#[test]
fn a_node_with_a_wiped_data_directory_is_not_admitted_under_its_old_id() {
    let mut cluster = Cluster::start(3);
    cluster.node_mut(3).kill9();
    std::fs::remove_dir_all(&cluster.node(3).data_dir).unwrap();
    cluster.node_mut(3).start();
    wait_until("the advice in the log", GENEROUS, || cluster.node(3).log().contains("node remove 3"));
    let alive = |cluster: &Cluster| cluster.cli().json(&["status"])["nodes"][2]["state"].clone();
    wait_until("the old node 3 not to be alive", GENEROUS, || alive(&cluster) == "silent");
    assert!(holds_for(Duration::from_secs(1), || alive(&cluster) == "silent"));
    // The advice in the log works.
    cluster.cli().ok(&["node", "remove", "3", "--assume-dead"]);
    cluster.node_mut(3).kill9();
    cluster.node_mut(3).origin = ("--join".into(), cluster.node(1).admin());
    cluster.node_mut(3).start();
    cluster.wait_formed();
}

#[test]
fn a_node_of_another_cluster_is_refused() {
    let mut one = Cluster::start(1);
    let mut other = Cluster::start(1);
    // Node 2 of the first cluster is started with the data directory of the other cluster's node.
    one.join(2);
    one.wait_formed();
    one.node_mut(2).kill9();
    other.node_mut(1).kill9();
    let foreign = other.node(1).data_dir.clone();
    one.node_mut(2).data_dir = foreign;
    one.node_mut(2).start();
    wait_until("node 2 not to be alive in its cluster", GENEROUS, || {
        one.cli().json(&["status"])["nodes"][1]["state"] == "silent"
    });
    assert!(holds_for(Duration::from_secs(2), || one.cli().json(&["status"])["nodes"][1]["state"] == "silent"));
}

#[test]
fn a_node_that_dies_just_after_the_first_change_rejoins() {
    let mut cluster = Cluster::prepared(3);
    cluster.nodes.iter_mut().for_each(|node| node.start());
    wait_until("node 1 to form the cluster", GENEROUS, || {
        cluster.node(1).log().contains("this node forms the cluster")
    });
    cluster.node_mut(1).kill9();
    cluster.node_mut(1).start();
    cluster.wait_formed();
}
