//! Keys that are written while they are copied, between real servers.
//! Knows nothing of the feed: here the writer reports its commands after their replies.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::{
    common::PATIENCE,
    pair::{Conn, Event, Pair},
};

/// A client that writes until it is stopped and reports each command after its reply.
struct Writer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<usize>,
    feed: Receiver<Event>,
}

impl Writer {
    fn start(mut conn: Conn, mut line: impl FnMut(usize) -> String + Send + 'static) -> Self {
        // Bounded, so that the writer cannot run ahead of the copy on a busy machine in an unoptimized build.
        let (events, feed) = sync_channel(100);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut written = 0;
            while !stopped.load(Ordering::Relaxed) {
                let line = line(written);
                conn.run(&line);
                written += 1;
                if events.send(line.split(' ').map(|word| word.as_bytes().to_vec()).collect()).is_err() {
                    break;
                }
            }
            written
        });
        Self { stop, thread, feed }
    }

    /// Stops the writer and applies the remaining events.
    fn stop(self, pair: &mut Pair) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        while !self.thread.is_finished() {
            pair.events(&self.feed);
        }
        pair.events(&self.feed);
        self.thread.join().unwrap()
    }
}

fn copies_while_written(
    key: &str,
    fill: impl Fn(usize) -> String,
    write: impl FnMut(usize) -> String + Send + 'static,
) {
    let mut pair = Pair::start();
    pair.source.all((0..30_000).map(fill));
    let writer = Writer::start(pair.client(), write);
    pair.begin(key);
    // It must become clean while the writer writes: it converges.
    let end = Instant::now() + PATIENCE;
    let mut cleans = 0;
    while cleans < 20 {
        assert!(Instant::now() < end, "never clean while written: {:?}", pair.big.remaining());
        pair.events(&writer.feed);
        pair.round();
        cleans += usize::from(pair.big.is_clean());
    }
    let written = writer.stop(&mut pair);
    pair.settle();
    assert!(written > 0 && pair.big.write_contended().is_empty());
    let (elements, _, refetched) = pair.big.written();
    assert!(elements < 60_000 && refetched > 0, "copied {elements} elements, {refetched} again: it was restarted");
    pair.assert_equal(key);
}

#[test]
fn a_write_contended_hash_converges_by_field() {
    copies_while_written(
        "h",
        |i| format!("HSET h f{i} {i}"),
        |i| match i % 5 {
            0 => format!("HDEL h f{}", i * 7919 % 30_000),
            1 => format!("HINCRBY h n{} 3", i % 100),
            _ => format!("hset h f{} new:{i} g{i} x", i * 104_729 % 30_000),
        },
    );
}

#[test]
fn a_write_contended_set_converges_by_member() {
    copies_while_written(
        "s",
        |i| format!("SADD s m{i}"),
        |i| match i % 2 {
            0 => format!("SREM s m{}", i * 7919 % 30_000),
            _ => format!("SADD s m{} n{i}", i * 104_729 % 30_000),
        },
    );
}

#[test]
fn a_write_contended_sorted_set_converges_by_member() {
    copies_while_written(
        "z",
        |i| format!("ZADD z {} m{i}", i % 1000),
        |i| match i % 3 {
            0 => format!("ZREM z m{}", i * 7919 % 30_000),
            1 => format!("ZINCRBY z 0.3 m{}", i * 31 % 30_000),
            _ => format!("ZADD z CH {} m{}", i % 777, i * 104_729 % 40_000),
        },
    );
}

#[test]
fn a_write_contended_bitmap_converges_by_piece() {
    let mut pair = Pair::start();
    pair.source.run("SETBIT b 64000000 1");
    let writer = Writer::start(pair.client(), |i| match i % 20 {
        0 => format!("SETRANGE b {} text:{i}", i * 104_729 % 8_100_000),
        _ => format!("SETBIT b {} 1", i * 15_485_863 % 64_800_000),
    });
    pair.begin("b");
    for _ in 0..500 {
        pair.events(&writer.feed);
        pair.round();
    }
    writer.stop(&mut pair);
    pair.settle();
    assert_eq!(pair.big.written().2 > 0, pair.big.write_contended().is_empty());
    pair.assert_equal("b");
}

#[test]
fn a_write_contended_list_is_reported_and_copied_when_the_writers_stop() {
    let mut pair = Pair::start();
    pair.source.all((0..300_000).map(|i| format!("RPUSH l {i}")));
    let writer = Writer::start(pair.client(), |i| format!("LPUSH l new:{i}"));
    pair.begin("l");
    let end = Instant::now() + PATIENCE;
    while pair.big.write_contended().is_empty() {
        assert!(Instant::now() < end, "never named");
        pair.events(&writer.feed);
        pair.round();
    }
    assert!(pair.big.write_contended()[0].starts_with("list 'l' in database 0 ("), "{:?}", pair.big.write_contended());
    writer.stop(&mut pair);
    pair.big.set_urgent(true);
    pair.settle();
    pair.assert_equal("l");
}

#[test]
fn a_copy_that_the_target_expired_is_restarted() {
    let mut pair = Pair::start();
    pair.source.all((0..6_000).map(|i| format!("HSET h f{i} {i}")));
    pair.source.run("PEXPIRE h 700");
    pair.begin("h");
    pair.settle();
    // A session that is refreshed in time, but whose events come too late.
    pair.source.run("PERSIST h");
    let end = Instant::now() + PATIENCE;
    while pair.target.run("EXISTS h") == ":1\r\n" {
        assert!(Instant::now() < end);
        std::thread::yield_now();
    }
    pair.source.run("HSET h f1 one");
    pair.source.run("PEXPIRE h 600000");
    for line in ["PERSIST h", "HSET h f1 one", "PEXPIRE h 600000"] {
        let args: Event = line.split(' ').map(|word| word.as_bytes().to_vec()).collect();
        assert!(pair.big.event(0, b"h", &args[..], Instant::now()));
    }
    pair.settle();
    pair.assert_equal("h");
    assert_eq!(pair.target.run("HLEN h"), ":6000\r\n");
}

#[test]
fn a_key_that_is_deleted_and_created_with_another_type() {
    let mut pair = Pair::start();
    pair.source.all((0..9_000).map(|i| format!("HSET k f{i} {i}")));
    pair.begin("k");
    for _ in 0..5 {
        pair.round();
    }
    pair.source.run("DEL k");
    pair.source.all((0..9_000).map(|i| format!("SADD k m{i}")));
    let apply_event = |pair: &mut Pair, line: &str| {
        let args: Event = line.split(' ').map(|word| word.as_bytes().to_vec()).collect();
        pair.big.event(0, b"k", &args[..], Instant::now())
    };
    assert!(apply_event(&mut pair, "DEL k") && apply_event(&mut pair, "SADD k m0"));
    pair.settle();
    pair.assert_equal("k");
    pair.source.run("DEL k");
    assert!(apply_event(&mut pair, "DEL k"));
    pair.big.set_urgent(true);
    while pair.round() {}
    assert_eq!(pair.target.run("EXISTS k"), ":0\r\n");
    assert_eq!(pair.returned.len(), 1);
    assert!(!pair.big.contains(0, b"k"));
    assert!(pair.big.next_retry().is_none_or(|at| at < Instant::now() + Duration::from_secs(60)));
}
