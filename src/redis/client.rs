//! A connection to a server: one command at a time or a pipeline, every wait with a deadline.
//! Knows nothing of reconnecting: a lost connection is an error, because it may have been fenced (see
//! docs/design/serving.md).

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout_at},
};

use super::{
    error::RedisError,
    frame::{FrameScan, REPLY_MAX},
    info::Info,
    login::{accept, login},
    reply::Reply,
    role::Role,
};
use crate::{
    model::{ids::HostPort, secret::Credentials},
    resolver,
    resp::login::{Login, Naming},
};

/// Time limit of a TCP connect: a server that needs more is of no use to clients either.
pub const CONNECT_MAX: Duration = Duration::from_secs(1);
/// Initial size of the read buffer; INFO is about 6 KB.
const READ_BUFFER: usize = 8 << 10;
/// Prefix of our connections' names, by which CLIENT KILL and operators find them.
pub const NAME_PREFIX: &str = "pt:";

/// A connection, authenticated and named.
pub struct Client {
    addr: HostPort,
    stream: TcpStream,
    input: BytesMut,
}

/// A page of SCAN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanPage {
    /// The next cursor; 0: done.
    pub cursor: u64,
    /// A key may occur twice.
    pub keys: Vec<Bytes>,
}

impl Client {
    /// Connects, logs in if `credentials` are given, and sets the connection's name, all before `deadline`. `name` has
    /// no spaces; by convention it starts with [`NAME_PREFIX`].
    ///
    /// # Errors
    /// The server cannot be reached, refuses the credentials, or does not speak RESP.
    pub async fn connect(
        addr: &HostPort,
        credentials: Option<&Credentials>,
        name: &str,
        deadline: Instant,
    ) -> Result<Self, RedisError> {
        // Here the name only informs people, so a user without CLIENT is accepted.
        Self::connect_as(addr, credentials, (name, Naming::UnlessForbidden), deadline).await
    }

    /// As [`Client::connect`], also to a server that is busy with a script: such a server does not even take the
    /// connection's name.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub async fn connect_to_busy(
        addr: &HostPort,
        credentials: Option<&Credentials>,
        name: &str,
        deadline: Instant,
    ) -> Result<Self, RedisError> {
        Self::connect_as(addr, credentials, (name, Naming::IfIdle), deadline).await
    }

    async fn connect_as(
        addr: &HostPort,
        credentials: Option<&Credentials>,
        (name, naming): (&str, Naming),
        deadline: Instant,
    ) -> Result<Self, RedisError> {
        let stream = dial(addr, deadline).await?;
        let mut client = Self { addr: addr.clone(), stream, input: BytesMut::with_capacity(READ_BUFFER) };
        let login = Login { naming, ..login(credentials, name) };
        for step in login.steps() {
            let mut request = Vec::new();
            login.push(step, &mut request);
            for reply in client.exchange_encoded(&request, 1, step.command(), deadline).await? {
                accept(&login, addr, step, &reply)?;
            }
        }
        Ok(client)
    }

    /// The server.
    #[must_use]
    pub fn addr(&self) -> &HostPort {
        &self.addr
    }

    /// Sends one command and waits for its reply. An error reply is an `Err`.
    ///
    /// # Errors
    /// No reply in time, a lost connection, or an error reply. The connection stays usable only after an error reply.
    pub async fn ask(&mut self, command: &[&[u8]], deadline: Instant) -> Result<Reply, RedisError> {
        let mut replies = self.pipeline(&[command], deadline).await?;
        match replies.pop().unwrap_or(Reply::Null) {
            Reply::Error(text) => Err(RedisError::of_request(&self.addr, command, &text)),
            reply => Ok(reply),
        }
    }

    /// Sends several commands at once and waits for as many replies. Error replies are [`Reply::Error`] at their
    /// positions.
    ///
    /// # Errors
    /// No reply in time or a lost connection; then it is unknown which commands were executed.
    pub async fn pipeline(&mut self, commands: &[&[&[u8]]], deadline: Instant) -> Result<Vec<Reply>, RedisError> {
        let mut output = Vec::new();
        for command in commands {
            encode(&mut output, command);
        }
        let what = commands.first().map_or_else(String::new, |command| name_of(command));
        self.exchange(&output, commands.len(), &what, deadline).await
    }

    /// Like [`Client::pipeline`], for `count` commands that are already encoded. `what` names them in messages.
    ///
    /// # Errors
    /// As [`Client::pipeline`].
    pub async fn exchange(
        &mut self,
        output: &[u8],
        count: usize,
        what: &str,
        deadline: Instant,
    ) -> Result<Vec<Reply>, RedisError> {
        let replies = self.exchange_encoded(output, count, what, deadline).await?;
        replies.iter().map(|reply| self.decode(reply)).collect()
    }

    /// Like [`Client::exchange`], but returns the replies undecoded.
    async fn exchange_encoded(
        &mut self,
        output: &[u8],
        count: usize,
        what: &str,
        deadline: Instant,
    ) -> Result<Vec<Bytes>, RedisError> {
        // Former replies may still use most of the buffer. Once they are dropped, this gets the space back.
        self.input.reserve(READ_BUFFER);
        let mut replies = Vec::with_capacity(count);
        // Reads while writing: a server that fills its output before it continues to read must not deadlock with us.
        let mut written = 0;
        let mut scan = FrameScan::default();
        while replies.len() < count {
            let (mut reader, mut writer) = self.stream.split();
            let input = &mut self.input;
            let step = async {
                tokio::select! {
                    result = writer.write(&output[written..]), if written < output.len() => result.map(|n| written += n),
                    result = reader.read_buf(input) => match result {
                        Ok(0) => Err(std::io::ErrorKind::UnexpectedEof.into()),
                        other => other.map(|_| ()),
                    },
                }
            };
            match timeout_at(deadline, step).await {
                Err(_) => return Err(RedisError::Timeout { addr: self.addr.clone(), command: what.to_owned() }),
                Ok(Err(error)) => {
                    // A server in protected mode sends the reason and closes; that is more useful than "closed".
                    if let Some(Ok(reply)) = self.next_reply(&mut scan)
                        && let Ok(Reply::Error(text)) = self.decode(&reply)
                    {
                        return Err(RedisError::of_answer(&self.addr, what, &text));
                    }
                    return Err(RedisError::Closed {
                        addr: self.addr.clone(),
                        command: what.to_owned(),
                        why: error.to_string(),
                    });
                }
                Ok(Ok(())) => {}
            }
            while replies.len() < count {
                match self.next_reply(&mut scan) {
                    Some(reply) => replies.push(reply?),
                    None => break,
                }
            }
        }
        if !self.input.is_empty() {
            return Err(self.protocol("it sent more replies than it got requests".into()));
        }
        Ok(replies)
    }

    /// Resolves when the connection has ended or the server sends data without a request. The connection is not usable
    /// then.
    pub async fn broken(&self) {
        let _ = self.stream.peek(&mut [0]).await;
    }

    /// Removes a complete reply from the input, if there is one.
    fn next_reply(&mut self, scan: &mut FrameScan) -> Option<Result<Bytes, RedisError>> {
        let end = match scan.advance(&self.input) {
            Ok(end) => end,
            Err(why) => return Some(Err(self.protocol(why))),
        };
        let Some(end) = end else {
            return (self.input.len() > REPLY_MAX).then(|| Err(self.protocol(format!("more than {REPLY_MAX} bytes"))));
        };
        *scan = FrameScan::default();
        Some(Ok(self.input.split_to(end).freeze()))
    }

    fn decode(&self, reply: &Bytes) -> Result<Reply, RedisError> {
        Reply::decode(reply).map_err(|why| self.protocol(why))
    }

    fn protocol(&self, why: String) -> RedisError {
        RedisError::Protocol { addr: self.addr.clone(), why }
    }

    fn shape(&self, command: &str) -> RedisError {
        self.protocol(format!("its answer to {command} has an unknown form"))
    }

    /// INFO of a section (Redis before 7 accepts at most one).
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub async fn info(&mut self, section: &str, deadline: Instant) -> Result<Info, RedisError> {
        let reply = self.ask(&[b"INFO", section.as_bytes()], deadline).await?;
        // Paths in it may not be UTF-8.
        match &reply {
            Reply::Bulk(bytes) => Ok(Info::parse(&String::from_utf8_lossy(bytes))),
            _ => Err(self.shape("INFO")),
        }
    }

    /// ROLE.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub async fn role(&mut self, deadline: Instant) -> Result<Role, RedisError> {
        let reply = self.ask(&[b"ROLE"], deadline).await?;
        Role::parse(&reply).ok_or_else(|| self.shape("ROLE"))
    }

    /// SELECT.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub async fn select(&mut self, db: u32, deadline: Instant) -> Result<(), RedisError> {
        self.ask(&[b"SELECT", db.to_string().as_bytes()], deadline).await.map(|_| ())
    }

    /// Number of keys of the selected database.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub async fn dbsize(&mut self, deadline: Instant) -> Result<u64, RedisError> {
        let reply = self.ask(&[b"DBSIZE"], deadline).await?;
        reply.integer().and_then(|n| n.try_into().ok()).ok_or_else(|| self.shape("DBSIZE"))
    }

    /// A page of SCAN over the selected database.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub async fn scan(&mut self, cursor: u64, count: u32, deadline: Instant) -> Result<ScanPage, RedisError> {
        let (cursor, count) = (cursor.to_string(), count.to_string());
        let reply = self.ask(&[b"SCAN", cursor.as_bytes(), b"COUNT", count.as_bytes()], deadline).await?;
        let page = || {
            let items = reply.items()?;
            let cursor = items.first()?.text()?.parse().ok()?;
            let keys = items.get(1)?.items()?.iter().map(|key| match key {
                Reply::Bulk(bytes) => Some(bytes.clone()),
                _ => None,
            });
            Some(ScanPage { cursor, keys: keys.collect::<Option<_>>()? })
        };
        page().ok_or_else(|| self.shape("SCAN"))
    }

    /// CONFIG GET of one parameter. `None` if the server does not know it or refuses the command (managed servers).
    ///
    /// # Errors
    /// As [`Client::ask`], except for a refusal.
    pub async fn config(&mut self, name: &str, deadline: Instant) -> Result<Option<String>, RedisError> {
        match self.ask(&[b"CONFIG", b"GET", name.as_bytes()], deadline).await {
            Ok(reply) => Ok(reply.items().and_then(|items| items.get(1)?.text().map(str::to_owned))),
            Err(RedisError::NotAllowed { .. } | RedisError::Refused { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Opens a TCP connection without Nagle's algorithm, before `deadline` and within [`CONNECT_MAX`].
///
/// # Errors
/// The server cannot be reached, or this machine has no resources left.
pub async fn dial(addr: &HostPort, deadline: Instant) -> Result<TcpStream, RedisError> {
    let by = deadline.min(Instant::now() + CONNECT_MAX);
    let unreachable = |why: String| RedisError::Unreachable { addr: addr.clone(), why };
    let stream = timeout_at(by, resolver::connect(addr))
        .await
        .map_err(|_| unreachable("no connection in time".into()))?
        .map_err(|error| match is_exhaustion(&error) {
            true => RedisError::Exhausted { addr: addr.clone(), why: error.to_string() },
            false => unreachable(error.to_string()),
        })?;
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

/// Whether this machine has no files, memory or local ports left.
fn is_exhaustion(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    let ours = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL];
    Errno::from_io_error(error).is_some_and(|errno| ours.contains(&errno))
}

/// The command's name for messages, never its arguments: they may contain a password.
pub(super) fn name_of(command: &[&[u8]]) -> String {
    String::from_utf8_lossy(command.first().copied().unwrap_or_default()).into_owned()
}

fn encode(output: &mut Vec<u8>, command: &[&[u8]]) {
    output.extend_from_slice(format!("*{}\r\n", command.len()).as_bytes());
    for argument in command {
        output.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        output.extend_from_slice(argument);
        output.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use std::io::Error;

    use super::*;

    #[test]
    fn exhaustion_of_this_machine_is_not_the_servers_fault() {
        use rustix::io::Errno;
        for ours in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::ADDRNOTAVAIL] {
            assert!(is_exhaustion(&Error::from(ours)), "{ours}");
        }
        for its in [Errno::CONNREFUSED, Errno::TIMEDOUT, Errno::HOSTUNREACH, Errno::NETUNREACH, Errno::CONNRESET] {
            assert!(!is_exhaustion(&Error::from(its)), "{its}");
        }
        assert!(!is_exhaustion(&Error::other("no such host")));
    }
}
