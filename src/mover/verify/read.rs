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
    mover::{payload, spec::Endpoint},
    redis::{Client, RedisError, Reply},
};

/// Estimated bytes of a page, and the size of the pieces in which strings are read. Both sides use the same pieces.
pub const PAGE_BYTES: u64 = 512 << 10;
/// Bytes of small values read at once. The values beyond it are read one by one.
const SMALL_BYTES_MAX: u64 = 8 << 20;
/// Largest value of a type that only DUMP can read that is compared.
const DUMP_MAX: u64 = 8 << 20;

/// Type, time to live, length and size of a key.
struct EntryHeader {
    kind: String,
    ttl: Option<i64>,
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

    /// Reads keys of database `db`. The digests are in the order of the keys.
    ///
    /// # Errors
    /// The connection is lost. A key that cannot be read is not an error.
    pub async fn read(&mut self, db: u32, keys: &[Bytes]) -> Result<Vec<KeyDigest>, RedisError> {
        self.client(db).await?;
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

    /// Type, time to live and size of each key, in two round trips.
    async fn headers(&mut self, keys: &[Bytes]) -> Result<Vec<Result<EntryHeader, KeyDigest>>, RedisError> {
        let mut commands = Vec::with_capacity(keys.len() * 2);
        for key in keys {
            commands.push(command(&[b"TYPE", key]));
            commands.push(command(&[b"PTTL", key]));
        }
        let first = self.connection.pipe(&commands).await?;
        let mut sizes = Vec::with_capacity(keys.len() * 2);
        for (key, answer) in keys.iter().zip(first.chunks_exact(2)) {
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
            let ttl = match first[1].integer() {
                Some(-1) => None,
                Some(-2) => return Err(KeyDigest::Changed),
                Some(ttl) => Some(ttl),
                None => return Err(unreadable(&first[1])),
            };
            let len = match &second[0] {
                Reply::Error(text) if !text.starts_with("WRONGTYPE") => return Err(unreadable(&second[0])),
                reply => reply.integer().and_then(|n| u64::try_from(n).ok()).ok_or(KeyDigest::Changed)?,
            };
            // MEMORY USAGE is not allowed everywhere. Then only the number of elements determines the pages.
            let bytes = second[1].integer().and_then(|n| u64::try_from(n).ok()).unwrap_or(0);
            Ok(EntryHeader { kind, ttl, len, bytes })
        };
        Ok(first.chunks_exact(2).zip(second.chunks_exact(2)).map(header).collect())
    }

    /// `whole`: the reply to [`EntryHeader::whole`], if it was requested.
    async fn value(
        &mut self,
        key: &Bytes,
        header: EntryHeader,
        whole: Option<Reply>,
    ) -> Result<ValueDigest, ReadError> {
        let page = header.page();
        let EntryHeader { kind, ttl, len, bytes } = header;
        let mut extras = BTreeMap::new();
        let mut expiry = BTreeMap::new();
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
                let items = unordered(&kind, &reply, &mut members)?;
                if kind == "hash" {
                    self.expiry_of(key, &items, &mut expiry).await?;
                }
                members.finish()
            }
            (_, Some(_)) => return Err(ReadError::Key(KeyDigest::Changed)),
            ("string", None) => self.string(key, len).await?,
            ("list", None) => self.by_rank(&kind, &[b"LRANGE", key], &[], len, page).await?,
            ("zset", None) => self.by_rank(&kind, &[b"ZRANGE", key], &[b"WITHSCORES"], len, page).await?,
            ("set", None) => self.scanned(&kind, b"SSCAN", key, page, &mut expiry).await?,
            ("hash", None) => self.scanned(&kind, b"HSCAN", key, page, &mut expiry).await?,
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
        let field_expiry = (self.connection.field_expiry() && kind == "hash").then_some(expiry);
        Ok(ValueDigest { kind, digest, ttl, field_expiry, extras })
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
        expiry: &mut BTreeMap<u64, i64>,
    ) -> Result<u64, ReadError> {
        let seed = self.connection.seed();
        let mut members = seed.members();
        let mut cursor = Bytes::from_static(b"0");
        loop {
            let reply = self.connection.request(&[scan, key, &cursor, b"COUNT", page.to_string().as_bytes()]).await?;
            let Some([Reply::Bulk(next), found]) = reply.items() else {
                return Err(ReadError::Key(KeyDigest::Changed));
            };
            let items = unordered(kind, found, &mut members)?;
            if kind == "hash" {
                self.expiry_of(key, &items, expiry).await?;
            }
            if next.as_ref() == b"0" {
                return Ok(members.finish());
            }
            cursor = next.clone();
        }
    }

    /// Reads when fields of a hash expire. `fields`: fields and values in turn.
    async fn expiry_of(
        &mut self,
        key: &Bytes,
        fields: &[Bytes],
        expiry: &mut BTreeMap<u64, i64>,
    ) -> Result<(), ReadError> {
        if !self.connection.field_expiry() || fields.is_empty() {
            return Ok(());
        }
        let count = (fields.len() / 2).to_string();
        let mut request: Vec<&[u8]> = vec![b"HPEXPIRETIME", key, b"FIELDS", count.as_bytes()];
        request.extend(fields.iter().step_by(2).map(|field| &field[..]));
        let reply = self.connection.request(&request).await?;
        let times = reply.items().ok_or(ReadError::Key(KeyDigest::Changed))?;
        for (field, at) in fields.iter().step_by(2).zip(times) {
            if let Some(at) = at.integer().filter(|at| *at >= 0) {
                expiry.insert(self.connection.seed().of(&[field]), at);
            }
        }
        Ok(())
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

/// Digests a page of a set or hash and returns its strings.
fn unordered(kind: &str, reply: &Reply, members: &mut MemberDigest<'_>) -> Result<Vec<Bytes>, ReadError> {
    let mut items = Vec::new();
    collect(reply, &mut items)?;
    for item in items.chunks_exact(if kind == "hash" { 2 } else { 1 }) {
        let parts: Vec<&[u8]> = item.iter().map(|part| &part[..]).collect();
        if !members.push(&parts) {
            return Err(ReadError::Key(KeyDigest::Unreadable(format!("more than {ELEMENTS_MAX} elements"))));
        }
    }
    Ok(items)
}

/// The bits of a score: servers write the same number in different ways (`1e+30`, `1e30`), and -0 equals 0.
fn score(text: &[u8]) -> Option<[u8; 8]> {
    let score: f64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    Some((score + 0.0).to_bits().to_le_bytes())
}
