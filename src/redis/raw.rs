//! A connection that returns replies undecoded, in RESP2 or RESP3: for PSYNC and for pushes.
//! Knows nothing of the meaning of replies and of reconnecting.

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout_at},
};

use super::{
    client::{dial, name_of},
    error::RedisError,
    login::{accept, login},
};
use crate::{
    model::{ids::HostPort, secret::Credentials},
    resp::{reply::ReplyScanner, write},
};

/// Initial size of the read buffer: some hundred invalidations.
const READ_BUFFER: usize = 32 << 10;
/// Largest reply in bytes. No reply to the commands sent here comes near it, and pushes contain only keys.
const REPLY_MAX: usize = 64 << 20;

/// A connection, authenticated and named, whose replies are read one by one.
pub struct Raw {
    addr: HostPort,
    stream: TcpStream,
    input: BytesMut,
    scanner: ReplyScanner,
}

impl Raw {
    /// Connects, logs in if `credentials` are given and sets the connection's name, all before `deadline`.
    ///
    /// # Errors
    /// The server cannot be reached, refuses the credentials or the name, or does not speak RESP.
    pub async fn connect(
        addr: &HostPort,
        credentials: Option<&Credentials>,
        name: &str,
        deadline: Instant,
    ) -> Result<Self, RedisError> {
        let stream = dial(addr, deadline).await?;
        let input = BytesMut::with_capacity(READ_BUFFER);
        let mut raw = Self { addr: addr.clone(), stream, input, scanner: ReplyScanner::default() };
        let login = login(credentials, name);
        for step in login.steps() {
            let mut request = Vec::new();
            login.push(step, &mut request);
            let reply = raw.exchange(&request, step.command(), deadline).await?;
            accept(&login, addr, step, &reply)?;
        }
        Ok(raw)
    }

    /// The server.
    #[must_use]
    pub fn addr(&self) -> &HostPort {
        &self.addr
    }

    /// Sends a request without waiting for its reply. Requests here fit into the kernel's buffers, so writing never
    /// waits for us to read.
    ///
    /// # Errors
    /// The connection is lost, or the server accepts no data before `deadline`.
    pub async fn send(&mut self, command: &[&[u8]], deadline: Instant) -> Result<(), RedisError> {
        let mut output = Vec::new();
        write::request(&mut output, command);
        self.send_encoded(&output, &name_of(command), deadline).await
    }

    /// Sends encoded requests. `what` names them in messages.
    async fn send_encoded(&mut self, output: &[u8], what: &str, deadline: Instant) -> Result<(), RedisError> {
        match timeout_at(deadline, self.stream.write_all(output)).await {
            Err(_) => Err(RedisError::Timeout { addr: self.addr.clone(), command: what.to_owned() }),
            Ok(Err(error)) => {
                Err(RedisError::Closed { addr: self.addr.clone(), command: what.to_owned(), why: error.to_string() })
            }
            Ok(Ok(())) => Ok(()),
        }
    }

    /// Sends one encoded request and waits for its reply.
    async fn exchange(&mut self, output: &[u8], what: &str, deadline: Instant) -> Result<Bytes, RedisError> {
        self.send_encoded(output, what, deadline).await?;
        match timeout_at(deadline, self.next(what)).await {
            Err(_) => Err(RedisError::Timeout { addr: self.addr.clone(), command: what.to_owned() }),
            Ok(reply) => reply,
        }
    }

    /// Waits for the next reply or push and returns it encoded. No data is lost when the future is dropped.
    ///
    /// # Errors
    /// The connection is lost, or the bytes are not RESP. `what` names the awaited reply in the message.
    pub async fn next(&mut self, what: &str) -> Result<Bytes, RedisError> {
        loop {
            if let Some(whole) = self.buffered()? {
                return Ok(whole);
            }
            let closed = |why| RedisError::Closed { addr: self.addr.clone(), command: what.to_owned(), why };
            match self.stream.read_buf(&mut self.input).await {
                Ok(0) => return Err(closed("end of file".to_owned())),
                Ok(_) => {}
                Err(error) => return Err(closed(error.to_string())),
            }
        }
    }

    /// Returns a complete reply that has already arrived.
    ///
    /// # Errors
    /// The bytes are not RESP, or the reply is too long.
    pub fn buffered(&mut self) -> Result<Option<Bytes>, RedisError> {
        let protocol = |why| RedisError::Protocol { addr: self.addr.clone(), why };
        match self.scanner.scan(&self.input).map_err(|error| protocol(error.to_string()))? {
            Some(end) => Ok(Some(self.input.split_to(end).freeze())),
            None if self.input.len() > REPLY_MAX => Err(protocol(format!("more than {REPLY_MAX} bytes in one reply"))),
            None => Ok(None),
        }
    }

    /// Sends one command and returns the first line of the next reply without its type byte. An error reply is an
    /// `Err`. No other reply may be outstanding.
    ///
    /// # Errors
    /// As [`super::Client::ask`].
    pub async fn ask(&mut self, command: &[&[u8]], deadline: Instant) -> Result<Bytes, RedisError> {
        let (whole, end) = self.whole(command, deadline).await?;
        Ok(whole.slice(1.min(end)..end))
    }

    /// Sends one command whose reply is a bulk or verbatim string, and returns the string.
    ///
    /// # Errors
    /// As [`Raw::ask`].
    pub async fn bulk(&mut self, command: &[&[u8]], deadline: Instant) -> Result<Bytes, RedisError> {
        let (whole, end) = self.whole(command, deadline).await?;
        // In RESP3 it may be a verbatim string: `txt:` and the text.
        let from = end + 2 + if whole.first() == Some(&b'=') { 4 } else { 0 };
        Ok(whole.slice(from.min(whole.len())..whole.len().saturating_sub(2).max(from.min(whole.len()))))
    }

    /// The complete reply and the position where its first line ends.
    async fn whole(&mut self, command: &[&[u8]], deadline: Instant) -> Result<(Bytes, usize), RedisError> {
        let mut output = Vec::new();
        write::request(&mut output, command);
        let whole = self.exchange(&output, &name_of(command), deadline).await?;
        let end = memchr::memchr(b'\r', &whole).unwrap_or(whole.len());
        if whole.first() == Some(&b'-') {
            let text = String::from_utf8_lossy(whole.get(1..end).unwrap_or_default()).into_owned();
            return Err(RedisError::of_request(&self.addr, command, &text));
        }
        Ok((whole, end))
    }
}
