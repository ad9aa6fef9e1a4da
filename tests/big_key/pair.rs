//! Two real servers and a loop that drives `BigKeys` like the engine does.
//! Knows nothing of types.

use std::{
    io::{Read, Write},
    net::TcpStream,
    process::Command,
    sync::mpsc::Receiver,
    time::Instant,
};

use bytes::Bytes;
use pontoon::{
    mover::big_key::{BigKeys, Requests, ReturnedKey},
    resp::{reply::ReplyScanner, write},
};

use super::{
    common::{PATIENCE, Redis, free_port},
    kinds::Kind,
};

/// A blocking connection.
pub struct Conn {
    stream: TcpStream,
    input: Vec<u8>,
}

impl Conn {
    pub fn open(addr: &str) -> Self {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { stream, input: Vec::new() }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// The next reply, encoded.
    pub fn reply(&mut self) -> Vec<u8> {
        let mut scanner = ReplyScanner::default();
        loop {
            if let Some(len) = scanner.scan(&self.input).unwrap() {
                return self.input.drain(..len).collect();
            }
            let mut more = vec![0; 256 << 10];
            let n = self.stream.read(&mut more).unwrap();
            assert!(n > 0, "the server has closed the connection");
            self.input.extend_from_slice(&more[..n]);
        }
    }

    /// Sends a command; returns the encoded reply.
    pub fn ask(&mut self, args: &[&[u8]]) -> Vec<u8> {
        let mut bytes = Vec::new();
        write::request(&mut bytes, args);
        self.send(&bytes);
        self.reply()
    }

    /// Sends a command with spaces between its words; returns the reply as text. Panics on an error.
    pub fn run(&mut self, line: &str) -> String {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let reply = self.ask(&args);
        assert!(!reply.starts_with(b"-"), "{line}: {}", String::from_utf8_lossy(&reply));
        String::from_utf8_lossy(&reply).into_owned()
    }

    /// Sends many commands in one pipeline. Panics on an error.
    pub fn all(&mut self, lines: impl Iterator<Item = String>) {
        let mut lines = lines.peekable();
        while lines.peek().is_some() {
            let (mut bytes, mut count) = (Vec::new(), 0);
            for line in lines.by_ref().take(500) {
                let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
                write::request(&mut bytes, &args);
                count += 1;
            }
            self.send(&bytes);
            for _ in 0..count {
                let reply = self.reply();
                assert!(!reply.starts_with(b"-"), "{}", String::from_utf8_lossy(&reply));
            }
        }
    }
}

/// A source and a target.
pub struct Pair {
    _servers: [Redis; 2],
    pub source: Conn,
    pub target: Conn,
    pub big: BigKeys,
    /// Keys that were not big.
    pub returned: Vec<ReturnedKey>,
    source_addr: String,
}

/// A command that was executed, for the feed.
pub type Event = Vec<Vec<u8>>;

impl Pair {
    pub fn start() -> Self {
        Self::of([(); 2].map(|()| Redis::start_with(&["--enable-debug-command", "yes"])))
    }

    /// The target is an older server, which does not know all encodings, commands and options of the source.
    pub fn to_redis_6() -> Self {
        let target = Redis::start_program(Command::new(Kind::Redis6.program()), free_port(), &[]);
        Self::of([Redis::start_with(&["--enable-debug-command", "yes"]), target])
    }

    fn of(servers: [Redis; 2]) -> Self {
        let (source, target) = (Conn::open(&servers[0].addr), Conn::open(&servers[1].addr));
        let source_addr = servers[0].addr.clone();
        Self { _servers: servers, source, target, big: BigKeys::default(), returned: Vec::new(), source_addr }
    }

    /// Another connection to the source, for a client.
    pub fn client(&self) -> Conn {
        Conn::open(&self.source_addr)
    }

    pub fn begin(&mut self, key: &str) {
        self.big.begin(0, Bytes::copy_from_slice(key.as_bytes()), false, Instant::now());
    }

    /// Begins a key that is copied in pieces however small it is.
    pub fn begin_of_any_size(&mut self, key: &str) {
        self.big.begin(0, Bytes::copy_from_slice(key.as_bytes()), true, Instant::now());
    }

    /// One round of one key, to its last reply. `false`: there is nothing to do.
    pub fn round(&mut self) -> bool {
        let now = Instant::now();
        let (mut source, mut target) = (Requests::default(), Requests::default());
        let Some(round) = self.big.next_round(now, &mut source, &mut target) else { return false };
        self.source.send(source.bytes());
        let mut writes = vec![target.take()];
        for _ in 0..source.count() {
            let reply = self.source.reply();
            let mut out = Requests::default();
            self.big.source_reply(round.id, &reply, &mut out, now).unwrap();
            writes.push(out.take());
        }
        for (bytes, count) in writes {
            self.target.send(&bytes);
            for _ in 0..count {
                let reply = self.target.reply();
                self.big.target_reply(round.id, &reply, now).unwrap();
            }
        }
        self.returned.extend(std::iter::from_fn(|| self.big.take_returned()));
        true
    }

    /// Makes rounds until everything is clean.
    pub fn settle(&mut self) {
        let end = Instant::now() + PATIENCE;
        while !self.big.is_clean() {
            assert!(Instant::now() < end, "still {:?}", self.big.remaining());
            self.round();
        }
    }

    /// Applies the events that have arrived.
    pub fn events(&mut self, feed: &Receiver<Event>) -> usize {
        feed.try_iter().map(|args| self.big.event(0, &args[1], &args[..], Instant::now())).count()
    }

    /// Asserts that both servers have the same value of `key`, which expires at the same millisecond.
    pub fn assert_equal(&mut self, key: &str) {
        let line = format!("DEBUG DIGEST-VALUE {key}");
        assert_eq!(self.source.run(&line), self.target.run(&line), "{key}");
        let line = format!("PEXPIRETIME {key}");
        assert_eq!(self.source.run(&line), self.target.run(&line), "{key}");
    }
}
