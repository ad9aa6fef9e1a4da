//! `--node a,b,c`: the next is asked when one does not answer, and at once when it cannot.

use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tonic::Code;

use super::{
    fake::{Fake, FakeAnswer},
    retries::{failed, typed},
};

/// A name that no resolver knows (RFC 6761, 6.4).
const NO_NAME: &str = "nowhere.invalid:19101";

async fn nobody() -> String {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string()
}

#[tokio::test]
async fn the_next_node_is_asked() {
    let node = Fake::start(&[FakeAnswer::Done]).await;
    // It accepts connections and does not answer, as a stopped process does.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = (silent.local_addr().unwrap().to_string(), silent);
    let all = format!("{},{NO_NAME}, {},{}", nobody().await, silent.0, node.address);
    typed(&all, "status").await.unwrap();
    typed(&all, "product remove p").await.unwrap();
    assert_eq!(node.asked().len(), 1);
}

#[tokio::test]
async fn another_node_repeats_the_change_under_its_id() {
    let lost = FakeAnswer::Status(Code::Unknown, "the leader went away", None);
    let first = Fake::start(&[lost]).await;
    let second = Fake::start(&[FakeAnswer::Done]).await;
    typed(&format!("{},{}", first.address, second.address), "product remove p").await.unwrap();
    let (first, second) = (first.asked(), second.asked());
    assert_eq!((first.len(), second.len()), (1, 1));
    assert_eq!(first[0].change_id, second[0].change_id);
}

#[tokio::test]
async fn what_cannot_be_reached_is_reported_at_once() {
    let (a, b) = (nobody().await, nobody().await);
    for line in ["status", "product remove p", "product remove p --wait"] {
        // The time of the resolver counts, not the ten seconds of a command that is repeated.
        let began = Instant::now();
        let text = failed(typed(&format!("{a},{b}"), line).await);
        assert!(text.contains(&a) && text.contains(&b) && text.contains("--node"), "{text}");
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    }
    let began = Instant::now();
    let text = failed(typed(NO_NAME, "status --timeout 60s").await);
    assert!(text.contains("nowhere.invalid"), "{text}");
    assert!(began.elapsed() < Duration::from_secs(50), "{:?}", began.elapsed());
}

#[tokio::test]
async fn addresses_are_checked_before_anything_is_sent() {
    for bad in ["", "a:1,", "a:1,b", "a:1;b:2"] {
        assert!(matches!(typed(bad, "status").await, Err(super::CliError::Usage(_))), "{bad}");
    }
}
