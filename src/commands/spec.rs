//! The description of a Redis command: arity, flags, the positions of its keys, and how the proxy handles it.
//! Knows nothing of how arguments are encoded and of which server has a key.

use super::keys::KeySpec;

/// Command flags as bits; the names are those of Redis' `COMMAND`, except [`flag::MAY_REPLICATE`], which Redis keeps to itself.
pub mod flag {
    /// May change data.
    pub const WRITE: u32 = 1;
    /// Changes no data.
    pub const READONLY: u32 = 1 << 1;
    /// Refused by a server that is out of memory.
    pub const DENYOOM: u32 = 1 << 2;
    /// Constant or logarithmic time.
    pub const FAST: u32 = 1 << 3;
    /// May block its connection.
    pub const BLOCKING: u32 = 1 << 4;
    /// For operators.
    pub const ADMIN: u32 = 1 << 5;
    /// Publish and subscribe.
    pub const PUBSUB: u32 = 1 << 6;
    /// Not allowed in scripts.
    pub const NOSCRIPT: u32 = 1 << 7;
    /// Allowed while the data set is loaded.
    pub const LOADING: u32 = 1 << 8;
    /// Allowed on a replica that has lost its primary.
    pub const STALE: u32 = 1 << 9;
    /// Not shown to MONITOR.
    pub const SKIP_MONITOR: u32 = 1 << 10;
    /// Not shown in the slow log.
    pub const SKIP_SLOWLOG: u32 = 1 << 11;
    /// Allowed after ASKING.
    pub const ASKING: u32 = 1 << 12;
    /// Allowed before AUTH.
    pub const NO_AUTH: u32 = 1 << 13;
    /// The first, last and step of its keys do not tell all.
    pub const MOVABLEKEYS: u32 = 1 << 14;
    /// Not allowed in a transaction.
    pub const NO_MULTI: u32 = 1 << 15;
    /// Its keys may be none.
    pub const NO_MANDATORY_KEYS: u32 = 1 << 16;
    /// Allowed while a script runs for too long.
    pub const ALLOW_BUSY: u32 = 1 << 17;
    /// Not allowed while data are loaded asynchronously.
    pub const NO_ASYNC_LOADING: u32 = 1 << 18;
    /// May change data or be replicated although it has not [`WRITE`]: scripts, functions, PFCOUNT, PUBLISH.
    pub const MAY_REPLICATE: u32 = 1 << 19;

    /// Only reads, and is for the primary all the same: a cursor means something only at the server that gave it out, and what
    /// is told of access times and memory is the server's own, not the data's. Ours; Redis has no such flag.
    pub const PRIMARY_ONLY: u32 = 1 << 20;

    /// Each flag that `COMMAND` reports, with the name it has there.
    pub const REPORTED: [(u32, &str); 19] = [
        (WRITE, "write"),
        (READONLY, "readonly"),
        (DENYOOM, "denyoom"),
        (FAST, "fast"),
        (BLOCKING, "blocking"),
        (ADMIN, "admin"),
        (PUBSUB, "pubsub"),
        (NOSCRIPT, "noscript"),
        (LOADING, "loading"),
        (STALE, "stale"),
        (SKIP_MONITOR, "skip_monitor"),
        (SKIP_SLOWLOG, "skip_slowlog"),
        (ASKING, "asking"),
        (NO_AUTH, "no_auth"),
        (MOVABLEKEYS, "movablekeys"),
        (NO_MULTI, "no_multi"),
        (NO_MANDATORY_KEYS, "no_mandatory_keys"),
        (ALLOW_BUSY, "allow_busy"),
        (NO_ASYNC_LOADING, "no_async_loading"),
    ];
}

/// A set of [`flag`] bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flags(pub u32);

impl Flags {
    /// Whether any of `bits` is set.
    pub const fn has(self, bits: u32) -> bool {
        self.0 & bits != 0
    }

    /// The names that `COMMAND` reports for these flags.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        flag::REPORTED.iter().filter(move |(bit, _)| self.has(*bit)).map(|(_, name)| *name)
    }
}

/// A command, or a subcommand of a container such as `OBJECT`.
#[derive(Debug)]
pub struct Spec {
    /// Name in lower case; of a subcommand the full name as Redis reports it: `object|encoding`.
    pub name: &'static str,
    /// Number of arguments, the command's name included. If negative, the absolute value is the minimum.
    pub arity: i16,
    /// Flags that Redis reports.
    pub flags: Flags,
    /// Positions of its keys.
    pub keys: KeySpec,
    /// How the proxy handles it.
    pub handling: Handling,
    /// Subcommands of a container; empty for other commands.
    pub subcommands: &'static [Spec],
}

impl Spec {
    /// Whether the server accepts a call with `len` arguments, the name included.
    pub const fn arity_allows(&self, len: usize) -> bool {
        if self.arity >= 0 { len == self.arity as usize } else { len >= self.arity.unsigned_abs() as usize }
    }

    /// Whether a call that was sent but not answered may have changed data, so that its outcome is unknown.
    ///
    /// True for all commands that Redis calls writes, even if some of their forms only read (SORT, GETEX, BITFIELD), and for
    /// scripts and functions except their `_RO` forms. False for PFCOUNT: it may write its cache, but repeating it is safe.
    pub const fn is_write(&self) -> bool {
        self.flags.has(flag::WRITE) || (self.flags.has(flag::MAY_REPLICATE) && !self.flags.has(flag::READONLY))
    }

    /// Whether a replica may refuse it: true for all writes ([`Spec::is_write`]) and for PFCOUNT.
    pub const fn needs_primary(&self) -> bool {
        self.flags.has(flag::WRITE | flag::MAY_REPLICATE)
    }

    /// Whether a replica's reply equals the primary's except for its age. (Since Redis 3.2, a replica does not return expired keys,
    /// and it stores times to live as absolute times, so that a reported time to live is no older than the other data.)
    pub const fn may_read_replica(&self) -> bool {
        self.flags.has(flag::READONLY) && !self.needs_primary() && !self.flags.has(flag::PRIMARY_ONLY)
    }

    /// First key, last key (negative: counted from the end) and step as `COMMAND` reports them; all 0 if they do not describe the
    /// keys.
    pub const fn key_range(&self) -> (u8, i8, u8) {
        match self.keys {
            KeySpec::One(at) => (at, at as i8, 1),
            KeySpec::Range { first, last, step } => (first, last, step),
            KeySpec::Count { dest: 1, .. } | KeySpec::Sort { .. } | KeySpec::GeoStore(_) => (1, 1, 1),
            KeySpec::Migrate => (3, 3, 1),
            KeySpec::None | KeySpec::Count { .. } | KeySpec::Streams => (0, 0, 0),
        }
    }

    /// Whether argument 1 is the only key: the fast path, which does not call [`Spec::keys`].
    pub const fn is_single_key_at_1(&self) -> bool {
        matches!(self.keys, KeySpec::One(1))
    }
}

/// How the proxy handles a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handling {
    /// Sent to the group that owns the slot of its keys, which must all have the same slot. See [`Spec::routing_keys`].
    Slot,
    /// Split over the slots of its keys; the replies are merged.
    Split(Split),
    /// Answered by the node.
    Local(Local),
    /// Sent to any server, because all of them give the same reply.
    AnyServer,
    /// Not offered yet; the text says why.
    Unsupported(&'static str),
    /// Not offered through a proxy; the text says why.
    Refused(&'static str),
    /// Refused, and the connection is closed: no Redis client sends this, so an attacker makes another program send it.
    Close(&'static str),
    /// A container, which needs a subcommand. [`super::resolve`] never returns it.
    Container,
}

/// How a command is split and its replies are merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// Split by keys; the values are returned in the order of the keys.
    Mget,
    /// Split by pairs of key and value; OK if all parts return OK.
    Mset,
    /// Split by keys; the integers are added.
    Sum,
}

/// Commands that a node answers itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Local {
    Ping,
    Echo,
    Quit,
    Auth,
    Hello,
    Select,
    Reset,
    Time,
    Info,
    ConfigGet,
    ConfigHelp,
    /// `COMMAND` without a subcommand.
    CommandAll,
    CommandCount,
    CommandInfo,
    CommandList,
    CommandGetkeys,
    CommandGetkeysandflags,
    CommandHelp,
    ClientId,
    ClientInfo,
    ClientGetname,
    ClientSetname,
    ClientSetinfo,
    ClientNoEvict,
    ClientNoTouch,
    ClientReply,
    ClientGetredir,
    ClientTrackinginfo,
    ClientHelp,
}

/// A row of the table.
pub(super) const fn cmd(name: &'static str, arity: i16, flags: u32, keys: KeySpec, handling: Handling) -> Spec {
    Spec { name, arity, flags: Flags(flags), keys, handling, subcommands: &[] }
}

/// A row of the table for a command with subcommands.
pub(super) const fn container(
    name: &'static str,
    arity: i16,
    flags: u32,
    handling: Handling,
    subcommands: &'static [Spec],
) -> Spec {
    Spec { name, arity, flags: Flags(flags), keys: KeySpec::None, handling, subcommands }
}
