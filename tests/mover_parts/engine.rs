//! Verification inside the copy engine, with either feed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use fastrand::Rng;
use pontoon::{
    model::{
        ids::HoldId,
        migration::{Limits, Verify},
        slot::Layout,
    },
    mover::{
        self, AuthorizationFuture, Authorize, ConnectionId, CopySpec, KnownProcesses, MoverHandle, RunSpec, State,
    },
};
use tokio::{sync::watch, task::JoinHandle, time::Instant};

use crate::{
    dataset,
    server::Redis,
    verification::{FakeCopy, all_slots, compare, endpoint},
    wait::{PATIENCE, soon},
};

struct Yes;

impl Authorize for Yes {
    fn authorize(&self, _: Vec<ConnectionId>) -> AuthorizationFuture {
        Box::pin(async { Ok(()) })
    }
}

fn start(source: &Redis, target: &Redis) -> (MoverHandle, watch::Sender<Limits>) {
    let slots = Arc::new(all_slots());
    let spec = CopySpec {
        name: "pt:test:run:m1.1".into(),
        layout: Layout::Codis,
        slots: slots.clone(),
        databases: 16,
        primary: endpoint(source),
        feed: endpoint(source),
        target: endpoint(target),
        processes: KnownProcesses::default(),
        deletable_at_target: slots,
        wipe: false,
        cache: false,
        verify: Verify::Full,
    };
    let (limits, receiver) = watch::channel(Limits::default());
    (mover::start(RunSpec::Copy(spec), Arc::new(Yes), receiver), limits)
}

/// Waits until the mover is in a state that fulfils `is`, or has failed.
async fn until(handle: &MoverHandle, is: impl Fn(&State) -> bool) -> mover::Report {
    let mut report = handle.report();
    let found = report.wait_for(|report| is(&report.state) || matches!(report.state, State::Failed(_)));
    tokio::time::timeout(3 * PATIENCE, found).await.expect("in time").expect("a report").clone()
}

/// Runs commands repeatedly until it is stopped.
fn writer(redis: &Redis, stop: &Arc<AtomicBool>, commands: Vec<String>) -> JoinHandle<()> {
    let (addr, stop) = (redis.addr.clone(), stop.clone());
    tokio::spawn(async move {
        let mut client = pontoon::redis::Client::connect(&addr, None, "writer", soon()).await.unwrap();
        while !stop.load(Ordering::Relaxed) {
            for command in &commands {
                let words: Vec<&[u8]> = command.split(' ').map(str::as_bytes).collect();
                // The key may have another type for a moment.
                client.pipeline(&[&words], soon()).await.unwrap();
            }
        }
    })
}

async fn under_writes(feed: &str) {
    let (source, target) = tokio::join!(Redis::start(&[]), Redis::start(&[]));
    if feed == "tracking" {
        source.run("ACL SETUSER default -psync").await;
    }
    dataset::send(&source, 0, &dataset::commands(fastrand::u64(..), 350, Rng::with_seed(1))).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut commands: Vec<String> = (0..40).map(|i| format!("INCR counter:{i}")).collect();
    commands.extend((0..7).map(|i| format!("XADD key:{} * a b", 7 * i + 6)));
    // Only a group changes: tracking does not report it.
    commands.extend((0..7).map(|i| format!("XREADGROUP GROUP g{0} alice COUNT 1 STREAMS key:{0} >", 7 * i + 6)));
    commands.push("SET session x PX 60000".into());
    commands.push("RENAME key:1 other".into());
    commands.push("RENAME other key:1".into());
    let writing = writer(&source, &stop, commands);
    let (handle, _limits) = start(&source, &target);
    let report = until(&handle, |state| *state == State::CaughtUp).await;
    let verified = report.verified.unwrap_or_else(|| panic!("{feed}: {report:?}"));
    assert!(verified.keys >= 350 && verified.different == 0, "{feed}: {report:?}");
    stop.store(true, Ordering::Relaxed);
    writing.await.unwrap();
    handle.finish(HoldId(1), Instant::now() + PATIENCE).await.unwrap();
    drop(handle);
    let outcome = compare(&source, &target, &all_slots(), Verify::Full, &FakeCopy::default()).await;
    assert!(outcome.different.is_empty() && outcome.verified.keys >= 390, "{feed}: {outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_changes_are_no_difference() {
    tokio::join!(under_writes("psync"), under_writes("tracking"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_copy_is_detected_before_any_hold() {
    let (source, target) = tokio::join!(Redis::start(&[]), Redis::start(&[]));
    dataset::send(&source, 0, &dataset::commands(fastrand::u64(..), 70, Rng::with_seed(1))).await;
    source.run("SET victim right").await;
    // Someone writes to the target, bypassing the proxies, as soon as the key exists.
    let stop = Arc::new(AtomicBool::new(false));
    let writing = writer(&target, &stop, vec!["SET victim wrong XX".into()]);
    let (handle, _limits) = start(&source, &target);
    let report = until(&handle, |_| false).await;
    let State::Failed(why) = &report.state else { panic!("{report:?}") };
    assert!(why.contains("differ") && why.contains("victim (database 0): the values of this string differ"), "{why}");
    stop.store(true, Ordering::Relaxed);
    tokio::time::timeout(Duration::from_secs(20), writing).await.unwrap().unwrap();
}
