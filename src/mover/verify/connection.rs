//! A connection of the verification to one server, which only reads.
//! Knows nothing of values and digests.

use bytes::Bytes;
use tokio::time::{Duration, Instant};

use super::digest::{DigestSeed, KeyDigest};
use crate::{
    mover::{expiry::ExpiryQuery, spec::Endpoint},
    redis::{Client, RedisError, Reply, capabilities::EXPIRE_TIME_PROBE},
};

/// Time limit for one request; a request takes a few hundred microseconds.
pub const REQUEST_MAX: Duration = Duration::from_secs(10);
/// Elements of a page: as in the copy of big keys, at most about a millisecond of the server's time.
pub const PAGE: u64 = 512;
/// The arguments of a command.
pub(super) type ReadCommand = Vec<Bytes>;

/// Creates a command.
pub(super) fn command(parts: &[&[u8]]) -> ReadCommand {
    parts.iter().map(|part| Bytes::copy_from_slice(part)).collect()
}

/// A connection that only reads. Unlike a connection that changes something, it may be reopened.
pub(super) struct ReadConnection {
    endpoint: Endpoint,
    name: String,
    client: Client,
    db: u32,
    seed: DigestSeed,
    /// How the server is asked when a key expires.
    expiry_query: ExpiryQuery,
    /// The server supports times to live of fields.
    field_expiry: bool,
    /// Groups of streams are read, too.
    groups: bool,
}

/// Why the reading of a key stopped early.
pub(super) enum ReadError {
    /// Not an error of the connection: [`KeyDigest::Changed`] or [`KeyDigest::Unreadable`].
    Key(KeyDigest),
    /// The connection cannot be used any more.
    Connection(RedisError),
}

impl From<RedisError> for ReadError {
    fn from(error: RedisError) -> Self {
        Self::Connection(error)
    }
}

impl ReadConnection {
    /// Connects.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub async fn open(endpoint: &Endpoint, name: &str, seed: DigestSeed) -> Result<Self, RedisError> {
        let mut client = connect(endpoint, name).await?;
        let mut knows = async |probe: &[&[u8]]| match client.ask(probe, soon()).await {
            Ok(_) => Ok(true),
            Err(error) if error.answered() => Ok(false),
            Err(error) => Err(error),
        };
        let field_expiry = knows(&[b"HPEXPIRETIME", b"pt:probe", b"FIELDS", b"1", b"f"]).await?;
        let expiry_query =
            if knows(EXPIRE_TIME_PROBE).await? { ExpiryQuery::ExpireTime } else { ExpiryQuery::TimeAndTtl };
        let (endpoint, name) = (endpoint.clone(), name.to_owned());
        Ok(Self { endpoint, name, client, db: 0, seed, expiry_query, field_expiry, groups: true })
    }

    /// Skips the groups of streams, for a feed that does not report their changes.
    pub fn without_groups(mut self) -> Self {
        self.groups = false;
        self
    }

    /// Whether groups of streams are read.
    pub const fn groups(&self) -> bool {
        self.groups
    }

    /// The connection with database `db` selected, for SCAN and similar commands.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub async fn client(&mut self, db: u32) -> Result<&mut Client, RedisError> {
        if self.db != db {
            self.client.select(db, soon()).await?;
            self.db = db;
        }
        Ok(&mut self.client)
    }

    /// Reopens the connection after its replies could not be parsed.
    pub async fn reopen(&mut self, db: u32) -> Result<(), RedisError> {
        self.client = connect(&self.endpoint, &self.name).await?;
        self.db = 0;
        self.client(db).await.map(|_| ())
    }

    /// The seed of this comparison.
    pub fn seed(&self) -> DigestSeed {
        self.seed.clone()
    }

    /// Sends one request about a key. An error reply ends the reading of the key.
    pub async fn request(&mut self, parts: &[&[u8]]) -> Result<Reply, ReadError> {
        let mut replies = self.client.pipeline(&[parts], soon()).await?;
        match replies.pop().unwrap_or(Reply::Null) {
            reply @ Reply::Error(_) => Err(refused(&reply)),
            reply => Ok(reply),
        }
    }

    /// Sends several commands at once.
    pub async fn pipe(&mut self, commands: &[ReadCommand]) -> Result<Vec<Reply>, RedisError> {
        let slices: Vec<Vec<&[u8]>> = commands.iter().map(|c| c.iter().map(|part| &part[..]).collect()).collect();
        let slices: Vec<&[&[u8]]> = slices.iter().map(Vec::as_slice).collect();
        self.client.pipeline(&slices, soon()).await
    }

    /// How the server is asked when a key expires.
    pub fn expiry_query(&self) -> ExpiryQuery {
        self.expiry_query
    }

    /// The server's clock, in milliseconds since the epoch.
    pub async fn clock_ms(&mut self) -> Result<i64, RedisError> {
        let reply = self.client.ask(&[b"TIME"], soon()).await?;
        let unknown = "its answer to TIME has an unknown form";
        reply.clock_ms().ok_or_else(|| RedisError::Protocol { addr: self.endpoint.addr.clone(), why: unknown.into() })
    }

    /// Whether the server supports times to live of fields.
    pub fn field_expiry(&self) -> bool {
        self.field_expiry
    }
}

fn soon() -> Instant {
    Instant::now() + REQUEST_MAX
}

async fn connect(endpoint: &Endpoint, name: &str) -> Result<Client, RedisError> {
    Client::connect(&endpoint.addr, endpoint.credentials.as_ref(), name, soon()).await
}

/// The digest of a key after a reply that cannot be used.
pub(super) fn unreadable(reply: &Reply) -> KeyDigest {
    KeyDigest::Unreadable(match reply {
        Reply::Error(text) => text.clone(),
        _ => "a reply has an unknown form".into(),
    })
}

/// Classifies an error reply about a key.
pub(super) fn refused(reply: &Reply) -> ReadError {
    match reply {
        Reply::Error(text) if text.starts_with("WRONGTYPE") || text.contains("no such key") => {
            ReadError::Key(KeyDigest::Changed)
        }
        _ => ReadError::Key(unreadable(reply)),
    }
}

/// The strings of an array.
pub(super) fn collect(reply: &Reply, out: &mut Vec<Bytes>) -> Result<(), ReadError> {
    for item in reply.items().ok_or(ReadError::Key(KeyDigest::Changed))? {
        match item {
            Reply::Bulk(bytes) => out.push(bytes.clone()),
            _ => return Err(ReadError::Key(KeyDigest::Changed)),
        }
    }
    Ok(())
}
