//! One big key on its way: a state machine that is asked for requests and told answers and events.
//! Knows nothing of other keys, of time and of connections; see the rules in the module above.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{
    BIG_BYTES, BIG_ELEMENTS, BigKeyError, BigKeyType,
    fields::Fields,
    read::{self, Cursor, PIECE, PageSize},
    requests::Requests,
    shown,
    stream::{StreamAsked, StreamCopy},
    touch::{Touch, touch},
    value::{Reader, Value},
    write,
};
use crate::commands::Args;

/// Dirty fields at which a round for them is put between two pages: else a slow copy of a write-contended key would only gather them.
const DIRTY_BETWEEN: usize = 512;

/// Where a key stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyStanding {
    /// Not yet read to its end.
    Copying,
    /// Read to its end; some fields or the time to live are to be fetched again, or answers are still to come.
    Settling,
    /// The target has what the source had after the last event that was told.
    Clean,
    /// It is small, gone, or of a type that has no pieces: not ours. The target's copy is being dropped.
    NotOurs {
        /// Its type can only be carried by DUMP, whatever its size.
        in_one_piece: bool,
    },
}

/// What the next answers of the source are about.
#[derive(Clone, Debug)]
enum SourceQuestion {
    Type,
    Memory,
    Length,
    KnowsFieldTimes,
    Page(Cursor, usize),
    Fields(Vec<Bytes>),
    FieldTimes(Vec<Bytes>),
    Member(Bytes),
    KnowsMany,
    Members(Vec<Bytes>),
    Piece(u64),
    Ttl,
    Stream(StreamAsked),
}

impl SourceQuestion {
    fn what(&self) -> &'static str {
        match self {
            Self::Type => "TYPE",
            Self::Memory => "MEMORY USAGE",
            Self::Length => "its length",
            Self::KnowsFieldTimes | Self::FieldTimes(_) => "HPTTL",
            Self::Page(..) => "a page of it",
            Self::Fields(_) => "HMGET",
            Self::Member(_) | Self::KnowsMany | Self::Members(_) => "members of it",
            Self::Piece(_) => "GETRANGE",
            Self::Ttl => "PTTL",
            Self::Stream(_) => "XINFO, XRANGE or XPENDING",
        }
    }
}

/// What the next answers of the target must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ExpectedAnswer {
    /// No error.
    Any,
    /// 1: the target's copy is there.
    Present,
    /// XGROUP CREATECONSUMER: servers before 6.2 make consumers only when they read.
    Consumer,
}

#[derive(Clone, Debug)]
enum CopyStage {
    /// Nothing asked.
    New,
    /// Type and memory asked or known.
    Gate,
    /// Length asked.
    Open,
    /// Being read; the cursor of the next page.
    Reading(Cursor),
    /// Being read, a stream.
    Stream(Box<StreamCopy>),
    /// Read to its end.
    Settled,
    NotOurs(bool),
}

/// One big key on its way.
#[derive(Clone, Debug)]
pub struct BigCopy {
    key: Bytes,
    stage: CopyStage,
    kind: Option<BigKeyType>,
    memory: u64,
    /// Elements, or bytes of a string, when it was last asked.
    total: u64,
    done: u64,
    bytes: u64,
    page: PageSize,
    dirty: Fields,
    /// The last round was for dirty fields: reading must go on, however fast they are written.
    page_is_next: bool,
    ttl_dirty: bool,
    /// The target has a time to live on its copy, and may expire it.
    ttl_staged: bool,
    /// A settling round has been written: the target has a copy that must be there.
    staged: bool,
    /// The source knows HPTTL: fields may have times to live.
    field_times: bool,
    /// The source knows SMISMEMBER or ZMSCORE, which came with Redis 6.2.
    many: bool,
    /// Fields of the last page whose times are to be asked for.
    page_names: Vec<Bytes>,
    asked: VecDeque<SourceQuestion>,
    due: VecDeque<ExpectedAnswer>,
    stale: bool,
    invalidations: u32,
    refetched: u64,
}

impl BigCopy {
    /// Of a key that is thought to be big. Nothing is asked yet.
    #[must_use]
    pub fn new(key: Bytes) -> Self {
        Self {
            key,
            stage: CopyStage::New,
            kind: None,
            memory: 0,
            total: 0,
            done: 0,
            bytes: 0,
            page: PageSize::new(0, 0),
            dirty: Fields::default(),
            page_is_next: false,
            ttl_dirty: true,
            ttl_staged: false,
            staged: false,
            field_times: false,
            many: false,
            page_names: Vec::new(),
            asked: VecDeque::new(),
            due: VecDeque::new(),
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

    /// How often it has been stale and begun anew since it was last clean.
    #[must_use]
    pub fn invalidations(&self) -> u32 {
        self.invalidations
    }

    /// Whether its copy is stale and nothing of it is under way: the next [`BigCopy::ask`] begins anew.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.stale && self.asked.is_empty()
    }

    /// Whether [`BigCopy::ask`] would ask something.
    #[must_use]
    pub fn wants_round(&self) -> bool {
        let more = match self.stage {
            CopyStage::NotOurs(_) => false,
            CopyStage::Settled => self.stale || self.ttl_dirty || !self.dirty.is_empty(),
            _ => true,
        };
        more && self.asked.is_empty()
    }

    /// Bytes of the names of fields that wait for being fetched again.
    #[must_use]
    pub fn names(&self) -> usize {
        self.dirty.bytes()
    }

    /// Elements in all, when last asked.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Elements still to be fetched (pieces of a string), as far as known.
    #[must_use]
    pub fn left(&self) -> u64 {
        let unread = match self.stage {
            CopyStage::NotOurs(_) => return 0,
            _ if self.stale => self.total,
            CopyStage::Settled => 0,
            _ => self.total.saturating_sub(self.done),
        };
        unread + self.dirty.len() as u64
    }

    /// Elements written so far in all tries, their bytes, and fields fetched again.
    #[must_use]
    pub fn written(&self) -> (u64, u64, u64) {
        (self.done, self.bytes, self.refetched)
    }

    /// Where it stands.
    #[must_use]
    pub fn standing(&self) -> CopyStanding {
        match self.stage {
            // Once its copy at the target is dropped.
            CopyStage::NotOurs(in_one_piece) if self.asked.is_empty() && self.due.is_empty() => {
                CopyStanding::NotOurs { in_one_piece }
            }
            CopyStage::Settled if !self.stale => {
                let quiet = self.dirty.is_empty() && !self.ttl_dirty && self.asked.is_empty() && self.due.is_empty();
                if quiet { CopyStanding::Clean } else { CopyStanding::Settling }
            }
            _ => CopyStanding::Copying,
        }
    }

    /// A command about this key has come through the feed. `args[0]` is the command's name.
    pub fn event<A: Args + ?Sized>(&mut self, args: &A) {
        let Some(kind) = self.kind.filter(|_| self.has_begun() && !self.stale) else { return };
        match touch(kind, args) {
            Touch::Ttl => self.ttl_dirty = true,
            Touch::Whole => self.set_stale(),
            Touch::Fields { first, step, end } => {
                for at in (first..end).step_by(step.max(1)) {
                    self.note(args.get(at));
                }
            }
            Touch::Bytes { from, len } => {
                for piece in from / PIECE..=from.saturating_add(len.max(1) - 1) / PIECE {
                    self.note(&piece.to_be_bytes());
                }
            }
        }
    }

    /// Something that does not say what it changed has happened to this key.
    pub fn invalidate(&mut self) {
        if self.has_begun() {
            self.set_stale();
        }
    }

    /// Before a part of the value has been asked for, an event says nothing that the answer will not.
    fn has_begun(&self) -> bool {
        !matches!(self.stage, CopyStage::New | CopyStage::Gate | CopyStage::Open | CopyStage::NotOurs(_))
    }

    fn set_stale(&mut self) {
        self.stale = true;
        self.dirty.clear();
        self.page_names.clear();
    }

    fn note(&mut self, name: &[u8]) {
        if !self.stale && !self.dirty.insert(name) {
            self.set_stale();
        }
    }

    /// Appends the requests of the next round; none while answers of the last one are to come, or nothing is to do.
    /// What goes to `target` must be sent there before what the answers will make.
    pub fn ask(&mut self, source: &mut Requests, target: &mut Requests) {
        if !self.asked.is_empty() {
            return;
        }
        if self.stale {
            // Whether the stale copy is still there no longer matters.
            let due = self
                .due
                .iter()
                .map(|due| if *due == ExpectedAnswer::Present { ExpectedAnswer::Any } else { *due })
                .collect();
            let (invalidations, total, bytes, refetched) =
                (self.invalidations + 1, self.total, self.bytes, self.refetched);
            *self = Self { invalidations, total, bytes, refetched, due, ..Self::new(self.key.clone()) };
        }
        self.ask_round(source, target);
    }

    fn ask_round(&mut self, source: &mut Requests, target: &mut Requests) {
        let key = self.key.clone();
        match &mut self.stage {
            CopyStage::New => {
                target.push(&[b"UNLINK", &key]);
                self.due.push_back(ExpectedAnswer::Any);
                source.push(&[b"TYPE", &key]);
                source.push(&[b"MEMORY", b"USAGE", &key]);
                self.asked.extend([SourceQuestion::Type, SourceQuestion::Memory]);
                self.stage = CopyStage::Gate;
            }
            CopyStage::Gate => {
                let Some(kind) = self.kind else { return };
                let length: &[u8] = match kind {
                    BigKeyType::String => b"STRLEN",
                    BigKeyType::List => b"LLEN",
                    BigKeyType::Set => b"SCARD",
                    BigKeyType::Zset => b"ZCARD",
                    BigKeyType::Hash => b"HLEN",
                    BigKeyType::Stream => b"XLEN",
                };
                source.push(&[length, &key]);
                self.asked.push_back(SourceQuestion::Length);
                match kind {
                    BigKeyType::Hash => {
                        source.push(&[b"HPTTL", &key, b"FIELDS", b"1", b"-"]);
                        self.asked.push_back(SourceQuestion::KnowsFieldTimes);
                    }
                    BigKeyType::Set | BigKeyType::Zset => {
                        source.push(&[many(kind), &key, b"-"]);
                        self.asked.push_back(SourceQuestion::KnowsMany);
                    }
                    _ => {}
                }
                self.stage = CopyStage::Open;
            }
            CopyStage::Stream(stream) => {
                self.asked.extend(stream.ask(&key, self.page.count(), source).into_iter().map(SourceQuestion::Stream));
            }
            CopyStage::Reading(_) if self.dirty.len() >= DIRTY_BETWEEN && !self.page_is_next => {
                self.page_is_next = true;
                self.ask_fields(source);
            }
            CopyStage::Reading(cursor) => {
                self.page_is_next = false;
                let names = std::mem::take(&mut self.page_names);
                if !names.is_empty() {
                    ask_field_times(&key, &names, source);
                    self.asked.push_back(SourceQuestion::FieldTimes(names));
                }
                let (Some(kind), count) = (self.kind, self.page.count()) else { return };
                read::ask(kind, &key, cursor, count, source);
                self.asked.push_back(SourceQuestion::Page(cursor.clone(), count));
            }
            CopyStage::Settled if self.dirty.is_empty() && !self.ttl_dirty => {}
            CopyStage::Settled => {
                if self.staged {
                    let poll: &[u8] = if self.ttl_staged { b"PERSIST" } else { b"EXISTS" };
                    target.push(&[poll, &key]);
                    self.due.push_back(ExpectedAnswer::Present);
                    self.ttl_staged = false;
                }
                let names = std::mem::take(&mut self.page_names);
                if !names.is_empty() {
                    ask_field_times(&key, &names, source);
                    self.asked.push_back(SourceQuestion::FieldTimes(names));
                }
                self.ask_fields(source);
                self.ttl_dirty = false;
                source.push(&[b"PTTL", &key]);
                self.asked.push_back(SourceQuestion::Ttl);
            }
            CopyStage::Open | CopyStage::NotOurs(_) => {}
        }
    }

    /// Asks for dirty fields, as many as fit into a chunk.
    fn ask_fields(&mut self, source: &mut Requests) {
        let names = self.dirty.take(self.page.count());
        if names.is_empty() {
            return;
        }
        self.refetched += names.len() as u64;
        let key = &self.key;
        match self.kind {
            Some(BigKeyType::Hash) => {
                source.open(2 + names.len());
                source.arg(b"HMGET");
                source.arg(key);
                for name in &names {
                    source.arg(name);
                }
                self.asked.push_back(SourceQuestion::Fields(names.clone()));
                if self.field_times {
                    ask_field_times(key, &names, source);
                    self.asked.push_back(SourceQuestion::FieldTimes(names));
                }
            }
            Some(kind @ (BigKeyType::Set | BigKeyType::Zset)) if self.many => {
                source.open(2 + names.len());
                source.arg(many(kind));
                source.arg(key);
                for name in &names {
                    source.arg(name);
                }
                self.asked.push_back(SourceQuestion::Members(names));
            }
            Some(kind @ (BigKeyType::Set | BigKeyType::Zset)) => {
                let command: &[u8] = if kind == BigKeyType::Set { b"SISMEMBER" } else { b"ZSCORE" };
                for name in names {
                    source.push(&[command, key, &name]);
                    self.asked.push_back(SourceQuestion::Member(name));
                }
            }
            Some(BigKeyType::String) => {
                for name in names {
                    let piece = <[u8; 8]>::try_from(&name[..]).map_or(0, u64::from_be_bytes);
                    read::ask_piece(key, piece, source);
                    self.asked.push_back(SourceQuestion::Piece(piece));
                }
            }
            _ => {}
        }
    }

    /// Reads the source's next answer, and appends what it makes for the target.
    ///
    /// # Errors
    /// The source refuses, or answers in a form that is not known: the run fails.
    pub fn answer(&mut self, reply: &[u8], target: &mut Requests) -> Result<(), BigKeyError> {
        let Some(asked) = self.asked.pop_front() else { return Err(BigKeyError::Unasked { key: shown(&self.key) }) };
        if self.stale {
            return Ok(());
        }
        if let Some(Value::Error(said)) = Reader::new(reply).next() {
            return self.refused(&asked, said);
        }
        let before = target.count();
        let what = asked.what();
        let mut special = Vec::new();
        let read = self.read(asked, reply, target, &mut special);
        for at in before..target.count() {
            let due = special.iter().find(|(place, _)| *place == at).map_or(ExpectedAnswer::Any, |(_, due)| *due);
            self.due.push_back(due);
        }
        read.ok_or_else(|| BigKeyError::Shape { what, kind: self.kind_name(), key: shown(&self.key) })
    }

    fn refused(&mut self, asked: &SourceQuestion, said: &[u8]) -> Result<(), BigKeyError> {
        match asked {
            // Not every server knows these; then the length alone decides, and fields have no times.
            SourceQuestion::Memory => Ok(()),
            SourceQuestion::KnowsFieldTimes | SourceQuestion::KnowsMany if said.starts_with(b"ERR unknown command") => {
                Ok(())
            }
            // It has become another type, of which an event tells too.
            _ if said.starts_with(b"WRONGTYPE") || said.starts_with(b"ERR no such key") => {
                self.set_stale();
                Ok(())
            }
            // A group was destroyed.
            SourceQuestion::Stream(_) if said.starts_with(b"NOGROUP") => {
                self.set_stale();
                Ok(())
            }
            _ => Err(self.refusal("the source", asked.what(), said)),
        }
    }

    fn refusal(&self, side: &'static str, what: &'static str, said: &[u8]) -> BigKeyError {
        BigKeyError::Refused { side, what, kind: self.kind_name(), key: shown(&self.key), said: shown(said) }
    }

    fn kind_name(&self) -> &'static str {
        self.kind.map_or("key", BigKeyType::name)
    }

    fn read(
        &mut self,
        asked: SourceQuestion,
        reply: &[u8],
        target: &mut Requests,
        special: &mut Vec<(usize, ExpectedAnswer)>,
    ) -> Option<()> {
        let key = self.key.clone();
        match asked {
            SourceQuestion::Type => {
                let name = Reader::new(reply).bulk()?;
                self.kind = BigKeyType::of(name);
                if self.kind.is_none() {
                    self.stage = CopyStage::NotOurs(name != b"none");
                }
            }
            // Null: it has gone since.
            SourceQuestion::Memory => {
                self.memory = Reader::new(reply).int().and_then(|n| n.try_into().ok()).unwrap_or(0)
            }
            SourceQuestion::Length => self.open(u64::try_from(Reader::new(reply).int()?).ok()?)?,
            SourceQuestion::KnowsFieldTimes => self.field_times = true,
            SourceQuestion::KnowsMany => self.many = true,
            SourceQuestion::Page(cursor, count) => self.read_page(&cursor, count, reply, target)?,
            SourceQuestion::Fields(names) => {
                self.bytes += write::fields(&key, &names, reply, target)? as u64;
            }
            SourceQuestion::FieldTimes(names) => {
                write::field_times(&key, &names, reply, target)?;
            }
            SourceQuestion::Member(name) => {
                write::member(self.kind?, &key, &name, Reader::new(reply).next()?, target)?;
            }
            SourceQuestion::Members(names) => {
                let mut reader = Reader::new(reply);
                (reader.array()? == names.len()).then_some(())?;
                for name in &names {
                    write::member(self.kind?, &key, name, reader.next()?, target)?;
                }
            }
            SourceQuestion::Piece(piece) => self.bytes += write::piece(&key, piece, reply, target)? as u64,
            SourceQuestion::Ttl => match Reader::new(reply).int()? {
                // Gone; an event tells too, but the target must not keep what this round has written.
                -2 => self.set_stale(),
                left if left >= 0 => {
                    special.push((target.count(), ExpectedAnswer::Present));
                    target.push(&[b"PEXPIRE", &key, left.max(1).to_string().as_bytes()]);
                    (self.staged, self.ttl_staged) = (true, true);
                }
                _ => self.staged = true,
            },
            SourceQuestion::Stream(asked) => {
                let CopyStage::Stream(stream) = &mut self.stage else { return None };
                stream.answer(&asked, reply)?;
                self.total = self.total.max(stream.length());
                if self.asked.is_empty() {
                    let mut consumers = Vec::new();
                    let progress = stream.round_is_over(&key, target, &mut consumers)?;
                    special.extend(consumers.into_iter().map(|at| (at, ExpectedAnswer::Consumer)));
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

    fn open(&mut self, length: u64) -> Option<()> {
        let kind = self.kind?;
        let big = match kind {
            BigKeyType::String => length > BIG_BYTES,
            _ => length > BIG_ELEMENTS || self.memory > BIG_BYTES,
        };
        if !big {
            self.stage = CopyStage::NotOurs(false);
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
        let written = write::page(kind, &self.key, &page, self.field_times, target)?;
        if kind != BigKeyType::String {
            self.page.learn(written.elements, written.bytes);
        }
        self.page_names = written.names;
        self.done += written.elements as u64;
        self.bytes += written.bytes as u64;
        // Scores met a second time are counted twice; the total is for people.
        self.stage = page.next.map_or(CopyStage::Settled, CopyStage::Reading);
        Some(())
    }

    /// Reads the target's next answer.
    ///
    /// # Errors
    /// The target refuses: the run fails.
    pub fn target_answer(&mut self, reply: &[u8]) -> Result<(), BigKeyError> {
        let Some(due) = self.due.pop_front() else { return Err(BigKeyError::Unasked { key: shown(&self.key) }) };
        match (due, Reader::new(reply).next()) {
            (ExpectedAnswer::Consumer, Some(Value::Error(said))) if said.starts_with(b"ERR Unknown subcommand") => {}
            (_, Some(Value::Error(said))) => return Err(self.refusal("the target", "to write a part", said)),
            // The target has expired its copy, or evicted it: what was written since is only a part.
            (ExpectedAnswer::Present, Some(value)) if value != Value::Int(1) => self.set_stale(),
            _ => {}
        }
        Ok(())
    }

    /// The key was clean for a while: its invalidations are forgotten.
    pub fn forget_invalidations(&mut self) {
        self.invalidations = 0;
    }
}

/// The command that asks for many members at once.
fn many(kind: BigKeyType) -> &'static [u8] {
    if kind == BigKeyType::Set { b"SMISMEMBER" } else { b"ZMSCORE" }
}

fn ask_field_times(key: &[u8], names: &[Bytes], source: &mut Requests) {
    source.open(4 + names.len());
    source.arg(b"HPTTL");
    source.arg(key);
    source.arg(b"FIELDS");
    source.arg(names.len().to_string().as_bytes());
    for name in names {
        source.arg(name);
    }
}
