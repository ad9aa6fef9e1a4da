//! control::handle: what `--wait` waits for.

use std::time::Duration;

use crate::{
    log::{Node, Shared},
    wait::{meanwhile, soon},
};
use pontoon::{
    control::{handle::WaitError, leadership::view::ListenerView},
    model::ids::{Epoch, ProductId},
};
use tokio::time::Instant;

const ADMIN: [(u64, &str); 2] = [(1, "127.0.0.1:7101"), (2, "127.0.0.2:7101")];

fn world() -> Node {
    let node = Node::new(1, &Shared::new(&ADMIN));
    node.leader(1, ADMIN[0].1);
    node
}

#[tokio::test]
async fn wait_ends_when_all_live_nodes_have_the_epoch() {
    let node = world();
    node.heard(1, |seen| seen.route_epoch = Epoch(5));
    node.heard(2, |seen| seen.route_epoch = Epoch(4));
    let short = Instant::now() + Duration::from_millis(50);
    let Err(WaitError::Deadline(missing)) = node.control.wait_epoch(Epoch(5), None, short).await else { panic!() };
    assert!(missing.contains("node 2") && missing.contains("epoch 4"), "{missing}");
    let control = node.control.clone();
    let waiting = tokio::spawn(async move { control.wait_epoch(Epoch(5), None, soon()).await });
    node.heard(1, |seen| seen.route_epoch = Epoch(5));
    node.heard(2, |seen| seen.route_epoch = Epoch(6));
    assert_eq!(waiting.await.unwrap(), Ok(vec![]));
}

#[tokio::test]
async fn silent_nodes_are_named_and_not_waited_for() {
    let node = world();
    let control = node.control.clone();
    let waiting = tokio::spawn(async move { control.wait_epoch(Epoch(5), None, soon()).await });
    // Node 2 sends no heartbeat: after a lease it has provably stopped serving. Node 1 sends them.
    let notes = meanwhile(waiting, || node.heard(1, |seen| seen.route_epoch = Epoch(5))).await.unwrap();
    assert!(notes.len() == 1 && notes[0].contains("node 2"), "{notes:?}");
}

#[tokio::test]
async fn a_port_that_is_taken_fails_the_wait() {
    let node = world();
    let product = Some(ProductId(1));
    let listener =
        |error: &str| ListenerView { address: "127.0.0.1:7000".into(), error: error.into(), ..Default::default() };
    let control = node.control.clone();
    let waiting = tokio::spawn(async move { control.wait_epoch(Epoch(5), product, soon()).await });
    let ended = meanwhile(waiting, || {
        for id in [1, 2] {
            node.heard(id, |seen| {
                seen.route_epoch = Epoch(5);
                seen.listeners.insert(ProductId(1), listener(if id == 2 { "address already in use" } else { "" }));
            });
        }
    });
    let Err(WaitError::Listener(text)) = ended.await else { panic!() };
    assert!(text.contains("node 2") && text.contains("127.0.0.1:7000") && text.contains("in use"), "{text}");
    node.heard(1, |_| {});
    node.heard(2, |seen| *seen.listeners.get_mut(&ProductId(1)).unwrap() = listener(""));
    assert_eq!(node.control.wait_epoch(Epoch(5), product, soon()).await, Ok(vec![]));
    assert_eq!(node.nodes().len(), 2);
}

#[tokio::test]
async fn only_the_leader_knows_the_nodes_states() {
    let node = world();
    node.nobody_leads();
    assert_eq!(node.control.wait_epoch(Epoch(1), None, soon()).await, Err(WaitError::NotLeader));
}
