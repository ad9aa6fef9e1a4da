//! Calls that Redis refuses: for every offered command, generated calls with missing, superfluous and nonsensical
//! arguments go to the proxy and to a redis-server of their own. If one of the two answers with an error, the other
//! answers with the same.
#![allow(clippy::unwrap_used)]

#[path = "support/calls.rs"]
mod calls;
mod common;

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::TcpStream,
};

use common::{Bed, PATIENCE, Redis};
use pontoon::{
    commands::{self, AllGroups, Flags, Handling, Local, Spec},
    resp::{reply::ReplyScanner, write},
};

/// Calls generated for each command.
const CALLS_EACH: usize = 400;
/// Other seeds found nothing more; `PONTOON_SEED` runs another one.
const SEED: u64 = 20_261_129;

/// What replaces an argument: numbers at their limits and the keywords of options.
const WORDS: [&str; 31] = [
    "",
    "0",
    "1",
    "2",
    "3",
    "-1",
    "01",
    "+1",
    " 1",
    "1.5",
    "abc",
    "9999999999",
    "9223372036854775807",
    "9223372036854775808",
    "{t}a",
    "{t}b",
    "STORE",
    "STREAMS",
    "KEYS",
    "LIMIT",
    "BY",
    "GET",
    "AUTH",
    "COUNT",
    "GROUP",
    "EX",
    "NX",
    "WITHSCORES",
    "MATCH",
    "nosuch",
    "get",
];

const LIBRARY: &str = "#!lua name=l\nredis.register_function{function_name='f', callback=function() return 1 end}";

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

    fn send(&mut self, bytes: &[u8]) -> String {
        self.stream.write_all(bytes).unwrap();
        loop {
            if let Some(len) = ReplyScanner::default().scan(&self.buffer).unwrap() {
                let reply = String::from_utf8_lossy(&self.buffer[..len]).into_owned();
                self.buffer.drain(..len);
                return reply;
            }
            let mut chunk = [0; 64 * 1024];
            let len = self.stream.read(&mut chunk).unwrap_or_else(|error| {
                panic!("no reply to {:?}: {error}", String::from_utf8_lossy(bytes));
            });
            assert!(len > 0, "closed after {:?}", String::from_utf8_lossy(bytes));
            self.buffer.extend_from_slice(&chunk[..len]);
        }
    }

    fn call(&mut self, words: &[Vec<u8>]) -> String {
        let mut bytes = Vec::new();
        let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        write::request(&mut bytes, &words);
        self.send(&bytes)
    }
}

/// The proxy with one server, and a server that gets the same calls directly.
struct Pair {
    servers: [Redis; 2],
    bed: Bed,
    proxy: Raw,
    direct: Raw,
    /// To the proxy's server.
    behind: Raw,
}

impl Pair {
    fn start() -> Self {
        let servers = [Redis::start(), Redis::start()];
        let bed = Bed::start(&[&servers[0].addr]);
        let (proxy, direct) = (Raw::connect(&format!("127.0.0.1:{}", bed.port)), Raw::connect(&servers[1].addr));
        let behind = Raw::connect(&servers[0].addr);
        let mut pair = Self { servers, bed, proxy, direct, behind };
        for raw in [&mut pair.direct, &mut pair.behind] {
            raw.call(&["FUNCTION".into(), "LOAD".into(), LIBRARY.into()]);
        }
        pair
    }
}

impl Pair {
    fn reconnect(&mut self) {
        self.proxy = Raw::connect(&format!("127.0.0.1:{}", self.bed.port));
        self.direct = Raw::connect(&self.servers[1].addr);
    }
}

/// Whether the proxy offers the command as Redis does. The commands that are not offered have errors of their own.
fn is_compared(spec: &Spec) -> bool {
    if spec.flags.contains(Flags::BLOCKING) && !spec.name.starts_with("xread") {
        return false;
    }
    match spec.handling {
        // tests/proxy_transactions.rs has those of transactions.
        Handling::Transaction(_) | Handling::WaitReplicas => false,
        handling if handling.is_sent() || handling == Handling::Container => true,
        // A save may be under way at one server and not at another.
        // A cursor of SCAN is the proxy's own.
        Handling::AllGroups(kind) => {
            !matches!(kind, AllGroups::Scan | AllGroups::Save | AllGroups::Bgsave | AllGroups::Bgrewriteaof)
        }
        // They end or mute the connection.
        // DEBUG is not allowed by the product, and in other words not by the server.
        Handling::Local(local) => {
            !matches!(local, Local::Quit | Local::ClientReply | Local::CommandGetkeysandflags | Local::Debug)
        }
        _ => false,
    }
}

/// A call of the command, its keys in one slot, with up to three arguments replaced, and perhaps cut or extended.
fn invalid_call(spec: &Spec, rng: &mut fastrand::Rng) -> Vec<Vec<u8>> {
    let mut call = calls::generate(spec, rng);
    let first = spec.name.split('|').count();
    for word in &mut call[first..] {
        if word.starts_with(b"k") || word.starts_with(b"dest") {
            word.splice(0..0, *b"{t}");
        }
    }
    for _ in 0..rng.usize(0..4) {
        if call.len() > first {
            let at = rng.usize(first..call.len());
            call[at] = WORDS[rng.usize(..WORDS.len())].into();
        }
    }
    // The server looks for the function before it reads the other arguments.
    if spec.name.starts_with("fcall") {
        call[1] = b"f".to_vec();
    } else if spec.name.starts_with("evalsha") && rng.bool() {
        call[1] = vec![b'0'; 40];
    }
    match rng.usize(0..4) {
        0 => call.truncate(rng.usize(1..=call.len())),
        1 => call.push(WORDS[rng.usize(..WORDS.len())].into()),
        _ => {}
    }
    call
}

/// Whether the difference is intended: docs/commands.md has these errors.
fn is_documented(reply: &str) -> bool {
    reply.starts_with("-CROSSSLOT")
        // EVAL and FCALL with 0 keys.
        || reply.contains("a call without keys cannot be routed")
        || reply.contains("reads keys of other slots")
        || reply.contains("may block and is not executed")
        // SCAN, of a number that it has not returned.
        || reply.contains("invalid cursor: it is not of this product")
}

fn show(call: &[Vec<u8>]) -> String {
    call.iter().map(|word| format!("{:?} ", String::from_utf8_lossy(word))).collect()
}

#[test]
fn invalid_calls_get_the_errors_of_redis() {
    let mut pair = Pair::start();
    let seed = std::env::var("PONTOON_SEED").map_or(SEED, |seed| seed.parse().unwrap());
    let mut rng = fastrand::Rng::with_seed(seed);
    let (mut errors, mut wrong) = (0, BTreeMap::<&str, Vec<String>>::new());
    let specs = commands::all().flat_map(|spec| std::iter::once(spec).chain(spec.subcommands));
    for spec in specs.filter(|spec| is_compared(spec)) {
        // The table also has commands of newer versions.
        if pair.direct.call(&["COMMAND".into(), "INFO".into(), spec.name.into()]) == "*1\r\n$-1\r\n" {
            continue;
        }
        for _ in 0..CALLS_EACH {
            let call = invalid_call(spec, &mut rng);
            let resolved = commands::resolve(&call[..]);
            if resolved.is_ok_and(|spec| !is_compared(spec) || commands::is_blocking_call(spec, &call[..])) {
                continue;
            }
            // Every call meets the same data: none.
            for raw in [&mut pair.direct, &mut pair.behind] {
                raw.call(&["FLUSHALL".into()]);
            }
            let (got, want) = (pair.proxy.call(&call), pair.direct.call(&call));
            if !is_documented(&got) && (got.starts_with('-') || want.starts_with('-')) {
                errors += 1;
                if got != want {
                    wrong
                        .entry(spec.name)
                        .or_default()
                        .push(format!("{}\n  got  {got:?}\n  want {want:?}", show(&call)));
                }
            }
        }
    }
    let shown: Vec<String> = wrong.values().map(|calls| calls[..calls.len().min(4)].join("\n")).collect();
    assert!(wrong.is_empty(), "seed {seed}: {} commands differ:\n{}", wrong.len(), shown.join("\n"));
    assert!(errors > 20_000, "only {errors} errors were compared");
}

/// Inline commands of words, quotes, escapes, white space and NUL.
#[test]
fn inline_lines_are_read_as_redis_reads_them() {
    let mut pair = Pair::start();
    let mut rng = fastrand::Rng::with_seed(SEED);
    let parts: [&[u8]; 16] = [
        b"a", b"b", b" ", b"  ", b"\t", b"\"", b"'", b"\\", b"\\\"", b"\\x41", b"\\x4", b"\\n", b"\0", b"\r", b"\x0b",
        b"\xff",
    ];
    let (mut same, mut refused) = (0, 0);
    for _ in 0..3000 {
        let mut line = if rng.bool() { b"PING ".to_vec() } else { b"ECHO".to_vec() };
        for _ in 0..rng.usize(0..8) {
            line.extend_from_slice(parts[rng.usize(..parts.len())]);
        }
        line.extend_from_slice(if rng.bool() { b"\n" } else { b"\r\n" });
        let got = pair.proxy.send(&line);
        if line.contains(&0) {
            // Redis answers nothing, and waits for more.
            assert_eq!(got, "-ERR Protocol error: NUL in an inline command\r\n");
            pair.reconnect();
            continue;
        }
        let want = pair.direct.send(&line);
        assert_eq!(got, want, "{:?}", String::from_utf8_lossy(&line));
        same += 1;
        if want.contains("Protocol error") {
            refused += 1;
            // Both close the connection.
            pair.reconnect();
        }
    }
    assert!(same > 2000 && refused > 100, "{same} lines, {refused} of them refused");
}
