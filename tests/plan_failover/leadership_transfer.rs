//! `plan::leadership_transfer` by a table: which nodes should lead, since the leader does not reach the replica to
//! promote.

use std::collections::BTreeSet;

use crate::world::{GROUP, ME, PRIMARY, PRODUCT, World, addr, voters};
use pontoon::{
    model::ids::NodeId,
    plan::{leadership_transfer::transfer_candidates, liveness::Watchers},
};

/// The group is down, and the server of another group answers every node, so that no node counts as blind.
fn seeing() -> World {
    let mut world = World::down();
    world.group(2, &[7101]);
    world
}

/// A node does not reach this server.
fn lose(world: &mut World, node: u64, port: u16, for_ms: u64) {
    let reported = world.seen.get_mut(&addr(port)).unwrap().get_mut(&NodeId(node)).unwrap();
    reported.report.failing_ms = Some(for_ms);
    reported.report.error = "timed out".into();
}

fn lose_both(world: &mut World, node: u64) {
    [7002, 7003].into_iter().for_each(|port| lose(world, node, port, 4_000));
}

#[test]
fn nodes_that_reach_what_the_leader_does_not_should_lead() {
    type Edit = fn(&mut World);
    let table: &[(&str, &[u64], Edit)] = &[
        ("it reaches all", &[], |_| {}),
        ("it reaches one that suffices", &[], |w| lose(w, 1, 7003, 4_000)),
        ("it reaches none", &[2, 3], |w| lose_both(w, 1)),
        ("for a moment", &[], |w| [7002, 7003].into_iter().for_each(|port| lose(w, 1, port, 500))),
        ("another does not either", &[3], |w| [1, 2].into_iter().for_each(|node| lose_both(w, node))),
        ("no node does", &[], |w| voters().into_iter().for_each(|node| lose_both(w, node.0))),
        ("the primary is up", &[], |w| {
            w.see(PRIMARY, |report| report.failing_ms = None);
            lose_both(w, 1);
        }),
        ("maintenance", &[], |w| {
            lose_both(w, 1);
            w.state.settings.maintenance = true;
        }),
        ("of the group", &[], |w| {
            lose_both(w, 1);
            w.edit(|group| group.options.maintenance = true);
        }),
        ("no candidate on any node", &[], |w| {
            lose_both(w, 1);
            w.edit(|group| group.servers.iter_mut().for_each(|server| server.diverged = true));
        }),
        ("one that cannot be promoted by the transfer candidates", &[], |w| {
            lose(w, 1, 7002, 4_000);
            w.edit(|group| group.servers[1].diverged = true);
        }),
        ("begun, and the candidate is out of reach", &[2, 3], |w| {
            w.start(7002, false);
            lose(w, 1, 7002, 4_000);
        }),
        ("slots are held", &[], |w| {
            w.start(7002, false);
            lose(w, 1, 7002, 4_000);
            w.hold();
        }),
        ("begun, another replica is", &[], |w| {
            w.start(7002, false);
            lose(w, 1, 7003, 4_000);
        }),
        ("begun, and it has to be asked", &[2, 3], |w| {
            w.state.products.get_mut(&PRODUCT).unwrap().min_acks = 1;
            w.start(7002, false);
            lose(w, 1, 7003, 4_000);
        }),
        ("begun, and no node reaches more", &[], |w| {
            w.state.products.get_mut(&PRODUCT).unwrap().min_acks = 1;
            w.start(7002, false);
            voters().into_iter().for_each(|node| lose(w, node.0, 7003, 4_000));
        }),
    ];
    for (name, want, edit) in table {
        let mut world = seeing();
        edit(&mut world);
        let watchers = Watchers::new(&world.seen, voters());
        let found = transfer_candidates(&world.state, &world.seen, &watchers, &world.following_primaries, ME);
        let nodes: Vec<u64> = found.iter().flat_map(|found| found.nodes.iter().map(|node| node.0)).collect();
        assert_eq!(nodes, *want, "{name}: {found:?}");
        assert!(
            found.is_none_or(|transfer_candidates| transfer_candidates.why.contains("does not answer node 1")),
            "{name}"
        );
    }
}

#[test]
fn a_node_that_is_not_alive_is_no_transfer_candidate() {
    let mut world = seeing();
    lose_both(&mut world, 1);
    let alive: BTreeSet<NodeId> = [1, 2].map(NodeId).into();
    let watchers = Watchers::new(&world.seen, alive);
    let found = transfer_candidates(&world.state, &world.seen, &watchers, &world.following_primaries, ME).unwrap();
    assert_eq!(found.nodes, [NodeId(2)].into());
    assert!(found.why.contains(&format!("group {GROUP}")) && !found.why.contains(&PRIMARY.to_string()), "{found:?}");
}
