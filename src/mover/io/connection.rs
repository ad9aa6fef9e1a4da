//! A pipelining connection: many requests are written, and replies are parsed in place in the input buffer. Reading and
//! writing never wait for each other, so a server that stops reading in order to write cannot deadlock with us.
//! Knows nothing of the requests. A lost connection is not reopened, because it may have been fenced (see
//! docs/design/serving.md).

use std::{
    io::ErrorKind,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};

use crate::{
    model::{ids::HostPort, migration::ConnectionId},
    mover::spec::Endpoint,
    redis::{
        RedisError, Reply,
        client::dial,
        login::{accept, login},
    },
    resp::{login::Login, reply::ReplyScanner, write},
};

/// Room for one read: the content of a full socket buffer.
const READ: usize = 256 << 10;
/// Most bytes read from one connection before the others get their turn.
const TURN_MAX: usize = 4 << 20;
/// A server that does not reply for this long is treated as gone. It is longer than any of our commands takes, even on
/// a server that forks or swaps, and short enough for an operator to wait for.
pub const ANSWER_MAX: Duration = Duration::from_secs(15);
/// Capacity that an output buffer keeps.
const OUTPUT_KEPT: usize = 1 << 20;

/// Bytes that have arrived and were not consumed.
#[derive(Debug, Default)]
pub struct InputBuffer {
    bytes: BytesMut,
    scanner: ReplyScanner,
}

impl InputBuffer {
    /// The length of the first complete reply, which is then at the start of [`InputBuffer::bytes`].
    ///
    /// # Errors
    /// The bytes are not a reply.
    #[inline]
    pub fn scan(&mut self) -> Result<Option<usize>, String> {
        if self.bytes.is_empty() {
            return Ok(None);
        }
        self.scanner.scan(&self.bytes).map_err(|error| error.to_string())
    }

    /// Everything that has arrived.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Drops the first `len` bytes: a reply that [`InputBuffer::scan`] found, or raw bytes when no reply is being
    /// scanned.
    #[inline]
    pub fn consume(&mut self, len: usize) {
        self.bytes.advance(len);
    }
}

/// Bytes that wait to be written.
#[derive(Debug, Default)]
pub struct OutputBuffer {
    /// Requests are appended here.
    pub bytes: Vec<u8>,
    written: usize,
}

impl OutputBuffer {
    /// Number of bytes that the socket has not accepted.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len() - self.written
    }

    /// Whether the socket has accepted all bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A connection to a server.
#[derive(Debug)]
pub struct Connection {
    addr: HostPort,
    stream: TcpStream,
    client_id: u64,
    /// What has arrived.
    pub input: InputBuffer,
    /// What the next [`Connection::flush`] writes.
    pub output: OutputBuffer,
    /// Outstanding replies.
    awaited: usize,
    /// Requests so far.
    sent: u64,
    /// When something arrived last, or when the first outstanding request was appended, whichever is later.
    active: Instant,
}

impl Connection {
    /// Connects, logs in, sets the connection's name and requests its id, all before `deadline`. When it returns, the
    /// server knows the connection by its name, so that closing the run's connections finds it.
    ///
    /// # Errors
    /// The server cannot be reached or replies with an error.
    pub async fn open(endpoint: &Endpoint, name: &str, deadline: Instant) -> Result<Self, RedisError> {
        let addr = &endpoint.addr;
        let stream = dial(addr, deadline).await?;
        let mut connection = Self {
            addr: addr.clone(),
            stream,
            client_id: 0,
            input: InputBuffer::default(),
            output: OutputBuffer::default(),
            awaited: 0,
            sent: 0,
            active: Instant::now(),
        };
        let login = Login { client_id: true, ..login(endpoint.credentials.as_ref(), name) };
        for step in login.steps() {
            login.push(step, &mut connection.output.bytes);
            connection.expect(1);
            let reply = connection.encoded_reply(step.command(), deadline).await?;
            if let Some(id) = accept(&login, addr, step, &reply)? {
                connection.client_id = id;
            }
        }
        Ok(connection)
    }

    /// The server.
    #[must_use]
    pub fn addr(&self) -> &HostPort {
        &self.addr
    }

    /// Server and connection id, for the authorization.
    #[must_use]
    pub fn named(&self) -> ConnectionId {
        ConnectionId { server: self.addr.clone(), client_id: self.client_id }
    }

    /// Appends a request whose reply is then outstanding.
    pub fn send(&mut self, args: &[&[u8]]) {
        write::request(&mut self.output.bytes, args);
        self.expect(1);
    }

    /// Announces `count` requests that were appended to [`Connection::output`].
    #[inline]
    pub fn expect(&mut self, count: usize) {
        if self.awaited == 0 {
            self.active = Instant::now();
        }
        self.awaited += count;
        self.sent += count as u64;
    }

    /// Announces that one outstanding reply was consumed.
    #[inline]
    pub fn answered(&mut self) {
        self.awaited = self.awaited.saturating_sub(1);
    }

    /// Outstanding replies.
    #[inline]
    #[must_use]
    pub fn awaited(&self) -> usize {
        self.awaited
    }

    /// Requests so far.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// How long replies have been outstanding without anything arriving.
    #[must_use]
    pub fn silent_for(&self, now: Instant) -> Duration {
        if self.awaited == 0 { Duration::ZERO } else { now.saturating_duration_since(self.active) }
    }

    /// Writes what the socket accepts.
    ///
    /// # Errors
    /// The connection is lost.
    pub fn flush(&mut self) -> Result<(), RedisError> {
        while !self.output.is_empty() {
            match self.stream.try_write(&self.output.bytes[self.output.written..]) {
                Ok(n) => self.output.written += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(self.closed(&error.to_string())),
            }
        }
        let OutputBuffer { bytes, written } = &mut self.output;
        if *written == bytes.len() {
            bytes.clear();
            *written = 0;
            bytes.shrink_to(OUTPUT_KEPT);
        } else if *written > bytes.len() / 2 {
            bytes.drain(..*written);
            *written = 0;
        }
        Ok(())
    }

    /// Reads what has arrived and returns whether there was anything. On an error, the bytes read before it are kept.
    ///
    /// # Errors
    /// The connection is lost.
    pub fn fill(&mut self) -> Result<bool, RedisError> {
        let mut got = 0;
        while got < TURN_MAX {
            self.input.bytes.reserve(READ);
            match self.stream.try_read_buf(&mut self.input.bytes) {
                Ok(0) => return Err(self.closed("end of stream")),
                Ok(n) => got += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(self.closed(&error.to_string())),
            }
        }
        if got > 0 {
            self.active = Instant::now();
        }
        Ok(got > 0)
    }

    /// Ready when the socket can be read, or can be written and something waits for that.
    pub fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        let readable = self.stream.poll_read_ready(cx).is_ready();
        let writable = !self.output.is_empty() && self.stream.poll_write_ready(cx).is_ready();
        if readable || writable { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Sends one request and waits for its reply. No other reply may be outstanding. An error reply is an `Err`.
    ///
    /// # Errors
    /// No reply before `deadline`, a lost connection, or an error reply.
    pub async fn ask(&mut self, args: &[&[u8]], deadline: Instant) -> Result<Reply, RedisError> {
        self.send(args);
        // Only the name: the arguments may contain a password.
        let command = String::from_utf8_lossy(args.first().copied().unwrap_or_default()).into_owned();
        match self.reply(&command, deadline).await? {
            Reply::Error(text) => Err(RedisError::of_request(&self.addr, args, &text)),
            reply => Ok(reply),
        }
    }

    /// Waits for the next reply; `command` is for the error text.
    ///
    /// # Errors
    /// No reply before `deadline`, or a lost connection. An error reply is `Ok`.
    pub async fn reply(&mut self, command: &str, deadline: Instant) -> Result<Reply, RedisError> {
        let reply = self.encoded_reply(command, deadline).await?;
        Reply::decode(&reply).map_err(|why| self.protocol(&why))
    }

    /// Like [`Connection::reply`], but returns the reply undecoded.
    async fn encoded_reply(&mut self, command: &str, deadline: Instant) -> Result<Bytes, RedisError> {
        loop {
            self.flush()?;
            let filled = self.fill();
            if let Some(len) = self.input.scan().map_err(|why| self.protocol(&why))? {
                let whole = Bytes::copy_from_slice(&self.input.bytes()[..len]);
                self.input.consume(len);
                self.answered();
                return Ok(whole);
            }
            filled?;
            timeout_at(deadline, std::future::poll_fn(|cx| self.poll_ready(cx)))
                .await
                .map_err(|_| RedisError::Timeout { addr: self.addr.clone(), command: command.to_owned() })?;
        }
    }

    /// The error for bytes that a Redis server does not send.
    #[must_use]
    pub fn protocol(&self, why: &str) -> RedisError {
        RedisError::Protocol { addr: self.addr.clone(), why: why.to_owned() }
    }

    fn closed(&self, why: &str) -> RedisError {
        RedisError::Closed { addr: self.addr.clone(), command: "a reply".into(), why: why.to_owned() }
    }
}
