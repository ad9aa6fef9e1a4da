//! The outstanding requests of a big key's copy, and the requests for its length and its dirty fields.
//! Knows nothing of the progress of the copy.

use bytes::Bytes;

use super::{
    BigKeyType,
    read::{self, Cursor},
    requests::Requests,
    stream::StreamRequest,
};

/// What the next replies of the source are about.
#[derive(Clone, Debug)]
pub(super) enum ReadRequest {
    Type,
    Memory,
    Length,
    SupportsFieldExpiry,
    SupportsExpireTime,
    Page(Cursor, usize),
    Fields(Vec<Bytes>),
    FieldExpiry(Vec<Bytes>),
    Member(Bytes),
    SupportsMultiMember,
    Members(Vec<Bytes>),
    Piece(u64),
    ExpireTime,
    Time,
    Ttl,
    Stream(StreamRequest),
}

impl ReadRequest {
    /// The name for messages.
    pub fn what(&self) -> &'static str {
        match self {
            Self::Type => "TYPE",
            Self::Memory => "MEMORY USAGE",
            Self::Length => "its length",
            Self::SupportsFieldExpiry | Self::FieldExpiry(_) => "HPEXPIRETIME",
            Self::Page(..) => "a page of it",
            Self::Fields(_) => "HMGET",
            Self::Member(_) | Self::SupportsMultiMember | Self::Members(_) => "members of it",
            Self::Piece(_) => "GETRANGE",
            Self::SupportsExpireTime | Self::ExpireTime => "PEXPIRETIME",
            Self::Time => "TIME",
            Self::Ttl => "PTTL",
            Self::Stream(_) => "XINFO, XRANGE or XPENDING",
        }
    }
}

/// What the next replies of the target must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ExpectedReply {
    /// Any reply but an error.
    Any,
    /// 1: the copy at the target exists.
    Present,
    /// What older servers do not have: XGROUP CREATECONSUMER (before 6.2 they create consumers only when they read), and the
    /// counters of streams and groups (7.0).
    Newer,
}

impl ExpectedReply {
    /// Whether the copy goes on after this error: the server does not have the subcommand, or an option of it.
    pub fn accepts(self, error: &[u8]) -> bool {
        let unknown =
            error.starts_with(b"ERR Unknown subcommand") || error.starts_with(b"ERR wrong number of arguments");
        self == Self::Newer && unknown
    }
}

/// What the source supports.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ReadOptions {
    /// PEXPIRETIME (from Redis 7.0 on).
    pub expire_time: bool,
    /// HPEXPIRETIME (from Redis 7.4 on): fields may have times to live.
    pub field_expiry: bool,
    /// SMISMEMBER or ZMSCORE (from Redis 6.2 on).
    pub multi_member: bool,
}

/// Requests the length of a key, and which commands the source supports for its type.
pub(super) fn request_length(kind: BigKeyType, key: &[u8], source: &mut Requests) -> Vec<ReadRequest> {
    let length: &[u8] = match kind {
        BigKeyType::String => b"STRLEN",
        BigKeyType::List => b"LLEN",
        BigKeyType::Set => b"SCARD",
        BigKeyType::Zset => b"ZCARD",
        BigKeyType::Hash => b"HLEN",
        BigKeyType::Stream => b"XLEN",
    };
    source.push(&[length, key]);
    source.push(&[b"PEXPIRETIME", key]);
    let mut requests = vec![ReadRequest::Length, ReadRequest::SupportsExpireTime];
    match kind {
        BigKeyType::Hash => {
            source.push(&[b"HPEXPIRETIME", key, b"FIELDS", b"1", b"-"]);
            requests.push(ReadRequest::SupportsFieldExpiry);
        }
        BigKeyType::Set | BigKeyType::Zset => {
            source.push(&[multi_member_command(kind), key, b"-"]);
            requests.push(ReadRequest::SupportsMultiMember);
        }
        _ => {}
    }
    requests
}

/// Requests when a key expires.
pub(super) fn request_expiry(key: &[u8], supports: ReadOptions, source: &mut Requests) -> Vec<ReadRequest> {
    if supports.expire_time {
        source.push(&[b"PEXPIRETIME", key]);
        return vec![ReadRequest::ExpireTime];
    }
    source.push(&[b"TIME"]);
    source.push(&[b"PTTL", key]);
    vec![ReadRequest::Time, ReadRequest::Ttl]
}

/// Requests fields of a hash, members of a set or sorted set, or pieces of a string.
pub(super) fn request_fields(
    kind: BigKeyType,
    key: &[u8],
    names: Vec<Bytes>,
    options: ReadOptions,
    source: &mut Requests,
) -> Vec<ReadRequest> {
    match kind {
        BigKeyType::Hash => {
            request_many(b"HMGET", key, &names, source);
            let mut requests = vec![ReadRequest::Fields(names.clone())];
            if options.field_expiry {
                request_field_expiry(key, &names, source);
                requests.push(ReadRequest::FieldExpiry(names));
            }
            requests
        }
        BigKeyType::Set | BigKeyType::Zset if options.multi_member => {
            request_many(multi_member_command(kind), key, &names, source);
            vec![ReadRequest::Members(names)]
        }
        BigKeyType::Set | BigKeyType::Zset => {
            let command: &[u8] = if kind == BigKeyType::Set { b"SISMEMBER" } else { b"ZSCORE" };
            names.iter().for_each(|name| source.push(&[command, key, name]));
            names.into_iter().map(ReadRequest::Member).collect()
        }
        BigKeyType::String => {
            let pieces = names.iter().map(|name| <[u8; 8]>::try_from(&name[..]).map_or(0, u64::from_be_bytes));
            let request = |piece| {
                read::request_piece(key, piece, source);
                ReadRequest::Piece(piece)
            };
            pieces.map(request).collect()
        }
        BigKeyType::List | BigKeyType::Stream => Vec::new(),
    }
}

fn request_many(command: &[u8], key: &[u8], names: &[Bytes], source: &mut Requests) {
    source.open(2 + names.len());
    source.arg(command);
    source.arg(key);
    names.iter().for_each(|name| source.arg(name));
}

/// The command that reads many members at once.
fn multi_member_command(kind: BigKeyType) -> &'static [u8] {
    if kind == BigKeyType::Set { b"SMISMEMBER" } else { b"ZMSCORE" }
}

/// Requests when fields of a hash expire.
pub(super) fn request_field_expiry(key: &[u8], names: &[Bytes], source: &mut Requests) {
    source.open(4 + names.len());
    source.arg(b"HPEXPIRETIME");
    source.arg(key);
    source.arg(b"FIELDS");
    source.arg(names.len().to_string().as_bytes());
    for name in names {
        source.arg(name);
    }
}
