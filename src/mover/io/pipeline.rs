//! A connection for data, with what each awaited reply will be about, in order.
//! Knows nothing of what the replies say.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use super::connection::{ANSWER_MAX, Connection};
use crate::resp::write;

/// Between two questions how much the server has executed.
pub const STATS_EVERY: Duration = Duration::from_millis(250);

/// A connection and its awaited replies.
#[derive(Debug)]
pub struct Pipeline<T> {
    /// The connection.
    pub connection: Connection,
    /// What the awaited replies are about, the next one first.
    pub awaited: VecDeque<T>,
    db: Option<u32>,
    stats: Instant,
}

impl<T> Pipeline<T> {
    /// Over a fresh connection, or one whose selected database is not known any more.
    pub fn new(connection: Connection) -> Self {
        Self { connection, awaited: VecDeque::new(), db: None, stats: Instant::now() }
    }

    /// Makes the following requests go to `db`; `select` is awaited if that takes a SELECT.
    #[inline]
    pub fn select(&mut self, db: u32, select: T) {
        if self.db != Some(db) {
            self.db = Some(db);
            self.send(&[b"SELECT", db.to_string().as_bytes()], select);
        }
    }

    /// Appends a request.
    pub fn send(&mut self, args: &[&[u8]], what: T) {
        self.connection.send(args);
        self.awaited.push_back(what);
    }

    /// Where requests are appended whose replies are then announced with [`Pipeline::expect`].
    #[inline]
    pub fn out(&mut self) -> &mut Vec<u8> {
        &mut self.connection.output.bytes
    }

    /// A request was appended to [`Pipeline::out`].
    #[inline]
    pub fn expect(&mut self, what: T) {
        self.connection.expect(1);
        self.awaited.push_back(what);
    }

    /// Asks INFO stats if that is due; `what` gets the number of requests before it.
    pub fn ask_stats(&mut self, now: Instant, what: impl FnOnce(u64) -> T) {
        if now.saturating_duration_since(self.stats) >= STATS_EVERY {
            self.stats = now;
            let before = self.connection.sent();
            self.send(&[b"INFO", b"stats"], what(before));
        }
    }

    /// The length of the next whole reply and what it is about. Call [`Pipeline::done`] with the length when it was read.
    ///
    /// # Errors
    /// What arrived is no reply, or nothing was asked. A sentence for people.
    #[inline]
    pub fn next_reply(&mut self) -> Result<Option<(usize, T)>, String> {
        let why = match self.connection.input.scan() {
            Ok(None) => return Ok(None),
            Ok(Some(len)) => match self.awaited.pop_front() {
                Some(what) => return Ok(Some((len, what))),
                None => "it answers more than it was asked".to_owned(),
            },
            Err(why) => why,
        };
        Err(self.connection.protocol(&why).to_string())
    }

    /// A reply of this length was read.
    #[inline]
    pub fn done(&mut self, len: usize) {
        self.connection.input.consume(len);
        self.connection.answered();
    }

    /// The start of the input: a whole reply of `len` bytes.
    #[inline]
    #[must_use]
    pub fn reply(&self, len: usize) -> &[u8] {
        &self.connection.input.bytes()[..len]
    }

    /// # Errors
    /// The server owes an answer for too long. A sentence for people.
    pub fn check(&self, now: Instant) -> Result<(), String> {
        let silent = self.connection.silent_for(now);
        if silent > ANSWER_MAX {
            return Err(format!("{} has not answered for {} s", self.connection.addr(), silent.as_secs()));
        }
        Ok(())
    }
}

/// `*2 name key`, with a name of four letters.
#[inline]
pub fn of_key(out: &mut Vec<u8>, name: &[u8; 4], key: &[u8]) {
    out.extend_from_slice(b"*2\r\n$4\r\n");
    out.extend_from_slice(name);
    out.extend_from_slice(b"\r\n");
    write::bulk(out, key);
}
