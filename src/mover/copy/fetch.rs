//! What is asked of the source and written to the target, and what their answers mean.
//! Knows nothing of feeds and holds. Values are opaque bytes, copied from one buffer to the other.

use bytes::Bytes;
use tokio::time::Instant;

use super::{big::send, engine::CopyEngine, libraries::LibrarySide, payload};
use crate::{
    mover::{
        big_key::{BIG_BYTES, BigId, Requests},
        io::{
            pace::BURST,
            pipeline::{Pipeline, push_key_request},
            scan::{COUNT, KeyPage, bulks, text},
        },
        track::dirty::DbKey,
    },
    redis::{Info, RedisError, Reply},
    resp::{number, write},
};

/// Keys under way: enough that neither server waits for us.
const FLYING_MAX: usize = 2048;
/// Values under way until the target has them, by estimate: bounds our memory.
const FLYING_BYTES_MAX: usize = 16 << 20;
/// Values asked for and not answered, by estimate. A server does in one go what it finds in a connection's buffer, and makes
/// about 100 MB of payloads a second: so nobody waits for more than some milliseconds behind ours.
const ASKED_BYTES_MAX: usize = 512 << 10;
/// Found keys that wait to be asked for; below, the next page is asked for.
const FOUND_MIN: usize = 1024;
/// The least that a value under way is counted for.
const SIZE_LEAST: usize = 64;
/// Elements of one SCAN on a server that others use, too: a tenth of a millisecond.
const COUNT_SHARED: u32 = 100;

/// A key on its way.
#[derive(Debug)]
pub(in crate::mover) struct FetchKey {
    pub item: DbKey,
    /// Its time to live must be asked for.
    ttl: bool,
    /// Number of this fetch.
    number: u64,
}

/// What an awaited reply of the source is about.
#[derive(Debug)]
pub(in crate::mover) enum SourceRequest {
    Select,
    KeyPage,
    /// MEMORY USAGE.
    Size(FetchKey),
    /// PTTL of the key whose value comes next.
    Ttl,
    /// DUMP, and the size that was estimated.
    Value(FetchKey, usize),
    /// A PING behind every fetch that was asked for before this key was found to be big.
    Big(DbKey),
    /// Of a chunk, and its database.
    Chunk(BigId, u32),
    /// COMMAND GETKEYS.
    Keys {
        db: Option<u32>,
        name: String,
    },
    Keyspace,
    /// FUNCTION LIST.
    Libraries,
    /// INFO stats, and how many requests were before it.
    Stats(u64),
}

/// What an awaited reply of the target is about.
#[derive(Debug)]
pub(in crate::mover) enum TargetRequest {
    Select,
    /// RESTORE: the key, the bytes of its value, the estimate that is given back, and whether its version was lowered.
    Restore(FetchKey, usize, usize, bool),
    /// UNLINK, the number of the fetch, and the estimate that is given back.
    Unlink(u64, usize),
    /// PING in the place of a RESTORE that is not wanted any more, as [`TargetRequest::Unlink`].
    Passed(u64, usize),
    /// Of a chunk.
    Chunk(BigId),
    Libraries,
    /// FUNCTION LOAD.
    Load,
    /// PING before a WAIT.
    Ping,
    /// WAIT for so many replicas.
    Wait(u32),
    /// As [`SourceRequest::Stats`].
    Stats(u64),
    /// What a test wants replayed.
    Replayed,
}

/// Keys that wait for their turn.
#[derive(Debug)]
pub(in crate::mover) enum ReadyKey {
    /// Its size is known and small.
    Small(FetchKey, usize),
    /// It is to be copied in chunks.
    Big(DbKey),
}

impl CopyEngine<'_> {
    /// Reads what the source answered.
    pub fn on_source(&mut self, now: Instant) -> Result<(), String> {
        let filled = self.source.connection.fill();
        while let Some((len, what)) = self.source.next_reply()? {
            let reply = self.source.reply(len);
            let kind = reply[0];
            if kind == b'-' && !matches!(what, SourceRequest::Chunk(..) | SourceRequest::Libraries) {
                return Err(self.source_error(len, &what));
            }
            match what {
                SourceRequest::Select => {}
                SourceRequest::Ttl => self.ttl = number::parse(&reply[1..len - 2]).unwrap_or(-2),
                SourceRequest::Size(wanted) => {
                    // Nil: it is gone; asking for the value makes it go at the target, too.
                    let size = if kind == b':' { number::parse(&reply[1..len - 2]).unwrap_or(0) } else { 0 };
                    self.ready.push_back(if size as u64 > BIG_BYTES {
                        ReadyKey::Big(wanted.item)
                    } else {
                        ReadyKey::Small(wanted, (size as usize).max(SIZE_LEAST))
                    });
                }
                SourceRequest::Value(wanted, size) => {
                    self.fetched += 1;
                    self.asked_bytes -= size;
                    if self.changes.big.contains(wanted.item.db, &wanted.item.key) {
                        // It was big, small when this was asked for, and is being copied in chunks: which were all asked for
                        // later, and would be added to a list that is there already.
                        self.target.send(&[b"PING"], TargetRequest::Passed(wanted.number, size));
                        self.source.done(len);
                        continue;
                    }
                    let bytes = restore(&mut self.target, &wanted, reply, self.ttl, self.lowers);
                    match bytes {
                        Some(lowered) => {
                            self.meter.bytes(len);
                            if !self.reports_groups
                                && value(reply).first().is_some_and(|kind| payload::is_stream(*kind))
                            {
                                self.streams.insert((wanted.item.db, wanted.item.key.clone()));
                            }
                            self.target.expect(TargetRequest::Restore(wanted, len, size, lowered));
                        }
                        None => self.target.expect(TargetRequest::Unlink(wanted.number, size)),
                    }
                }
                SourceRequest::Big(item) => self.begin_big(item, now),
                SourceRequest::Chunk(id, db) => {
                    self.fetched += 1;
                    let mut out = Requests::default();
                    let done = self.changes.big.source_reply(id, reply, &mut out, now.into_std());
                    done.map_err(|error| error.to_string())?;
                    let bytes =
                        send(&mut self.target, db, &mut out, TargetRequest::Select, || TargetRequest::Chunk(id));
                    self.meter.bytes(bytes);
                }
                SourceRequest::KeyPage => {
                    let page = KeyPage::parse(reply).ok_or_else(|| self.shape("SCAN"))?;
                    let db = self.scan.next_page().map_or(0, |(db, _)| db);
                    self.counters.scanned += page.keys.len() as u64;
                    for key in page.keys {
                        if self.spec.slots.has_key(&key) && !self.changes.big.contains(db, &key) {
                            self.found.push_back(DbKey { db, key });
                        }
                    }
                    self.scan.advance(page.cursor);
                    self.page_asked = false;
                }
                SourceRequest::Keys { db, name } => {
                    let keys = bulks(reply).ok_or_else(|| self.shape(&format!("COMMAND GETKEYS {name}")))?;
                    for key in keys.iter().filter(|key| self.spec.slots.has_key(key)) {
                        self.no_ttl.changed(db, None);
                        self.changes.change(&mut self.scan, db, key, None, now)?;
                    }
                    self.asks -= 1;
                }
                SourceRequest::Keyspace => {
                    let info = text(reply).ok_or_else(|| self.shape("INFO"))?;
                    let info = Info::parse(&String::from_utf8_lossy(info));
                    self.keyspaces += 1;
                    let none = info.expires().into_iter().filter(|(_, count)| *count == 0).map(|(db, _)| db);
                    self.no_ttl.answered(self.keyspaces, none);
                    for db in info.keyspace().keys() {
                        self.scan.add(*db);
                    }
                }
                SourceRequest::Libraries => {
                    let reply = Reply::decode(&Bytes::copy_from_slice(reply))?;
                    self.libraries_of(LibrarySide::Source, &reply)?;
                }
                SourceRequest::Stats(ours) => {
                    let stats = text(reply).ok_or_else(|| self.shape("INFO"))?.to_vec();
                    self.load(&stats, ours, false, now);
                }
            }
            self.source.done(len);
        }
        filled.map_err(|error| format!("the source is lost: {error}"))?;
        self.source.check(now)
    }

    /// Reads what the target answered.
    pub fn on_target(&mut self, now: Instant) -> Result<(), String> {
        let filled = self.target.connection.fill();
        while let Some((len, what)) = self.target.next_reply()? {
            let reply = self.target.reply(len);
            match (what, reply[0]) {
                (TargetRequest::Restore(wanted, _, size, false), b'-') if is_refused(reply) => {
                    // From now on versions are lowered, and this key is fetched once more.
                    self.lowers = true;
                    self.through(wanted.number, size);
                    self.changes.dirty.mark(wanted.item.db, &wanted.item.key)?;
                }
                (TargetRequest::Chunk(id), _) => {
                    let done = self.changes.big.target_reply(id, reply, now.into_std());
                    done.map_err(|error| error.to_string())?;
                }
                (TargetRequest::Libraries, _) => {
                    let reply = Reply::decode(&Bytes::copy_from_slice(reply))?;
                    self.libraries_of(LibrarySide::Target, &reply)?;
                }
                (TargetRequest::Replayed, _) => {}
                (what, b'-') => return Err(self.target_error(len, &what)),
                (TargetRequest::Select | TargetRequest::Ping | TargetRequest::Load, _) => {}
                (TargetRequest::Restore(wanted, bytes, size, _), _) => {
                    self.counters.keys += 1;
                    self.counters.bytes += bytes as u64;
                    self.through(wanted.number, size);
                }
                (TargetRequest::Unlink(number, size), _) => {
                    self.counters.deleted += u64::from(reply != b":0\r\n");
                    self.through(number, size);
                }
                (TargetRequest::Passed(number, size), _) => self.through(number, size),
                (TargetRequest::Wait(wanted), _) => {
                    let got = number::parse(&reply[1..len - 2]).unwrap_or(0);
                    self.waited(u32::try_from(got).unwrap_or(0), wanted);
                }
                (TargetRequest::Stats(ours), _) => {
                    let stats = text(reply).unwrap_or_default().to_vec();
                    self.load(&stats, ours, true, now);
                }
            }
            self.target.done(len);
        }
        filled.map_err(|error| format!("the target is lost: {error}"))?;
        self.target.check(now)
    }

    /// A fetch of a small key is through.
    fn through(&mut self, number: u64, size: usize) {
        self.answered = number;
        self.flying -= 1;
        self.flying_bytes -= size;
    }

    /// Asks for what there is to ask for and room for. Returns when to come back if nothing happens.
    pub fn pump(&mut self, now: Instant) -> Result<Option<Instant>, String> {
        if !self.is_writing() {
            return Ok(None);
        }
        self.ask_values();
        let mut room = FLYING_MAX.saturating_sub(self.flying);
        let mut shared = false;
        if !self.is_finishing() {
            shared = self.share(now) < 1.0;
            if shared {
                match self.burst_until(now) {
                    Ok(()) => room = room.min(BURST),
                    Err(until) => return Ok(until),
                }
            }
            let limits = *self.limits.borrow();
            room = room.min(self.meter.allowed(&limits, now));
        }
        if room == 0 {
            return Ok(None);
        }
        let begun =
            self.ask_sizes(room) + self.ask_chunks(if shared { 1 } else { usize::MAX }, now) + self.ask_page(shared);
        if begun > 0 {
            self.begin_burst(now);
        }
        Ok(None)
    }

    fn ask_values(&mut self) {
        while let Some(ready) = self.ready.pop_front() {
            match ready {
                ReadyKey::Small(wanted, size) => {
                    let full = self.flying_bytes > 0 && self.flying_bytes + size > FLYING_BYTES_MAX;
                    if full || (self.asked_bytes > 0 && self.asked_bytes + size > ASKED_BYTES_MAX) {
                        self.ready.push_front(ReadyKey::Small(wanted, size));
                        return;
                    }
                    self.flying_bytes += size;
                    self.asked_bytes += size;
                    self.source.select(wanted.item.db, SourceRequest::Select);
                    if wanted.ttl {
                        push_key_request(self.source.out(), b"PTTL", &wanted.item.key);
                        self.source.expect(SourceRequest::Ttl);
                    }
                    push_key_request(self.source.out(), b"DUMP", &wanted.item.key);
                    self.source.expect(SourceRequest::Value(wanted, size));
                }
                // What was asked of this key before, while it was small, must be written before its first chunk.
                ReadyKey::Big(item) => self.source.send(&[b"PING"], SourceRequest::Big(item)),
            }
        }
    }

    fn ask_sizes(&mut self, room: usize) -> usize {
        let mut begun = 0;
        while begun < room && !self.changes.big.is_full() {
            // What SCAN found comes first: a mark that it clears saves a second fetch.
            let (item, ttl) = match self.found.pop_front() {
                Some(item) => {
                    // A database without times to live has none for this key; had it got one since, that would be an event.
                    let ttl = self.changes.dirty.clear(&item) || !self.no_ttl.has(item.db);
                    (item, ttl)
                }
                None if self.scan.is_done() => {
                    let Some(item) = self.changes.dirty.pop() else { break };
                    self.counters.refetched += 1;
                    (item, true)
                }
                None => break,
            };
            self.begin(item, ttl);
            begun += 1;
        }
        begun
    }

    fn begin(&mut self, item: DbKey, ttl: bool) {
        self.begun += 1;
        self.flying += 1;
        self.meter.key();
        if let Some(watched) = &self.changes.watched {
            watched.borrow_mut().fetch(item.db, &item.key, self.begun);
        }
        self.source.select(item.db, SourceRequest::Select);
        let out = self.source.out();
        out.extend_from_slice(b"*3\r\n$6\r\nMEMORY\r\n$5\r\nUSAGE\r\n");
        write::bulk(out, &item.key);
        self.source.expect(SourceRequest::Size(FetchKey { item, ttl, number: self.begun }));
    }

    /// A key that was thought to be big is to be fetched as any other; `whole`: whatever its size, since it has no pieces.
    pub fn begin_small(&mut self, item: DbKey, whole: bool) {
        if whole {
            self.begun += 1;
            self.flying += 1;
            let wanted = FetchKey { item, ttl: true, number: self.begun };
            self.ready.push_back(ReadyKey::Small(wanted, BIG_BYTES as usize));
        } else {
            self.begin(item, true);
        }
    }

    fn ask_page(&mut self, shared: bool) -> usize {
        if self.page_asked || self.found.len() >= FOUND_MIN {
            return 0;
        }
        let Some((db, cursor)) = self.scan.next_page() else { return 0 };
        self.source.select(db, SourceRequest::Select);
        let (cursor, count) = (cursor.to_string(), if shared { COUNT_SHARED } else { COUNT }.to_string());
        self.source.send(&[b"SCAN", cursor.as_bytes(), b"COUNT", count.as_bytes()], SourceRequest::KeyPage);
        self.page_asked = true;
        1
    }

    fn shape(&self, what: &str) -> String {
        format!("{} answers {what} in a form that is not known", self.source.connection.addr())
    }

    fn source_error(&self, len: usize, what: &SourceRequest) -> String {
        let text = String::from_utf8_lossy(&self.source.reply(len)[1..len - 2]).into_owned();
        let addr = self.source.connection.addr();
        let of = |command: &str| RedisError::of_answer(addr, command, &text).to_string();
        match what {
            SourceRequest::Keys { name, .. } => format!(
                "{addr} replicates a command '{name}' whose keys it does not tell either ({text}), so what it changed is not known"
            ),
            SourceRequest::Size(_) => of("MEMORY"),
            SourceRequest::Value(wanted, _) => format!("{} (key '{}')", of("DUMP"), wanted.item.key.escape_ascii()),
            SourceRequest::Big(_) => of("PING"),
            SourceRequest::Chunk(..) => of("a part of a big key"),
            SourceRequest::Libraries => of("FUNCTION"),
            SourceRequest::Ttl => of("PTTL"),
            SourceRequest::KeyPage => of("SCAN"),
            SourceRequest::Select => of("SELECT"),
            SourceRequest::Keyspace | SourceRequest::Stats(_) => of("INFO"),
        }
    }

    fn target_error(&self, len: usize, what: &TargetRequest) -> String {
        let text = String::from_utf8_lossy(&self.target.reply(len)[1..len - 2]).into_owned();
        let addr = self.target.connection.addr();
        let of = |command: &str| RedisError::of_answer(addr, command, &text).to_string();
        if text.starts_with("OOM") {
            return format!(
                "{addr} is out of memory ({text}); raise its maxmemory or move fewer slots there, then resume the migration"
            );
        }
        match what {
            TargetRequest::Restore(wanted, .., lowered) => format!(
                "{} (key '{}'{})",
                of("RESTORE"),
                wanted.item.key.escape_ascii(),
                if *lowered { "; its value has a form that this server is too old for" } else { "" }
            ),
            TargetRequest::Unlink(..) => of("UNLINK"),
            TargetRequest::Chunk(_) => of("a part of a big key"),
            TargetRequest::Libraries | TargetRequest::Load => of("FUNCTION"),
            TargetRequest::Select => of("SELECT"),
            TargetRequest::Ping | TargetRequest::Passed(..) | TargetRequest::Replayed => of("PING"),
            TargetRequest::Wait(_) => of("WAIT"),
            TargetRequest::Stats(_) => of("INFO"),
        }
    }
}

/// The payload in an answer to DUMP.
fn value(reply: &[u8]) -> &[u8] {
    text(reply).unwrap_or_default()
}

fn is_refused(reply: &[u8]) -> bool {
    let text = String::from_utf8_lossy(reply);
    text.contains(payload::REFUSED) || text.contains("Bad data format")
}

/// Appends RESTORE of an answer to DUMP, and says whether its version was lowered; UNLINK and `None` if the key is gone.
fn restore(
    target: &mut Pipeline<TargetRequest>,
    wanted: &FetchKey,
    reply: &[u8],
    asked: i64,
    lower: bool,
) -> Option<bool> {
    let FetchKey { item: DbKey { db, key }, ttl, .. } = wanted;
    target.select(*db, TargetRequest::Select);
    let out = target.out();
    let ttl = match asked {
        _ if !ttl => 0,
        // It has none.
        -1 => 0,
        // Less than a millisecond is left, and 0 would be for ever.
        some => some.max(1),
    };
    if reply.starts_with(b"$-") || reply[0] != b'$' || (wanted.ttl && asked == -2) {
        write::request(out, &[b"UNLINK", key]);
        return None;
    }
    out.extend_from_slice(b"*5\r\n$7\r\nRESTORE\r\n");
    write::bulk(out, key);
    if ttl == 0 {
        out.extend_from_slice(b"$1\r\n0\r\n");
    } else {
        let mut digits = Vec::with_capacity(DIGITS);
        number::push(&mut digits, ttl);
        write::bulk(out, &digits);
    }
    match lower.then(|| payload::lowered(value(reply))) {
        Some(Ok(lowered)) => write::bulk(out, &lowered),
        // As it is: it may be one that the target takes.
        Some(Err(_)) | None => out.extend_from_slice(reply),
    }
    out.extend_from_slice(b"$7\r\nREPLACE\r\n");
    Some(lower)
}

/// Room for the digits of a time to live.
const DIGITS: usize = 20;
