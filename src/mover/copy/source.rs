//! Reads the source: pages of keys, sizes and values of small keys, the keyspace.
//! Knows nothing of the target and of feeds.

use std::collections::VecDeque;

use tokio::time::Instant;

use super::{
    in_flight::InFlight,
    requests::{FetchKey, SourceRequest},
};
use crate::{
    commands::Args,
    mover::{
        big_key::{BIG_BYTES, value::Reader},
        expiry::{Expiry, ExpiryQuery},
        feed::CommandWords,
        io::{
            connection::Connection,
            pipeline::{Pipeline, push_key_request},
            scan::{COUNT, KeyPage, Scan},
        },
        spec::SlotSet,
        track::{dirty::DbKey, no_ttl::NoTtl},
    },
    resp::{number, write},
};

/// With fewer found keys than this, the next page is requested.
const FOUND_MIN: usize = 1024;
/// Least estimate of a value's size.
const SIZE_LEAST: usize = 64;
/// COUNT of SCAN on a server that others use, too: a tenth of a millisecond.
const COUNT_SHARED: u32 = 100;

/// A key whose value is requested next.
#[derive(Debug)]
enum ReadyKey {
    /// A small key and its estimated size.
    Small(FetchKey, usize),
    /// A key that will be copied in chunks; `true`: however small it is.
    Big(DbKey, bool),
}

/// The source and the keys that wait to be read from it.
pub(super) struct SourceReader {
    pub pipeline: Pipeline<SourceRequest>,
    pub scan: Scan,
    page_requested: bool,
    /// Keys of the slots that SCAN has returned and whose size has not been requested.
    pub found: VecDeque<DbKey>,
    ready: VecDeque<ReadyKey>,
    expiry_query: ExpiryQuery,
    /// When the key whose value comes next expires.
    pub expiry: Expiry,
    /// The server's clock in milliseconds since the epoch, as of the last TIME.
    clock_ms: i64,
    /// Outstanding COMMAND GETKEYS: their keys are not marked yet.
    pub key_queries: usize,
    /// Values and parts of values that the source has sent.
    pub values_read: u64,
    /// Replies to INFO keyspace.
    pub keyspace_replies: u64,
    /// When INFO keyspace was requested last.
    pub keyspace_requested: Instant,
}

impl SourceReader {
    /// Reads over this connection. `databases`: those that have keys.
    pub fn new<'a>(
        connection: Connection,
        expiry_query: ExpiryQuery,
        databases: impl Iterator<Item = &'a u32>,
        now: Instant,
    ) -> Self {
        let mut scan = Scan::default();
        databases.for_each(|db| scan.add(*db));
        Self {
            pipeline: Pipeline::new(connection),
            scan,
            page_requested: false,
            found: VecDeque::new(),
            ready: VecDeque::new(),
            expiry_query,
            expiry: Expiry::Never,
            clock_ms: 0,
            key_queries: 0,
            values_read: 0,
            keyspace_replies: 0,
            keyspace_requested: now,
        }
    }

    /// Requests which databases have keys. Returns the number that [`SourceReader::keyspace_replies`] has after the
    /// reply.
    pub fn request_keyspace(&mut self, no_ttl: &mut NoTtl, now: Instant) -> u64 {
        self.keyspace_requested = now;
        self.pipeline.send(&[b"INFO", b"keyspace"], SourceRequest::Keyspace);
        no_ttl.begin_poll()
    }

    /// Requests the keys of a command that our table does not have.
    pub fn request_keys(&mut self, db: Option<u32>, command: &CommandWords) {
        let mut args: Vec<&[u8]> = vec![b"COMMAND", b"GETKEYS"];
        args.extend((0..command.len()).map(|i| command.get(i)));
        self.key_queries += 1;
        let name = String::from_utf8_lossy(command.get(0)).into_owned();
        self.pipeline.send(&args, SourceRequest::Keys { db, name });
    }

    /// Requests the size of a key.
    pub fn request_size(&mut self, key: FetchKey) {
        self.pipeline.select(key.item.db, SourceRequest::Select);
        let out = self.pipeline.out();
        out.extend_from_slice(b"*3\r\n$6\r\nMEMORY\r\n$5\r\nUSAGE\r\n");
        write::bulk(out, &key.item.key);
        self.pipeline.expect(SourceRequest::Size(key));
    }

    /// Handles the reply to the request for a size.
    pub fn size_reply(&mut self, key: FetchKey, len: usize) {
        let reply = self.pipeline.reply(len);
        // Nil: the key is gone. Requesting its value deletes it at the target, too.
        let size = if reply[0] == b':' { number::parse(&reply[1..len - 2]).unwrap_or(0) } else { 0 };
        self.ready.push_back(if size as u64 > BIG_BYTES {
            ReadyKey::Big(key.item, false)
        } else {
            ReadyKey::Small(key, (size as usize).max(SIZE_LEAST))
        });
    }

    /// Queues a key that must be read by one DUMP, whatever its size.
    pub fn queue_whole(&mut self, key: FetchKey) {
        self.ready.push_back(ReadyKey::Small(key, BIG_BYTES as usize));
    }

    /// Queues a key that must be copied by its elements, whatever its size.
    pub fn queue_elements(&mut self, item: DbKey) {
        self.ready.push_back(ReadyKey::Big(item, true));
    }

    /// Requests the values of keys whose size is known, within the budget.
    pub fn request_values(&mut self, in_flight: &mut InFlight) {
        while let Some(ready) = self.ready.pop_front() {
            match ready {
                ReadyKey::Small(key, estimate) => {
                    if !in_flight.allows(estimate) {
                        self.ready.push_front(ReadyKey::Small(key, estimate));
                        return;
                    }
                    in_flight.request(estimate);
                    self.pipeline.select(key.item.db, SourceRequest::Select);
                    if key.ttl {
                        self.request_expiry(&key.item.key);
                    }
                    push_key_request(self.pipeline.out(), b"DUMP", &key.item.key);
                    self.pipeline.expect(SourceRequest::Value(key, estimate));
                }
                // What was requested of this key while it was small must be written before its first chunk.
                ReadyKey::Big(item, any_size) => self.pipeline.send(&[b"PING"], SourceRequest::Big(item, any_size)),
            }
        }
    }

    fn request_expiry(&mut self, key: &[u8]) {
        match self.expiry_query {
            ExpiryQuery::ExpireTime => {
                push_key_request(self.pipeline.out(), b"PEXPIRETIME", key);
                self.pipeline.expect(SourceRequest::ExpireTime);
            }
            ExpiryQuery::TimeAndTtl => {
                self.pipeline.send(&[b"TIME"], SourceRequest::Time);
                push_key_request(self.pipeline.out(), b"PTTL", key);
                self.pipeline.expect(SourceRequest::Ttl);
            }
        }
    }

    /// Handles the reply to PEXPIRETIME.
    ///
    /// # Errors
    /// As [`SourceReader::unknown_form`].
    pub fn expire_time_reply(&mut self, len: usize) -> Result<(), String> {
        let at = Reader::new(self.pipeline.reply(len)).int().ok_or_else(|| self.unknown_form("PEXPIRETIME"))?;
        self.expiry = Expiry::of_expire_time(at);
        Ok(())
    }

    /// Handles the reply to TIME.
    ///
    /// # Errors
    /// As [`SourceReader::unknown_form`].
    pub fn time_reply(&mut self, len: usize) -> Result<(), String> {
        self.clock_ms = Reader::new(self.pipeline.reply(len)).clock_ms().ok_or_else(|| self.unknown_form("TIME"))?;
        Ok(())
    }

    /// Handles the reply to PTTL.
    ///
    /// # Errors
    /// As [`SourceReader::unknown_form`].
    pub fn ttl_reply(&mut self, len: usize) -> Result<(), String> {
        let left = Reader::new(self.pipeline.reply(len)).int().ok_or_else(|| self.unknown_form("PTTL"))?;
        self.expiry = Expiry::of_ttl(self.clock_ms, left);
        Ok(())
    }

    /// Requests the next page of keys if few are left. Returns the number of requests.
    pub fn request_page(&mut self, shared: bool) -> usize {
        if self.page_requested || self.found.len() >= FOUND_MIN {
            return 0;
        }
        let Some((db, cursor)) = self.scan.next_page() else { return 0 };
        self.pipeline.select(db, SourceRequest::Select);
        let (cursor, count) = (cursor.to_string(), if shared { COUNT_SHARED } else { COUNT }.to_string());
        self.pipeline.send(&[b"SCAN", cursor.as_bytes(), b"COUNT", count.as_bytes()], SourceRequest::KeyPage);
        self.page_requested = true;
        1
    }

    /// Handles a page of keys: keeps those of `slots` that are not in `skip`. Returns the number of keys of the page.
    ///
    /// # Errors
    /// As [`SourceReader::unknown_form`].
    pub fn page_reply(
        &mut self,
        len: usize,
        slots: &SlotSet,
        skip: impl Fn(u32, &[u8]) -> bool,
    ) -> Result<u64, String> {
        let page = KeyPage::parse(self.pipeline.reply(len)).ok_or_else(|| self.unknown_form("SCAN"))?;
        let db = self.scan.next_page().map_or(0, |(db, _)| db);
        let count = page.keys.len() as u64;
        let keys = page.keys.into_iter().filter(|key| slots.has_key(key) && !skip(db, key));
        self.found.extend(keys.map(|key| DbKey { db, key }));
        self.scan.advance(page.cursor);
        self.page_requested = false;
        Ok(count)
    }

    /// Whether no value waits to be requested and nothing but statistics is outstanding.
    pub fn is_drained(&self) -> bool {
        self.ready.is_empty()
            && self.scan.is_done()
            && !self.page_requested
            && self.pipeline.awaited.iter().all(|request| matches!(request, SourceRequest::Stats(_)))
    }

    /// Whether no request is outstanding and no value waits to be requested.
    pub fn is_idle(&self) -> bool {
        self.pipeline.awaited.is_empty() && self.ready.is_empty()
    }

    /// The error for a reply of an unknown form, as text for the operator.
    pub fn unknown_form(&self, what: &str) -> String {
        format!("{} answers {what} in an unknown form", self.pipeline.connection.addr())
    }
}
