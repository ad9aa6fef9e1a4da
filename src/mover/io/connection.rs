//! A pipelining connection: many commands are written, replies are read where they lie in the buffer, and both directions move
//! whenever they can, so that a server that stops reading to write cannot deadlock with us.
//! Knows nothing of what is asked; a lost connection stays lost (serving.md, rule 3 of the fence).

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
    redis::{RedisError, Reply, client::dial},
    resp::{reply::ReplyScanner, write},
};

/// Room for one read: what a loaded socket buffer gives at once.
const READ: usize = 256 << 10;
/// Read from one connection before the others get their turn.
const TURN_MAX: usize = 4 << 20;
/// A server that owes an answer for so long is treated as gone. Longer than any command of ours takes, also on a server that
/// forks or swaps; shorter than people wait.
pub const ANSWER_MAX: Duration = Duration::from_secs(15);
/// OutputBuffer buffers give memory back beyond this.
const OUTPUT_KEPT: usize = 1 << 20;

/// What has arrived and was not consumed.
#[derive(Debug, Default)]
pub struct InputBuffer {
    bytes: BytesMut,
    scanner: ReplyScanner,
}

impl InputBuffer {
    /// Length of the first whole reply, which is then at the start of [`InputBuffer::bytes`].
    ///
    /// # Errors
    /// The bytes are no reply.
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

    /// Drops the first `len` bytes: a reply that [`InputBuffer::scan`] found, or raw bytes when no reply is being scanned.
    #[inline]
    pub fn consume(&mut self, len: usize) {
        self.bytes.advance(len);
    }
}

/// What waits to be written.
#[derive(Debug, Default)]
pub struct OutputBuffer {
    /// Requests are appended here.
    pub bytes: Vec<u8>,
    written: usize,
}

impl OutputBuffer {
    /// Bytes that the socket has not taken.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len() - self.written
    }

    /// Whether the socket has taken all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One connection to one server.
#[derive(Debug)]
pub struct Connection {
    addr: HostPort,
    stream: TcpStream,
    client_id: u64,
    /// What has arrived.
    pub input: InputBuffer,
    /// What goes out with the next [`Connection::flush`].
    pub output: OutputBuffer,
    /// Replies that are still to come.
    awaited: usize,
    /// Requests so far.
    sent: u64,
    /// The last time that something arrived, or that the first of what is awaited was asked.
    heard: Instant,
}

impl Connection {
    /// Connects, logs in, sets the connection's name and asks for its id, all before `deadline`. When it returns, the server
    /// knows the connection by its name, so that whoever closes the run finds it.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses any of this.
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
            heard: Instant::now(),
        };
        if let Some(credentials) = &endpoint.credentials {
            let mut auth: Vec<&[u8]> = vec![b"AUTH"];
            auth.extend(credentials.username.as_ref().map(String::as_bytes));
            auth.push(credentials.password.reveal().as_bytes());
            connection.ask(&auth, deadline).await?;
        }
        connection.ask(&[b"CLIENT", b"SETNAME", name.as_bytes()], deadline).await?;
        let id = connection.ask(&[b"CLIENT", b"ID"], deadline).await?;
        connection.client_id = id
            .integer()
            .and_then(|id| id.try_into().ok())
            .ok_or_else(|| connection.protocol("its answer to CLIENT ID is no number"))?;
        Ok(connection)
    }

    /// The server.
    #[must_use]
    pub fn addr(&self) -> &HostPort {
        &self.addr
    }

    /// Server and id, for the authorization.
    #[must_use]
    pub fn named(&self) -> ConnectionId {
        ConnectionId { server: self.addr.clone(), client_id: self.client_id }
    }

    /// Appends a request; its reply is awaited.
    pub fn send(&mut self, args: &[&[u8]]) {
        write::request(&mut self.output.bytes, args);
        self.expect(1);
    }

    /// `count` requests were appended to [`Connection::output`].
    #[inline]
    pub fn expect(&mut self, count: usize) {
        if self.awaited == 0 {
            self.heard = Instant::now();
        }
        self.awaited += count;
        self.sent += count as u64;
    }

    /// One awaited reply was consumed.
    #[inline]
    pub fn answered(&mut self) {
        self.awaited = self.awaited.saturating_sub(1);
    }

    /// Replies that are still to come.
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

    /// Since when the server owes an answer and has sent nothing.
    #[must_use]
    pub fn silent_for(&self, now: Instant) -> Duration {
        if self.awaited == 0 { Duration::ZERO } else { now.saturating_duration_since(self.heard) }
    }

    /// Writes what the socket takes.
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

    /// Reads what has arrived, and says whether there was anything. What was read before is there also if this fails.
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
            self.heard = Instant::now();
        }
        Ok(got > 0)
    }

    /// Ready when the socket can be read, or written if something waits for that.
    pub fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        let readable = self.stream.poll_read_ready(cx).is_ready();
        let writable = !self.output.is_empty() && self.stream.poll_write_ready(cx).is_ready();
        if readable || writable { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Sends one request and waits for its reply; nothing else may be awaited. An error reply is an `Err`.
    ///
    /// # Errors
    /// No answer before `deadline`, a lost connection, or an error reply.
    pub async fn ask(&mut self, args: &[&[u8]], deadline: Instant) -> Result<Reply, RedisError> {
        self.send(args);
        // Never its arguments: they may be a password.
        let command = String::from_utf8_lossy(args.first().copied().unwrap_or_default()).into_owned();
        match self.reply(&command, deadline).await? {
            Reply::Error(text) => Err(RedisError::of_request(&self.addr, args, &text)),
            reply => Ok(reply),
        }
    }

    /// Waits for the next reply; `command` is for the error text.
    ///
    /// # Errors
    /// None before `deadline`, or a lost connection. An error reply is `Ok`.
    pub async fn reply(&mut self, command: &str, deadline: Instant) -> Result<Reply, RedisError> {
        loop {
            self.flush()?;
            let filled = self.fill();
            if let Some(len) = self.input.scan().map_err(|why| self.protocol(&why))? {
                let whole = Bytes::copy_from_slice(&self.input.bytes()[..len]);
                self.input.consume(len);
                self.answered();
                return Reply::decode(&whole).map_err(|why| self.protocol(&why));
            }
            filled?;
            timeout_at(deadline, std::future::poll_fn(|cx| self.poll_ready(cx)))
                .await
                .map_err(|_| RedisError::Timeout { addr: self.addr.clone(), command: command.to_owned() })?;
        }
    }

    /// The error of bytes that are not what a server sends.
    #[must_use]
    pub fn protocol(&self, why: &str) -> RedisError {
        RedisError::Protocol { addr: self.addr.clone(), why: why.to_owned() }
    }

    fn closed(&self, why: &str) -> RedisError {
        RedisError::Closed { addr: self.addr.clone(), command: "an answer".into(), why: why.to_owned() }
    }
}
