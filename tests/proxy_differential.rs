//! Random pipelines of several clients through the proxy. Connections to servers are cut and hang, and slots move under
//! holds. A single redis-server gets the same commands directly: every reply must be the same or a truthful error.
#![allow(clippy::unwrap_used)]

mod common;

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use common::{Bed, PATIENCE, Redis, held};
use pontoon::{
    model::{
        ids::{Epoch, HoldId},
        route::HoldKind,
        slot::Layout,
    },
    proxy::Limits,
    resp::{reply::ReplyScanner, write},
};

const CLIENTS: usize = 6;
const PIPELINES: usize = 45;
const DATABASES: usize = 3;
/// Hash tags in different slots, which move.
const TAGS: usize = 8;
/// Seeds of each run; `PONTOON_SEED` runs a single other one.
const SEEDS: [u64; 2] = [1, 20_261_121];

type Words = Vec<Vec<u8>>;

/// A connection of bytes.
struct Raw {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Raw {
    fn connect(addr: &str) -> Self {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::new() }
    }

    fn send(&mut self, requests: &[&Words]) {
        let mut out = Vec::new();
        for words in requests {
            write::request(&mut out, &words.iter().map(Vec::as_slice).collect::<Vec<_>>());
        }
        self.stream.write_all(&out).unwrap();
    }

    fn reply(&mut self) -> Vec<u8> {
        let mut scanner = ReplyScanner::default();
        loop {
            if let Some(len) = scanner.scan(&self.buffer).unwrap() {
                return self.buffer.drain(..len).collect();
            }
            let mut more = [0; 16 * 1024];
            let n = self.stream.read(&mut more).unwrap();
            assert!(n > 0, "closed with {:?} unread", String::from_utf8_lossy(&self.buffer));
            self.buffer.extend_from_slice(&more[..n]);
        }
    }

    fn call(&mut self, text: &str) -> Vec<u8> {
        self.send(&[&words(text)]);
        self.reply()
    }
}

fn words(text: &str) -> Words {
    text.split(' ').map(|w| w.as_bytes().to_vec()).collect()
}

/// A relay to a server. Each connection is cut or hangs after a random number of bytes in one direction.
fn relay(server: String, seed: u64, calm: Arc<AtomicBool>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        let mut rng = fastrand::Rng::with_seed(seed);
        for client in listener.incoming().map_while(Result::ok) {
            let Ok(server) = TcpStream::connect(&server) else { continue };
            let bytes = 1usize << rng.u32(8..17);
            let to_server = rng.bool();
            let hangs = rng.u8(..10) == 0;
            for forth in [true, false] {
                let (from, to) = if forth { (&client, &server) } else { (&server, &client) };
                let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                let limit = (forth == to_server && !calm.load(Ordering::Relaxed)).then_some(bytes + rng.usize(..bytes));
                std::thread::spawn(move || copy(from, to, limit, hangs));
            }
        }
    });
    addr
}

fn copy(mut from: TcpStream, mut to: TcpStream, limit: Option<usize>, hangs: bool) {
    let mut left = limit.unwrap_or(usize::MAX);
    let mut buffer = [0; 8192];
    loop {
        let n = from.read(&mut buffer).unwrap_or(0);
        let passed = n.min(left);
        if n == 0 || to.write_all(&buffer[..passed]).is_err() {
            break;
        }
        left -= passed;
        if left == 0 && hangs {
            // Reads all bytes and forwards none; ends when the other side closes the connection.
            while from.read(&mut buffer).unwrap_or(0) > 0 {}
        }
        if left == 0 {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

/// Numbers of replies of each kind, so that a run without failures is detected.
#[derive(Default)]
struct Seen {
    compared: AtomicU64,
    unknown: AtomicU64,
    not_executed: AtomicU64,
    not_delivered: AtomicU64,
}

/// A client of the proxy and its duplicate at the reference.
struct ClientPair {
    index: usize,
    rng: fastrand::Rng,
    proxy: Raw,
    reference: Raw,
    /// Names of its keys; one whose value is uncertain is replaced.
    keys: Vec<String>,
    /// All names of keys that it ever used.
    names: Vec<String>,
    /// Keys, with database, whose value is unknown.
    uncertain: BTreeSet<(usize, String)>,
    db: usize,
    /// Direct connections to the servers.
    servers: Vec<String>,
    /// Shortened commands and replies, for the message of a failure.
    log: Vec<String>,
}

/// One command, the keys it touches, and whether a reply is due.
struct Step {
    words: Words,
    keys: Vec<(usize, String)>,
    is_write: bool,
    replies: bool,
    compare: bool,
}

impl ClientPair {
    fn new_key(&mut self) -> String {
        let name = format!("{{t{}}}c{}n{}", self.rng.usize(..TAGS), self.index, self.names.len());
        self.names.push(name.clone());
        name
    }

    fn key(&mut self) -> String {
        self.keys[self.rng.usize(..self.keys.len())].clone()
    }

    fn step(&mut self) -> Vec<Step> {
        let (a, b, c) = (self.key(), self.key(), self.key());
        // In the same slot as `a`.
        let near = format!("{a}x");
        let size = if self.rng.u8(..40) == 0 { 60_000 } else { 12 };
        let value: String = std::iter::repeat_with(|| self.rng.alphanumeric()).take(size).collect();
        let n = self.rng.i32(-5..100);
        let (write, text, keys): (bool, String, Vec<&String>) = match self.rng.u8(..34) {
            0..5 => (true, format!("SET {a} {value}"), vec![&a]),
            5..9 => (false, format!("GET {a}"), vec![&a]),
            9 => (true, format!("APPEND {a} {value}"), vec![&a]),
            10 => (true, format!("INCRBY {a}n {n}"), vec![&a]),
            11..13 => (true, format!("RPUSH {a}l {value}"), vec![&a]),
            13 => (false, format!("LRANGE {a}l 0 -1"), vec![&a]),
            14 => (true, format!("HSET {a}h f{} {value}", n.rem_euclid(4)), vec![&a]),
            15 => (false, format!("HMGET {a}h f0 f1 f2 f3"), vec![&a]),
            16 => (true, format!("ZADD {a}z {n} {value}"), vec![&a]),
            17 => (false, format!("ZRANGE {a}z 0 -1 WITHSCORES"), vec![&a]),
            18..20 => (true, format!("MSET {a} {value} {b} {value}b {c} {n}"), vec![&a, &b, &c]),
            20..23 => (false, format!("MGET {a} {b} {c} {a}"), vec![&a, &b, &c]),
            23 => (true, format!("DEL {a} {b}"), vec![&a, &b]),
            24 => (true, format!("UNLINK {a} {c} {a}l"), vec![&a, &c]),
            25 => (false, format!("EXISTS {a} {b} {c}"), vec![&a, &b, &c]),
            26 => (true, format!("RENAME {a} {near}"), vec![&a]),
            27 => (true, format!("LMOVE {a}l {near}l LEFT RIGHT"), vec![&a]),
            28 => (true, format!("EVAL return{{redis.call('INCR',KEYS[1]),ARGV[1]}} 1 {a}n {value}"), vec![&a]),
            29 => (true, format!("GETSET {a} {value}"), vec![&a]),
            30 => (false, format!("ECHO {value}"), vec![]),
            31 => {
                self.db = self.rng.usize(..DATABASES);
                (false, format!("SELECT {}", self.db), vec![])
            }
            32 => {
                let version = self.rng.u8(2..4);
                let hello = Step { compare: false, ..plain(&format!("HELLO {version}")) };
                return vec![hello];
            }
            _ => {
                // The outcome of a command without a reply is unknown, so it is a read.
                let skip = Step { replies: false, ..plain("CLIENT REPLY SKIP") };
                return vec![skip, Step { replies: false, ..plain(&format!("GET {a}")) }];
            }
        };
        let keys = keys.into_iter().map(|k| (self.db, k.clone())).collect();
        vec![Step { keys, is_write: write, ..plain(&text) }]
    }

    fn pipeline(&mut self, seen: &Seen) {
        let count = if self.rng.u8(..20) == 0 { 300 } else { self.rng.usize(1..30) };
        let steps: Vec<Step> = std::iter::repeat_with(|| self.step()).take(count).flatten().collect();
        self.proxy.send(&steps.iter().map(|s| &s.words).collect::<Vec<_>>());
        for (at, step) in steps.iter().enumerate() {
            let reply = if step.replies { self.proxy.reply() } else { Vec::new() };
            let text = String::from_utf8_lossy(&reply[..reply.len().min(300)]).into_owned();
            let what = || {
                let words: Vec<_> = step.words.iter().map(|w| String::from_utf8_lossy(&w[..w.len().min(40)])).collect();
                format!("client {}: {} -> {text:?}", self.index, words.join(" "))
            };
            self.log.push(what());
            let unsure = step.keys.iter().any(|key| self.uncertain.contains(key));
            if text.starts_with("-ERR outcome unknown") {
                assert!(step.is_write, "{}", what());
                seen.unknown.fetch_add(1, Ordering::Relaxed);
                self.uncertain.extend(step.keys.iter().cloned());
            } else if text.starts_with("-TRYAGAIN not delivered") {
                assert!(!step.is_write && !step.keys.is_empty(), "{}", what());
                seen.not_delivered.fetch_add(1, Ordering::Relaxed);
            } else if text.starts_with('-') && text.contains("not executed") {
                assert!(!step.keys.is_empty(), "{}", what());
                seen.not_executed.fetch_add(1, Ordering::Relaxed);
            } else {
                self.reference.send(&[&step.words]);
                let want = if step.replies { self.reference.reply() } else { Vec::new() };
                if unsure {
                    // Its effect on the other keys depends on an unknown value.
                    if step.is_write {
                        self.uncertain.extend(step.keys.iter().cloned());
                    }
                } else if step.compare {
                    let want_text = String::from_utf8_lossy(&want[..want.len().min(300)]);
                    if reply != want {
                        let what = what();
                        let later = self.replies_of(&steps[at + 1..]);
                        let history = self.history(&step.keys);
                        panic!("{what}, want {want_text:?}, after:\n{history}\nbefore:\n{later}");
                    }
                    seen.compared.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        for at in 0..self.keys.len() {
            if self.uncertain.iter().any(|(_, key)| *key == self.keys[at]) {
                self.keys[at] = self.new_key();
            }
        }
    }

    /// The replies to the rest of a pipeline, for the message of a failure.
    fn replies_of(&mut self, steps: &[Step]) -> String {
        let mut out = String::new();
        for step in steps {
            let reply = if step.replies { self.proxy.reply() } else { Vec::new() };
            let words: Vec<_> = step.words.iter().map(|w| String::from_utf8_lossy(&w[..w.len().min(40)])).collect();
            let reply = String::from_utf8_lossy(&reply[..reply.len().min(300)]).into_owned();
            out += &format!("{} -> {reply:?}\n", words.join(" "));
        }
        out
    }

    /// The commands on these keys and all changes of the connection.
    fn history(&self, keys: &[(usize, String)]) -> String {
        let about = |line: &&String| {
            ["SELECT", "HELLO"].iter().any(|w| line.contains(w))
                || keys.iter().any(|(_, key)| line.contains(key.as_str()))
        };
        let lines: Vec<&str> = self.log.iter().filter(about).map(String::as_str).collect();
        let mut out = lines[lines.len().saturating_sub(60)..].join("\n");
        for addr in &self.servers {
            let mut raw = Raw::connect(addr);
            for db in 0..DATABASES {
                raw.call(&format!("SELECT {db}"));
                for (_, key) in keys {
                    for read in [format!("GET {key}"), format!("LRANGE {key}l 0 -1")] {
                        let reply = raw.call(&read);
                        out += &format!("\n{addr} db {db}: {read} -> {:?}", String::from_utf8_lossy(&reply));
                    }
                }
            }
        }
        out
    }

    /// Compares every key in every database: acknowledged writes are there, writes that were not executed are not.
    fn compare_all(&mut self) {
        for db in 0..DATABASES {
            for raw in [&mut self.proxy, &mut self.reference] {
                raw.call("HELLO 2");
                assert_eq!(raw.call(&format!("SELECT {db}")), b"+OK\r\n");
            }
            for key in self.names.iter().filter(|key| !self.uncertain.contains(&(db, (*key).clone()))) {
                for read in [
                    format!("MGET {key} {key}n {key}x"),
                    format!("LRANGE {key}l 0 -1"),
                    format!("HMGET {key}h f0 f1 f2 f3"),
                    format!("ZRANGE {key}z 0 -1 WITHSCORES"),
                ] {
                    let mut got = self.proxy.call(&read);
                    // The short deadline of this test may pass on a busy machine.
                    while got.starts_with(b"-TRYAGAIN not delivered") {
                        got = self.proxy.call(&read);
                    }
                    let want = self.reference.call(&read);
                    assert!(got == want, "{read} in {db}: {:?}", String::from_utf8_lossy(&got[..got.len().min(200)]));
                }
            }
        }
    }
}

fn plain(text: &str) -> Step {
    Step { words: words(text), keys: Vec::new(), is_write: false, replies: true, compare: true }
}

/// Moves a tag's slot to the other server as a migration does: hold, wait for the ack, copy, change the owner.
fn move_slot(bed: &Bed, servers: &[Redis; 2], tag: usize) {
    let key = format!("{{t{tag}}}");
    let slot = usize::from(Layout::Codis.slot(key.as_bytes()).0);
    let before = bed.table();
    let id = before.epoch.0 + 1;
    bed.publish(held(before.clone(), id, HoldKind::Wait, &key));
    bed.until("the hold drains", |r| r.holds.get(&HoldId(id)).is_some_and(|h| h.drained));
    let mut to = 0;
    let mut after = common::with_product(before, |p| {
        to = 1 - usize::from(p.slots[slot].group.unwrap());
        p.slots[slot].group = Some(to as u16);
        p.slots[slot].epoch = Epoch(id + 1);
    });
    after.epoch = Epoch(id + 1);
    for db in 0..DATABASES {
        let mut source = Raw::connect(&servers[1 - to].addr);
        let mut target = Raw::connect(&servers[to].addr);
        for raw in [&mut source, &mut target] {
            assert_eq!(raw.call(&format!("SELECT {db}")), b"+OK\r\n");
        }
        let list = source.call(&format!("KEYS {key}*"));
        let text = String::from_utf8(list).unwrap();
        for name in text.lines().skip(1).filter(|line| !line.starts_with('$')) {
            let dump = source.call(&format!("DUMP {name}"));
            let Some(at) = dump.iter().position(|c| *c == b'\n').filter(|_| dump[1] != b'-') else { continue };
            let mut restore = words(&format!("RESTORE {name} 0"));
            restore.push(dump[at + 1..dump.len() - 2].to_vec());
            restore.push(b"REPLACE".to_vec());
            target.send(&[&restore]);
            assert_eq!(target.reply(), b"+OK\r\n");
            source.call(&format!("DEL {name}"));
        }
    }
    bed.publish(after);
}

fn run(seed: u64) -> Seen {
    let mut rng = fastrand::Rng::with_seed(seed);
    let servers = [Redis::start(), Redis::start()];
    let reference = Redis::start();
    let calm = Arc::new(AtomicBool::new(false));
    let relays: Vec<String> = servers.iter().map(|s| relay(s.addr.clone(), rng.u64(..), calm.clone())).collect();
    let limits = Limits { request_deadline: Duration::from_millis(300), ..Limits::default() };
    let bed = Bed::start_with(&[&relays[0], &relays[1]], limits, 2, |table| table);
    let addr = format!("127.0.0.1:{}", bed.port);
    let seen = Seen::default();
    let running = AtomicUsize::new(CLIENTS);
    let mut moves = 0;
    let mut pairs: Vec<ClientPair> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|index| {
                let mut pair = ClientPair {
                    index,
                    rng: fastrand::Rng::with_seed(rng.u64(..)),
                    proxy: Raw::connect(&addr),
                    reference: Raw::connect(&reference.addr),
                    keys: Vec::new(),
                    names: Vec::new(),
                    uncertain: BTreeSet::new(),
                    db: 0,
                    servers: servers.iter().map(|s| s.addr.clone()).collect(),
                    log: Vec::new(),
                };
                let (seen, running) = (&seen, &running);
                scope.spawn(move || {
                    /// Counted also when the thread panics.
                    struct Ends<'a>(&'a AtomicUsize);
                    impl Drop for Ends<'_> {
                        fn drop(&mut self) {
                            self.0.fetch_sub(1, Ordering::Relaxed);
                        }
                    }
                    let _ends = Ends(running);
                    pair.keys = (0..10).map(|_| pair.new_key()).collect();
                    for _ in 0..PIPELINES {
                        pair.pipeline(seen);
                    }
                    pair
                })
            })
            .collect();
        while running.load(Ordering::Relaxed) > 0 {
            move_slot(&bed, &servers, rng.usize(..TAGS));
            moves += 1;
        }
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    assert!(moves > 0);
    // Only old connections can still fail; a probe makes sure that there are new ones.
    calm.store(true, Ordering::Relaxed);
    let fresh = common::with_product(bed.table(), |p| {
        for (group, server) in p.groups.iter_mut().zip(&servers) {
            group.primary = pontoon::model::ids::HostPort::parse(&server.addr).unwrap();
        }
    });
    let epoch = Epoch(fresh.epoch.0 + 1);
    bed.publish(pontoon::model::route::RouteTable { epoch, ..fresh });
    bed.until("the servers without relays", |r| r.route_epoch == epoch);
    for pair in &mut pairs {
        pair.compare_all();
    }
    seen
}

#[test]
fn every_reply_is_right_or_a_truthful_error() {
    let seeds = match std::env::var("PONTOON_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => SEEDS.to_vec(),
    };
    for seed in seeds {
        let seen = run(seed);
        let count = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let all = [&seen.compared, &seen.unknown, &seen.not_executed, &seen.not_delivered].map(count);
        println!("seed {seed}: compared, unknown, not executed, not delivered: {all:?}");
        assert!(all[0] > 0 && all[1] > 0 && all[3] > 0, "seed {seed} shows nothing: {all:?}");
    }
}
