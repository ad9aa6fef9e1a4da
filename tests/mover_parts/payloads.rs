//! mover::payload against a real server: checksums of real payloads, and payloads with a changed version.

use crate::{dataset, server::Redis, wait::soon};
use fastrand::Rng;
use pontoon::{mover::payload, redis::Reply};

/// The payload with another version.
fn forged(dump: &[u8], version: u16) -> Vec<u8> {
    let mut out = payload::value(dump).unwrap().to_vec();
    out.extend_from_slice(&version.to_le_bytes());
    let sum = payload::crc64(&out);
    out.extend_from_slice(&sum.to_le_bytes());
    out
}

#[tokio::test]
async fn a_newer_version_is_refused_and_a_lowered_one_accepted() {
    let redis = Redis::start(&[]).await;
    dataset::send(&redis, 0, &dataset::commands(fastrand::u64(..), 140, Rng::with_seed(1))).await;
    let mut client = redis.client().await;
    let mut kinds = std::collections::BTreeSet::new();
    for i in 0..140 {
        let key = format!("key:{i}");
        let Reply::Bulk(dump) = client.ask(&[b"DUMP", key.as_bytes()], soon()).await.unwrap() else { panic!("{key}") };
        assert!(payload::is_whole(&dump), "{key}");
        let kind = payload::kind(&dump).unwrap();
        kinds.insert(kind);
        assert_eq!(payload::is_stream(kind), i % 7 == 6, "{key}");
        let newer = forged(&dump, 80);
        let error = client.ask(&[b"RESTORE", b"copy", b"0", &newer, b"REPLACE"], soon()).await.unwrap_err();
        assert!(error.to_string().contains(payload::REFUSED), "{error}");
        let lowered = payload::lowered(&newer).unwrap();
        client.ask(&[b"RESTORE", b"copy", b"0", &lowered, b"REPLACE"], soon()).await.unwrap();
        let Reply::Bulk(copy) = client.ask(&[b"DUMP", b"copy"], soon()).await.unwrap() else { panic!("{key}") };
        // A set may be encoded in another order.
        if ![2, 4, 11].contains(&kind) {
            assert_eq!(payload::value(&copy), payload::value(&dump), "{key}");
        }
    }
    assert!(kinds.len() >= 7, "{kinds:?}");
}
