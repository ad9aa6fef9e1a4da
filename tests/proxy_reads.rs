//! Reads at replicas, with scripted servers: which reads go to replicas, and how those are repeated that a replica
//! fails.
#![allow(clippy::unwrap_used)]

mod common;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use common::{Bed, Client, FAKE_RUN_ID, PATIENCE, fake, held, request, with_product};
use pontoon::{
    clock::boottime_ns,
    model::{
        ids::{Epoch, GroupId, HostPort, ProductId, SlotId},
        reads::{GroupReads, ProductReads, ReadFrom, ReadPolicy, ReadTable, Readable},
        route::HoldKind,
        slot::Layout,
    },
    proxy::Limits,
};

const SECOND: u64 = 1_000_000_000;
/// Longer than any test.
const LONG: u64 = 3600 * SECOND;

/// A server that answers all requests with its name.
fn named(name: &'static str) -> String {
    fake(move |mut conn| {
        while let Some(args) = conn.request() {
            match &*args[0] {
                b"MGET" => {
                    let values: String = args[1..].iter().map(|_| format!("+{name}\r\n")).collect();
                    conn.reply(format!("*{}\r\n{values}", args.len() - 1).as_bytes());
                }
                _ => conn.reply(format!("+{name}\r\n").as_bytes()),
            }
        }
    })
}

/// A primary that answers with its name, and a replica.
struct Pair {
    bed: Bed,
    replica: HostPort,
}

impl Pair {
    fn start(replica: &str, from: ReadFrom) -> Self {
        Self::start_with(replica, from, Limits::default())
    }

    fn start_with(replica: &str, from: ReadFrom, limits: Limits) -> Self {
        Self::between(&named("primary"), replica, from, limits)
    }

    fn between(primary: &str, replica: &str, from: ReadFrom, limits: Limits) -> Self {
        let replica = HostPort::parse(replica).unwrap();
        let bed = Bed::start_with(&[primary], limits, 1, |table| {
            with_product(table, |p| {
                p.reads = ReadPolicy { from, own_writes: false, ..ReadPolicy::default() };
                p.groups[0].replicas = vec![replica.clone()];
            })
        });
        Self { bed, replica }
    }

    /// The entry of the read table for a replica that was found in sync just now.
    fn in_sync(&self) -> Readable {
        let now_ns = boottime_ns();
        Readable {
            addr: self.replica.clone(),
            run_id: FAKE_RUN_ID.into(),
            has_ns: now_ns,
            as_of: Epoch(1),
            until_ns: now_ns + LONG,
        }
    }

    fn publish(&self, replicas: Vec<Readable>, none: &str, moving: Vec<SlotId>) {
        let group = GroupReads { replicas, none: none.into() };
        let reads = ProductReads { groups: BTreeMap::from([(GroupId(1), group)]), moving };
        let table = ReadTable { products: BTreeMap::from([(ProductId(1), Arc::new(reads))]) };
        self.bed.reads.send_replace(Arc::new(table));
    }

    /// Publishes that the replica may serve, and waits until the proxy uses it.
    fn serve(&self) -> Client {
        self.publish(vec![self.in_sync()], "", Vec::new());
        let mut client = self.bed.client();
        until(&mut client, "GET k", "+replica");
        client
    }
}

/// Repeats a request until the reply begins with `start`. Tables reach a worker only between two of its turns.
#[track_caller]
fn until(client: &mut Client, words: &str, start: &str) -> String {
    let end = Instant::now() + PATIENCE;
    loop {
        let line = client.call(words).line();
        if line.starts_with(start) {
            return line;
        }
        assert!(Instant::now() < end, "{words} is answered {line}, not {start}");
    }
}

#[test]
fn only_reads_go_to_a_replica() {
    let pair = Pair::start(&named("replica"), ReadFrom::PreferReplica);
    let mut client = pair.bed.client();
    client.call("GET k").expect("+primary\r\n");
    let mut client = {
        pair.serve();
        client
    };
    for read in
        ["GET k", "TTL k", "EXISTS k", "HGETALL k", "EVAL_RO x 1 k", "FCALL_RO f 1 k", "SORT_RO k", "XREAD STREAMS k 0"]
    {
        client.call(read).expect("+replica\r\n");
    }
    client.call("MGET k l").expect("*2\r\n+replica\r\n+replica\r\n");
    for other in [
        "SET k v",
        "GETEX k",
        "GETDEL k",
        "SORT k",
        "BITFIELD k GET u8 0",
        "EVAL x 1 k",
        "FCALL f 1 k",
        "PFCOUNT k",
        "TOUCH k",
        "HSCAN k 0",
        "SSCAN k 0",
        "ZSCAN k 0",
        "OBJECT IDLETIME k",
        "MEMORY USAGE k",
        "XINFO CONSUMERS k g",
    ] {
        client.call(other).expect("+primary\r\n");
    }
    // Another database uses another connection.
    client.call("SELECT 3").expect("+OK\r\n");
    until(&mut client, "GET k", "+replica");
    let report = pair.bed.until("counted", |report| report.stats.replica_reads > 8);
    assert_eq!(report.stats.replica_repeats, 0);
}

#[test]
fn a_replica_serves_only_while_it_may() {
    let pair = Pair::start(&named("replica"), ReadFrom::PreferReplica);
    let mut client = pair.serve();
    let now_ns = boottime_ns();
    pair.publish(vec![Readable { until_ns: now_ns, ..pair.in_sync() }], "", Vec::new());
    until(&mut client, "GET k", "+primary");
    // The time passes without a new read table.
    pair.publish(vec![Readable { until_ns: boottime_ns() + SECOND / 5, ..pair.in_sync() }], "", Vec::new());
    until(&mut client, "GET k", "+replica");
    until(&mut client, "GET k", "+primary");

    let slot = Layout::Codis.slot(b"k");
    let publish = |replica: Readable, moving: Vec<SlotId>| pair.publish(vec![replica], "", moving);
    type Withdrawal<'a> = Box<dyn Fn() + 'a>;
    let withdrawals: [(&str, Withdrawal<'_>); 4] = [
        (
            "its slot changed after what it has",
            Box::new(|| publish(Readable { as_of: Epoch(0), ..pair.in_sync() }, Vec::new())),
        ),
        ("its slot moves", Box::new(|| publish(pair.in_sync(), vec![slot]))),
        (
            "another process than was probed",
            Box::new(|| publish(Readable { run_id: "new".into(), ..pair.in_sync() }, Vec::new())),
        ),
        ("none may", Box::new(|| pair.publish(Vec::new(), "", Vec::new()))),
    ];
    for (why, withdraw) in &withdrawals {
        publish(pair.in_sync(), Vec::new());
        until(&mut client, "GET k", "+replica");
        withdraw();
        until(&mut client, "GET k", "+primary");
        for _ in 0..20 {
            client.call("GET k").expect("+primary\r\n");
        }
        client.call("MGET k {k}2").expect("*2\r\n+primary\r\n+primary\r\n");
        println!("{why}");
    }
    // Other slots are not affected.
    publish(pair.in_sync(), vec![slot]);
    until(&mut client, "GET another", "+replica");
}

#[test]
fn reads_never_go_to_the_primary_if_so_configured() {
    let pair = Pair::start(&named("replica"), ReadFrom::Replica);
    let mut client = pair.bed.client();
    let line = client.call("GET k").line();
    assert!(
        line.starts_with("-TRYAGAIN no replica of group 1 may serve now: ") && line.ends_with(", not executed"),
        "{line}"
    );
    client.call("SET k v").expect("+primary\r\n");
    pair.publish(Vec::new(), "127.0.0.1:9 has lost its primary", Vec::new());
    let line = until(&mut client, "GET k", "-TRYAGAIN no replica of group 1 may serve now: 127.0.0.1:9 has lost");
    assert!(line.ends_with(", not executed"), "{line}");
    let line = client.call("MGET k l").line();
    assert!(line.starts_with("-TRYAGAIN no replica of group 1"), "{line}");
    drop(client);
    let mut client = pair.serve();
    client.call("MGET k l").expect("*2\r\n+replica\r\n+replica\r\n");
    // Scans still go to the primary, because a cursor is valid only at the server that returned it.
    client.call("HSCAN k 0").expect("+primary\r\n");
}

/// A replica that answers normally until the test changes that; then it answers as `script` says.
fn turning(
    script: impl Fn(&mut common::Conn, &[Vec<u8>]) -> bool + Send + Sync + 'static,
) -> (String, Arc<AtomicBool>) {
    let turned = Arc::new(AtomicBool::new(false));
    let is = turned.clone();
    let addr = fake(move |mut conn| {
        while let Some(args) = conn.request() {
            if !is.load(Ordering::SeqCst) {
                conn.reply(b"+replica\r\n");
            } else if !script(&mut conn, &args) {
                return;
            }
        }
    });
    (addr, turned)
}

#[test]
fn reads_are_repeated_if_the_replica_cannot_serve() {
    for (reply, goes_on) in [("-LOADING it loads\r\n", true), ("-MASTERDOWN its link is down\r\n", true), ("", false)] {
        let script = move |conn: &mut common::Conn, _: &[Vec<u8>]| {
            conn.reply(reply.as_bytes());
            goes_on
        };
        let (addr, turned) = turning(script);
        let pair = Pair::start(&addr, ReadFrom::PreferReplica);
        let mut client = pair.serve();
        turned.store(true, Ordering::SeqCst);
        client.call("GET k").expect("+primary\r\n");
        // In order and each once.
        let pipeline = [request("GET k"), request("MGET k l"), request("SET k v"), request("GET k")].concat();
        client.send(pipeline).expect("+primary\r\n*2\r\n+primary\r\n+primary\r\n+primary\r\n+primary\r\n");
        pair.bed.until("repeated", |report| report.stats.replica_repeats > 0);

        let (addr, turned) = turning(script);
        let pair = Pair::start(&addr, ReadFrom::Replica);
        let mut client = pair.serve();
        turned.store(true, Ordering::SeqCst);
        let line = client.call("GET k").line();
        assert!(line.starts_with("-TRYAGAIN "), "{reply}: {line}");
        assert!(line.contains("not delivered, safe to repeat") || line.contains("not executed"), "{line}");
        assert!(!goes_on || line.contains(reply[1..].trim_end()), "{reply}: {line}");
    }
    // An error of the command itself is a valid reply.
    let (addr, turned) = turning(|conn, _| {
        conn.reply(b"-WRONGTYPE no\r\n");
        true
    });
    let pair = Pair::start(&addr, ReadFrom::PreferReplica);
    let mut client = pair.serve();
    turned.store(true, Ordering::SeqCst);
    client.call("GET k").expect("-WRONGTYPE no\r\n");
}

/// The reply of a server, which contains its name for each key.
fn echo(name: &str, args: &[Vec<u8>]) -> String {
    let count = if &args[0] == b"MGET" { format!("*{}\r\n", args.len() - 1) } else { String::new() };
    let keys = args[1..].iter().map(|key| format!("+{name} {}\r\n", String::from_utf8_lossy(key)));
    count + &keys.collect::<String>()
}

/// A backend keeps the requests to a replica until they are answered, and moves them within its buffer. Exactly the
/// requests that the replica fails are repeated.
#[test]
fn exactly_the_failed_reads_are_repeated() {
    let primary = fake(|mut conn| {
        while let Some(args) = conn.request() {
            conn.reply(echo("primary", &args).as_bytes());
        }
    });
    let count = AtomicUsize::new(0);
    let replica = fake(move |mut conn| {
        while let Some(args) = conn.request() {
            match count.fetch_add(1, Ordering::SeqCst) {
                n if n % 701 == 700 => return,
                n if n % 3 == 1 => conn.reply(b"-LOADING it loads\r\n"),
                _ => conn.reply(echo("replica", &args).as_bytes()),
            }
        }
    });
    let pair = Pair::between(&primary, &replica, ReadFrom::PreferReplica, Limits::default());
    let mut client = pair.serve();
    let (mut from_replica, mut from_primary) = (0, 0);
    // Each round has more bytes than are kept before they are moved.
    for round in 0..12 {
        let key = |i: usize| format!("key:{round}:{i}:{}", "x".repeat(i * 37 % 600));
        let words = |i: usize| {
            if i.is_multiple_of(7) { format!("MGET {} {}", key(i), key(i + 1)) } else { format!("GET {}", key(i)) }
        };
        client.send((0..400).map(|i| request(&words(i))).collect::<Vec<_>>().concat());
        for i in 0..400 {
            let words = words(i);
            if words.starts_with("MGET") {
                client.expect("*2\r\n");
            }
            for key in words.split(' ').skip(1) {
                let line = client.line();
                match line.strip_suffix(&format!(" {key}")) {
                    Some("+replica") => from_replica += 1,
                    Some("+primary") => from_primary += 1,
                    _ => panic!("{key} is answered {line}"),
                }
            }
        }
    }
    assert!(from_replica > 1000 && from_primary > 1000, "{from_replica} of the replica, {from_primary} of the primary");
}

#[test]
fn reads_go_to_the_primary_if_the_replica_is_unreachable() {
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let pair = Pair::start(&gone, ReadFrom::PreferReplica);
    pair.publish(vec![pair.in_sync()], "", Vec::new());
    let mut client = pair.bed.client();
    for _ in 0..50 {
        client.call("GET k").expect("+primary\r\n");
    }
    let pair = Pair::start(&gone, ReadFrom::Replica);
    pair.publish(vec![pair.in_sync()], "", Vec::new());
    let mut client = pair.bed.client();
    until(&mut client, "GET k", "-TRYAGAIN no replica of group 1 may serve now: it cannot be reached");
}

/// A replica that answers when the test allows it.
fn waiting() -> (String, mpsc::SyncSender<()>, mpsc::Receiver<()>) {
    let (replies, to_send) = mpsc::sync_channel::<()>(16);
    let (got, seen) = mpsc::sync_channel(16);
    let to_send = Mutex::new(to_send);
    let addr = fake(move |mut conn| {
        while let Some(args) = conn.request() {
            if args[1] == b"slow" {
                got.send(()).unwrap();
                if to_send.lock().unwrap().recv().is_err() {
                    return;
                }
            }
            conn.reply(b"+replica\r\n");
        }
    });
    (addr, replies, seen)
}

#[test]
fn reads_at_a_hanging_replica_are_repeated() {
    let (addr, _replies, seen) = waiting();
    // Far longer than the test, so that the deadline of the request does not end the wait.
    let limits = Limits { request_deadline: Duration::from_secs(3600), ..Limits::default() };
    let pair = Pair::start_with(&addr, ReadFrom::PreferReplica, limits);
    let mut client = pair.serve();
    client.call("GET slow");
    seen.recv_timeout(PATIENCE).unwrap();
    pair.publish(Vec::new(), "127.0.0.1:9 does not answer this node", Vec::new());
    client.expect("+primary\r\n");
}

#[test]
fn check_2_applies_to_replies_of_replicas() {
    let (addr, replies, seen) = waiting();
    let pair = Pair::start(&addr, ReadFrom::PreferReplica);
    let slot = usize::from(Layout::Codis.slot(b"slow").0);
    let mut client = pair.serve();
    client.call("GET slow");
    seen.recv_timeout(PATIENCE).unwrap();
    // The slot has another owner or another primary before the reply arrives: check 2 withholds it, and the primary is
    // asked.
    let mut table = with_product(pair.bed.table(), |p| p.slots[slot].epoch = Epoch(7));
    table.epoch = Epoch(7);
    pair.bed.publish(table);
    pair.bed.until("the newer table", |report| report.route_epoch == Epoch(7));
    replies.send(()).unwrap();
    client.expect("+primary\r\n");
    // The replica has only the data from before: it serves other slots, but not this one.
    client.call("GET slow").expect("+primary\r\n");
    client.call("GET k").expect("+replica\r\n");

    // The slot is held meanwhile: the hold does not wait for the replica, and its reply is not delivered.
    let pair = Pair::start(&addr, ReadFrom::PreferReplica);
    let mut client = pair.serve();
    client.call("GET slow");
    seen.recv_timeout(PATIENCE).unwrap();
    let table = held(pair.bed.table(), 9, HoldKind::Wait, "slow");
    pair.bed.publish(with_product(table, |p| p.slots[slot].epoch = Epoch(9)));
    pair.bed.until("drained", |report| report.holds.values().any(|hold| hold.drained));
    replies.send(()).unwrap();
    let line = client.line();
    assert!(line.starts_with("-TRYAGAIN not delivered, safe to repeat"), "{line}");

    // Without a lease, no reply is delivered.
    let pair = Pair::start(&addr, ReadFrom::PreferReplica);
    let mut client = pair.serve();
    client.call("GET slow");
    seen.recv_timeout(PATIENCE).unwrap();
    pair.bed.permit.revoke();
    replies.send(()).unwrap();
    let line = client.line();
    assert!(line.starts_with("-TRYAGAIN not delivered, safe to repeat"), "{line}");
    let line = client.call("GET k").line();
    assert!(line.starts_with("-CLUSTERDOWN"), "{line}");
}

#[test]
fn a_session_reads_its_own_writes() {
    let pair = Pair::start(&named("replica"), ReadFrom::PreferReplica);
    let mut table = with_product(pair.bed.table(), |p| p.reads.own_writes = true);
    table.epoch = Epoch(2);
    pair.bed.publish(table);
    pair.bed.until("the setting", |report| report.route_epoch == Epoch(2));
    let mut client = pair.serve();
    let mut other = pair.bed.client();
    // In one write: the write is not answered yet when the read is dispatched.
    client.send([request("SET k v"), request("GET k")].concat()).expect("+primary\r\n+primary\r\n");
    for _ in 0..20 {
        client.call("GET k").expect("+primary\r\n");
        client.call("MGET k l").expect("*2\r\n+primary\r\n+primary\r\n");
        // A session without writes may read at the replica.
        other.call("GET k").expect("+replica\r\n");
    }
    pair.publish(vec![pair.in_sync()], "", Vec::new());
    until(&mut client, "GET k", "+replica");
    // Split writes and scripts count, too.
    for write in ["MSET k v l w", "EVAL x 1 k", "DEL k"] {
        client.call(write).line();
        client.call("GET k").expect("+primary\r\n");
        client.call("GET k").expect("+primary\r\n");
        pair.publish(vec![pair.in_sync()], "", Vec::new());
        until(&mut client, "GET k", "+replica");
    }
}
