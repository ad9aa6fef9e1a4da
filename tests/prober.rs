//! `node::prober` against real redis-servers and scripted ones: the probe reports about servers that die, hang, load,
//! reject the password, follow a primary and return. Knows nothing of how the leader evaluates the reports.
#![allow(clippy::unwrap_used)]

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use common::{Client, PATIENCE, Redis, behind_a_slow_link, fake};
use pontoon::{
    clock::boottime_ns,
    model::{
        apply::apply,
        change::{Bootstrap, Change, CreateGroup, NewMember},
        ids::{Epoch, GroupId, HostPort, NodeId, ProductId, Term, Uuid},
        secret::{Credentials, Secret},
        state::{ClusterState, Entry, Position, Server},
    },
    node::probe::{connection::PROBE_TIMEOUT, prober::Prober},
    plan::observation::{Impairment, Probe, ProbeReport, ReportedRole},
    proxy::ServerActivity,
};
use tokio::sync::watch;

/// Interval between two checks of a condition if the prober announces no news.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// A server that answers late, or sends data, never fails for this long: well below the default down-after of 3 s.
const LATE_MAX_MS: u64 = 1_400;
const CLUSTER: Uuid = Uuid(0x77);
/// Maximum age of a fresh probe: two probes, the second of which began when the first ended, and an allowance for a
/// busy machine.
const FRESH_MS: u64 = 1_400;

/// A node's prober, and the state from which it takes the servers.
struct Fixture {
    prober: Prober,
    /// What the node's workers receive; there are none, so tests note it.
    activity: ServerActivity,
    state: watch::Sender<Arc<ClusterState>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Fixture {
    fn watching(servers: &[&str], password: Option<&str>) -> Self {
        let activity = ServerActivity::default();
        let prober = Prober::new(NodeId(7), activity.clone());
        let (state, watched) = watch::channel(Arc::new(cluster(servers, password)));
        let task = tokio::spawn(prober.clone().run(|| Some(CLUSTER), watched));
        Self { prober, activity, state, task }
    }

    fn report(&self, server: &str) -> Option<ProbeReport> {
        self.prober.report(&HostPort::parse(server).unwrap())
    }

    async fn until(&self, what: &str, server: &str, met: impl Fn(&ProbeReport) -> bool) -> ProbeReport {
        let mut news = self.prober.news();
        let waited = tokio::time::timeout(PATIENCE, async {
            loop {
                if let Some(report) = self.report(server).filter(&met) {
                    return report;
                }
                let _ = tokio::time::timeout(POLL_INTERVAL, news.changed()).await;
            }
        });
        waited.await.unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {what}; {:?}", self.report(server)))
    }

    /// Waits for a fresh probe that was answered and meets the condition.
    async fn probe(&self, what: &str, server: &str, met: impl Fn(&Probe) -> bool) -> Probe {
        let fresh =
            |s: &ProbeReport| s.probe.as_ref().is_some_and(|(l, age)| *age < FRESH_MS && s.error.is_empty() && met(l));
        self.until(what, server, fresh).await.probe.unwrap().0
    }
}

/// Returns a state with one group of these servers.
fn cluster(servers: &[&str], password: Option<&str>) -> ClusterState {
    let mut state = ClusterState::default();
    let member = NewMember {
        id: NodeId(7),
        uuid: Uuid(7),
        admin: HostPort::parse("127.0.0.1:19107").unwrap(),
        advertise: "127.0.0.1".into(),
        port_offset: 0,
    };
    let server = |addr: &&str| Server::new(HostPort::parse(addr).unwrap(), format!("run of {addr}"), 0);
    let group = Change::CreateGroup(CreateGroup {
        product: ProductId(1),
        group: GroupId(1),
        servers: servers.iter().map(server).collect(),
        credentials: password.map(|p| Credentials { username: None, password: Secret::new(p.into()) }),
        data_user: None,
    });
    let mut changes = vec![Change::Bootstrap(Bootstrap { members: vec![member], port: 19_000 })];
    changes.extend((!servers.is_empty()).then_some(group));
    for (index, change) in (1u64..).zip(changes) {
        let entry = Entry { id: Uuid(index.into()), request_hash: 0, at_ms: 0, author: Default::default(), change };
        apply(&mut state, &entry, Position { index: Epoch(index), term: Term(1) }).unwrap();
    }
    state
}

fn replica_of(primary: &Redis, args: &[&str]) -> Redis {
    let port = primary.port().to_string();
    Redis::start_with(&[&["--replicaof", "127.0.0.1", &port, "--repl-diskless-sync-delay", "0"], args].concat())
}

fn in_sync(probe: &Probe) -> bool {
    matches!(&probe.role, ReportedRole::Replica { link_up: true, syncing: false, .. }) && !probe.loading
}

fn is_primary(probe: &Probe) -> bool {
    matches!(probe.role, ReportedRole::Primary { .. })
}

/// Returns the lines of CLIENT LIST that belong to probers.
fn probers(redis: &Redis) -> Vec<String> {
    let mut client = Client::connect(redis.port());
    let head = client.call("CLIENT LIST").line();
    let mut text = vec![0; head[1..].parse::<usize>().unwrap()];
    std::io::Read::read_exact(&mut client.stream, &mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    text.lines().filter(|line| line.contains(&format!("name=pt:{CLUSTER}:probe:7 "))).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_of_servers_are_reported() {
    let primary = Redis::start_with(&["--appendonly", "yes", "--repl-diskless-sync-delay", "0"]);
    let replica = replica_of(&primary, &[]);
    let mut client = Client::connect(primary.port());
    client.call("SET a 1").expect("+OK\r\n").call("SELECT 3").expect("+OK\r\n").call("SET b 1").expect("+OK\r\n");
    let fixture = Fixture::watching(&[&primary.addr, &replica.addr], None);
    let of_replica = fixture.probe("a replica in sync", &replica.addr, |l| in_sync(l) && l.keys == 2).await;
    let address = HostPort::parse(&replica.addr).unwrap();
    let acked = |l: &Probe| match &l.role {
        ReportedRole::Primary { replicas } => replicas.iter().any(|(r, offset)| *r == address && *offset > 0),
        ReportedRole::Replica { .. } => false,
    };
    let of_primary = fixture.probe("a primary and its replica", &primary.addr, acked).await;
    assert_eq!(of_primary.replid, of_replica.replid);
    assert_eq!((of_primary.run_id.len(), of_primary.keys), (40, 2));
    assert_ne!(of_primary.run_id, of_replica.run_id);
    assert!(of_primary.used_memory > 100_000 && of_primary.ping_us > 0 && !of_primary.loading, "{of_primary:?}");
    assert_eq!((of_primary.persistent, of_replica.persistent), (Some(true), Some(false)));
    assert_eq!((&of_primary.replid2, &of_replica.replid2), (&None, &None));
    let ReportedRole::Replica { of, link_down_ms, .. } = &of_replica.role else { panic!("{of_replica:?}") };
    assert_eq!((of.as_str(), *link_down_ms), (primary.addr.as_str(), 0));
    // Writes increase the offsets of both servers.
    client.call("SET c 1").expect("+OK\r\n");
    let further = fixture.probe("a write", &primary.addr, |l| l.offset > of_primary.offset).await.offset;
    fixture.probe("the same write", &replica.addr, |l| l.offset >= further).await;
    assert_eq!(probers(&primary).len(), 1, "there must be one connection with this name");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_fails_and_returns_with_another_run_id() {
    let mut primary = Redis::start();
    let fixture = Fixture::watching(&[&primary.addr], None);
    let before = fixture.probe("the server", &primary.addr, is_primary).await;
    let mut news = fixture.prober.news();
    news.borrow_and_update();
    primary.kill();
    let gone = std::time::Instant::now();
    let report = fixture.until("it fails", &primary.addr, |s| s.failing_ms.is_some()).await;
    assert!(gone.elapsed() < PATIENCE / 2, "the broken connection must be noticed");
    assert!(report.error.contains("cannot be reached"), "{report:?}");
    assert_eq!(report.probe.unwrap().0.run_id, before.run_id, "the last probe must be kept");
    tokio::time::timeout(PATIENCE, news.changed()).await.unwrap().unwrap();
    let failing = fixture.until("it still fails", &primary.addr, |s| s.failing_ms.is_some_and(|ms| ms > 1_200)).await;
    let (_, age_ms) = failing.probe.unwrap();
    assert!(failing.failing_ms.unwrap() <= age_ms, "the time must count from the first failed probe");
    let port = primary.port();
    drop(primary);
    let again = Redis::start_at(port, &[]);
    let after = fixture.probe("it answers again", &again.addr, |l| l.run_id != before.run_id).await;
    assert_eq!(after.run_id.len(), 40);
    assert_eq!(fixture.report(&again.addr).unwrap().failing_ms, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_fails_by_the_deadline_and_delays_no_other() {
    let (hung, other) = (Redis::start(), Redis::start());
    let fixture = Fixture::watching(&[&hung.addr, &other.addr], None);
    let before = fixture.probe("the hanging server", &hung.addr, is_primary).await;
    fixture.probe("the other server", &other.addr, is_primary).await;
    hung.signal("STOP");
    let report = fixture.until("it fails", &hung.addr, |s| s.failing_ms.is_some()).await;
    assert!(report.error.contains("in time"), "{report:?}");
    assert!(
        report.failing_ms.unwrap() >= PROBE_TIMEOUT.as_millis() as u64,
        "the time must count from the begin of the probe: {report:?}"
    );
    fixture.until("it still hangs", &hung.addr, |s| s.failing_ms.is_some_and(|ms| ms > 2_500)).await;
    fixture.probe("the other server", &other.addr, is_primary).await;
    assert_eq!(fixture.report(&other.addr).unwrap().failing_ms, None);
    hung.signal("CONT");
    let after = fixture.probe("it continues", &hung.addr, is_primary).await;
    assert_eq!(after.run_id, before.run_id);
}

/// A server that is busy for longer than a probe may take, again and again, and answers late.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_answers_late_is_alive() {
    let redis = Redis::start();
    let slow = behind_a_slow_link(&redis, PROBE_TIMEOUT + Duration::from_millis(200));
    let fixture = Fixture::watching(&[&slow], None);
    let mut client = Client::connect(redis.port());
    // The number of keys is requested with every fourth probe.
    for keys in 1..=2 {
        client.call(&format!("SET key{keys} 1")).expect("+OK\r\n");
        fixture
            .until("an answer", &slow, |seen| {
                // The login is several answers.
                let logged_in = seen.probe.is_some();
                assert!(!logged_in || seen.failing_ms.is_none_or(|ms| ms < LATE_MAX_MS), "{seen:?}");
                seen.probe.as_ref().is_some_and(|(probe, _)| probe.keys == keys)
            })
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_sends_data_to_clients_is_alive() {
    let hung = Redis::start();
    let fixture = Fixture::watching(&[&hung.addr], None);
    let run_id = fixture.probe("the server", &hung.addr, is_primary).await.run_id;
    hung.signal("STOP");
    let server = HostPort::parse(&hung.addr).unwrap();
    let (its, other) =
        (fixture.activity.connected(&server, &run_id), fixture.activity.connected(&server, "another process"));
    let busy = fixture
        .until("a worker receives data", &hung.addr, |seen| {
            its.note(boottime_ns());
            assert!(seen.failing_ms.is_none_or(|ms| ms < LATE_MAX_MS), "{seen:?}");
            seen.error.contains("sends data") && seen.probe.as_ref().unwrap().1 > 3 * LATE_MAX_MS
        })
        .await;
    assert_eq!(busy.failing_ms, None);
    // Bytes of another process at the same address, which a TCP proxy may have connected, prove nothing.
    let silent = |seen: &ProbeReport| {
        other.note(boottime_ns());
        seen.failing_ms.is_some_and(|ms| ms > 3 * LATE_MAX_MS)
    };
    fixture.until("no byte arrives", &hung.addr, silent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_busy_with_a_script_answers_and_is_impaired() {
    let redis = Redis::start_with(&["--lua-time-limit", "100"]);
    let fixture = Fixture::watching(&[&redis.addr], None);
    let before = fixture.probe("the server", &redis.addr, is_primary).await;
    assert_eq!(before.busy_reply_ms, Some(100));
    let mut script = Client::connect(redis.port());
    script.send(b"*3\r\n$4\r\nEVAL\r\n$17\r\nwhile true do end\r\n$1\r\n0\r\n");
    let busy = |seen: &ProbeReport| {
        matches!(seen.impaired, Some((Impairment::Busy, ms)) if ms > 1_000) && seen.error.contains("busy with a script")
    };
    let report = fixture.until("it is busy", &redis.addr, busy).await;
    assert_eq!(report.failing_ms, None, "it answers");
    Client::connect(redis.port()).call("SCRIPT KILL").expect("+OK\r\n");
    let after = fixture.probe("it is idle", &redis.addr, is_primary).await;
    assert_eq!((after.run_id, fixture.report(&redis.addr).unwrap().impaired), (before.run_id, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_cannot_save_refuses_writes() {
    let redis = Redis::start_with(&["--save", "3600 1"]);
    let fixture = Fixture::watching(&[&redis.addr], None);
    let before = fixture.probe("the server", &redis.addr, is_primary).await;
    assert_eq!((before.write_error.as_str(), before.saves_fail), ("", false));
    let mut client = Client::connect(redis.port());
    client.call("CONFIG GET dir").expect("*2\r\n$3\r\ndir\r\n");
    client.line();
    let dir = std::path::PathBuf::from(client.line());
    std::fs::remove_dir_all(&dir).unwrap();
    client.call("BGSAVE").expect("+Background saving started\r\n");
    let refuses = |probe: &Probe| probe.write_error.starts_with("MISCONF") && probe.saves_fail;
    fixture.probe("it refuses writes", &redis.addr, refuses).await;
    let report = fixture.report(&redis.addr).unwrap();
    assert!(matches!(report.impaired, Some((Impairment::RefusesWrites, _))), "{report:?}");
    assert!(client.call("SET k 1").line().starts_with("-MISCONF"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_without_its_primary_keeps_its_offset_and_reports_that_its_link_is_down() {
    let mut primary = Redis::start_with(&["--repl-diskless-sync-delay", "0"]);
    let replica = replica_of(&primary, &[]);
    Client::connect(primary.port()).call("SET a 1").expect("+OK\r\n");
    let fixture = Fixture::watching(&[&primary.addr, &replica.addr], None);
    let up = fixture.probe("in sync", &replica.addr, |l| in_sync(l) && l.keys == 1).await;
    let seen = fixture.report(&replica.addr).unwrap().in_sync.unwrap();
    assert_eq!((seen.to.as_str(), &seen.replid), (primary.addr.as_str(), &up.replid));
    primary.kill();
    let down = fixture.probe("its link is down", &replica.addr, |l| !in_sync(l)).await;
    assert!(down.offset >= up.offset && down.replid == up.replid, "{down:?}");
    let aged = fixture
        .until("it was in sync some time ago", &replica.addr, |s| s.in_sync.as_ref().unwrap().ago_ms > 1_500)
        .await;
    let linked_then = aged.in_sync.unwrap();
    assert_eq!((linked_then.to, linked_then.replid), (seen.to, seen.replid));
    // After its promotion, the server reports its former replication id.
    Client::connect(replica.port()).call("REPLICAOF NO ONE").expect("+OK\r\n");
    let promoted = fixture.probe("it is a primary", &replica.addr, is_primary).await;
    assert_ne!(promoted.replid, up.replid);
    let (former, until) = promoted.replid2.unwrap();
    assert_eq!(former, up.replid);
    assert!(until > up.offset, "the first offset that does not belong to the former id: {until}");
}

/// Each request that is answered in an unexpected way asks for a probe. At most one per 100 ms is made.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_probed_immediately_when_that_is_asked_for() {
    const PROBES: u32 = 20;
    let redis = Redis::start_with(&[]);
    let fixture = Fixture::watching(&[&redis.addr], None);
    let addr = HostPort::parse(&redis.addr).unwrap();
    fixture.probe("it is a primary", &redis.addr, is_primary).await;
    assert!(!fixture.prober.probe_now(&HostPort::parse("127.0.0.1:1").unwrap()), "it is not watched");
    let mut probed = fixture.prober.probed();
    probed.borrow_and_update();
    let began = std::time::Instant::now();
    for _ in 0..PROBES {
        (0..100).for_each(|_| assert!(fixture.prober.probe_now(&addr)));
        tokio::time::timeout(PATIENCE, probed.changed()).await.unwrap().unwrap();
    }
    let took = began.elapsed();
    // Unasked, they would take 450 ms each, or longer. The first of them may begin at once.
    assert!(took < PROBES * Duration::from_millis(400), "{PROBES} probes took {took:?}");
    assert!(took > (PROBES - 2) * Duration::from_millis(99), "{PROBES} probes took {took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_rejects_the_password_is_alive() {
    let redis = Redis::start_with(&["--requirepass", "right"]);
    let fixture = Fixture::watching(&[&redis.addr], Some("wrong"));
    let report = fixture.until("it rejects the password", &redis.addr, |s| !s.error.is_empty()).await;
    assert_eq!((report.failing_ms, &report.probe), (None, &None));
    assert!(report.error.contains("refuses the password of its group"), "{report:?}");
    assert!(!report.error.contains("wrong "), "the report must not contain the password: {report:?}");
    fixture.state.send_replace(Arc::new(cluster(&[&redis.addr], None)));
    let needed = |s: &ProbeReport| s.error.contains("wants a password") && s.failing_ms.is_none();
    fixture.until("it requires a password", &redis.addr, needed).await;
    fixture.state.send_replace(Arc::new(cluster(&[&redis.addr], Some("right"))));
    fixture.probe("it answers", &redis.addr, is_primary).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_loads_is_alive_and_not_ready() {
    // As Redis does while it loads: it answers ROLE and INFO.
    let loads = fake(|mut conn| {
        while let Some(request) = conn.request() {
            match (&request[0][..], request.get(1).map(|s| &s[..])) {
                (b"PING", _) => conn.reply(b"-LOADING Redis is loading the dataset in memory\r\n"),
                (b"ROLE", _) => conn.reply(b"*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n"),
                (b"INFO", Some(b"replication")) => {
                    let text = "# Replication\r\nrole:master\r\nmaster_replid:abc\r\nmaster_repl_offset:12\r\n";
                    conn.reply(format!("${}\r\n{text}\r\n", text.len()).as_bytes());
                }
                _ => conn.reply(b"-LOADING Redis is loading the dataset in memory\r\n"),
            }
        }
    });
    // A server that gives no other answer while it loads.
    let only_loads = fake(|mut conn| {
        while conn.request().is_some() {
            conn.reply(b"-LOADING Redis is loading the dataset in memory\r\n");
        }
    });
    let fixture = Fixture::watching(&[&loads, &only_loads], None);
    let probe = fixture.probe("it loads", &loads, |l| l.loading).await;
    assert_eq!((probe.replid.as_str(), probe.offset, probe.run_id.as_str(), probe.persistent), ("abc", 12, "", None));
    let report = fixture.until("it only answers that it loads", &only_loads, |s| s.error.contains("loading")).await;
    assert_eq!((report.probe, report.failing_ms), (None, None));
}

/// While a server loads, it has only some of its keys. The prober asks for the number of keys again as soon as it has
/// loaded.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_has_just_loaded_is_reported_with_all_its_keys() {
    let pings = AtomicU32::new(0);
    let loads = fake(move |mut conn| {
        let bulk = |text: &str| format!("${}\r\n{text}\r\n", text.len()).into_bytes();
        while let Some(request) = conn.request() {
            let loading = pings.load(Ordering::SeqCst) <= 1;
            match (&request[0][..], request.get(1).map(|s| &s[..])) {
                (b"PING", _) => match pings.fetch_add(1, Ordering::SeqCst) {
                    0 => conn.reply(b"-LOADING Redis is loading the dataset in memory\r\n"),
                    _ => conn.reply(b"+PONG\r\n"),
                },
                (b"ROLE", _) => conn.reply(b"*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n"),
                (b"INFO", Some(b"keyspace")) => {
                    let keys = if loading { 10 } else { 100 };
                    conn.reply(&bulk(&format!("# Keyspace\r\ndb0:keys={keys},expires=0,avg_ttl=0\r\n")));
                }
                (b"INFO", Some(b"persistence")) => conn.reply(&bulk("# Persistence\r\naof_enabled:0\r\n")),
                (b"INFO", _) => conn.reply(&bulk("# Replication\r\nrole:master\r\nmaster_replid:abc\r\n")),
                (b"CONFIG", _) => conn.reply(b"*2\r\n$4\r\nsave\r\n$0\r\n\r\n"),
                _ => conn.reply(b"+OK\r\n"),
            }
        }
    });
    let fixture = Fixture::watching(&[&loads], None);
    let probe = fixture.probe("it loads", &loads, |l| l.loading).await;
    assert_eq!((probe.keys, probe.persistent), (10, None), "persistence must be unknown while the server loads");
    let probe = fixture.probe("it has loaded", &loads, |l| !l.loading).await;
    assert_eq!((probe.keys, probe.persistent), (100, Some(false)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_speak_the_redis_protocol_fails() {
    let web = fake(|mut conn| {
        while conn.request().is_some() {
            conn.reply(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let fixture = Fixture::watching(&[&web], None);
    let report = fixture.until("it fails", &web, |s| s.failing_ms.is_some()).await;
    assert!(report.error.contains("does not answer as a Redis server does"), "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_server_is_no_longer_probed() {
    let (stays, leaves) = (Redis::start(), Redis::start());
    let fixture = Fixture::watching(&[&stays.addr, &leaves.addr], None);
    fixture.probe("the server to be removed", &leaves.addr, is_primary).await;
    fixture.probe("the other server", &stays.addr, is_primary).await;
    assert_eq!(probers(&leaves).len(), 1);
    let before = probers(&stays);
    fixture.state.send_replace(Arc::new(cluster(&[&stays.addr], None)));
    let end = std::time::Instant::now() + PATIENCE;
    while !probers(&leaves).is_empty() || fixture.report(&leaves.addr).is_some() {
        assert!(std::time::Instant::now() < end, "the removed server is still probed");
        tokio::task::yield_now().await;
    }
    let id = |lines: &[String]| lines[0].split(' ').next().unwrap().to_owned();
    assert_eq!(id(&probers(&stays)), id(&before), "the connection to the other server must stay open");
}

/// The connection is closed by the other side, as `CLIENT KILL` and proxies do. This is not a failure of the server.
#[tokio::test(flavor = "multi_thread")]
async fn a_closed_connection_is_reopened_at_once() {
    let redis = Redis::start();
    let fixture = Fixture::watching(&[&redis.addr], None);
    fixture.probe("the server", &redis.addr, is_primary).await;
    let id = |line: &String| line.split(' ').next().unwrap().trim_start_matches("id=").to_owned();
    let first = id(&probers(&redis)[0]);
    Client::connect(redis.port()).call(&format!("CLIENT KILL ID {first}")).expect(":1\r\n");
    let end = std::time::Instant::now() + PATIENCE;
    while probers(&redis).first().map(id).is_none_or(|now| now == first) {
        assert!(std::time::Instant::now() < end, "the connection is not reopened");
        let report = fixture.report(&redis.addr).unwrap();
        assert_eq!((report.failing_ms, report.error.as_str()), (None, ""));
        tokio::task::yield_now().await;
    }
    fixture.probe("the server again", &redis.addr, is_primary).await;
}

/// A program that receives and acknowledges the primary's replication stream as a replica does, without reporting a
/// port.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_without_a_port_is_counted_when_it_acknowledges() {
    use std::io::{BufRead, BufReader, Read, Write};
    let primary = Redis::start_with(&["--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"]);
    let fixture = Fixture::watching(&[&primary.addr], None);
    let mut stream = std::net::TcpStream::connect(&primary.addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    stream.write_all(b"PSYNC ? -1\r\n").unwrap();
    let mut line = String::new();
    while !line.starts_with('$') {
        line.clear();
        assert!(reader.read_line(&mut line).unwrap() > 0, "the primary closed the connection");
    }
    let mut copy = vec![0; line[1..].trim_end().parse().unwrap()];
    reader.read_exact(&mut copy).unwrap();
    // As the mover's feed does: it acknowledges offset 0.
    stream.write_all(b"REPLCONF ACK 0\r\n").unwrap();
    let mut client = Client::connect(primary.port());
    loop {
        // Five lines: an array of three elements, the role in two lines, the offset, the number of replicas.
        let listed = client.call("ROLE").line() == "*3" && (0..4).map(|_| client.line()).last().unwrap() == "*1";
        if listed {
            // An array of three strings.
            (0..7).for_each(|_| drop(client.line()));
            break;
        }
    }
    // A probe that has seen this write was executed after the replica had been listed.
    client.call(&format!("SET k {}", "v".repeat(1_000))).expect("+OK\r\n");
    let probe = fixture.probe("the write", &primary.addr, |probe| probe.offset > 1_000).await;
    assert_eq!((probe.unnamed_replicas, is_primary(&probe)), (0, true));
    stream.write_all(b"REPLCONF ACK 7\r\n").unwrap();
    fixture.probe("an unmanaged replica", &primary.addr, |probe| probe.unnamed_replicas == 1).await;
    drop((stream, reader));
    fixture.probe("the replica has disconnected", &primary.addr, |probe| probe.unnamed_replicas == 0).await;
}
