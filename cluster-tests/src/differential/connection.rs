//! A connection to a node or a server. Knows nothing of what is sent.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, TcpStream},
    time::Duration,
};

use super::reply::Reply;

/// A command and its arguments.
pub type Call = Vec<Vec<u8>>;

/// Maximum time for a reply. Far more than any call takes, so that a missing reply is certain.
const DEADLINE: Duration = Duration::from_secs(20);

/// A connection.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    at: usize,
}

impl Connection {
    /// Connects to 127.0.0.1.
    ///
    /// # Panics
    /// When nobody listens there.
    #[must_use]
    pub fn open(port: u16) -> Self {
        let connect = || {
            let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(DEADLINE))?;
            stream.set_write_timeout(Some(DEADLINE))?;
            io::Result::Ok(stream)
        };
        let stream = connect().unwrap_or_else(|error| panic!("port {port} accepts no connection: {error}"));
        Self { stream, buffer: Vec::new(), at: 0 }
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Reads one reply.
    ///
    /// # Errors
    /// When the connection breaks, the deadline passes, or the reply is not valid RESP.
    pub fn read(&mut self) -> io::Result<Reply> {
        loop {
            let unread = &self.buffer[self.at..];
            let parsed = Reply::parse(unread).map_err(|why| io::Error::new(io::ErrorKind::InvalidData, why))?;
            if let Some((reply, len)) = parsed {
                self.at += len;
                return Ok(reply);
            }
            self.buffer.drain(..self.at);
            self.at = 0;
            if !self.more()? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Sends calls in one write and reads a reply to each.
    ///
    /// # Panics
    /// When a reply is missing.
    #[track_caller]
    pub fn calls(&mut self, calls: &[Call]) -> Vec<Reply> {
        let mut bytes = Vec::new();
        calls.iter().for_each(|call| encode(call, &mut bytes));
        let sent = self.send(&bytes);
        let replies = sent.and_then(|()| calls.iter().map(|_| self.read()).collect());
        replies.unwrap_or_else(|error| {
            panic!("no reply to one of {}: {error}", calls.iter().map(show).collect::<String>())
        })
    }

    /// Sends a call of words, and reads its reply.
    ///
    /// # Panics
    /// When there is no reply.
    #[track_caller]
    pub fn call(&mut self, text: &str) -> Reply {
        self.calls(&[words(text)]).remove(0)
    }

    /// Whether the call is answered in a pipeline: ECHO, which is sent behind it, is.
    ///
    /// # Panics
    /// When nothing is answered.
    #[track_caller]
    pub fn answers(&mut self, call: &str) -> bool {
        let mut bytes = Vec::new();
        ["PING", call, "ECHO end"].iter().for_each(|call| encode(&words(call), &mut bytes));
        let second = self.send(&bytes).and_then(|()| self.read()).and_then(|_| self.read());
        second.unwrap_or_else(|error| panic!("no reply to ECHO: {error}")).bytes() != b"end"
    }

    /// Everything up to the end of the connection.
    ///
    /// # Errors
    /// When the other side does not close it before the deadline.
    pub fn rest(&mut self) -> io::Result<Vec<u8>> {
        loop {
            match self.more() {
                Ok(true) => {}
                Ok(false) => return Ok(self.buffer.split_off(self.at)),
                // A side that closes with unread bytes of ours resets the connection.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return Ok(self.buffer.split_off(self.at));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads some bytes, or returns false at the end.
    fn more(&mut self) -> io::Result<bool> {
        let mut chunk = [0; 64 << 10];
        let len = self.stream.read(&mut chunk)?;
        self.buffer.extend_from_slice(&chunk[..len]);
        Ok(len > 0)
    }
}

/// A call of words that contain no space.
#[must_use]
pub fn words(text: &str) -> Call {
    text.split(' ').map(|word| word.as_bytes().to_vec()).collect()
}

/// Appends the call as an array of bulk strings.
pub fn encode(call: &Call, out: &mut Vec<u8>) {
    out.extend_from_slice(format!("*{}\r\n", call.len()).as_bytes());
    for word in call {
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

/// The call for a message, with an end of line.
#[must_use]
pub fn show(call: &Call) -> String {
    let words: Vec<_> = call.iter().map(|word| quoted(word)).collect();
    words.join(" ") + "\n"
}

/// Bytes of a word that a message shows.
const SHOWN: usize = 120;

fn quoted(word: &[u8]) -> String {
    let text = word[..word.len().min(SHOWN)].escape_ascii().to_string();
    if text.is_empty() || text.contains([' ', '"']) { format!("\"{text}\"") } else { text }
}
