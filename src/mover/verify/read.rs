//! Reads and digests keys of one server, big ones in pieces, so that the server is never blocked for long.
//! Knows nothing of the other server.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{
    connection::{PAGE, ReadCommand, ReadConnection, ReadError, collect, command, refused, unreadable},
    digest::{DigestSeed, ELEMENTS_MAX, KeyDigest, MemberDigest, SequenceDigest, ValueDigest},
    stream,
};
use crate::{
    mover::{
        expiry::{Expiry, ExpiryQuery},
        payload,
        spec::Endpoint,
    },
    redis::{Client, RedisError, Reply},
};

/// Estimated bytes of a page, and the size of the pieces in which strings are read. Both sides use the same pieces.
pub const PAGE_BYTES: u64 = 512 << 10;
/// Bytes of small values read at once. The values beyond it are read one by one.
const SMALL_BYTES_MAX: u64 = 8 << 20;
/// Largest value of a type that only DUMP can read that is compared.
const DUMP_MAX: u64 = 8 << 20;

/// The digests of some keys at one server.
#[derive(Clone, Debug)]
pub struct ReadKeys {
    /// In the order of the keys.
    pub digests: Vec<KeyDigest>,
    /// The server's clock after it had replied, in milliseconds since the epoch.
    pub clock_ms: i64,
    /// [`ValueDigest::expires_at`] is exact.
    pub exact: bool,
}

/// Type, expiry, length and size of a key.
struct EntryHeader {
    kind: String,
    expires_at: Option<i64>,
    len: u64,
    bytes: u64,
}

impl EntryHeader {
    /// Elements of a page, so that it stays small.
    fn page(&self) -> u64 {
        PAGE.min((PAGE_BYTES * self.len.max(1) / self.bytes.max(1)).max(1))
    }

    /// The command that reads a small value as a whole. `None`: it is read in pages, or by several commands.
    fn whole(&self, key: &[u8]) -> Option<ReadCommand> {
        match self.kind.as_str() {
            "string" => (self.len <= PAGE_BYTES).then(|| command(&[b"GET", key])),
            _ if self.len > self.page() => None,
            "list" => Some(command(&[b"LRANGE", key, b"0", b"-1"])),
            "set" => Some(command(&[b"SMEMBERS", key])),
            "hash" => Some(command(&[b"HGETALL", key])),
            "zset" => Some(command(&[b"ZRANGE", key, b"0", b"-1", b"WITHSCORES"])),
            _ => None,
        }
    }
}

/// Reads and digests keys of one server.
pub struct Reader {
    connection: ReadConnection,
}

impl Reader {
    /// Connects.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub async fn open(endpoint: &Endpoint, name: &str, seed: DigestSeed) -> Result<Self, RedisError> {
        Ok(Self { connection: ReadConnection::open(endpoint, name, seed).await? })
    }

    /// Skips the groups of streams, for a feed that does not report their changes.
    pub(super) fn without_groups(self) -> Self {
        Self { connection: self.connection.without_groups() }
    }

    /// The connection with database `db` selected, for SCAN and similar commands.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub async fn client(&mut self, db: u32) -> Result<&mut Client, RedisError> {
        self.connection.client(db).await
    }

    /// Reads keys of database `db`.
    ///
    /// # Errors
    /// The connection is lost. A key that cannot be read is not an error.
    pub async fn read(&mut self, db: u32, keys: &[Bytes]) -> Result<ReadKeys, RedisError> {
        self.client(db).await?;
        let digests = self.digests(db, keys).await?;
        let clock_ms = self.connection.clock_ms().await?;
        Ok(ReadKeys { digests, clock_ms, exact: self.connection.expiry_query() == ExpiryQuery::ExpireTime })
    }

    async fn digests(&mut self, db: u32, keys: &[Bytes]) -> Result<Vec<KeyDigest>, RedisError> {
        let headers = self.headers(keys).await?;
        let mut seen: Vec<Option<KeyDigest>> = Vec::with_capacity(keys.len());
        // Small values are read by one request each, all at once.
        let mut small = Vec::new();
        let mut small_bytes = 0;
        for (at, (key, header)) in keys.iter().zip(&headers).enumerate() {
            seen.push(header.as_ref().err().cloned());
            if let Ok(header) = header
                && let Some(command) = header.whole(key)
                && small_bytes < SMALL_BYTES_MAX
            {
                small_bytes += header.bytes.max(header.len);
                small.push((at, command));
            }
        }
        let commands: Vec<ReadCommand> = small.iter().map(|(_, command)| command.clone()).collect();
        let replies = match self.connection.pipe(&commands).await {
            Ok(replies) => replies,
            // An element exceeds our limit, and the rest of the reply cannot be parsed. Read the values one by one
            // instead.
            Err(RedisError::Protocol { .. }) => {
                self.connection.reopen(db).await?;
                Vec::new()
            }
            Err(error) => return Err(error),
        };
        let mut replies: BTreeMap<usize, Reply> = small.into_iter().map(|(at, _)| at).zip(replies).collect();
        for (at, header) in headers.into_iter().enumerate() {
            let Ok(header) = header else { continue };
            let reply = replies.remove(&at);
            seen[at] = Some(match self.value(&keys[at], header, reply).await {
                Ok(summary) => KeyDigest::Key(summary),
                Err(ReadError::Key(other)) => other,
                Err(ReadError::Connection(RedisError::Protocol { why, .. })) => {
                    self.connection.reopen(db).await?;
                    KeyDigest::Unreadable(why)
                }
                Err(ReadError::Connection(error)) => return Err(error),
            });
        }
        Ok(seen.into_iter().map(|seen| seen.unwrap_or(KeyDigest::Changed)).collect())
    }

    /// Type, expiry and size of each key, in two round trips.
    async fn headers(&mut self, keys: &[Bytes]) -> Result<Vec<Result<EntryHeader, KeyDigest>>, RedisError> {
        let query = self.connection.expiry_query();
        let mut commands = Vec::new();
        for key in keys {
            commands.push(command(&[b"TYPE", key]));
            match query {
                ExpiryQuery::ExpireTime => commands.push(command(&[b"PEXPIRETIME", key])),
                ExpiryQuery::TimeAndTtl => commands.extend([command(&[b"TIME"]), command(&[b"PTTL", key])]),
            }
        }
        let each = commands.len() / keys.len().max(1);
        let first = self.connection.pipe(&commands).await?;
        let mut sizes = Vec::with_capacity(keys.len() * 2);
        for (key, answer) in keys.iter().zip(first.chunks_exact(each.max(1))) {
            let length: &[u8] = match answer[0].text() {
                Some("string") => b"STRLEN",
                Some("list") => b"LLEN",
                Some("set") => b"SCARD",
                Some("hash") => b"HLEN",
                Some("zset") => b"ZCARD",
                Some("stream") => b"XLEN",
                // A module's type: only its size in bytes counts.
                _ => b"EXISTS",
            };
            sizes.push(command(&[length, key]));
            sizes.push(command(&[b"MEMORY", b"USAGE", key]));
        }
        let second = self.connection.pipe(&sizes).await?;
        let header = |(first, second): (&[Reply], &[Reply])| {
            let kind = match first[0].text() {
                Some("none") => return Err(KeyDigest::Missing),
                Some(kind) => kind.to_owned(),
                None => return Err(unreadable(&first[0])),
            };
            let expires_at = match expiry(&first[1..]) {
                Some(Expiry::At(at)) => Some(at),
                Some(Expiry::Never) => None,
                Some(Expiry::Gone) => return Err(KeyDigest::Changed),
                None => return Err(unreadable(&first[1])),
            };
            let len = match &second[0] {
                Reply::Error(text) if !text.starts_with("WRONGTYPE") => return Err(unreadable(&second[0])),
                reply => reply.integer().and_then(|n| u64::try_from(n).ok()).ok_or(KeyDigest::Changed)?,
            };
            // MEMORY USAGE is not allowed everywhere. Then only the number of elements determines the pages.
            let bytes = second[1].integer().and_then(|n| u64::try_from(n).ok()).unwrap_or(0);
            Ok(EntryHeader { kind, expires_at, len, bytes })
        };
        Ok(first.chunks_exact(each.max(1)).zip(second.chunks_exact(2)).map(header).collect())
    }

    /// `whole`: the reply to [`EntryHeader::whole`], if it was requested.
    async fn value(
        &mut self,
        key: &Bytes,
        header: EntryHeader,
        whole: Option<Reply>,
    ) -> Result<ValueDigest, ReadError> {
        let page = header.page();
        let EntryHeader { kind, expires_at, len, bytes } = header;
        let mut extras = BTreeMap::new();
        let mut expiring_fields = BTreeMap::new();
        let seed = self.connection.seed();
        let digest = match (kind.as_str(), whole) {
            (_, Some(reply @ Reply::Error(_))) => return Err(refused(&reply)),
            ("string", Some(Reply::Bulk(bytes))) if bytes.len() as u64 == len => {
                let pieces = if len == 0 { vec![] } else { vec![seed.of(&[&bytes])] };
                string_of(&seed, &pieces, len)
            }
            ("list" | "zset", Some(reply)) => {
                let mut sequence = seed.sequence();
                ranked(&kind, &reply, &mut sequence)?;
                sequence.finish()
            }
            ("set" | "hash", Some(reply)) => {
                let mut members = seed.members();
                self.unordered(&kind, key, &reply, &mut members, &mut expiring_fields).await?;
                members.finish()
            }
            (_, Some(_)) => return Err(ReadError::Key(KeyDigest::Changed)),
            ("string", None) => self.string(key, len).await?,
            ("list", None) => self.by_rank(&kind, &[b"LRANGE", key], &[], len, page).await?,
            ("zset", None) => self.by_rank(&kind, &[b"ZRANGE", key], &[b"WITHSCORES"], len, page).await?,
            ("set", None) => self.scanned(&kind, b"SSCAN", key, page, &mut expiring_fields).await?,
            ("hash", None) => self.scanned(&kind, b"HSCAN", key, page, &mut expiring_fields).await?,
            ("stream", None) => stream::digest(&mut self.connection, key, page, &mut extras).await?,
            (_, None) if bytes > DUMP_MAX => {
                let why = format!("a {kind} of {bytes} bytes; only DUMP can read it, and it is too big for DUMP");
                return Err(ReadError::Key(KeyDigest::Unreadable(why)));
            }
            (_, None) => {
                let reply = self.connection.request(&[b"DUMP", key]).await?;
                let Reply::Bulk(bytes) = &reply else { return Err(ReadError::Key(KeyDigest::Changed)) };
                let value =
                    payload::value(bytes).map_err(|why| ReadError::Key(KeyDigest::Unreadable(why.to_string())))?;
                seed.of(&[value])
            }
        };
        Ok(ValueDigest { kind, digest, expires_at, expiring_fields, extras })
    }

    async fn string(&mut self, key: &Bytes, len: u64) -> Result<u64, ReadError> {
        let mut pieces = Vec::new();
        let mut at = 0;
        while at < len {
            let (from, to) = (at.to_string(), (at + PAGE_BYTES - 1).to_string());
            let reply = self.connection.request(&[b"GETRANGE", key, from.as_bytes(), to.as_bytes()]).await?;
            let Reply::Bulk(piece) = &reply else { return Err(ReadError::Key(KeyDigest::Changed)) };
            pieces.push(self.connection.seed().of(&[piece]));
            at += PAGE_BYTES;
        }
        Ok(string_of(&self.connection.seed(), &pieces, len))
    }

    /// Reads a list or sorted set by rank: no element occurs twice.
    async fn by_rank(
        &mut self,
        kind: &str,
        head: &[&[u8]],
        tail: &[&[u8]],
        len: u64,
        page: u64,
    ) -> Result<u64, ReadError> {
        let seed = self.connection.seed();
        let mut sequence = seed.sequence();
        let mut at = 0;
        while at < len {
            let (from, to) = (at.to_string(), (at + page - 1).to_string());
            let reply = self.connection.request(&[head, &[from.as_bytes(), to.as_bytes()], tail].concat()).await?;
            ranked(kind, &reply, &mut sequence)?;
            at += page;
        }
        Ok(sequence.finish())
    }

    /// Reads a big hash or set with a SCAN command.
    async fn scanned(
        &mut self,
        kind: &str,
        scan: &[u8],
        key: &Bytes,
        page: u64,
        expiring: &mut BTreeMap<u64, i64>,
    ) -> Result<u64, ReadError> {
        let seed = self.connection.seed();
        let mut members = seed.members();
        let mut cursor = Bytes::from_static(b"0");
        loop {
            let reply = self.connection.request(&[scan, key, &cursor, b"COUNT", page.to_string().as_bytes()]).await?;
            let Some([Reply::Bulk(next), found]) = reply.items() else {
                return Err(ReadError::Key(KeyDigest::Changed));
            };
            self.unordered(kind, key, found, &mut members, expiring).await?;
            if next.as_ref() == b"0" {
                return Ok(members.finish());
            }
            cursor = next.clone();
        }
    }

    /// Digests a page of a set or hash: fields that have a time to live into `expiring`, everything else into `members`.
    async fn unordered(
        &mut self,
        kind: &str,
        key: &Bytes,
        page: &Reply,
        members: &mut MemberDigest<'_>,
        expiring: &mut BTreeMap<u64, i64>,
    ) -> Result<(), ReadError> {
        let mut items = Vec::new();
        collect(page, &mut items)?;
        let each = if kind == "hash" { 2 } else { 1 };
        let times = if kind == "hash" { self.expiry_of(key, &items).await? } else { Vec::new() };
        for (at, item) in items.chunks_exact(each).enumerate() {
            let parts: Vec<&[u8]> = item.iter().map(|part| &part[..]).collect();
            let counted = match times.get(at) {
                // It has expired since the page was read.
                Some(Expiry::Gone) => true,
                Some(Expiry::At(expires_at)) => {
                    expiring.insert(self.connection.seed().of(&parts), *expires_at);
                    expiring.len() <= ELEMENTS_MAX
                }
                Some(Expiry::Never) | None => members.push(&parts),
            };
            if !counted {
                return Err(ReadError::Key(KeyDigest::Unreadable(format!("more than {ELEMENTS_MAX} elements"))));
            }
        }
        Ok(())
    }

    /// When fields of a hash expire. `fields`: fields and values in turn. Empty: no field has a time to live.
    async fn expiry_of(&mut self, key: &Bytes, fields: &[Bytes]) -> Result<Vec<Expiry>, ReadError> {
        if !self.connection.field_expiry() || fields.is_empty() {
            return Ok(Vec::new());
        }
        let count = (fields.len() / 2).to_string();
        let mut request: Vec<&[u8]> = vec![b"HPEXPIRETIME", key, b"FIELDS", count.as_bytes()];
        request.extend(fields.iter().step_by(2).map(|field| &field[..]));
        let reply = self.connection.request(&request).await?;
        let times = reply.items().filter(|times| times.len() == fields.len() / 2);
        let times = times.ok_or(ReadError::Key(KeyDigest::Changed))?;
        let expiry = |time: &Reply| time.integer().map(Expiry::of_expire_time);
        times.iter().map(|time| expiry(time).ok_or(ReadError::Key(KeyDigest::Changed))).collect()
    }
}

/// When a key expires, by the replies to PEXPIRETIME or to TIME and PTTL.
fn expiry(replies: &[Reply]) -> Option<Expiry> {
    match replies {
        [expire_time] => expire_time.integer().map(Expiry::of_expire_time),
        [time, ttl] => Some(Expiry::of_ttl(time.clock_ms()?, ttl.integer()?)),
        _ => None,
    }
}

/// The digest of a string from those of its pieces of [`PAGE_BYTES`]. Strings of the same length have the same pieces.
fn string_of(seed: &DigestSeed, pieces: &[u64], len: u64) -> u64 {
    let mut sequence = seed.sequence();
    for piece in pieces {
        sequence.push(&[&piece.to_le_bytes()]);
    }
    sequence.push(&[&len.to_le_bytes()]);
    sequence.finish()
}

/// Digests a page of a list or sorted set.
fn ranked(kind: &str, reply: &Reply, sequence: &mut SequenceDigest<'_>) -> Result<(), ReadError> {
    let mut items = Vec::new();
    collect(reply, &mut items)?;
    if kind == "list" {
        items.iter().for_each(|item| sequence.push(&[item]));
        return Ok(());
    }
    for pair in items.chunks_exact(2) {
        sequence.push(&[&pair[0], &score(&pair[1]).ok_or(ReadError::Key(KeyDigest::Changed))?]);
    }
    Ok(())
}

/// The bits of a score: servers write the same number in different ways (`1e+30`, `1e30`), and -0 equals 0.
fn score(text: &[u8]) -> Option<[u8; 8]> {
    let score: f64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    Some((score + 0.0).to_bits().to_le_bytes())
}
