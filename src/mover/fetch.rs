//! What is asked of the source and written to the target, and what their answers mean.
//! Knows nothing of feeds and holds. Values are opaque bytes, copied from one buffer to the other.

use tokio::time::Instant;

use super::{
    copy::{Copy, mark},
    dirty::Item,
    lane::of_key,
    pace::BURST,
    scan::{COUNT, Page, bulks, text},
};
use crate::{
    redis::{Info, RedisError},
    resp::{number, write},
};

/// Keys under way: enough that neither server waits for us.
const FLYING_MAX: usize = 2048;
/// Values under way, by estimate: bounds our memory and how long their answers keep a socket busy.
const FLYING_BYTES_MAX: usize = 16 << 20;
/// Found keys that wait to be asked for; below, the next page is asked for.
const FOUND_MIN: usize = 1024;
/// MEMORY USAGE of a key beyond its name and overhead of the server that a small value has.
pub const SIZE_LEAST: usize = 64;

/// What an awaited reply of the source is about.
#[derive(Debug)]
pub(super) enum Fetching {
    Select,
    Page,
    /// MEMORY USAGE.
    Size(Item),
    /// PTTL of the key whose value comes next.
    Ttl,
    /// DUMP, and the size that was estimated.
    Value(Item, usize),
    /// COMMAND GETKEYS.
    Keys {
        db: Option<u32>,
        name: String,
    },
    Keyspace,
    /// INFO stats, and how many requests were before it.
    Stats(u64),
}

/// What an awaited reply of the target is about.
#[derive(Debug)]
pub(super) enum Writing {
    Select,
    /// RESTORE: the key, the bytes of its value, and the estimate that is given back.
    Restore(Item, usize, usize),
    /// UNLINK, and the estimate that is given back.
    Unlink(usize),
    /// PING before a WAIT.
    Ping,
    /// WAIT for so many replicas.
    Wait(u32),
    /// As [`Fetching::Stats`].
    Stats(u64),
}

impl Copy<'_> {
    /// Reads what the source answered.
    pub fn on_source(&mut self, now: Instant) -> Result<(), String> {
        let filled = self.source.connection.fill();
        while let Some((len, what)) = self.source.next()? {
            let reply = self.source.reply(len);
            let kind = reply[0];
            if kind == b'-' {
                return Err(self.source_error(len, &what));
            }
            match what {
                Fetching::Select => {}
                Fetching::Ttl => self.ttl = number::parse(&reply[1..len - 2]).unwrap_or(-2),
                Fetching::Size(item) => {
                    // Nil: it is gone; asking for the value makes it go at the target, too.
                    let size = if kind == b':' { number::parse(&reply[1..len - 2]).unwrap_or(0) } else { 0 };
                    self.ready.push_back((item, usize::try_from(size).unwrap_or(0).max(SIZE_LEAST)));
                }
                Fetching::Value(item, size) => {
                    let gone = kind != b'$' || reply[1] == b'-' || self.ttl == -2;
                    self.target.select(item.db, Writing::Select);
                    let out = &mut self.target.connection.output.bytes;
                    if gone {
                        write::request(out, &[b"UNLINK", &item.key]);
                        self.target.expect(Writing::Unlink(size));
                    } else {
                        // -1: it has none. 0: less than a millisecond is left, and 0 would be for ever.
                        let ttl = if self.ttl == -1 { 0 } else { self.ttl.max(1) };
                        out.extend_from_slice(b"*5\r\n$7\r\nRESTORE\r\n");
                        write::bulk(out, &item.key);
                        let mut digits = Vec::with_capacity(number_len(ttl));
                        number::push(&mut digits, ttl);
                        write::bulk(out, &digits);
                        out.extend_from_slice(reply);
                        out.extend_from_slice(b"$7\r\nREPLACE\r\n");
                        self.meter.bytes(len);
                        self.target.expect(Writing::Restore(item, len, size));
                    }
                }
                Fetching::Page => {
                    let page = Page::parse(reply).ok_or_else(|| self.shape("SCAN"))?;
                    let db = self.scan.next().map_or(0, |(db, _)| db);
                    self.counters.scanned += page.keys.len() as u64;
                    for key in page.keys {
                        if self.job.slots.has_key(&key) {
                            self.found.push_back(Item { db, key });
                        }
                    }
                    self.scan.went(page.cursor);
                    self.page_asked = false;
                }
                Fetching::Keys { db, name } => {
                    let keys = bulks(reply).ok_or_else(|| self.shape(&format!("COMMAND GETKEYS {name}")))?;
                    for key in keys.iter().filter(|key| self.job.slots.has_key(key)) {
                        mark(&mut self.dirty, &mut self.scan, db, key)?;
                    }
                    self.asks -= 1;
                }
                Fetching::Keyspace => {
                    let info = text(reply).ok_or_else(|| self.shape("INFO"))?;
                    for db in Info::parse(&String::from_utf8_lossy(info)).keyspace().keys() {
                        self.scan.add(*db);
                    }
                    self.keyspaces += 1;
                }
                Fetching::Stats(ours) => {
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
        while let Some((len, what)) = self.target.next()? {
            let reply = self.target.reply(len);
            let kind = reply[0];
            match what {
                _ if kind == b'-' => return Err(self.target_error(len, &what)),
                Writing::Select | Writing::Ping => {}
                Writing::Restore(_, bytes, size) => {
                    self.counters.keys += 1;
                    self.counters.bytes += bytes as u64;
                    self.flying -= 1;
                    self.flying_bytes -= size;
                }
                Writing::Unlink(size) => {
                    if reply != b":0\r\n" {
                        self.counters.deleted += 1;
                    }
                    self.flying -= 1;
                    self.flying_bytes -= size;
                }
                Writing::Wait(wanted) => {
                    let got = number::parse(&reply[1..len - 2]).unwrap_or(0);
                    self.waited(u32::try_from(got).unwrap_or(0), wanted, now);
                }
                Writing::Stats(ours) => {
                    let stats = text(reply).unwrap_or_default().to_vec();
                    self.load(&stats, ours, true, now);
                }
            }
            self.target.done(len);
        }
        filled.map_err(|error| format!("the target is lost: {error}"))?;
        self.target.check(now)
    }

    /// Asks for what there is to ask for and room for. Returns when to come back if nothing happens.
    pub fn pump(&mut self, now: Instant) -> Result<Option<Instant>, String> {
        if !self.is_writing() {
            return Ok(None);
        }
        while let Some((_, size)) = self.ready.front() {
            if self.flying_bytes > 0 && self.flying_bytes + size > FLYING_BYTES_MAX {
                break;
            }
            let Some((item, size)) = self.ready.pop_front() else { break };
            self.flying_bytes += size;
            self.source.select(item.db, Fetching::Select);
            let out = self.source.out();
            of_key(out, b"PTTL", &item.key);
            of_key(out, b"DUMP", &item.key);
            self.source.expect(Fetching::Ttl);
            self.source.expect(Fetching::Value(item, size));
        }
        let finishing = matches!(self.phase, super::copy::Phase::Finishing(_));
        let mut room = FLYING_MAX.saturating_sub(self.flying);
        if !finishing {
            let share = self.share(now);
            if share < 1.0 {
                match self.burst_until(now) {
                    Ok(()) => room = room.min(BURST),
                    Err(until) => return Ok(until),
                }
            }
            let limits = *self.limits.borrow();
            room = room.min(self.meter.allowed(&limits, now));
        }
        let mut begun = 0;
        while begun < room {
            // What SCAN found comes first: a mark that it clears saves a second fetch.
            let item = match self.found.pop_front() {
                Some(item) => {
                    self.dirty.clear(&item);
                    item
                }
                None if self.scan.is_done() => {
                    let Some(item) = self.dirty.pop() else { break };
                    self.counters.refetched += 1;
                    item
                }
                None => break,
            };
            self.source.select(item.db, Fetching::Select);
            let out = self.source.out();
            out.extend_from_slice(b"*3\r\n$6\r\nMEMORY\r\n$5\r\nUSAGE\r\n");
            write::bulk(out, &item.key);
            self.source.expect(Fetching::Size(item));
            self.flying += 1;
            self.meter.key();
            begun += 1;
        }
        if !self.page_asked
            && self.found.len() < FOUND_MIN
            && let Some((db, cursor)) = self.scan.next()
        {
            self.source.select(db, Fetching::Select);
            let (cursor, count) = (cursor.to_string(), COUNT.to_string());
            self.source.send(&[b"SCAN", cursor.as_bytes(), b"COUNT", count.as_bytes()], Fetching::Page);
            self.page_asked = true;
            begun += 1;
        }
        if begun > 0 {
            self.begin_burst(now);
        }
        Ok(None)
    }

    fn shape(&self, what: &str) -> String {
        format!("{} answers {what} in a form that is not known", self.source.connection.addr())
    }

    fn source_error(&self, len: usize, what: &Fetching) -> String {
        let text = String::from_utf8_lossy(&self.source.reply(len)[1..len - 2]).into_owned();
        let addr = self.source.connection.addr();
        let of = |command: &str| RedisError::of_answer(addr, command, &text).to_string();
        match what {
            Fetching::Keys { name, .. } => format!(
                "{addr} replicates a command '{name}' whose keys it does not tell either ({text}), so what it changed is not known"
            ),
            Fetching::Size(_) => of("MEMORY"),
            Fetching::Value(item, _) => format!("{} (key '{}')", of("DUMP"), item.key.escape_ascii()),
            Fetching::Ttl => of("PTTL"),
            Fetching::Page => of("SCAN"),
            Fetching::Select => of("SELECT"),
            Fetching::Keyspace | Fetching::Stats(_) => of("INFO"),
        }
    }

    fn target_error(&self, len: usize, what: &Writing) -> String {
        let text = String::from_utf8_lossy(&self.target.reply(len)[1..len - 2]).into_owned();
        let addr = self.target.connection.addr();
        let of = |command: &str| RedisError::of_answer(addr, command, &text).to_string();
        if text.starts_with("OOM") {
            return format!(
                "{addr} is out of memory ({text}); raise its maxmemory or move fewer slots there, then resume the migration"
            );
        }
        match what {
            Writing::Restore(item, ..) => format!("{} (key '{}')", of("RESTORE"), item.key.escape_ascii()),
            Writing::Unlink(_) => of("UNLINK"),
            Writing::Select => of("SELECT"),
            Writing::Ping => of("PING"),
            Writing::Wait(_) => of("WAIT"),
            Writing::Stats(_) => of("INFO"),
        }
    }
}

/// Room for the digits of a time to live.
const fn number_len(_ttl: i64) -> usize {
    20
}
