//! Two groups of real servers, a mover between them, and a comparison of all their data.
//! Knows nothing of the tests.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read, Write},
    net::TcpStream,
    sync::{
        Arc, Mutex,
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
        self, AuthorizationFuture, Authorize, CleanSpec, ConnectionId, CopySpec, Endpoint, Finished, KnownProcesses,
        MoverHandle, Report, RunSpec, SlotSet, State,
    },
    redis::Reply,
    resp::{reply::ReplyScanner, write},
};
use tokio::sync::watch;

use super::common::{PATIENCE, Redis};

pub const NAME: &str = "pt:test:run:m1.1";
/// Databases that tests use; one of them gets its first key late.
pub const DATABASES: [u32; 4] = [0, 3, 7, 15];

/// A blocking connection.
pub struct Conn {
    stream: TcpStream,
    input: Vec<u8>,
}

impl Conn {
    pub fn open(server: &Redis) -> Self {
        let stream = TcpStream::connect(&server.addr).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { stream, input: Vec::new() }
    }

    pub fn ask(&mut self, args: &[&[u8]]) -> Reply {
        let mut out = Vec::new();
        write::request(&mut out, args);
        self.stream.write_all(&out).unwrap();
        let mut scanner = ReplyScanner::default();
        loop {
            if let Some(len) = scanner.scan(&self.input).unwrap() {
                let whole: Vec<u8> = self.input.drain(..len).collect();
                return Reply::decode(&whole.into()).unwrap();
            }
            let mut more = vec![0; 64 << 10];
            let n = self.stream.read(&mut more).unwrap();
            assert!(n > 0, "closed");
            self.input.extend_from_slice(&more[..n]);
        }
    }

    /// Sends words with spaces between them. Panics on an error.
    #[track_caller]
    pub fn run(&mut self, words: &str) -> Reply {
        let args: Vec<&[u8]> = words.split(' ').map(str::as_bytes).collect();
        let reply = self.ask(&args);
        assert!(!matches!(reply, Reply::Error(_)), "{words}: {reply:?}");
        reply
    }

    pub fn info(&mut self, section: &str, field: &str) -> String {
        let info = self.run(&format!("INFO {section}"));
        let line =
            info.text().unwrap().lines().find_map(|l| l.strip_prefix(field)?.strip_prefix(':').map(str::to_owned));
        line.unwrap_or_default()
    }

    fn keys(&mut self) -> BTreeSet<Vec<u8>> {
        let reply = self.run("KEYS *");
        let bytes = |reply: &Reply| match reply {
            Reply::Bulk(bytes) => bytes.to_vec(),
            other => panic!("{other:?}"),
        };
        reply.items().unwrap().iter().map(bytes).collect()
    }
}

/// Records the connections, and authorizes or refuses them.
pub struct Authorizer {
    pub asked: Mutex<Vec<ConnectionId>>,
    pub refuses: bool,
}

impl Authorize for Authorizer {
    fn authorize(&self, connections: Vec<ConnectionId>) -> AuthorizationFuture {
        self.asked.lock().unwrap().extend(connections);
        let refuses = self.refuses;
        Box::pin(async move { if refuses { Err("this run is closed".into()) } else { Ok(()) } })
    }
}

pub struct Bed {
    pub source: Redis,
    pub replica: Option<Redis>,
    pub target: Redis,
    pub s: Conn,
    pub t: Conn,
    pub authorizer: Arc<Authorizer>,
    pub limits: watch::Sender<Limits>,
    pub runtime: tokio::runtime::Runtime,
}

pub fn layout_slots(which: impl Fn(u16) -> bool) -> Arc<SlotSet> {
    let slots: BTreeSet<SlotId> = (0..Layout::Codis.slots()).filter(|slot| which(*slot)).map(SlotId).collect();
    Arc::new(SlotSet::new(Layout::Codis, &slots))
}

pub fn endpoint(server: &Redis) -> Endpoint {
    Endpoint { addr: HostPort::parse(&server.addr).unwrap(), credentials: None }
}

pub fn start_server() -> Redis {
    Redis::start_with(&["--enable-debug-command", "yes", "--repl-diskless-sync-delay", "0"])
}

/// Makes `replica` follow `primary` and waits until it is in sync.
pub fn follow(replica: &Redis, primary: &Redis) {
    let (host, port) = primary.addr.split_once(':').unwrap();
    let mut conn = Conn::open(replica);
    conn.run(&format!("REPLICAOF {host} {port}"));
    until("the replica is in sync", || conn.info("replication", "master_link_status") == "up");
}

/// This machine's clock, in milliseconds since the epoch.
pub fn unix_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_millis()).unwrap()
}

#[track_caller]
pub fn until(what: &str, mut is: impl FnMut() -> bool) {
    let end = Instant::now() + 2 * PATIENCE;
    while !is() {
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::yield_now();
    }
}

/// Part of the refusal of a hold that comes before the copy has caught up.
pub const TOO_EARLY: &str = "the hold came too early";

impl Bed {
    pub fn start() -> Self {
        Self::of(start_server(), start_server())
    }

    pub fn of(source: Redis, target: Redis) -> Self {
        let (s, t) = (Conn::open(&source), Conn::open(&target));
        Self {
            source,
            replica: None,
            target,
            s,
            t,
            authorizer: Arc::new(Authorizer { asked: Mutex::default(), refuses: false }),
            limits: watch::channel(Limits::default()).0,
            runtime: tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap(),
        }
    }

    /// The feed comes from a replica.
    pub fn with_replica() -> Self {
        let mut bed = Self::start();
        let replica = start_server();
        follow(&replica, &bed.source);
        bed.replica = Some(replica);
        bed
    }

    pub fn spec(&self, slots: &Arc<SlotSet>) -> CopySpec {
        CopySpec {
            name: NAME.into(),
            layout: Layout::Codis,
            slots: slots.clone(),
            databases: 16,
            primary: endpoint(&self.source),
            feed: endpoint(self.replica.as_ref().unwrap_or(&self.source)),
            target: endpoint(&self.target),
            processes: KnownProcesses::default(),
            deletable_at_target: layout_slots(|_| false),
            wipe: false,
            cache: false,
            verify: Verify::None,
        }
    }

    pub fn copy(&self, spec: CopySpec) -> MoverHandle {
        mover::start(RunSpec::Copy(spec), self.authorizer.clone(), self.limits.subscribe())
    }

    pub fn clean(&self, server: &Redis, slots: &Arc<SlotSet>, passes_apart: Duration) -> MoverHandle {
        let spec = CleanSpec {
            name: NAME.into(),
            layout: Layout::Codis,
            slots: slots.clone(),
            databases: 16,
            server: endpoint(server),
            passes_apart,
        };
        mover::start(RunSpec::Clean(spec), self.authorizer.clone(), self.limits.subscribe())
    }

    /// Waits for a report that fulfils `is`.
    #[track_caller]
    pub fn wait(&self, handle: &MoverHandle, what: &str, mut is: impl FnMut(&Report) -> bool) -> Report {
        let mut reports = handle.report();
        let found = self.runtime.block_on(async {
            let wait = reports.wait_for(|report| is(report) || matches!(report.state, State::Failed(_)));
            tokio::time::timeout(3 * PATIENCE, wait).await.map(|found| found.unwrap().clone())
        });
        let Ok(report) = found else { panic!("not in time: {what}; {:?}", handle.report().borrow()) };
        assert!(is(&report), "before {what}: {:?}", report.state);
        report
    }

    #[track_caller]
    pub fn caught_up(&self, handle: &MoverHandle) -> Report {
        self.wait(handle, "caught up", |report| report.state == State::CaughtUp)
    }

    /// Waits until the run has failed; returns why.
    #[track_caller]
    pub fn failed(&self, handle: &MoverHandle) -> String {
        let report = self.wait(handle, "failed", |report| matches!(report.state, State::Failed(_)));
        let State::Failed(why) = report.state else { unreachable!() };
        why
    }

    pub fn finish_in(&self, handle: &MoverHandle, hold: u64, budget: Duration) -> Result<Finished, String> {
        self.runtime.block_on(handle.finish(HoldId(hold), tokio::time::Instant::now() + budget))
    }

    /// Finishes the copy. As a node does: after a hold that came too early, because the last writes have put the copy
    /// behind, another follows once it has caught up.
    #[track_caller]
    pub fn finish(&self, handle: &MoverHandle, hold: u64) -> Finished {
        loop {
            match self.finish_in(handle, hold, PATIENCE) {
                Err(why) if why.contains(TOO_EARLY) => self.caught_up(handle),
                finished => return finished.unwrap(),
            };
        }
    }

    /// Asserts that the target has exactly the source's keys of these slots, with equal values, which expire at the same
    /// millisecond.
    #[track_caller]
    pub fn assert_equal(&mut self, slots: &SlotSet) {
        let mut count = 0;
        for db in DATABASES {
            let mut sides = [&mut self.s, &mut self.t].map(|conn| {
                conn.run(&format!("SELECT {db}"));
                let keys = conn.keys();
                (conn, keys)
            });
            sides[0].1.retain(|key| slots.has_key(key));
            let [mut source, mut target] = sides.map(|(conn, keys)| {
                let side: BTreeMap<_, _> = keys
                    .into_iter()
                    .map(|key| {
                        let digest = conn.ask(&[b"DEBUG", b"DIGEST-VALUE", &key]);
                        // Redis 6 does not say it.
                        let at = conn.ask(&[b"PEXPIRETIME", &key]).integer();
                        (String::from_utf8_lossy(&key).into_owned(), (digest, at))
                    })
                    .collect();
                side
            });
            // Keys that have just expired at one server.
            let later = unix_ms() + 2000;
            let soon = |at: Option<i64>| at.is_some_and(|at| at != -1 && at <= later);
            let expiring: BTreeSet<String> =
                source.iter().filter(|(_, (_, at))| soon(*at)).map(|(key, _)| key.clone()).collect();
            source.retain(|key, _| !expiring.contains(key));
            target.retain(|key, (_, at)| !expiring.contains(key) && !soon(*at));
            for (key, (here, at)) in &source {
                let Some((there, at_target)) = target.get(key) else { panic!("{key} of database {db} is missing") };
                assert_eq!(here, there, "{key} of database {db}");
                assert!(at_target.is_none() || at == at_target, "{key} of database {db}: {at:?} {at_target:?}");
            }
            let more: Vec<_> = target.keys().filter(|key| !source.contains_key(*key)).collect();
            assert!(more.is_empty(), "only at the target, database {db}: {more:?}");
            count += source.len();
        }
        assert!(count > 0, "nothing was compared");
        for conn in [&mut self.s, &mut self.t] {
            conn.run("SELECT 0");
        }
    }
}

/// Runs `write` repeatedly on its own connection until dropped.
pub struct Writer {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<usize>>,
}

impl Writer {
    pub fn start(server: &Redis, mut write: impl FnMut(&mut Conn, usize) + Send + 'static) -> Self {
        let mut conn = Conn::open(server);
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
        Self { stop, thread: Some(thread) }
    }

    /// Stops the writer after its last reply; returns the number of writes.
    pub fn end(mut self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
