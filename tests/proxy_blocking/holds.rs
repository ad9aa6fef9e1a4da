//! Holds: blocked calls are ended at their server, and sent again behind the hold, with the time that is left.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use pontoon::model::slot::Layout;

use super::*;
use common::{Conn, fake_with};

/// A key of the first group of two.
fn key() -> &'static str {
    assert!(Layout::Codis.slot(b"foo").0 < 512);
    "foo"
}

fn two_servers() -> (Redis, Redis, Bed) {
    let (one, two) = (Redis::start(), Redis::start());
    let bed = Bed::start_with(&[&one.addr, &two.addr], patient(), 1, |table| table);
    (one, two, bed)
}

#[test]
fn a_hold_that_is_released_lets_calls_block_again() {
    let redis = Redis::start();
    let bed = Bed::start_with(&[&redis.addr], patient(), 1, |table| table);
    let mut client = blocked(&bed, &redis, "BLPOP q 0");
    let mut other = blocked(&bed, &redis, "BLPOP other 0");
    hold(&bed, 9, "q");
    assert_eq!(info(&redis, "blocked_clients"), 1, "a call of another slot stays");
    let connections = info(&redis, "total_connections_received");
    bed.publish(released(bed.table(), 9));
    wait_blocked(&redis, 2);
    let since = info(&redis, "total_connections_received") - connections;
    direct(&redis).call("RPUSH q a b").expect(":2\r\n").call("RPUSH other c").expect(":1\r\n");
    client.expect(&texts(&["q", "a"])).call("PING").expect("+PONG\r\n");
    other.expect(&texts(&["other", "c"]));
    direct(&redis).call("LLEN q").expect(":1\r\n");
    let stats = bed.until("the interruption is counted", |r| r.stats.blocked_by_holds == 1).stats;
    assert_eq!((stats.blocked_lost, stats.unknown), (0, 0));
    // One connection for each question here, none for the calls.
    assert!(since <= 1 + info(&redis, "total_connections_received"), "{since}");
}

#[test]
fn a_call_follows_its_slot() {
    let (one, two, bed) = two_servers();
    let mut client = blocked(&bed, &one, &format!("BLPOP {} 0", key()));
    hold(&bed, 9, key());
    wait_blocked(&one, 0);
    bed.publish(moved(released(bed.table(), 9), key(), 1));
    wait_blocked(&two, 1);
    direct(&one).call(&format!("RPUSH {} old", key())).expect(":1\r\n");
    direct(&two).call(&format!("RPUSH {} new", key())).expect(":1\r\n");
    client.expect(&texts(&[key(), "new"]));
    direct(&one).call(&format!("LLEN {}", key())).expect(":1\r\n");
}

/// A change of the owner without a hold (an ejection).
#[test]
fn a_call_follows_its_slot_without_a_hold() {
    let (one, two, bed) = two_servers();
    let mut client = blocked(&bed, &one, &format!("BRPOP {} 0", key()));
    let mut table = bed.table();
    table.epoch = Epoch(9);
    bed.publish(moved(table, key(), 1));
    wait_blocked(&two, 1);
    assert_eq!(info(&one, "blocked_clients"), 0);
    direct(&two).call(&format!("RPUSH {} a", key())).expect(":1\r\n");
    client.expect(&texts(&[key(), "a"]));
}

/// While a hold begins, elements come: each is given to one client or stays.
#[test]
fn each_element_is_delivered_once_while_holds_begin_and_end() {
    let (one, two, bed) = two_servers();
    let (pushed, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let taken: Arc<Mutex<Vec<u64>>> = Arc::default();
    let workers: Vec<_> = (0..8)
        .map(|_| {
            let (mut client, taken) = (bed.client(), taken.clone());
            std::thread::spawn(move || {
                loop {
                    client.call(&format!("BLPOP {} 0", key()));
                    client.expect(&format!("*2\r\n$3\r\n{}\r\n", key()));
                    client.line();
                    match client.line().as_str() {
                        "end" => return,
                        element => taken.lock().unwrap().push(element.parse().unwrap()),
                    }
                }
            })
        })
        .collect();
    let pusher = {
        let (mut client, pushed, stop) = (bed.client(), pushed.clone(), stop.clone());
        std::thread::spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                let n = pushed.load(Ordering::SeqCst);
                let reply = client.call(&format!("RPUSH {} {n}", key())).line();
                assert!(reply.starts_with(':'), "{reply}");
                pushed.fetch_add(1, Ordering::SeqCst);
            }
        })
    };
    for round in 0..30 {
        let id = 10 + round * 10;
        hold(&bed, id, key());
        // As a mover does, in one step.
        let (from, to) = if round % 2 == 0 { (&one, &two) } else { (&two, &one) };
        let port = to.addr.rsplit_once(':').unwrap().1;
        let migrate = direct(from).call(&format!("MIGRATE 127.0.0.1 {port} {} 0 5000", key())).line();
        assert!(migrate == "+OK" || migrate == "+NOKEY", "{migrate}");
        bed.publish(moved(released(bed.table(), id), key(), 1 - (round % 2) as u16));
        let before = pushed.load(Ordering::SeqCst);
        wait_until("elements are pushed", || pushed.load(Ordering::SeqCst) >= before + 20);
    }
    stop.store(true, Ordering::SeqCst);
    pusher.join().unwrap();
    let pushed = pushed.load(Ordering::SeqCst);
    wait_until("all elements are taken", || taken.lock().unwrap().len() as u64 >= pushed);
    bed.client().call(&format!("RPUSH {} {}", key(), ["end"; 8].join(" ")));
    workers.into_iter().for_each(|worker| worker.join().unwrap());
    let mut taken = taken.lock().unwrap().clone();
    taken.sort_unstable();
    assert_eq!(taken, (0..pushed).collect::<Vec<_>>());
    assert!(bed.proxy.report().borrow().stats.blocked_lost == 0);
}

#[test]
fn the_time_of_a_call_goes_on_during_a_hold() {
    let redis = Redis::start();
    let bed = Bed::start_with(&[&redis.addr], patient(), 1, |table| table);
    let began = Instant::now();
    let mut client = blocked(&bed, &redis, "BLPOP q 1.5");
    let mut read = blocked(&bed, &redis, "XREAD BLOCK 1500 STREAMS {q}s $");
    hold(&bed, 9, "q");
    bed.publish(held(bed.table(), 10, HoldKind::Wait, "{q}s"));
    // The hold is not released.
    client.expect(NIL);
    read.expect(NIL);
    assert!(began.elapsed() >= Duration::from_millis(1500));
}

#[test]
fn a_call_is_sent_again_with_the_time_that_is_left() {
    let redis = Redis::start();
    let bed = Bed::start_with(&[&redis.addr], patient(), 1, |table| table);
    let mut monitor = direct(&redis);
    monitor.call("MONITOR").expect("+OK\r\n");
    let mut client = bed.client();
    client.call("BLPOP warm 0.001").expect(NIL);
    let began = Instant::now();
    client.call("BLPOP q 3");
    let mut sent = || loop {
        let line = monitor.line();
        if let Some(at) = line.find("\"BLPOP\" \"q\" \"") {
            let timeout = &line[at + "\"BLPOP\" \"q\" \"".len()..];
            return timeout.trim_end_matches('"').to_owned();
        }
    };
    let first: f64 = sent().parse().unwrap();
    assert!(first <= 3.0, "{first}");
    wait_blocked(&redis, 1);
    hold(&bed, 9, "q");
    std::thread::sleep(Duration::from_millis(100));
    bed.publish(released(bed.table(), 9));
    let left: f64 = sent().parse().unwrap();
    assert!(left > 0.0 && left <= first - 0.09, "{left} of {first}");
    client.expect(NIL);
    assert!(began.elapsed() >= Duration::from_secs(3));
}

/// Its answer must be true, so it may come late.
#[test]
fn a_call_that_was_not_sent_yet_waits_for_the_end_of_the_hold() {
    let redis = Redis::start();
    let bed = Bed::start_with(&[&redis.addr], patient(), 1, |table| table);
    bed.client().call("RPUSH q a").expect(":1\r\n");
    hold(&bed, 9, "q");
    let mut client = bed.client();
    client.call("BLPOP q 0.001").call("BLPOP q 0.001");
    std::thread::sleep(Duration::from_millis(50));
    bed.publish(released(bed.table(), 9));
    client.expect(&texts(&["q", "a"])).expect(NIL);
}

#[test]
fn a_call_is_parked_for_its_own_time_or_as_long_as_other_requests() {
    let redis = Redis::start();
    let limits = Limits { parked_for_max: Duration::from_millis(200), ..patient() };
    let bed = Bed::start_with(&[&redis.addr], limits, 1, |table| table);
    hold(&bed, 9, "q");
    let began = Instant::now();
    let mut client = bed.client();
    let line = client.call("BLPOP q 0.01").line();
    assert!(line.starts_with("-TRYAGAIN not executed: its slot was held for too long"), "{line}");
    assert!(began.elapsed() >= Duration::from_millis(200));
    let line = client.call("BLPOP q 0.5").line();
    assert!(line.starts_with("-TRYAGAIN not executed"), "{line}");
    assert!(began.elapsed() >= Duration::from_millis(700));
    client.call("BLPOP q 0");
    std::thread::sleep(Duration::from_millis(400));
    bed.publish(released(bed.table(), 9));
    wait_blocked(&redis, 1);
}

/// `$` is the last id when the call was sent for the first time.
#[test]
fn entries_that_come_during_a_hold_are_not_missed() {
    let redis = Redis::start();
    let bed = Bed::start_with(&[&redis.addr], patient(), 1, |table| table);
    direct(&redis).call("XADD s 5-1 f before").expect("$3\r\n5-1\r\n");
    let mut client = blocked(&bed, &redis, "XREAD BLOCK 0 STREAMS s {s}none $ $");
    hold(&bed, 9, "s");
    wait_blocked(&redis, 0);
    direct(&redis).call("XADD s 5-2 f during").expect("$3\r\n5-2\r\n");
    bed.publish(released(bed.table(), 9));
    client.expect("*1\r\n*2\r\n$1\r\ns\r\n*1\r\n*2\r\n$3\r\n5-2\r\n*2\r\n$1\r\nf\r\n$6\r\nduring\r\n");
    // An empty stream that has had entries.
    direct(&redis).call("XTRIM s MAXLEN 0").line();
    let mut client = blocked(&bed, &redis, "XREAD BLOCK 0 STREAMS s $");
    direct(&redis).call("XADD s 5-3 f v").line();
    client.expect("*1\r\n*2\r\n$1\r\ns\r\n*1\r\n*2\r\n$3\r\n5-3\r\n*2\r\n$1\r\nf\r\n$1\r\nv\r\n");
}

#[test]
fn a_consumer_gets_an_entry_once() {
    let redis = Redis::start();
    let bed = Bed::start_with(&[&redis.addr], patient(), 1, |table| table);
    direct(&redis).call("XGROUP CREATE s g 0 MKSTREAM").expect("+OK\r\n");
    let mut client = blocked(&bed, &redis, "XREADGROUP GROUP g c BLOCK 0 STREAMS s >");
    hold(&bed, 9, "s");
    wait_blocked(&redis, 0);
    bed.publish(released(bed.table(), 9));
    wait_blocked(&redis, 1);
    direct(&redis).call("XADD s 1-1 f v").expect("$3\r\n1-1\r\n");
    client.expect("*1\r\n*2\r\n$1\r\ns\r\n*1\r\n*2\r\n$3\r\n1-1\r\n*2\r\n$1\r\nf\r\n$1\r\nv\r\n");
    assert_eq!(direct(&redis).call("XPENDING s g").line(), "*4");
    let mut pending = direct(&redis);
    pending.call("XPENDING s g - + 10").expect("*1\r\n*4\r\n$3\r\n1-1\r\n$1\r\nc\r\n");
}

#[test]
fn many_calls_are_ended_and_block_again() {
    const CLIENTS: u64 = 300;
    let redis = Redis::start();
    let bed = Bed::start_with(&[&redis.addr], patient(), 2, |table| table);
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| bed.client()).collect();
    clients.iter_mut().for_each(|client| _ = client.call("BLPOP q 0"));
    wait_blocked(&redis, CLIENTS);
    hold(&bed, 9, "q");
    assert_eq!(info(&redis, "blocked_clients"), 0);
    bed.publish(released(bed.table(), 9));
    wait_blocked(&redis, CLIENTS);
    let elements: Vec<String> = (0..CLIENTS).map(|n| n.to_string()).collect();
    direct(&redis).call(&format!("RPUSH q {}", elements.join(" "))).line();
    let mut got: Vec<u64> = clients
        .iter_mut()
        .map(|client| {
            client.expect("*2\r\n$1\r\nq\r\n").line();
            client.line().parse().unwrap()
        })
        .collect();
    got.sort_unstable();
    assert_eq!(got, (0..CLIENTS).collect::<Vec<_>>());
}

/// What a scripted server is asked over its control connections.
#[derive(Default)]
struct Script {
    unblocks: Mutex<Vec<Vec<Vec<u8>>>>,
    /// The connection that is blocked.
    blocked: Mutex<Option<std::net::TcpStream>>,
}

/// A server that blocks, and that takes the first two CLIENT UNBLOCK for too early ones. `run_id`: of each login.
fn slow_to_block(script: &Arc<Script>, run_id: impl Fn() -> String + Send + Sync + 'static) -> String {
    let script = script.clone();
    fake_with(run_id, move |mut conn: Conn| {
        while let Some(request) = conn.request() {
            match (request[0].as_slice(), request.get(1).map(Vec::as_slice)) {
                (b"CLIENT", Some(b"ID")) => conn.reply(b":77\r\n"),
                (b"CLIENT", Some(b"UNBLOCK")) => {
                    let mut unblocks = script.unblocks.lock().unwrap();
                    unblocks.push(request.clone());
                    if unblocks.len() < 3 {
                        conn.reply(b":0\r\n");
                        continue;
                    }
                    std::io::Write::write_all(script.blocked.lock().unwrap().as_mut().unwrap(), NIL.as_bytes())
                        .unwrap();
                    conn.reply(b":1\r\n");
                }
                (b"BLPOP", _) => *script.blocked.lock().unwrap() = Some(conn.stream.try_clone().unwrap()),
                _ => conn.reply(b"+OK\r\n"),
            }
        }
    })
}

/// CLIENT UNBLOCK may overtake the call.
#[test]
fn unblocking_is_tried_until_the_call_is_answered() {
    let script = Arc::<Script>::default();
    let addr = slow_to_block(&script, || "one".into());
    let bed = Bed::start_with(&[&addr], patient(), 1, |table| table);
    let mut client = bed.client();
    client.call("BLPOP q 0");
    wait_until("the call is sent", || script.blocked.lock().unwrap().is_some());
    hold(&bed, 9, "q");
    let unblocks = script.unblocks.lock().unwrap().clone();
    let words = ["CLIENT", "UNBLOCK", "77", "TIMEOUT"].map(|word| word.as_bytes().to_vec()).to_vec();
    assert_eq!(unblocks, vec![words; 3]);
}

/// Ids of connections begin anew with each process: another client would be unblocked.
#[test]
fn only_the_process_that_has_the_call_is_asked_to_end_it() {
    let script = Arc::<Script>::default();
    let logins = AtomicU64::new(0);
    let addr = slow_to_block(&script, move || format!("process {}", logins.fetch_add(1, Ordering::SeqCst)));
    let bed = Bed::start_with(&[&addr], patient(), 1, |table| table);
    let mut client = bed.client();
    client.call("BLPOP q 0");
    wait_until("the call is sent", || script.blocked.lock().unwrap().is_some());
    bed.publish(held(bed.table(), 9, HoldKind::Wait, "q"));
    bed.until("the hold waits", |r| {
        r.holds.get(&HoldId(9)).is_some_and(|hold| hold.waiting_on.contains("blocking call"))
    });
    let mut other = bed.client();
    (0..50).for_each(|_| _ = other.call("PING").expect("+PONG\r\n"));
    assert_eq!(script.unblocks.lock().unwrap().len(), 0);
    // The client leaves: then the connection is closed.
    drop(client);
    bed.until("the hold has drained", |r| r.holds.get(&HoldId(9)).is_some_and(|hold| hold.drained));
}
