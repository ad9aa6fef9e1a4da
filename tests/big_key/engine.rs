//! Big keys through the whole engine: found by SCAN, changed through the replication stream, finished under a hold.
//! Knows nothing of small keys.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use pontoon::{
    model::{
        ids::{HoldId, HostPort, SlotId},
        migration::{Limits, Verify},
        slot::Layout,
    },
    mover::{
        self, AuthorizationFuture, Authorize, ConnectionId, CopySpec, Endpoint, KnownProcesses, MoverHandle, RunSpec,
        SlotSet, State,
    },
};
use tokio::sync::watch;

use super::{
    common::{PATIENCE, Redis},
    pair::Conn,
};

struct Yes;

impl Authorize for Yes {
    fn authorize(&self, _: Vec<ConnectionId>) -> AuthorizationFuture {
        Box::pin(async { Ok(()) })
    }
}

struct Cluster {
    servers: [Redis; 2],
    source: Conn,
    target: Conn,
}

impl Cluster {
    fn start() -> Self {
        let servers = [(); 2].map(|()| Redis::start_with(&["--enable-debug-command", "yes"]));
        let (source, target) = (Conn::open(&servers[0].addr), Conn::open(&servers[1].addr));
        Self { servers, source, target }
    }

    fn copy(&self, limits: watch::Receiver<Limits>) -> MoverHandle {
        let layout = Layout::Codis;
        let slots = |all: bool| {
            let slots: BTreeSet<SlotId> = (0..layout.slots()).filter(|_| all).map(SlotId).collect();
            Arc::new(SlotSet::new(layout, &slots))
        };
        let endpoint = |i: usize| Endpoint { addr: HostPort::parse(&self.servers[i].addr).unwrap(), credentials: None };
        let spec = CopySpec {
            name: "pt:test:run:m1.1".into(),
            layout,
            slots: slots(true),
            databases: 16,
            primary: endpoint(0),
            feed: endpoint(0),
            target: endpoint(1),
            processes: KnownProcesses::default(),
            deletable_at_target: slots(false),
            wipe: false,
            cache: false,
            verify: Verify::None,
        };
        mover::start(RunSpec::Copy(spec), Arc::new(Yes), limits)
    }

    fn assert_equal(&mut self, key: &str) {
        let line = format!("DEBUG DIGEST-VALUE {key}");
        assert_eq!(self.source.run(&line), self.target.run(&line), "{key}");
    }
}

/// Waits for a report that fulfils `is`.
fn wait(handle: &MoverHandle, what: &str, mut is: impl FnMut(&mover::Report) -> bool) {
    let reports = handle.report();
    let end = Instant::now() + 3 * PATIENCE;
    loop {
        let report = reports.borrow().clone();
        if is(&report) {
            return;
        }
        assert!(!matches!(report.state, State::Failed(_)), "{:?}", report.state);
        assert!(Instant::now() < end, "not {what}: {report:?}");
        std::thread::yield_now();
    }
}

fn finish(handle: &MoverHandle, hold: u64) -> Result<mover::Finished, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(handle.finish(HoldId(hold), tokio::time::Instant::now() + PATIENCE))
}

/// Runs `write` repeatedly until it is stopped.
fn writer(mut conn: Conn, mut write: impl FnMut(&mut Conn, usize) + Send + 'static) -> impl FnOnce() -> usize {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let thread = std::thread::spawn(move || {
        let mut count = 0;
        while !stopped.load(Ordering::Relaxed) {
            write(&mut conn, count);
            count += 1;
        }
        count
    });
    move || {
        stop.store(true, Ordering::Relaxed);
        thread.join().unwrap()
    }
}

#[test]
fn write_contended_keys_of_every_type_are_switched_with_equal_values() {
    let mut cluster = Cluster::start();
    let source = &mut cluster.source;
    source.all((0..50_000).map(|i| format!("HSET hash field:{i} value:{i}")));
    source.all((0..20_000).map(|i| format!("ZADD zset {i} member:{i}")));
    source.all((0..20_000).map(|i| format!("SADD set member:{i}")));
    source.all((0..20_000).map(|i| format!("RPUSH list element:{i}")));
    source.all((1..20_000).map(|i| format!("XADD stream {i}-1 field {i}")));
    source.all((0..1_000).map(|i| format!("SET small:{i} {i}")));
    source.run("SELECT 3");
    source.all((0..20_000).map(|i| format!("HSET hash field:{i} other:{i}")));
    source.run("SELECT 0");
    source.run("PEXPIRE zset 900000");
    let stop = writer(Conn::open(&cluster.servers[0].addr), |conn, i| {
        conn.run(&format!("HSET hash field:{} new:{i}", i * 7919 % 60_000));
        conn.run(&format!("ZINCRBY zset 0.5 member:{}", i * 31 % 20_000));
        conn.run(&format!("SADD set new:{i}"));
        conn.run("SPOP set 2");
        // Lua: two writes, replicated as a transaction and in lower case.
        conn.ask(&[
            b"EVAL",
            b"redis.call('hdel', KEYS[1], ARGV[1]) return redis.call('hincrby', KEYS[1], 'n', 1)",
            b"1",
            b"hash",
            format!("field:{}", i % 1000).as_bytes(),
        ]);
        conn.run(&format!("PEXPIRE zset {}", 900_000 + i));
        conn.run(&format!("INCR small:{}", i % 1000));
    });
    let (_limits, limits) = watch::channel(Limits::default());
    let handle = cluster.copy(limits);
    wait(&handle, "caught up", |report| report.state == State::CaughtUp);
    // Keys are refetched for a while after that, too.
    let seen = handle.report().borrow().counters;
    wait(&handle, "refetching", |report| report.counters.refetched > seen.refetched + 100);
    wait(&handle, "caught up again", |report| report.state == State::CaughtUp);
    assert!(stop() > 0);
    finish(&handle, 7).unwrap();
    let report = handle.report().borrow().clone();
    assert!(report.write_contended.is_empty(), "{:?}", report.write_contended);
    for key in ["hash", "zset", "set", "list", "stream", "small:1", "small:999"] {
        cluster.assert_equal(key);
    }
    for conn in [&mut cluster.source, &mut cluster.target] {
        conn.run("SELECT 3");
    }
    cluster.assert_equal("hash");
}

#[test]
fn a_write_contended_list_waits_for_a_longer_hold() {
    let mut cluster = Cluster::start();
    cluster.source.all((0..400_000).map(|i| format!("RPUSH list {i}")));
    let stop = writer(Conn::open(&cluster.servers[0].addr), |conn, i| {
        conn.run(&format!("LPUSH list new:{i}"));
        conn.run("RPOP list");
    });
    let (set, limits) = watch::channel(Limits { hold_ms_max: 2, ..Limits::default() });
    let handle = cluster.copy(limits);
    wait(&handle, "naming the list", |report| {
        assert_ne!(report.state, State::CaughtUp, "{report:?}");
        // While its type is asked for again, it is a "key".
        let named = report.write_contended.iter().map(|key| key.starts_with("list 'list' in database 0"));
        named.eq([true]) && report.waiting_on.contains("raise hold-max")
    });
    set.send_replace(Limits { hold_ms_max: 60_000, ..Limits::default() });
    wait(&handle, "caught up", |report| report.state == State::CaughtUp);
    stop();
    let finished = finish(&handle, 1).unwrap();
    assert!(finished.took < PATIENCE + Duration::from_secs(1));
    cluster.assert_equal("list");
}
