//! control::scan against a real server.

use std::{collections::BTreeSet, time::Duration};

use crate::{
    fake,
    server::{Redis, password},
    wait::{PATIENCE, soon},
};
use pontoon::{
    control::slots::scan::{ScanResult, scan_for_slots, show_key},
    model::{ids::SlotId, slot::Layout},
};

fn slots_but(key: &str) -> (SlotId, BTreeSet<SlotId>) {
    let slot = Layout::Codis.slot(key.as_bytes());
    (slot, (0..Layout::Codis.slots()).map(SlotId).filter(|other| *other != slot).collect())
}

#[tokio::test]
async fn keys_are_found_in_every_database() {
    let secret = password("pw");
    let redis = Redis::start_with(&["--requirepass", "pw"], Some(secret.clone())).await;
    let mut client = redis.client().await;
    let deadline = soon();
    for (db, number) in [(0, 3000), (9, 1)] {
        client.select(db, deadline).await.unwrap();
        for i in 0..number {
            client.ask(&[b"SET", format!("{{tag}}{i}").as_bytes(), b"1"], deadline).await.unwrap();
        }
    }
    client.ask(&[b"SET", b"needle", b"1"], deadline).await.unwrap();
    let (tag, but_tag) = slots_but("tag");
    let (needle, but_needle) = slots_but("needle");
    assert_ne!(tag, needle);
    let scan = async |slots: &BTreeSet<SlotId>| {
        scan_for_slots(&redis.addr, Some(&secret), Layout::Codis, slots, 16, PATIENCE).await
    };
    let both: BTreeSet<SlotId> = but_tag.intersection(&but_needle).copied().collect();
    // SCAN may return a key twice, but returns each key.
    assert!(matches!(scan(&both).await, ScanResult::Empty { keys_scanned } if keys_scanned >= 3002));
    let found = scan(&but_tag).await;
    assert_eq!(found, ScanResult::Found { key: "needle".into(), slot: needle, db: 9 });
    assert!(matches!(scan(&but_needle).await, ScanResult::Found { slot, db: 0, .. } if slot == tag));
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_not_empty() {
    let (_, slots) = slots_but("x");
    let hangs = fake::server(vec![fake::ok()], true).await;
    let scan = scan_for_slots(&hangs, None, Layout::Codis, &slots, 16, Duration::from_millis(100)).await;
    assert!(matches!(scan, ScanResult::Unfinished { .. }), "{scan:?}");
    let closes = fake::server(vec![fake::ok(), fake::bulk("db0:keys=1,expires=0")], false).await;
    let scan = scan_for_slots(&closes, None, Layout::Codis, &slots, 16, PATIENCE).await;
    assert!(matches!(scan, ScanResult::Unfinished { .. }), "{scan:?}");
}

#[test]
fn shown_keys_are_short_and_printable() {
    assert_eq!(show_key(b"user:1"), "user:1");
    assert_eq!(show_key(b"a\x1b[31m\n"), "a\\x1b[31m\\n");
    assert!(show_key(&[b'x'; 10_000]).len() < 200);
}
