//! `pontoon group`, `server` and `maintenance` against a fake node without groups: which options calls carry, and results.

use super::{
    fake::{Fake, FakeAnswer},
    retries::typed,
};

#[tokio::test]
async fn changes_carry_their_options() {
    let node = Fake::start(&[FakeAnswer::Done]).await;
    for line in [
        "group promote 3 127.0.0.1:7002 --wait",
        "group promote 3 127.0.0.1:7002 --force --dry-run",
        "group set 3 down-after=5s maintenance=on",
        "server set 127.0.0.1:7002 priority=0 zone=a",
        "maintenance on",
        "maintenance off 3 --timeout 5s",
        "cluster set failover-share-max=30%",
    ] {
        typed(&node.address, line).await.unwrap();
    }
    let asked = node.asked();
    let flags: Vec<_> = asked.iter().map(|o| (o.wait, o.dry_run)).collect();
    assert_eq!(flags[..4], [(false, false), (true, false), (false, true), (false, false)]);
    assert_eq!(asked.len(), 8);
    // Five minutes by default, for the hold to begin.
    assert!((290_000..=300_000).contains(&asked[1].timeout_ms), "{asked:?}");
    assert!(asked[6].timeout_ms <= 5000, "{asked:?}");
}

#[tokio::test]
async fn reads_of_nothing_succeed() {
    let node = Fake::start(&[FakeAnswer::Done]).await;
    for line in ["group ls", "group ls --output json", "group show 3", "group show 3 --output json"] {
        typed(&node.address, line).await.unwrap();
    }
    assert!(node.asked().is_empty(), "reads must not change anything");
}

#[tokio::test]
async fn invalid_arguments_are_not_sent() {
    let node = Fake::start(&[FakeAnswer::Done]).await;
    for line in [
        "group set 3 down-after=soon",
        "group set 3 priority=1",
        "server set 127.0.0.1:7002 priority=-1",
        "server set 127.0.0.1:7002 maintenance=on",
        "cluster set failover-share-max=all",
    ] {
        assert!(matches!(typed(&node.address, line).await, Err(super::CliError::Usage(_))), "{line}");
    }
    assert!(node.asked().is_empty());
}
