//! Measures the copy engine between two redis-servers that it starts, and MIGRATE of 100 keys at a time for comparison.
//! `cargo run --release --example copy [keys]`; needs redis-server. Prints the measurements without a judgement.

mod support;

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
        self, AuthorizationFuture, Authorize, ConnectionId, CopySpec, Endpoint, KnownProcesses, Report, RunSpec,
        SlotSet, State,
    },
    resp::write,
};
use support::{Client, PATIENCE, Res, Server};
use tokio::sync::watch;

/// Keys of one MIGRATE.
const MIGRATE_KEYS: usize = 100;

fn endpoint(server: &Server) -> Res<Endpoint> {
    Ok(Endpoint { addr: HostPort::parse(&server.addr)?, credentials: None })
}

/// CPU seconds of the server's main thread.
fn cpu(server: &mut Client) -> Res<f64> {
    let info = String::from_utf8_lossy(&server.execute("INFO cpu")?).into_owned();
    let field = |name: &str| -> Res<f64> {
        let value = info.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':')).ok_or("no such field")?;
        Ok(value.trim().parse()?)
    };
    Ok(field("used_cpu_user_main_thread")? + field("used_cpu_sys_main_thread")?)
}

/// Random values, so that compression does not improve the result.
fn fill(server: &mut Client, keys: usize, size: usize, random: &mut fastrand::Rng) -> Res<()> {
    let mut value = vec![0u8; size];
    server.fill(keys, |out, i| {
        random.fill(&mut value);
        write::request(out, &[b"SET", format!("key:{i:012}").as_bytes(), &value]);
    })
}

/// Sends PINGs to a server until dropped.
struct Prober {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<Vec<Duration>>>,
}

impl Prober {
    fn start(server: &Server) -> Res<Self> {
        let mut client = server.client()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut pings = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let began = Instant::now();
                if client.ask(&[b"PING"]).is_err() {
                    break;
                }
                pings.push(began.elapsed());
                std::thread::sleep(Duration::from_millis(5));
            }
            pings
        });
        Ok(Self { stop, thread: Some(thread) })
    }

    fn end(mut self) -> String {
        self.stop.store(true, Ordering::Relaxed);
        let mut pings = self.thread.take().and_then(|t| t.join().ok()).unwrap_or_default();
        pings.sort();
        let at = |part: f64| pings.get(((pings.len() - 1) as f64 * part) as usize).copied().unwrap_or_default();
        if pings.is_empty() {
            return "-".into();
        }
        format!("p50 {:.2} p99 {:.2} max {:.2} ms", ms(at(0.5)), ms(at(0.99)), ms(at(1.0)))
    }
}

fn ms(d: Duration) -> f64 {
    d.as_secs_f64() * 1000.0
}

/// CPU seconds of this process's threads called "mover".
fn mover_cpu() -> f64 {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return 0.0 };
    let ticks = |task: std::fs::DirEntry| {
        let stat = std::fs::read_to_string(task.path().join("stat")).ok()?;
        let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
        let mut fields = rest.split_whitespace().skip(11);
        let sum = fields.next()?.parse::<f64>().ok()? + fields.next()?.parse::<f64>().ok()?;
        (name == "mover").then_some(sum)
    };
    tasks.flatten().filter_map(ticks).sum::<f64>() / 100.0
}

struct AuthorizesAll;

impl Authorize for AuthorizesAll {
    fn authorize(&self, _connections: Vec<ConnectionId>) -> AuthorizationFuture {
        Box::pin(async { Ok(()) })
    }
}

fn spec(source: &Server, target: &Server) -> Res<CopySpec> {
    let layout = Layout::Codis;
    let all: BTreeSet<SlotId> = (0..layout.slots()).map(SlotId).collect();
    let slots = Arc::new(SlotSet::new(layout, &all));
    Ok(CopySpec {
        name: "pt:bench:run:m1.1".into(),
        layout,
        slots: slots.clone(),
        databases: 16,
        primary: endpoint(source)?,
        feed: endpoint(source)?,
        target: endpoint(target)?,
        processes: KnownProcesses::default(),
        deletable_at_target: slots,
        wipe: false,
        cache: false,
        verify: Verify::None,
    })
}

async fn until(reports: &mut watch::Receiver<Report>, what: impl Fn(&State) -> bool) -> Res<()> {
    let found = reports.wait_for(|r| what(&r.state) || matches!(r.state, State::Failed(_)));
    let report = tokio::time::timeout(PATIENCE, found).await??.clone();
    match report.state {
        State::Failed(why) => Err(why.into()),
        _ => Ok(()),
    }
}

async fn copy(source: &Server, target: &Server, keys: usize, size: usize) -> Res<()> {
    let (mut s, mut t) = (source.client()?, target.client()?);
    let (cpu_s, cpu_t) = (cpu(&mut s)?, cpu(&mut t)?);
    let probes = (Prober::start(source)?, Prober::start(target)?);
    let (_limits, limits) = watch::channel(Limits::default());
    let began = Instant::now();
    let handle = mover::start(RunSpec::Copy(spec(source, target)?), Arc::new(AuthorizesAll), limits);
    let mut reports = handle.report();
    until(&mut reports, |state| *state == State::Copying).await?;
    let opened = began.elapsed();
    let began = Instant::now();
    until(&mut reports, |state| *state == State::CaughtUp).await?;
    let took = began.elapsed().as_secs_f64();
    let used = (cpu(&mut s)? - cpu_s, cpu(&mut t)? - cpu_t, mover_cpu());
    let (probe_s, probe_t) = (probes.0.end(), probes.1.end());
    let finished = handle.finish(HoldId(1), tokio::time::Instant::now() + Duration::from_secs(1)).await?;
    let (a, b) = (s.execute("DEBUG DIGEST")?, t.execute("DEBUG DIGEST")?);
    let payload = (keys * size) as f64 / 1e6;
    println!(
        "pre-copy   {keys} keys of {size} B: {:.0} keys/s, {:.1} MB/s, opened in {:.0} ms, finished in {:.2} ms, digests {}",
        keys as f64 / took,
        payload / took,
        ms(opened),
        ms(finished.took),
        if a == b { "equal" } else { "DIFFERENT" }
    );
    let each = |cpu: f64| cpu * 1e6 / keys as f64;
    println!(
        "           CPU us/key: source {:.2} target {:.2} mover {:.2}; PING of source {probe_s}; of target {probe_t}",
        each(used.0),
        each(used.1),
        each(used.2)
    );
    Ok(())
}

fn migrate(source: &Server, target: &Server, keys: usize, size: usize) -> Res<()> {
    let mut s = source.client()?;
    let probes = (Prober::start(source)?, Prober::start(target)?);
    let port = target.addr.rsplit(':').next().unwrap_or_default().to_owned();
    let began = Instant::now();
    let mut cursor = "0".to_owned();
    let mut moved = 0;
    loop {
        let page = s.ask(&[b"SCAN", cursor.as_bytes(), b"COUNT", b"500"])?;
        let page = mover::io::scan::KeyPage::parse(&page).ok_or("SCAN")?;
        for batch in page.keys.chunks(MIGRATE_KEYS) {
            let mut args: Vec<&[u8]> =
                vec![b"MIGRATE", b"127.0.0.1", port.as_bytes(), b"", b"0", b"5000", b"REPLACE", b"KEYS"];
            args.extend(batch.iter().map(|key| &key[..]));
            moved += batch.len();
            s.ask(&args)?;
        }
        if page.cursor == 0 {
            break;
        }
        cursor = page.cursor.to_string();
    }
    let took = began.elapsed().as_secs_f64();
    println!(
        "MIGRATE100 {moved} keys of {size} B: {:.0} keys/s, {:.1} MB/s; PING of source {}; of target {}",
        moved as f64 / took,
        (keys * size) as f64 / 1e6 / took,
        probes.0.end(),
        probes.1.end()
    );
    Ok(())
}

fn main() -> Res<()> {
    let keys = std::env::args().nth(1).map_or(Ok(1_000_000), |text| text.parse::<usize>())?;
    let base = std::env::args().nth(2).map_or(Ok(24_700), |text| text.parse::<u16>())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut random = fastrand::Rng::with_seed(1);
    for (keys, size) in [(keys, 100), (keys / 5, 1000), (keys / 20, 10_000)] {
        let (source, target) = (Server::start(base)?, Server::start(base + 1)?);
        fill(&mut source.client()?, keys, size, &mut random)?;
        runtime.block_on(copy(&source, &target, keys, size))?;
        drop(target);
        let target = Server::start(base + 1)?;
        migrate(&source, &target, keys, size)?;
    }
    Ok(())
}
