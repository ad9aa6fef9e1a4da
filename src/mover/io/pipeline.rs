//! A connection with the queue of its outstanding requests.
//! Knows nothing of the content of replies.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use super::connection::{ANSWER_MAX, Connection};
use crate::resp::write;

/// Interval of the requests for the number of commands that a server has executed.
pub const STATS_EVERY: Duration = Duration::from_millis(250);

/// A connection and its outstanding requests.
#[derive(Debug)]
pub struct Pipeline<T> {
    /// The connection.
    pub connection: Connection,
    /// The outstanding requests, the next one to be answered first.
    pub awaited: VecDeque<T>,
    db: Option<u32>,
    stats: Instant,
}

impl<T> Pipeline<T> {
    /// Uses a connection whose selected database is unknown.
    pub fn new(connection: Connection) -> Self {
        Self { connection, awaited: VecDeque::new(), db: None, stats: Instant::now() }
    }

    /// Makes the following requests use database `db`. If that takes a SELECT, `select` becomes outstanding.
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

    /// The output buffer. Announce each request that is appended with [`Pipeline::expect`].
    #[inline]
    pub fn out(&mut self) -> &mut Vec<u8> {
        &mut self.connection.output.bytes
    }

    /// Announces a request that was appended to [`Pipeline::out`].
    #[inline]
    pub fn expect(&mut self, what: T) {
        self.connection.expect(1);
        self.awaited.push_back(what);
    }

    /// Requests INFO stats if that is due. `what` gets the number of requests before it.
    pub fn request_stats(&mut self, now: Instant, what: impl FnOnce(u64) -> T) {
        if now.saturating_duration_since(self.stats) >= STATS_EVERY {
            self.stats = now;
            let before = self.connection.sent();
            self.send(&[b"INFO", b"stats"], what(before));
        }
    }

    /// The length of the next complete reply and its request. Call [`Pipeline::done`] with the length after reading it.
    ///
    /// # Errors
    /// Returns as text for the operator that what arrived is not a reply, or that nothing was requested.
    #[inline]
    pub fn next_reply(&mut self) -> Result<Option<(usize, T)>, String> {
        let why = match self.connection.input.scan() {
            Ok(None) => return Ok(None),
            Ok(Some(len)) => match self.awaited.pop_front() {
                Some(what) => return Ok(Some((len, what))),
                None => "it sent more replies than it got requests".to_owned(),
            },
            Err(why) => why,
        };
        Err(self.connection.protocol(&why).to_string())
    }

    /// Consumes a reply of this length.
    #[inline]
    pub fn done(&mut self, len: usize) {
        self.connection.input.consume(len);
        self.connection.answered();
    }

    /// The start of the input: a complete reply of `len` bytes.
    #[inline]
    #[must_use]
    pub fn reply(&self, len: usize) -> &[u8] {
        &self.connection.input.bytes()[..len]
    }

    /// Checks that the server replies.
    ///
    /// # Errors
    /// Returns as text for the operator that a reply has been outstanding for too long.
    pub fn check(&self, now: Instant) -> Result<(), String> {
        let silent = self.connection.silent_for(now);
        if silent > ANSWER_MAX {
            return Err(format!("{} has not replied for {} s", self.connection.addr(), silent.as_secs()));
        }
        Ok(())
    }
}

/// Appends `*2 name key`.
#[inline]
pub fn push_key_request(out: &mut Vec<u8>, name: &[u8], key: &[u8]) {
    out.extend_from_slice(b"*2\r\n");
    write::bulk(out, name);
    write::bulk(out, key);
}
