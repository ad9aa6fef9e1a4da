//! mover::feed by CLIENT TRACKING, against real servers.

use std::collections::BTreeSet;

use pontoon::{
    model::secret::{Credentials, Secret},
    mover::{
        Endpoint,
        feed::{self, Event, Feed, tracking::Tracking},
    },
    redis::{Client, Reply},
};
use tokio::time::Instant;

use crate::{server::Redis, verification::endpoint, wait::soon};

/// The events of a feed.
#[derive(Default)]
struct FeedEvents {
    keys: BTreeSet<Vec<u8>>,
    functions: bool,
}

/// Reads the feed until its barrier has passed.
async fn read(feed: &mut dyn Feed) -> Result<FeedEvents, String> {
    let mut seen = FeedEvents::default();
    let deadline = soon();
    loop {
        feed.connection().fill().map_err(|error| error.to_string())?;
        feed.drain(&mut |event| match event {
            Event::Changed { key, .. } => {
                seen.keys.insert(key.to_vec());
            }
            Event::Functions => seen.functions = true,
            Event::UnknownCommand { .. } => panic!("an unknown command"),
        })?;
        if feed.passed_barrier() {
            return Ok(seen);
        }
        feed.connection().flush().map_err(|error| error.to_string())?;
        assert!(Instant::now() < deadline, "the barrier does not pass");
        let connection = feed.connection();
        let ready = std::future::poll_fn(|cx| connection.poll_ready(cx));
        let _ = tokio::time::timeout_at(deadline, ready).await;
    }
}

async fn offset(client: &mut Client) -> u64 {
    let info = client.info("replication", soon()).await.unwrap();
    info.get("master_repl_offset").unwrap().parse().unwrap()
}

async fn open(redis: &Redis) -> Tracking {
    Tracking::open(&endpoint(redis), "pt:test", soon()).await.unwrap()
}

#[tokio::test]
async fn every_change_is_reported_before_the_barrier() {
    let redis = Redis::start(&[]).await;
    let mut client = redis.client().await;
    redis.run("MSET a 1 b 1 c 1 d 1").await;
    redis.run("RPUSH l x y").await;
    let mut feed = open(&redis).await;
    assert!(feed.position().is_none() && !feed.reports_stream_groups());
    for (command, keys) in [
        ("SET a 2", "a"),
        ("DEL b", "b"),
        ("RENAME c e", "c e"),
        ("COPY a f", "f"),
        ("LMOVE l m LEFT LEFT", "l m"),
        ("PEXPIRE a 100000", "a"),
        ("PERSIST a", "a"),
        ("EVAL return{redis.call('set','g','1'),redis.call('set','h','1')} 0", "g h"),
        ("XADD s 1-1 a b", "s"),
        ("SET short x PX 1", "short"),
        ("MOVE d 3", "d"),
        ("FUNCTION STATS", ""),
    ] {
        redis.run(command).await;
        feed.begin_barrier(offset(&mut client).await);
        assert!(!feed.passed_barrier());
        let seen = read(&mut feed).await.unwrap();
        for key in keys.split(' ').filter(|key| !key.is_empty()) {
            assert!(seen.keys.contains(key.as_bytes()), "{command}: {key} is not in {:?}", seen.keys);
        }
        assert!(!seen.functions, "{command}");
    }
    // An acknowledged write is always before the barrier.
    for i in 0..1000 {
        let key = format!("key:{i}");
        client.ask(&[b"SET", key.as_bytes(), b"1"], soon()).await.unwrap();
        feed.begin_barrier(0);
        assert!(read(&mut feed).await.unwrap().keys.contains(key.as_bytes()), "{key}");
    }
}

#[tokio::test]
async fn a_barrier_waits_for_a_replica() {
    let primary = Redis::start(&[]).await;
    let replica = primary.replica().await;
    let mut feed = open(&replica).await;
    let mut client = primary.client().await;
    for i in 0..200 {
        let key = format!("key:{i}");
        client.ask(&[b"SET", key.as_bytes(), b"1"], soon()).await.unwrap();
        feed.begin_barrier(offset(&mut client).await);
        assert!(read(&mut feed).await.unwrap().keys.contains(key.as_bytes()), "{key}");
    }
}

#[tokio::test]
async fn changes_that_cannot_be_reported_end_the_copy() {
    let redis = Redis::start(&[]).await;
    for (command, words) in [("FLUSHALL", "flushed"), ("FLUSHDB", "flushed"), ("SWAPDB 0 1", "SWAPDB")] {
        redis.run("SET a 1").await;
        let mut feed = open(&redis).await;
        redis.run(command).await;
        feed.begin_barrier(0);
        let error = read(&mut feed).await.map(|seen| seen.keys).unwrap_err();
        assert!(error.contains(words) && error.contains(redis.addr.as_str()), "{command}: {error}");
    }
    let mut feed = open(&redis).await;
    let mut client = redis.client().await;
    let code = b"#!lua name=l\nredis.register_function('f', function() return 1 end)";
    client.ask(&[b"FUNCTION", b"LOAD", code], soon()).await.unwrap();
    feed.begin_barrier(0);
    assert!(read(&mut feed).await.unwrap().functions);
    // A feed whose connection is closed is lost, not silent.
    let Reply::Integer(killed) = redis.run("CLIENT KILL TYPE normal").await else { panic!() };
    assert!(killed > 0);
    feed.begin_barrier(0);
    assert!(read(&mut feed).await.is_err());
}

#[tokio::test]
async fn the_feed_is_chosen_by_trying() {
    let redis = Redis::start(&[]).await;
    let with = async |rules: &str| {
        redis.run(&format!("ACL SETUSER u reset on >p ~* &* +@all {rules}")).await;
        let credentials = Credentials { username: Some("u".into()), password: Secret::new("p".into()) };
        let endpoint = Endpoint { addr: redis.addr.clone(), credentials: Some(credentials) };
        feed::open(&endpoint, "pt:test", soon()).await
    };
    assert!(with("-psync").await.unwrap().position().is_none());
    let error = with("-psync -client|tracking").await.map(|_| ()).unwrap_err();
    assert!(error.contains("+psync") && error.contains("tracking") && error.contains("replica"), "{error}");
    assert!(with("").await.unwrap().position().is_some());
    // Also without the permission to try PSYNC.
    let error = with("-client|setname").await.map(|_| ()).unwrap_err();
    assert!(error.contains("setname"), "{error}");
}
