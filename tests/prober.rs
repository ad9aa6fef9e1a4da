//! `node::prober` against real redis-servers and scripted ones: what is seen of a server that dies, hangs, loads, refuses,
//! follows and comes back. Knows nothing of what the leader makes of it.
#![allow(clippy::unwrap_used)]

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use common::{Client, PATIENCE, Redis, fake};
use pontoon::{
    model::{
        apply::apply,
        change::{Bootstrap, Change, CreateGroup, NewMember},
        ids::{Epoch, GroupId, HostPort, NodeId, ProductId, Term, Uuid},
        secret::{Credentials, Secret},
        state::{ClusterState, Entry, Position, Server},
    },
    node::probe::{connection::PROBE_TIMEOUT, prober::Prober},
    plan::observation::{Probe, ProbeReport, ReportedRole},
};
use tokio::sync::watch;

/// Between two probes of a condition when no news come.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
const CLUSTER: Uuid = Uuid(0x77);
/// Two probes, the second of which began when the first ended, and something for a machine that is busy.
const FRESH_MS: u64 = 1_400;

/// A node's prober, and the state it follows.
struct Bed {
    prober: Prober,
    state: watch::Sender<Arc<ClusterState>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Bed {
    fn watching(servers: &[&str], password: Option<&str>) -> Self {
        let prober = Prober::new(NodeId(7));
        let (state, watched) = watch::channel(Arc::new(cluster(servers, password)));
        let task = tokio::spawn(prober.clone().run(|| Some(CLUSTER), watched));
        Self { prober, state, task }
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

    /// A probe that was answered, and not long ago.
    async fn probe(&self, what: &str, server: &str, met: impl Fn(&Probe) -> bool) -> Probe {
        let fresh =
            |s: &ProbeReport| s.probe.as_ref().is_some_and(|(l, age)| *age < FRESH_MS && s.error.is_empty() && met(l));
        self.until(what, server, fresh).await.probe.unwrap().0
    }
}

/// A group of these servers.
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
    });
    let mut changes = vec![Change::Bootstrap(Bootstrap { members: vec![member], port: 19_000 })];
    changes.extend((!servers.is_empty()).then_some(group));
    for (index, change) in (1u64..).zip(changes) {
        let entry = Entry { id: Uuid(index.into()), request_hash: 0, at_ms: 0, change };
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

/// The lines of CLIENT LIST that are of probers.
fn probers(redis: &Redis) -> Vec<String> {
    let mut client = Client::connect(redis.port());
    let head = client.call("CLIENT LIST").line();
    let mut text = vec![0; head[1..].parse::<usize>().unwrap()];
    std::io::Read::read_exact(&mut client.stream, &mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    text.lines().filter(|line| line.contains(&format!("name=pt:{CLUSTER}:probe:7 "))).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_servers_say_is_seen() {
    let primary = Redis::start_with(&["--appendonly", "yes", "--repl-diskless-sync-delay", "0"]);
    let replica = replica_of(&primary, &[]);
    let mut client = Client::connect(primary.port());
    client.call("SET a 1").expect("+OK\r\n").call("SELECT 3").expect("+OK\r\n").call("SET b 1").expect("+OK\r\n");
    let bed = Bed::watching(&[&primary.addr, &replica.addr], None);
    let of_replica = bed.probe("a replica in step", &replica.addr, |l| in_sync(l) && l.keys == 2).await;
    let address = HostPort::parse(&replica.addr).unwrap();
    let acked = |l: &Probe| match &l.role {
        ReportedRole::Primary { replicas } => replicas.iter().any(|(r, offset)| *r == address && *offset > 0),
        ReportedRole::Replica { .. } => false,
    };
    let of_primary = bed.probe("a primary and its replica", &primary.addr, acked).await;
    assert_eq!(of_primary.replid, of_replica.replid);
    assert_eq!((of_primary.run_id.len(), of_primary.keys), (40, 2));
    assert_ne!(of_primary.run_id, of_replica.run_id);
    assert!(of_primary.used_memory > 100_000 && of_primary.ping_us > 0 && !of_primary.loading, "{of_primary:?}");
    assert_eq!((of_primary.persistent, of_replica.persistent), (Some(true), Some(false)));
    assert_eq!((&of_primary.replid2, &of_replica.replid2), (&None, &None));
    let ReportedRole::Replica { of, link_down_ms, .. } = &of_replica.role else { panic!("{of_replica:?}") };
    assert_eq!((of.as_str(), *link_down_ms), (primary.addr.as_str(), 0));
    // Both count what is written.
    client.call("SET c 1").expect("+OK\r\n");
    let further = bed.probe("a write", &primary.addr, |l| l.offset > of_primary.offset).await.offset;
    bed.probe("the same write", &replica.addr, |l| l.offset >= further).await;
    assert_eq!(probers(&primary).len(), 1, "one connection, by its name");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_fails_and_comes_back_as_another() {
    let mut primary = Redis::start();
    let bed = Bed::watching(&[&primary.addr], None);
    let before = bed.probe("it", &primary.addr, is_primary).await;
    let mut news = bed.prober.news();
    news.borrow_and_update();
    primary.kill();
    let gone = std::time::Instant::now();
    let report = bed.until("it fails", &primary.addr, |s| s.failing_ms.is_some()).await;
    assert!(gone.elapsed() < PATIENCE / 2, "the broken connection tells");
    assert!(report.error.contains("cannot be reached"), "{report:?}");
    assert_eq!(report.probe.unwrap().0.run_id, before.run_id, "what was seen stays");
    tokio::time::timeout(PATIENCE, news.changed()).await.unwrap().unwrap();
    let failing = bed.until("it fails on", &primary.addr, |s| s.failing_ms.is_some_and(|ms| ms > 1_200)).await;
    let (_, age_ms) = failing.probe.unwrap();
    assert!(failing.failing_ms.unwrap() <= age_ms, "since the first probe that failed");
    let port = primary.port();
    drop(primary);
    let again = Redis::start_at(port, &[]);
    let after = bed.probe("it answers again", &again.addr, |l| l.run_id != before.run_id).await;
    assert_eq!(after.run_id.len(), 40);
    assert_eq!(bed.report(&again.addr).unwrap().failing_ms, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_fails_by_the_deadline_and_delays_no_other() {
    let (hung, other) = (Redis::start(), Redis::start());
    let bed = Bed::watching(&[&hung.addr, &other.addr], None);
    let before = bed.probe("the one", &hung.addr, is_primary).await;
    bed.probe("the other", &other.addr, is_primary).await;
    hung.signal("STOP");
    let report = bed.until("it fails", &hung.addr, |s| s.failing_ms.is_some()).await;
    assert!(report.error.contains("in time"), "{report:?}");
    assert!(report.failing_ms.unwrap() >= PROBE_TIMEOUT.as_millis() as u64, "since that probe began: {report:?}");
    bed.until("it hangs on", &hung.addr, |s| s.failing_ms.is_some_and(|ms| ms > 2_500)).await;
    bed.probe("the other", &other.addr, is_primary).await;
    assert_eq!(bed.report(&other.addr).unwrap().failing_ms, None);
    hung.signal("CONT");
    let after = bed.probe("it goes on", &hung.addr, is_primary).await;
    assert_eq!(after.run_id, before.run_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_without_its_primary_keeps_its_offset_and_says_that_its_link_is_down() {
    let mut primary = Redis::start_with(&["--repl-diskless-sync-delay", "0"]);
    let replica = replica_of(&primary, &[]);
    Client::connect(primary.port()).call("SET a 1").expect("+OK\r\n");
    let bed = Bed::watching(&[&primary.addr, &replica.addr], None);
    let up = bed.probe("in step", &replica.addr, |l| in_sync(l) && l.keys == 1).await;
    let seen = bed.report(&replica.addr).unwrap().in_sync.unwrap();
    assert_eq!((seen.to.as_str(), &seen.replid), (primary.addr.as_str(), &up.replid));
    primary.kill();
    let down = bed.probe("its link is down", &replica.addr, |l| !in_sync(l)).await;
    assert!(down.offset >= up.offset && down.replid == up.replid, "{down:?}");
    let aged = bed.until("it was in step", &replica.addr, |s| s.in_sync.as_ref().unwrap().ago_ms > 1_500).await;
    let linked_then = aged.in_sync.unwrap();
    assert_eq!((linked_then.to, linked_then.replid), (seen.to, seen.replid));
    // Promoted, it tells under which id its offsets counted before.
    Client::connect(replica.port()).call("REPLICAOF NO ONE").expect("+OK\r\n");
    let promoted = bed.probe("it is a primary", &replica.addr, is_primary).await;
    assert_ne!(promoted.replid, up.replid);
    let (former, until) = promoted.replid2.unwrap();
    assert_eq!(former, up.replid);
    assert!(until > up.offset, "the first offset that is not of it: {until}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_refuses_the_password_is_alive() {
    let redis = Redis::start_with(&["--requirepass", "right"]);
    let bed = Bed::watching(&[&redis.addr], Some("wrong"));
    let report = bed.until("it refuses", &redis.addr, |s| !s.error.is_empty()).await;
    assert_eq!((report.failing_ms, &report.probe), (None, &None));
    assert!(report.error.contains("refuses the password of its group"), "{report:?}");
    assert!(!report.error.contains("wrong "), "no password in it: {report:?}");
    bed.state.send_replace(Arc::new(cluster(&[&redis.addr], None)));
    let needed = |s: &ProbeReport| s.error.contains("wants a password") && s.failing_ms.is_none();
    bed.until("it wants one", &redis.addr, needed).await;
    bed.state.send_replace(Arc::new(cluster(&[&redis.addr], Some("right"))));
    bed.probe("it answers", &redis.addr, is_primary).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_loads_is_alive_and_not_ready() {
    // As Redis does: ROLE and INFO are answered while it loads.
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
    // And one that says nothing else.
    let only_loads = fake(|mut conn| {
        while conn.request().is_some() {
            conn.reply(b"-LOADING Redis is loading the dataset in memory\r\n");
        }
    });
    let bed = Bed::watching(&[&loads, &only_loads], None);
    let probe = bed.probe("it loads", &loads, |l| l.loading).await;
    assert_eq!((probe.replid.as_str(), probe.offset, probe.run_id.as_str(), probe.persistent), ("abc", 12, "", None));
    let report = bed.until("it says only that", &only_loads, |s| s.error.contains("loading")).await;
    assert_eq!((report.probe, report.failing_ms), (None, None));
}

/// As long as it loads it has some of its keys; what it has is asked again as soon as it has all.
#[tokio::test(flavor = "multi_thread")]
async fn the_keys_of_a_server_that_has_just_loaded_are_all_of_them() {
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
    let bed = Bed::watching(&[&loads], None);
    let probe = bed.probe("it loads", &loads, |l| l.loading).await;
    assert_eq!((probe.keys, probe.persistent), (10, None), "what it is configured to does not count yet");
    let probe = bed.probe("it has loaded", &loads, |l| !l.loading).await;
    assert_eq!((probe.keys, probe.persistent), (100, Some(false)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_answers_no_redis_fails() {
    let web = fake(|mut conn| {
        while conn.request().is_some() {
            conn.reply(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let bed = Bed::watching(&[&web], None);
    let report = bed.until("it fails", &web, |s| s.failing_ms.is_some()).await;
    assert!(report.error.contains("does not answer as a Redis server does"), "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_leaves_is_looked_at_no_more() {
    let (stays, leaves) = (Redis::start(), Redis::start());
    let bed = Bed::watching(&[&stays.addr, &leaves.addr], None);
    bed.probe("the one", &leaves.addr, is_primary).await;
    bed.probe("the other", &stays.addr, is_primary).await;
    assert_eq!(probers(&leaves).len(), 1);
    let before = probers(&stays);
    bed.state.send_replace(Arc::new(cluster(&[&stays.addr], None)));
    let end = std::time::Instant::now() + PATIENCE;
    while !probers(&leaves).is_empty() || bed.report(&leaves.addr).is_some() {
        assert!(std::time::Instant::now() < end, "it is watched on");
        tokio::task::yield_now().await;
    }
    let id = |lines: &[String]| lines[0].split(' ').next().unwrap().to_owned();
    assert_eq!(id(&probers(&stays)), id(&before), "the connection to the other stays");
}

/// The connection is closed under it, as `CLIENT KILL` and a proxy in between do: that is no failure.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_closed_is_opened_again_at_once() {
    let redis = Redis::start();
    let bed = Bed::watching(&[&redis.addr], None);
    bed.probe("it", &redis.addr, is_primary).await;
    let id = |line: &String| line.split(' ').next().unwrap().trim_start_matches("id=").to_owned();
    let first = id(&probers(&redis)[0]);
    Client::connect(redis.port()).call(&format!("CLIENT KILL ID {first}")).expect(":1\r\n");
    let end = std::time::Instant::now() + PATIENCE;
    while probers(&redis).first().map(id).is_none_or(|now| now == first) {
        assert!(std::time::Instant::now() < end, "it is not opened again");
        let report = bed.report(&redis.addr).unwrap();
        assert_eq!((report.failing_ms, report.error.as_str()), (None, ""));
        tokio::task::yield_now().await;
    }
    bed.probe("it", &redis.addr, is_primary).await;
}

/// A program that takes the primary's stream and says that it has it, as a replica does, and tells no port.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_without_a_port_is_counted_when_it_acknowledges() {
    use std::io::{BufRead, BufReader, Read, Write};
    let primary = Redis::start_with(&["--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"]);
    let bed = Bed::watching(&[&primary.addr], None);
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
    // As a feed of ours does.
    stream.write_all(b"REPLCONF ACK 0\r\n").unwrap();
    let mut client = Client::connect(primary.port());
    loop {
        // Five lines: an array of three, the role in two, the offset, how many replicas.
        let listed = client.call("ROLE").line() == "*3" && (0..4).map(|_| client.line()).last().unwrap() == "*1";
        if listed {
            // An array of three strings.
            (0..7).for_each(|_| drop(client.line()));
            break;
        }
    }
    // What a probe says that has seen this write, it says of the replica that was listed before.
    client.call(&format!("SET k {}", "v".repeat(1_000))).expect("+OK\r\n");
    let probe = bed.probe("the write", &primary.addr, |probe| probe.offset > 1_000).await;
    assert_eq!((probe.unnamed_replicas, is_primary(&probe)), (0, true));
    stream.write_all(b"REPLCONF ACK 7\r\n").unwrap();
    bed.probe("a foreign replica", &primary.addr, |probe| probe.unnamed_replicas == 1).await;
    drop((stream, reader));
    bed.probe("it has gone", &primary.addr, |probe| probe.unnamed_replicas == 0).await;
}
