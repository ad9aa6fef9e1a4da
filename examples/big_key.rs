//! Measures how long moving one big key stalls either server: the latency of PING while the engine copies the key,
//! without writes and with a thousand writes to its fields per second; and for comparison during one DUMP and RESTORE
//! and without a copy.
//! `cargo run --release --example big_key [elements] [first port]`; needs redis-server. Prints the measurements without
//! a judgement.

mod support;

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use pontoon::{
    model::{
        ids::{HoldId, HostPort, SlotId},
        migration::{Limits, Verify},
        slot::Layout,
    },
    mover::{
        self, AuthorizationFuture, Authorize, ConnectionId, CopySpec, Endpoint, KnownProcesses, RunSpec, SlotSet, State,
    },
    resp::write,
};
use support::{Client, PATIENCE, Res, Server};
use tokio::sync::watch;

/// Interval of a probe's PINGs.
const PING_EVERY: Duration = Duration::from_micros(200);
/// Interval of writes to a write-contended key: a thousand per second.
const WRITE_EVERY: Duration = Duration::from_millis(1);

/// Sends the commands `line(0)`, `line(1)`, ...
fn fill(server: &mut Client, count: usize, line: impl Fn(usize) -> String) -> Res<()> {
    server.fill(count, |out, i| write::request(out, &line(i).split(' ').map(str::as_bytes).collect::<Vec<_>>()))
}

/// The longest command since the last call, from SLOWLOG, with its milliseconds; "-" if there is none.
fn slowest(server: &mut Client) -> Res<String> {
    let reply = String::from_utf8_lossy(&server.execute("SLOWLOG GET 128")?).into_owned();
    server.execute("SLOWLOG RESET")?;
    // Each entry: id, time, duration; then the arguments.
    let mut worst = (0, String::new());
    for entry in reply.split("*6\r\n").skip(1) {
        let lines: Vec<&str> = entry.split("\r\n").take(6).collect();
        let [_, _, micros, _, _, name] = lines[..] else { continue };
        worst = worst.max((micros.trim_start_matches(':').parse::<u64>()?, name.to_owned()));
    }
    Ok(if worst.0 == 0 { "-".into() } else { format!("{:.1} {}", worst.0 as f64 / 1000.0, worst.1) })
}

/// Runs something repeatedly until it is stopped.
struct Loop<T> {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Res<T>>,
}

impl<T: Send + Default + 'static> Loop<T> {
    fn start(
        name: &str,
        mut client: Client,
        every: Duration,
        mut turn: impl FnMut(&mut Client, &mut T) -> Res<()> + Send + 'static,
    ) -> Res<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || {
            let mut state = T::default();
            let mut next = Instant::now();
            while !stopped.load(Ordering::Relaxed) {
                turn(&mut client, &mut state)?;
                next = (next + every).max(Instant::now() - every * 100);
                std::thread::sleep(next.saturating_duration_since(Instant::now()));
            }
            Ok(state)
        })?;
        Ok(Self { stop, thread })
    }

    fn stop(self) -> Res<T> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| "a thread panicked")?
    }
}

/// Sends PINGs and records their latencies.
fn probe(server: &Server) -> Res<Loop<Vec<Duration>>> {
    Loop::start("probe", server.client()?, PING_EVERY, |client, times: &mut Vec<Duration>| {
        let began = Instant::now();
        client.execute("PING")?;
        times.push(began.elapsed());
        Ok(())
    })
}

/// The p99 and the maximum, in milliseconds.
fn p99_and_max(mut times: Vec<Duration>) -> String {
    times.sort();
    let ms = |d: Option<&Duration>| d.map_or(0.0, |d| d.as_secs_f64() * 1000.0);
    format!("{:6.2} {:7.2}", ms(times.get(times.len() * 99 / 100)), ms(times.last()))
}

struct AuthorizesAll;

impl Authorize for AuthorizesAll {
    fn authorize(&self, _: Vec<ConnectionId>) -> AuthorizationFuture {
        Box::pin(async { Ok(()) })
    }
}

fn copy(servers: &[Server; 2]) -> Res<mover::MoverHandle> {
    let layout = Layout::Codis;
    let all: BTreeSet<SlotId> = (0..layout.slots()).map(SlotId).collect();
    let endpoint =
        |i: usize| -> Res<Endpoint> { Ok(Endpoint { addr: HostPort::parse(&servers[i].addr)?, credentials: None }) };
    let spec = CopySpec {
        name: "pt:bench:run:m1.1".into(),
        layout,
        slots: Arc::new(SlotSet::new(layout, &all)),
        databases: 16,
        primary: endpoint(0)?,
        feed: endpoint(0)?,
        target: endpoint(1)?,
        processes: KnownProcesses::default(),
        deletable_at_target: Arc::new(SlotSet::new(layout, &all)),
        wipe: true,
        cache: false,
        verify: Verify::None,
    };
    let (_, limits) = watch::channel(Limits::default());
    Ok(mover::start(RunSpec::Copy(spec), Arc::new(AuthorizesAll), limits))
}

/// A command that is written repeatedly, by its number.
type WriteCommand = fn(usize, usize) -> String;

struct Case {
    name: &'static str,
    fill: fn(&mut Client, usize) -> Res<()>,
    write_contended: Option<WriteCommand>,
}

const CASES: &[Case] = &[
    Case {
        name: "hash",
        fill: |c, n| fill(c, n, |i| format!("HSET k field:{i:010} value:{i:010}")),
        write_contended: Some(|i, n| format!("HSET k field:{:010} new:{i}", i * 7919 % n)),
    },
    Case {
        name: "sorted set",
        fill: |c, n| fill(c, n, |i| format!("ZADD k {}.5 member:{i:010}", i * 7919 % 1_000_003)),
        write_contended: Some(|i, n| format!("ZINCRBY k 0.25 member:{:010}", i * 7919 % n)),
    },
    Case {
        name: "sorted set, one score",
        fill: |c, n| fill(c, n, |i| format!("ZADD k 0 member:{i:010}")),
        write_contended: None,
    },
    Case {
        name: "set",
        fill: |c, n| fill(c, n, |i| format!("SADD k member:{i:010}")),
        write_contended: Some(|i, n| format!("SREM k member:{:010}", i * 7919 % n)),
    },
    Case { name: "list", fill: |c, n| fill(c, n, |i| format!("RPUSH k element:{i:010}")), write_contended: None },
    Case {
        name: "stream",
        fill: |c, n| fill(c, n, |i| format!("XADD k {}-1 field value:{i:010}", i + 1)),
        write_contended: None,
    },
    Case {
        name: "string of 100 bytes each",
        fill: |c, n| c.execute(&format!("SETRANGE k {} x", n * 100)).map(|_| ()),
        write_contended: Some(|i, n| format!("SETBIT k {} 1", i * 15_485_863 % (n * 800))),
    },
];

fn wait_caught_up(handle: &mover::MoverHandle) -> Res<()> {
    let reports = handle.report();
    let began = Instant::now();
    loop {
        let state = reports.borrow().state.clone();
        match state {
            State::CaughtUp => return Ok(()),
            State::Failed(why) => return Err(why.into()),
            _ if began.elapsed() > PATIENCE => return Err(format!("not caught up: {:?}", *reports.borrow()).into()),
            _ => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

fn measure(servers: &[Server; 2], what: &str, work: impl FnOnce() -> Res<String>) -> Res<()> {
    for server in servers {
        slowest(&mut server.client()?)?;
    }
    let probes = [probe(&servers[0])?, probe(&servers[1])?];
    let began = Instant::now();
    let more = work()?;
    let took = began.elapsed();
    let [source, target] = probes.map(Loop::stop);
    let longest = [slowest(&mut servers[0].client()?)?, slowest(&mut servers[1].client()?)?];
    println!(
        "{what:38} {:7.2} s   {}   {}   {:18} {:18} {more}",
        took.as_secs_f64(),
        p99_and_max(source?),
        p99_and_max(target?),
        longest[0],
        longest[1]
    );
    Ok(())
}

fn main() -> Res<()> {
    let mut args = std::env::args().skip(1);
    let elements: usize = args.next().map_or(Ok(1_000_000), |n| n.parse())?;
    let port: u16 = args.next().map_or(Ok(24_810), |n| n.parse())?;
    println!(
        "{elements} elements                              time     source: p99 longest  target: p99 longest   longest command"
    );
    println!(
        "                                                         PING, ms             PING, ms              ms, by SLOWLOG"
    );
    for case in CASES {
        let servers = [Server::start(port)?, Server::start(port + 1)?];
        let mut source = servers[0].client()?;
        let mut target = servers[1].client()?;
        (case.fill)(&mut source, elements)?;
        if case.name == "hash" {
            measure(&servers, "no copy", || {
                std::thread::sleep(Duration::from_secs(2));
                Ok(String::new())
            })?;
            measure(&servers, "hash, DUMP and RESTORE", || {
                let value = source.execute("DUMP k")?;
                let start = value.iter().position(|b| *b == b'\n').unwrap_or(0) + 1;
                target.ask(&[b"RESTORE", b"k", b"0", &value[start..value.len() - 2]])?;
                target.execute("UNLINK k")?;
                Ok(String::new())
            })?;
        }
        let handle = copy(&servers)?;
        measure(&servers, case.name, || wait_caught_up(&handle).map(|()| String::new()))?;
        drop(handle);
        let Some(write_contended) = case.write_contended else { continue };
        let writer = Loop::start("writer", servers[0].client()?, WRITE_EVERY, move |client, count: &mut usize| {
            client.execute(&write_contended(*count, elements))?;
            *count += 1;
            Ok(())
        })?;
        let handle = copy(&servers)?;
        measure(&servers, &format!("{}, written", case.name), || {
            wait_caught_up(&handle)?;
            // Still fetched by field.
            std::thread::sleep(Duration::from_secs(1));
            wait_caught_up(&handle)?;
            Ok(format!("{} fields fetched again", handle.report().borrow().counters.refetched))
        })?;
        let written = writer.stop()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let by = tokio::time::Instant::now() + PATIENCE;
        let finished = runtime.block_on(handle.finish(HoldId(1), by)).map_err(|why| format!("not finished: {why}"))?;
        let digests = [source.execute("DEBUG DIGEST-VALUE k")?, target.execute("DEBUG DIGEST-VALUE k")?];
        let equal = if digests[0] == digests[1] { "equal" } else { "DIFFERENT" };
        println!("    {written} writes; finished in {:.1} ms; values {equal}", finished.took.as_secs_f64() * 1000.0);
    }
    Ok(())
}
