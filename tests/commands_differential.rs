//! Compares the command table with real servers of several versions: the rows with `COMMAND`, the positions of keys with
//! `COMMAND GETKEYS`. What versions have otherwise than the table is a list here.
#![allow(clippy::unwrap_used)]

#[path = "support/calls.rs"]
mod calls;
#[path = "support/kinds.rs"]
mod kinds;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kinds::Kind;
use pontoon::commands::{self, Flags, Handling, KeySpec, Spec};
use redis_protocol::resp2::{decode::decode, types::OwnedFrame};

/// Calls generated for each command.
const CALLS_EACH: usize = 60;

/// A redis-server on a Unix socket, so that it needs no free port.
struct Server {
    process: Child,
    connection: UnixStream,
    read: Vec<u8>,
    _dir: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Server {
    fn start(kind: Kind) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let mut process = Command::new(kind.program())
            .args(["--port", "0", "--save", "", "--unixsocket"])
            .arg(&socket)
            .arg("--dir")
            .arg(dir.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server must be installed for this test (apt-get install redis-server)");
        let deadline = Instant::now() + Duration::from_secs(20);
        let connection = loop {
            if let Ok(connection) = UnixStream::connect(&socket) {
                break connection;
            }
            if let Some(status) = process.try_wait().unwrap() {
                panic!("redis-server ended before it listened: {status}");
            }
            assert!(Instant::now() < deadline, "redis-server does not listen after 20 s");
            std::thread::yield_now();
        };
        connection.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Self { process, connection, read: Vec::new(), _dir: dir }
    }

    fn call(&mut self, args: &[Vec<u8>]) -> OwnedFrame {
        let mut out = format!("*{}\r\n", args.len()).into_bytes();
        for arg in args {
            out.extend(format!("${}\r\n", arg.len()).bytes());
            out.extend(arg);
            out.extend(b"\r\n");
        }
        self.connection.write_all(&out).unwrap();
        loop {
            if let Some((frame, len)) = decode(&self.read).unwrap() {
                self.read.drain(..len);
                return frame;
            }
            let mut chunk = vec![0; 1 << 20];
            let len = self.connection.read(&mut chunk).expect("redis-server answers within 20 s");
            assert!(len > 0, "redis-server closed the connection");
            self.read.extend_from_slice(&chunk[..len]);
        }
    }

    fn rows(&mut self) -> BTreeMap<String, Row> {
        let mut rows = BTreeMap::new();
        rows_of(list(&self.call(&words("COMMAND"))), &mut rows);
        rows
    }
}

fn words(line: &str) -> Vec<Vec<u8>> {
    line.split(' ').map(|word| word.as_bytes().to_vec()).collect()
}

fn text(frame: &OwnedFrame) -> String {
    match frame {
        OwnedFrame::BulkString(bytes) | OwnedFrame::SimpleString(bytes) => String::from_utf8(bytes.clone()).unwrap(),
        other => panic!("a string expected, got {other:?}"),
    }
}

fn int(frame: &OwnedFrame) -> i64 {
    match frame {
        OwnedFrame::Integer(n) => *n,
        other => panic!("an integer expected, got {other:?}"),
    }
}

fn list(frame: &OwnedFrame) -> &[OwnedFrame] {
    match frame {
        OwnedFrame::Array(frames) => frames,
        other => panic!("an array expected, got {other:?}"),
    }
}

/// A row of `COMMAND`.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    arity: i64,
    /// Sorted.
    flags: Vec<String>,
    first: i64,
    last: i64,
    step: i64,
    subcommands: Vec<String>,
}

fn rows_of(frames: &[OwnedFrame], out: &mut BTreeMap<String, Row>) {
    for frame in frames {
        let row = list(frame);
        let mut flags: Vec<_> = list(&row[2]).iter().map(text).collect();
        flags.sort();
        // Redis 6 does not report them.
        let with_subcommands = row.get(9).map(list).unwrap_or_default();
        let mut subcommands: Vec<_> = with_subcommands.iter().map(|sub| text(&list(sub)[0])).collect();
        subcommands.sort();
        rows_of(with_subcommands, out);
        let row_of = Row {
            arity: int(&row[1]),
            flags,
            first: int(&row[3]),
            last: int(&row[4]),
            step: int(&row[5]),
            subcommands,
        };
        // Redis 8 has some in upper case.
        out.insert(text(&row[0]).to_ascii_lowercase(), row_of);
    }
}

/// Our row as `COMMAND` would report it.
fn our_row(spec: &Spec) -> Row {
    let mut flags: Vec<_> = spec.flags.names().collect();
    flags.sort();
    let (first, last, step) = spec.key_range();
    let mut subcommands: Vec<_> = spec.subcommands.iter().map(|sub| sub.name.to_string()).collect();
    subcommands.sort();
    Row { arity: spec.arity.into(), flags, first: first.into(), last: last.into(), step: step.into(), subcommands }
}

fn our_rows() -> BTreeMap<String, &'static Spec> {
    commands::all()
        .flat_map(|spec| std::iter::once(spec).chain(spec.subcommands))
        .map(|spec| (spec.name.to_string(), spec))
        .collect()
}

/// What versions have otherwise than the table, which has the newest versions' arity, and the flags of Redis 7.0.
enum Change {
    Arity(i64),
    With(&'static str),
    Without(&'static str),
}

use Change::{Arity, With, Without};

/// The versions that are compared exactly.
fn compared() -> impl Iterator<Item = Kind> {
    Kind::ALL.into_iter().filter(|kind| *kind != Kind::Redis6)
}

const NEWER: &[Kind] = &[Kind::Redis8, Kind::Valkey8];

/// The versions, the commands, what they have, and why.
const CHANGES: &[(&[Kind], &str, Change, &str)] = &[
    (&[Kind::Machine], "zrank zrevrank", Arity(3), "WITHSCORE came with Redis 7.2"),
    (NEWER, "blmove blpop brpop brpoplpush bzpopmax bzpopmin", Without("noscript"), "scripts may try them"),
    (NEWER, "wait waitaof", Without("noscript"), "scripts may try them"),
    (NEWER, "wait", With("blocking"), "it always was"),
    (NEWER, "command|getkeys command|getkeysandflags", Arity(-3), "they may be asked about PING"),
    (NEWER, "cluster|shards cluster|slots", With("loading"), "it concerns no data"),
    (&[Kind::Valkey8], "cluster|info cluster|myid cluster|myshardid cluster|nodes", With("loading"), "likewise"),
    (&[Kind::Valkey8], "memory|malloc-stats memory|purge", With("loading"), "likewise"),
    (&[Kind::Valkey8], "multi watch", With("no_multi"), "they cannot be queued"),
    (&[Kind::Valkey8], "exec", Without("skip_slowlog"), "the flag is called skip_commandlog"),
    (&[Kind::Valkey8], "exec", With("skip_commandlog"), "likewise"),
    (&[Kind::Valkey8], "client|import-source", Without("admin"), "its rights are checked otherwise"),
    (
        &[Kind::Redis8],
        "vadd vsim vrem vemb vinfo vlinks vsetattr vgetattr vdim vcard vismember vrandmember",
        Arity(-1),
        "the module checks it",
    ),
];

/// Our row for a version. `needed`: the changes that make a difference.
fn our_row_for(kind: Kind, spec: &Spec, needed: &mut BTreeSet<usize>) -> Row {
    let mut row = our_row(spec);
    for (index, (kinds, names, change, _)) in CHANGES.iter().enumerate() {
        if !kinds.contains(&kind) || !names.split(' ').any(|name| name == spec.name) {
            continue;
        }
        let before = (row.arity, row.flags.clone());
        match change {
            Arity(arity) => row.arity = *arity,
            With(flag) => row.flags.push((*flag).to_string()),
            Without(flag) => row.flags.retain(|other| other != flag),
        }
        row.flags.sort();
        if before != (row.arity, row.flags.clone()) {
            needed.insert(index);
        }
    }
    row
}

fn differences(kind: Kind, theirs: &BTreeMap<String, Row>, needed: &mut BTreeSet<usize>) -> Vec<String> {
    let ours = our_rows();
    let mut found = Vec::new();
    for (name, their) in theirs {
        let Some(spec) = ours.get(name) else {
            found.push(format!("{kind:?} {name}: missing in our table"));
            continue;
        };
        let mut our = our_row_for(kind, spec, needed);
        // The server does not know newer subcommands.
        our.subcommands.retain(|sub| their.subcommands.contains(sub));
        if our != *their {
            found.push(format!("{kind:?} {name}: server {their:?}\n    ours {our:?}"));
        }
    }
    found
}

#[test]
fn the_table_equals_that_of_the_servers() {
    let mut needed = BTreeSet::new();
    let mut found = Vec::new();
    for kind in compared() {
        let theirs = Server::start(kind).rows();
        assert!(theirs.len() > 300, "{kind:?}: only {} rows", theirs.len());
        found.extend(differences(kind, &theirs, &mut needed));
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
    let needless: Vec<_> =
        CHANGES.iter().enumerate().filter(|(i, _)| !needed.contains(i)).map(|(_, change)| change.1).collect();
    assert!(needless.is_empty(), "{needless:?}");
}

/// What Redis 6 has otherwise must not let a call be routed wrongly.
#[test]
fn older_servers_have_the_same_keys() {
    let (theirs, ours) = (Server::start(Kind::Redis6).rows(), our_rows());
    assert!(theirs.len() > 200, "only {} rows", theirs.len());
    for (name, their) in theirs {
        let Some(spec) = ours.get(&name) else {
            assert_eq!(name, "stralgo", "missing in our table; only Redis 6.2 has STRALGO");
            continue;
        };
        // It reports the flags and keys of subcommands at their container.
        if !spec.subcommands.is_empty() {
            continue;
        }
        let has = |flag: &str| their.flags.iter().any(|other| other == flag);
        assert!(!has("write") || spec.flags.contains(Flags::WRITE), "{name}: a write for the server, not for us");
        if !has("movablekeys") {
            let (first, last, step) = spec.key_range();
            let our = (i64::from(first), i64::from(last), i64::from(step));
            assert_eq!((their.first, their.last, their.step), our, "{name}");
        }
    }
}

/// The comparison detects a wrong row.
#[test]
fn a_wrong_row_is_detected() {
    let row = |flags: &[&str], last| Row {
        arity: 2,
        flags: flags.iter().map(|f| f.to_string()).collect(),
        first: 1,
        last,
        step: 1,
        subcommands: Vec::new(),
    };
    let check =
        |row| differences(Kind::Machine, &BTreeMap::from([("get".to_string(), row)]), &mut BTreeSet::new()).len();
    assert_eq!(check(row(&["fast", "readonly"], 1)), 0);
    assert_eq!(check(row(&["fast", "write"], 1)), 1);
    assert_eq!(check(row(&["fast", "readonly"], -1)), 1);
    let unknown = BTreeMap::from([("gut".to_string(), row(&[], 1))]);
    assert_eq!(differences(Kind::Machine, &unknown, &mut BTreeSet::new()).len(), 1);
}

/// Whether a command of this arity takes so many words. The arity of a subcommand counts its container.
fn allows(arity: i64, words: usize) -> bool {
    let words = i64::try_from(words).unwrap();
    if arity < 0 { words >= -arity } else { words == arity }
}

/// The keys that the server reports, or its error.
fn their_keys(server: &mut Server, call: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, String> {
    let mut ask = words("COMMAND GETKEYS");
    ask.extend_from_slice(call);
    match server.call(&ask) {
        OwnedFrame::Array(keys) => Ok(keys.iter().map(|key| text(key).into_bytes()).collect()),
        OwnedFrame::Error(error) => Err(error),
        other => panic!("{call:?}: {other:?}"),
    }
}

fn show(call: &[Vec<u8>]) -> String {
    call.iter().map(|arg| format!("{:?} ", String::from_utf8_lossy(arg))).collect()
}

#[test]
fn keys_equal_those_of_the_servers() {
    for kind in compared() {
        keys_equal_those_of(kind);
    }
}

fn keys_equal_those_of(kind: Kind) {
    let mut server = Server::start(kind);
    let seed = 0x5eed;
    let mut rng = fastrand::Rng::with_seed(seed);
    let theirs = server.rows();
    let mut wrong = Vec::new();
    let mut with_keys = 0;
    for (name, spec) in our_rows() {
        // A shard channel has a slot like a key, but is no key for GETKEYS.
        if !theirs.contains_key(&name) || !spec.subcommands.is_empty() || spec.flags.contains(Flags::PUBSUB) {
            continue;
        }
        let (mut agreed, mut refused) = (0, 0);
        for _ in 0..CALLS_EACH {
            let call = calls::generate(spec, &mut rng);
            let resolved = commands::resolve(&call[..]).unwrap_or_else(|e| panic!("{}: {e}", show(&call)));
            assert_eq!(resolved.name, name);
            let mut at = Vec::new();
            let ours = spec.keys(&call[..], &mut at).map(|()| at.iter().map(|i| call[*i].clone()).collect::<Vec<_>>());
            match (their_keys(&mut server, &call), ours) {
                (Ok(their), Ok(our)) if sorted(their.clone()) == sorted(our.clone()) => {
                    agreed += usize::from(!our.is_empty())
                }
                // The server reports a call without keys as an error.
                (Err(_), Ok(our)) if our.is_empty() => {}
                // An option that this version does not have.
                (Err(_), Ok(_)) if !allows(theirs[&name].arity, call.len()) => refused += 1,
                (their, our) => wrong.push(format!("{}: server {their:?}, we {our:?}", show(&call))),
            }
        }
        if spec.keys != KeySpec::None {
            with_keys += 1;
            assert!(agreed + refused > CALLS_EACH / 2 || !wrong.is_empty(), "{name}: only {agreed} calls had keys");
        }
    }
    assert!(
        wrong.is_empty(),
        "{kind:?} seed {seed}: {} of the calls differ:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(30)].join("\n")
    );
    assert!(with_keys > 150, "only {with_keys} commands with keys were compared");
}

/// Compares keys of calls in which keywords and numbers replace arguments. If both the server and we find keys, they
/// are equal.
#[test]
fn keys_of_unusual_calls_equal_those_of_the_servers() {
    for kind in compared() {
        keys_of_unusual_calls_equal_those_of(kind);
    }
}

fn keys_of_unusual_calls_equal_those_of(kind: Kind) {
    let mut server = Server::start(kind);
    let mut rng = fastrand::Rng::with_seed(0xbad);
    let words = [
        "STORE",
        "STREAMS",
        "KEYS",
        "LIMIT",
        "BY",
        "GET",
        "AUTH2",
        "COUNT",
        "",
        "0",
        "1",
        "2",
        "3",
        "-1",
        "01",
        "9999999999",
        "9223372036854775808",
    ];
    let theirs = server.rows();
    let (mut wrong, mut same) = (Vec::new(), 0);
    for (name, spec) in our_rows() {
        // GETKEYS searches for keywords here, while the command itself, like our table, reads options one by one (a key
        // may be "STORE").
        let reads_options =
            matches!(spec.keys, KeySpec::Streams | KeySpec::GeoStore(_) | KeySpec::Sort { .. } | KeySpec::Migrate);
        if !theirs.contains_key(&name)
            || !spec.subcommands.is_empty()
            || spec.flags.contains(Flags::PUBSUB)
            || reads_options
        {
            continue;
        }
        for _ in 0..CALLS_EACH {
            let mut call = calls::generate(spec, &mut rng);
            let first = name.split('|').count();
            for _ in 0..rng.usize(1..3) {
                if call.len() > first {
                    let at = rng.usize(first..call.len());
                    call[at] = words[rng.usize(..words.len())].into();
                }
            }
            let mut at = Vec::new();
            let ours = spec.keys(&call[..], &mut at).map(|()| at.iter().map(|i| call[*i].clone()).collect::<Vec<_>>());
            if let (Ok(their), Ok(our)) = (their_keys(&mut server, &call), ours) {
                if sorted(their.clone()) == sorted(our.clone()) {
                    same += 1;
                } else {
                    wrong.push(format!("{}: server {their:?}, we {our:?}", show(&call)));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{kind:?}: {} differ:\n{}", wrong.len(), wrong[..wrong.len().min(30)].join("\n"));
    assert!(same > 5000, "only {same} calls were compared");
}

fn sorted(mut keys: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    keys.sort();
    keys
}

/// The server executes calls, so that name, arity and keys are also compared with those in use, not only with reported
/// ones.
#[test]
fn routed_keys_are_those_that_the_server_uses() {
    let mut server = Server::start(Kind::Machine);
    for (call, keys) in [
        ("GEORADIUS g 1 1 1 km STORE out", vec!["g", "out"]),
        ("SORT l LIMIT 0 1 BY nosort STORE out", vec!["l", "out"]),
        ("EVAL return 2 k1 k2 arg", vec!["k1", "k2"]),
        ("ZUNIONSTORE out 2 a b WEIGHTS 1 2", vec!["out", "a", "b"]),
        ("OBJECT FREQ", vec![]),
    ] {
        let call = words(call);
        if commands::resolve(&call[..]).is_err() {
            assert!(matches!(server.call(&call), OwnedFrame::Error(e) if e.contains("wrong number of arguments")));
            continue;
        }
        let spec = commands::resolve(&call[..]).unwrap();
        let mut at = Vec::new();
        spec.routing_keys(&call[..], &mut at).unwrap();
        assert_eq!(at.iter().map(|i| std::str::from_utf8(&call[*i]).unwrap()).collect::<Vec<_>>(), keys);
        let answer = server.call(&call);
        assert!(
            !matches!(&answer, OwnedFrame::Error(e) if e.contains("syntax") || e.contains("unknown")),
            "{answer:?}"
        );
        assert!(matches!(spec.handling, Handling::Slot | Handling::Script(_)), "{spec:?}");
    }
}
