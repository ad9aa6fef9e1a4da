//! `pontoon migrate` and `pontoon events` against a fake node without migrations: which options calls carry, and results.

use super::{
    fake::{Fake, FakeAnswer},
    retries::{failed, typed},
};

#[tokio::test]
async fn changes_carry_their_options() {
    let node = Fake::start(&[FakeAnswer::Done]).await;
    for line in [
        "migrate start 0-255,300 --to 2 --verify full --wait",
        "migrate start 0-255 --to 2 --dry-run",
        "migrate cancel 17 --wait --timeout 5s",
        "migrate pause 17",
        "migrate resume 17",
        "migrate set 17 keys-per-second=10 hold-max=0",
        "slot assign 0-9 2 --abandon-data",
        "product set default auto-rebalance=on",
    ] {
        typed(&node.address, line).await.unwrap();
    }
    let asked = node.asked();
    let flags: Vec<_> = asked.iter().map(|o| (o.wait, o.dry_run)).collect();
    let (once, waits) = ((false, false), (true, false));
    assert_eq!(flags[..6], [once, waits, (false, true), once, waits, once]);
    assert_eq!(asked.len(), 10);
    // Five minutes by default, for all slots to arrive.
    assert!((290_000..=300_000).contains(&asked[1].timeout_ms), "{asked:?}");
    assert!(asked[4].timeout_ms <= 5000, "{asked:?}");
}

#[tokio::test]
async fn reads_of_nothing_succeed() {
    let node = Fake::start(&[FakeAnswer::Done]).await;
    for line in ["migrate ls", "migrate ls --output json", "migrate watch", "events", "events --output json"] {
        typed(&node.address, line).await.unwrap();
    }
    for line in ["migrate show 17", "migrate watch 17"] {
        let why = failed(typed(&node.address, line).await);
        assert!(why.contains("there is no migration 17") && why.contains("pontoon migrate ls"), "{why}");
    }
    assert!(node.asked().is_empty(), "reads must not change anything");
}

#[tokio::test]
async fn invalid_arguments_are_not_sent() {
    let node = Fake::start(&[FakeAnswer::Done]).await;
    for line in ["migrate set 17 speed=1", "migrate set 17 hold-max=soon", "migrate start 5-1 --to 2"] {
        assert!(matches!(typed(&node.address, line).await, Err(super::CliError::Usage(_))), "{line}");
    }
    assert!(node.asked().is_empty());
}
