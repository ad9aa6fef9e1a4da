//! A small RESP client that never waits longer than its deadline.
//! It shares no code with the proxy, so that the two cannot have the same error.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    time::Duration,
};

/// Maximum time for a connection attempt or a reply.
const DEADLINE: Duration = Duration::from_secs(15);

/// A reply of RESP2, with the parts of RESP3 that HELLO 3 brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// `+`
    Simple(String),
    /// `-`
    Error(String),
    /// `:`
    Integer(i64),
    /// `$`
    Bulk(Vec<u8>),
    /// `$-1`, `*-1`, `_`
    Null,
    /// `*`, `~`, `>`
    Array(Vec<Reply>),
    /// `%`
    Map(Vec<(Reply, Reply)>),
    /// `#`, `,`, `(`, as text.
    Other(String),
}

impl Reply {
    /// Returns a bulk string.
    #[must_use]
    pub fn bulk(text: &str) -> Self {
        Self::Bulk(text.as_bytes().to_vec())
    }

    /// Returns the reply `+OK`.
    #[must_use]
    pub fn ok() -> Self {
        Self::Simple("OK".into())
    }

    /// Returns the reply as text, for messages and for `contains`.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Simple(text) | Self::Error(text) | Self::Other(text) => text.clone(),
            Self::Integer(number) => number.to_string(),
            Self::Bulk(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Self::Null => "(nil)".into(),
            Self::Array(items) => items.iter().map(Self::text).collect::<Vec<_>>().join(" "),
            Self::Map(items) => {
                items.iter().map(|(k, v)| format!("{}={}", k.text(), v.text())).collect::<Vec<_>>().join(" ")
            }
        }
    }

    /// Returns whether the reply is an error that begins with `start`.
    #[must_use]
    pub fn is_error(&self, start: &str) -> bool {
        matches!(self, Self::Error(text) if text.starts_with(start))
    }
}

/// A connection to a node or a server.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
    at: usize,
}

impl Client {
    /// Connects to 127.0.0.1.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn connect(port: u16) -> io::Result<Self> {
        Self::connect_within(port, DEADLINE)
    }

    /// Connects to 127.0.0.1, with this deadline for the connection attempt and for each reply.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn connect_within(port: u16, deadline: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), deadline)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(deadline))?;
        stream.set_write_timeout(Some(deadline))?;
        Ok(Self { stream, buffer: Vec::new(), at: 0 })
    }

    /// Sends a request and reads its reply.
    ///
    /// # Errors
    /// When the connection breaks or the deadline passes.
    pub fn call(&mut self, args: &[&str]) -> io::Result<Reply> {
        self.send(&request(args))?;
        self.read()
    }

    /// Sends all requests at once, then reads their replies.
    ///
    /// # Errors
    /// When the connection breaks or the deadline passes.
    pub fn pipeline(&mut self, requests: &[Vec<&str>]) -> io::Result<Vec<Reply>> {
        let bytes: Vec<u8> = requests.iter().flat_map(|args| request(args)).collect();
        self.send(&bytes)?;
        requests.iter().map(|_| self.read()).collect()
    }

    /// Sends raw bytes.
    ///
    /// # Errors
    /// When the connection breaks or the deadline passes.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Reads one reply.
    ///
    /// # Errors
    /// When the connection breaks, the deadline passes, or the reply is not valid RESP.
    pub fn read(&mut self) -> io::Result<Reply> {
        let line = self.line()?;
        let (kind, rest) = line.split_at_checked(1).ok_or_else(|| bad("an empty line"))?;
        let number = || rest.parse::<i64>().map_err(|_| bad(&line));
        Ok(match kind {
            "+" => Reply::Simple(rest.into()),
            "-" => Reply::Error(rest.into()),
            ":" => Reply::Integer(number()?),
            "_" => Reply::Null,
            "#" | "," | "(" => Reply::Other(rest.into()),
            "$" | "=" | "!" => match usize::try_from(number()?) {
                Ok(len) => Reply::Bulk(self.bytes(len)?),
                Err(_) => Reply::Null,
            },
            "*" | "~" | ">" => match usize::try_from(number()?) {
                Ok(len) => Reply::Array((0..len).map(|_| self.read()).collect::<io::Result<_>>()?),
                Err(_) => Reply::Null,
            },
            "%" => {
                let pairs = (0..number()?).map(|_| Ok((self.read()?, self.read()?)));
                Reply::Map(pairs.collect::<io::Result<_>>()?)
            }
            _ => return Err(bad(&line)),
        })
    }

    /// Waits up to the deadline, and returns whether the other side has closed the connection.
    pub fn closed(&mut self) -> bool {
        let mut rest = [0; 4096];
        loop {
            match self.stream.read(&mut rest) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(e) => return e.kind() == io::ErrorKind::ConnectionReset,
            }
        }
    }

    fn line(&mut self) -> io::Result<String> {
        loop {
            let seen = &self.buffer[self.at..];
            if let Some(end) = seen.windows(2).position(|pair| pair == b"\r\n") {
                let line = String::from_utf8_lossy(&seen[..end]).into_owned();
                self.at += end + 2;
                return Ok(line);
            }
            self.more()?;
        }
    }

    fn bytes(&mut self, len: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() - self.at < len + 2 {
            self.more()?;
        }
        let bytes = self.buffer[self.at..self.at + len].to_vec();
        if &self.buffer[self.at + len..self.at + len + 2] != b"\r\n" {
            return Err(bad("a bulk string without its end"));
        }
        self.at += len + 2;
        Ok(bytes)
    }

    fn more(&mut self) -> io::Result<()> {
        self.buffer.drain(..self.at);
        self.at = 0;
        let mut chunk = [0; 16 << 10];
        match self.stream.read(&mut chunk)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            n => {
                self.buffer.extend_from_slice(&chunk[..n]);
                Ok(())
            }
        }
    }
}

/// Encodes a request as an array of bulk strings.
#[must_use]
pub fn request(args: &[&str]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        bytes.extend_from_slice(format!("${}\r\n{arg}\r\n", arg.len()).as_bytes());
    }
    bytes
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not valid RESP: {what}"))
}
