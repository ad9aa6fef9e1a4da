//! The copy of one big key: a state machine that produces requests and consumes replies and events.
//! Knows nothing of other keys, of time and of connections. The module above states the rules that it follows.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{
    BIG_BYTES, BIG_ELEMENTS, BigKeyError, BigKeyType,
    fields::DirtyFields,
    pending::{
        ExpectedReply, ReadOptions, ReadRequest, request_expiry, request_field_expiry, request_fields, request_length,
    },
    read::{self, Cursor, PIECE, PageSize},
    requests::Requests,
    shown,
    stream::StreamCopy,
    touch::{Touch, touch},
    value::{Reader, Value},
    write,
};
use crate::{commands::Args, mover::expiry::Expiry};

/// With this many dirty fields, a round for them goes between two pages. Otherwise the slow copy of a write-contended
/// key would only collect dirty fields.
const DIRTY_BETWEEN: usize = 512;

/// The progress of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyStatus {
    /// The key has not been read to its end.
    Copying,
    /// The key has been read to its end. Some fields or the time to live must be fetched again, or replies are
    /// outstanding.
    Settling,
    /// The target has what the source had after the last event that was reported.
    Clean,
    /// The key is small, gone, or of a type that cannot be read in chunks. The partial copy at the target is being
    /// deleted.
    NotBig {
        /// Only DUMP can read its type, whatever its size.
        dump_only: bool,
    },
}

#[derive(Clone, Debug)]
enum CopyStage {
    /// Nothing was requested.
    New,
    /// Type and memory were requested or are known.
    Sizing,
    /// The length was requested.
    Open,
    /// Reading; the cursor of the next page.
    Reading(Cursor),
    /// Reading a stream.
    Stream(Box<StreamCopy>),
    /// Read to the end.
    Settled,
    NotBig(bool),
}

/// The copy of one big key.
#[derive(Clone, Debug)]
pub struct BigCopy {
    key: Bytes,
    /// It is copied here also if it is small.
    any_size: bool,
    stage: CopyStage,
    kind: Option<BigKeyType>,
    memory: u64,
    /// Elements, or bytes of a string, as of the last request.
    total: u64,
    done: u64,
    bytes: u64,
    page: PageSize,
    dirty: DirtyFields,
    /// The last round was for dirty fields. A page comes next, however fast fields are written, so that reading makes
    /// progress.
    page_is_next: bool,
    ttl_dirty: bool,
    /// The copy at the target has a time to live, and the target may expire it.
    target_has_ttl: bool,
    /// A settling round has been written: the target must have a copy.
    target_has_copy: bool,
    supports: ReadOptions,
    /// The source's clock in milliseconds since the epoch, as of the last TIME.
    clock_ms: i64,
    /// Fields of the last page whose expiry must be requested.
    page_names: Vec<Bytes>,
    awaited: VecDeque<ReadRequest>,
    expected: VecDeque<ExpectedReply>,
    stale: bool,
    invalidations: u32,
    refetched: u64,
}

impl BigCopy {
    /// Starts the copy of a key that is probably big, or of one that is copied here whatever its size (`any_size`). Nothing
    /// is requested yet.
    #[must_use]
    pub fn new(key: Bytes, any_size: bool) -> Self {
        Self {
            key,
            any_size,
            stage: CopyStage::New,
            kind: None,
            memory: 0,
            total: 0,
            done: 0,
            bytes: 0,
            page: PageSize::new(0, 0),
            dirty: DirtyFields::default(),
            page_is_next: false,
            ttl_dirty: true,
            target_has_ttl: false,
            target_has_copy: false,
            supports: ReadOptions::default(),
            clock_ms: 0,
            page_names: Vec::new(),
            awaited: VecDeque::new(),
            expected: VecDeque::new(),
            stale: false,
            invalidations: 0,
            refetched: 0,
        }
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &Bytes {
        &self.key
    }

    /// Its type, once it is known.
    #[must_use]
    pub fn kind(&self) -> Option<BigKeyType> {
        self.kind
    }

    /// How often the copy became stale and was restarted since it was last clean.
    #[must_use]
    pub fn invalidations(&self) -> u32 {
        self.invalidations
    }

    /// Whether the copy is stale and no request of it is outstanding: the next [`BigCopy::next_round`] restarts it.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.stale && self.awaited.is_empty()
    }

    /// Whether [`BigCopy::next_round`] would add a request.
    #[must_use]
    pub fn has_work(&self) -> bool {
        let more = match self.stage {
            CopyStage::NotBig(_) => false,
            CopyStage::Settled => self.stale || self.ttl_dirty || !self.dirty.is_empty(),
            _ => true,
        };
        more && self.awaited.is_empty()
    }

    /// Bytes of the names of the dirty fields.
    #[must_use]
    pub fn name_bytes(&self) -> usize {
        self.dirty.bytes()
    }

    /// All elements, as of the last request.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Elements that are still to be fetched (pieces of a string), as far as known.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        let unread = match self.stage {
            CopyStage::NotBig(_) => return 0,
            _ if self.stale => self.total,
            CopyStage::Settled => 0,
            _ => self.total.saturating_sub(self.done),
        };
        unread + self.dirty.len() as u64
    }

    /// Elements written so far in all tries, their bytes, and the number of fields that were fetched again.
    #[must_use]
    pub fn written(&self) -> (u64, u64, u64) {
        (self.done, self.bytes, self.refetched)
    }

    /// The progress of the copy.
    #[must_use]
    pub fn status(&self) -> CopyStatus {
        match self.stage {
            // After the target has deleted its copy.
            CopyStage::NotBig(dump_only) if self.awaited.is_empty() && self.expected.is_empty() => {
                CopyStatus::NotBig { dump_only }
            }
            CopyStage::Settled if !self.stale => {
                let quiet =
                    self.dirty.is_empty() && !self.ttl_dirty && self.awaited.is_empty() && self.expected.is_empty();
                if quiet { CopyStatus::Clean } else { CopyStatus::Settling }
            }
            _ => CopyStatus::Copying,
        }
    }

    /// Applies a command of the feed that names this key. `args[0]` is the name of the command.
    pub fn event<A: Args + ?Sized>(&mut self, args: &A) {
        let Some(kind) = self.kind.filter(|_| self.has_begun() && !self.stale) else { return };
        match touch(kind, args) {
            Touch::Ttl => self.ttl_dirty = true,
            Touch::Whole => self.mark_stale(),
            Touch::Fields { first, step, end } => {
                for at in (first..end).step_by(step.max(1)) {
                    self.mark_dirty(args.get(at));
                }
            }
            Touch::Bytes { from, len } => {
                for piece in from / PIECE..=from.saturating_add(len.max(1) - 1) / PIECE {
                    self.mark_dirty(&piece.to_be_bytes());
                }
            }
        }
    }

    /// Applies a change of this key of which only the fact is known.
    pub fn invalidate(&mut self) {
        if self.has_begun() {
            self.mark_stale();
        }
    }

    /// Before a part of the value has been requested, an event adds nothing to what the reply will contain.
    fn has_begun(&self) -> bool {
        !matches!(self.stage, CopyStage::New | CopyStage::Sizing | CopyStage::Open | CopyStage::NotBig(_))
    }

    fn mark_stale(&mut self) {
        self.stale = true;
        self.dirty.clear();
        self.page_names.clear();
    }

    fn mark_dirty(&mut self, name: &[u8]) {
        if !self.stale && !self.dirty.insert(name) {
            self.mark_stale();
        }
    }

    /// Appends the requests of the next round. Appends none while replies of the last round are outstanding or there is
    /// nothing to do. The requests in `target` must be sent before the requests that the replies of this round produce.
    pub fn next_round(&mut self, source: &mut Requests, target: &mut Requests) {
        if !self.awaited.is_empty() {
            return;
        }
        if self.stale {
            // It no longer matters whether the stale copy still exists.
            let expected = self
                .expected
                .iter()
                .map(|expected| if *expected == ExpectedReply::Present { ExpectedReply::Any } else { *expected })
                .collect();
            let (invalidations, total, bytes, refetched) =
                (self.invalidations + 1, self.total, self.bytes, self.refetched);
            *self =
                Self { invalidations, total, bytes, refetched, expected, ..Self::new(self.key.clone(), self.any_size) };
        }
        self.append_round(source, target);
    }

    fn append_round(&mut self, source: &mut Requests, target: &mut Requests) {
        match &mut self.stage {
            CopyStage::New => {
                target.push(&[b"UNLINK", &self.key]);
                self.expected.push_back(ExpectedReply::Any);
                source.push(&[b"TYPE", &self.key]);
                source.push(&[b"MEMORY", b"USAGE", &self.key]);
                self.awaited.extend([ReadRequest::Type, ReadRequest::Memory]);
                self.stage = CopyStage::Sizing;
            }
            CopyStage::Sizing => {
                if let Some(kind) = self.kind {
                    self.awaited.extend(request_length(kind, &self.key, source));
                    self.stage = CopyStage::Open;
                }
            }
            CopyStage::Stream(stream) => {
                let requests = stream.next_round(&self.key, self.page.count(), source);
                self.awaited.extend(requests.into_iter().map(ReadRequest::Stream));
            }
            CopyStage::Reading(_) if self.dirty.len() >= DIRTY_BETWEEN && !self.page_is_next => {
                self.page_is_next = true;
                self.request_dirty_fields(source);
            }
            CopyStage::Reading(cursor) => {
                let cursor = cursor.clone();
                self.page_is_next = false;
                self.request_page_expiry(source);
                let (Some(kind), count) = (self.kind, self.page.count()) else { return };
                read::request_page(kind, &self.key, &cursor, count, source);
                self.awaited.push_back(ReadRequest::Page(cursor, count));
            }
            CopyStage::Settled if self.dirty.is_empty() && !self.ttl_dirty => {}
            CopyStage::Settled => self.request_settling(source, target),
            CopyStage::Open | CopyStage::NotBig(_) => {}
        }
    }

    /// Requests dirty fields and the time to live, after checking that the target still has its copy.
    fn request_settling(&mut self, source: &mut Requests, target: &mut Requests) {
        if self.target_has_copy {
            let check: &[u8] = if self.target_has_ttl { b"PERSIST" } else { b"EXISTS" };
            target.push(&[check, &self.key]);
            self.expected.push_back(ExpectedReply::Present);
            self.target_has_ttl = false;
        }
        self.request_page_expiry(source);
        self.request_dirty_fields(source);
        self.ttl_dirty = false;
        self.awaited.extend(request_expiry(&self.key, self.supports, source));
    }

    /// Requests dirty fields, as many as fit into a chunk.
    fn request_dirty_fields(&mut self, source: &mut Requests) {
        let names = self.dirty.take(self.page.count());
        if let (Some(kind), false) = (self.kind, names.is_empty()) {
            self.refetched += names.len() as u64;
            self.awaited.extend(request_fields(kind, &self.key, names, self.supports, source));
        }
    }

    /// Requests when the last page's fields expire.
    fn request_page_expiry(&mut self, source: &mut Requests) {
        let names = std::mem::take(&mut self.page_names);
        if !names.is_empty() {
            request_field_expiry(&self.key, &names, source);
            self.awaited.push_back(ReadRequest::FieldExpiry(names));
        }
    }

    /// Consumes the next reply of the source and appends the requests that it produces for the target.
    ///
    /// # Errors
    /// The source replies with an error or in an unknown form. The run fails.
    pub fn source_reply(&mut self, reply: &[u8], target: &mut Requests) -> Result<(), BigKeyError> {
        let Some(asked) = self.awaited.pop_front() else {
            return Err(BigKeyError::UnexpectedReply { key: shown(&self.key) });
        };
        if self.stale {
            return Ok(());
        }
        if let Some(Value::Error(text)) = Reader::new(reply).next() {
            return self.error_reply(&asked, text);
        }
        let before = target.count();
        let what = asked.what();
        let mut special = Vec::new();
        let read = self.read(asked, reply, target, &mut special);
        for at in before..target.count() {
            let expected =
                special.iter().find(|(place, _)| *place == at).map_or(ExpectedReply::Any, |(_, expected)| *expected);
            self.expected.push_back(expected);
        }
        read.ok_or_else(|| BigKeyError::Shape { what, kind: self.kind_name(), key: shown(&self.key) })
    }

    fn error_reply(&mut self, asked: &ReadRequest, text: &[u8]) -> Result<(), BigKeyError> {
        match asked {
            // Not every server supports these commands. Without MEMORY USAGE the length alone decides; without
            // HPEXPIRETIME fields have no times to live.
            ReadRequest::Memory | ReadRequest::SupportsExpireTime => Ok(()),
            ReadRequest::SupportsFieldExpiry | ReadRequest::SupportsMultiMember
                if text.starts_with(b"ERR unknown command") =>
            {
                Ok(())
            }
            // The key now has another type. An event reports that, too.
            _ if text.starts_with(b"WRONGTYPE") || text.starts_with(b"ERR no such key") => {
                self.mark_stale();
                Ok(())
            }
            // A group was destroyed.
            ReadRequest::Stream(_) if text.starts_with(b"NOGROUP") => {
                self.mark_stale();
                Ok(())
            }
            _ => Err(self.refused("the source", asked.what(), text)),
        }
    }

    fn refused(&self, side: &'static str, what: &'static str, text: &[u8]) -> BigKeyError {
        BigKeyError::Refused { side, what, kind: self.kind_name(), key: shown(&self.key), text: shown(text) }
    }

    fn kind_name(&self) -> &'static str {
        self.kind.map_or("key", BigKeyType::name)
    }

    fn read(
        &mut self,
        asked: ReadRequest,
        reply: &[u8],
        target: &mut Requests,
        special: &mut Vec<(usize, ExpectedReply)>,
    ) -> Option<()> {
        let key = self.key.clone();
        match asked {
            ReadRequest::Type => {
                let name = Reader::new(reply).simple()?;
                self.kind = BigKeyType::of(name);
                if self.kind.is_none() {
                    self.stage = CopyStage::NotBig(name != b"none");
                }
            }
            // Null: the key is gone.
            ReadRequest::Memory => self.memory = Reader::new(reply).int().and_then(|n| n.try_into().ok()).unwrap_or(0),
            ReadRequest::Length => self.open(u64::try_from(Reader::new(reply).int()?).ok()?)?,
            ReadRequest::SupportsExpireTime => self.supports.expire_time = true,
            ReadRequest::SupportsFieldExpiry => self.supports.field_expiry = true,
            ReadRequest::SupportsMultiMember => self.supports.multi_member = true,
            ReadRequest::Page(cursor, count) => self.read_page(&cursor, count, reply, target)?,
            ReadRequest::Fields(names) => {
                self.bytes += write::fields(&key, &names, reply, target)? as u64;
            }
            ReadRequest::FieldExpiry(names) => {
                write::field_expiry(&key, &names, reply, target)?;
            }
            ReadRequest::Member(name) => {
                write::member(self.kind?, &key, &name, Reader::new(reply).next()?, target)?;
            }
            ReadRequest::Members(names) => {
                let mut reader = Reader::new(reply);
                (reader.array()? == names.len()).then_some(())?;
                for name in &names {
                    write::member(self.kind?, &key, name, reader.next()?, target)?;
                }
            }
            ReadRequest::Piece(piece) => self.bytes += write::piece(&key, piece, reply, target)? as u64,
            ReadRequest::ExpireTime => {
                self.write_expiry(Expiry::of_expire_time(Reader::new(reply).int()?), target, special);
            }
            ReadRequest::Time => self.clock_ms = Reader::new(reply).clock_ms()?,
            ReadRequest::Ttl => {
                self.write_expiry(Expiry::of_ttl(self.clock_ms, Reader::new(reply).int()?), target, special);
            }
            ReadRequest::Stream(asked) => {
                let CopyStage::Stream(stream) = &mut self.stage else { return None };
                stream.reply(&asked, reply)?;
                self.total = self.total.max(stream.length());
                if self.awaited.is_empty() {
                    let mut newer = Vec::new();
                    let progress = stream.finish_round(&key, target, &mut newer)?;
                    special.extend(newer.into_iter().map(|at| (at, ExpectedReply::Newer)));
                    self.page.learn(progress.elements, progress.bytes);
                    self.done += progress.elements as u64;
                    self.bytes += progress.bytes as u64;
                    if stream.is_done() {
                        self.stage = CopyStage::Settled;
                    }
                }
            }
        }
        Some(())
    }

    fn write_expiry(&mut self, expiry: Expiry, target: &mut Requests, special: &mut Vec<(usize, ExpectedReply)>) {
        match expiry {
            // An event reports that, too, but the target must not keep what this round has written.
            Expiry::Gone => self.mark_stale(),
            Expiry::Never => self.target_has_copy = true,
            Expiry::At(at) => {
                special.push((target.count(), ExpectedReply::Present));
                // An instant that has passed deletes the copy.
                target.push(&[b"PEXPIREAT", &self.key, at.to_string().as_bytes()]);
                (self.target_has_copy, self.target_has_ttl) = (true, true);
            }
        }
    }

    fn open(&mut self, length: u64) -> Option<()> {
        let kind = self.kind?;
        let big = match kind {
            BigKeyType::String => length > BIG_BYTES,
            _ => length > BIG_ELEMENTS || self.memory > BIG_BYTES,
        };
        // One without elements is a stream, or gone.
        if !big && !(self.any_size && (length > 0 || kind == BigKeyType::Stream)) {
            self.stage = CopyStage::NotBig(false);
            return Some(());
        }
        self.page = PageSize::new(self.memory, length);
        self.total = length;
        self.stage = match kind {
            BigKeyType::Stream => CopyStage::Stream(Box::default()),
            BigKeyType::String => {
                self.total = length.div_ceil(PIECE);
                self.page = PageSize::new(PIECE, 1);
                CopyStage::Reading(Cursor::start(kind))
            }
            _ => CopyStage::Reading(Cursor::start(kind)),
        };
        Some(())
    }

    fn read_page(&mut self, cursor: &Cursor, count: usize, reply: &[u8], target: &mut Requests) -> Option<()> {
        let kind = self.kind?;
        let page = read::page(kind, reply, cursor, count)?;
        if let (BigKeyType::String, Cursor::Index(piece)) = (kind, cursor) {
            write::piece(&self.key, *piece, reply, target)?;
        }
        let written = write::page(kind, &self.key, &page, self.supports.field_expiry, target)?;
        if kind != BigKeyType::String {
            self.page.learn(written.elements, written.bytes);
        }
        self.page_names = written.names;
        self.done += written.elements as u64;
        self.bytes += written.bytes as u64;
        // Scores that are read a second time are counted twice. The total is only shown to people.
        self.stage = page.next.map_or(CopyStage::Settled, CopyStage::Reading);
        Some(())
    }

    /// Consumes the next reply of the target.
    ///
    /// # Errors
    /// The target replies with an error. The run fails.
    pub fn target_reply(&mut self, reply: &[u8]) -> Result<(), BigKeyError> {
        let Some(expected) = self.expected.pop_front() else {
            return Err(BigKeyError::UnexpectedReply { key: shown(&self.key) });
        };
        match (expected, Reader::new(reply).next()) {
            (expected, Some(Value::Error(text))) if expected.accepts(text) => {}
            (_, Some(Value::Error(text))) => return Err(self.refused("the target", "to write a part", text)),
            // The target has expired or evicted its copy: what was written since is only a part of the value.
            (ExpectedReply::Present, Some(value)) if value != Value::Int(1) => self.mark_stale(),
            _ => {}
        }
        Ok(())
    }

    /// Resets the counter of invalidations after the key was clean.
    pub fn reset_invalidations(&mut self) {
        self.invalidations = 0;
    }
}
