//! What we know of one Redis command: arity, flags, where its keys are, and what a proxy does with it.
//! Refuses to know how arguments are encoded on the wire, and which server a key belongs to.

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

/// One command, or one subcommand of a container command such as `OBJECT`.
#[derive(Debug)]
pub struct Spec {
    /// In lower case; of a subcommand in full, as Redis reports it: `object|encoding`.
    pub name: &'static str,
    /// Number of arguments, the command's name included; negative: at least that many.
    pub arity: i16,
    /// What Redis says of it.
    pub flags: Flags,
    /// Where its keys are.
    pub keys: KeySpec,
    /// What the proxy does with it.
    pub handling: Handling,
    /// Of a container: its subcommands.
    pub subcommands: &'static [Spec],
}

impl Spec {
    /// Whether a call with `len` arguments, the name included, has a number of them that the server accepts.
    pub const fn arity_allows(&self, len: usize) -> bool {
        if self.arity >= 0 { len == self.arity as usize } else { len >= self.arity.unsigned_abs() as usize }
    }

    /// Whether a call that was sent but not answered may have changed something, so that its outcome is unknown.
    ///
    /// True for everything that Redis calls a write, also where some of its forms only read (SORT, GETEX, BITFIELD), and for
    /// scripts and functions except the `_RO` forms. PFCOUNT may write its cache, but repeating it is safe: false.
    pub const fn is_write(&self) -> bool {
        self.flags.has(flag::WRITE) || (self.flags.has(flag::MAY_REPLICATE) && !self.flags.has(flag::READONLY))
    }

    /// Whether a server may refuse it for being a replica: [`Spec::is_write`], and PFCOUNT.
    pub const fn needs_primary(&self) -> bool {
        self.flags.has(flag::WRITE | flag::MAY_REPLICATE)
    }

    /// Whether a replica's answer is as good as the primary's, but for its age. (An expired key is none on a replica, too,
    /// since Redis 3.2, and times to live are absolute there, so what is told of them is no older than the rest.)
    pub const fn may_read_replica(&self) -> bool {
        self.flags.has(flag::READONLY) && !self.needs_primary() && !self.flags.has(flag::PRIMARY_ONLY)
    }

    /// First key, last key (negative: from the end) and step as `COMMAND` reports them; all 0 where it finds none that way.
    pub const fn key_range(&self) -> (u8, i8, u8) {
        match self.keys {
            KeySpec::One(at) => (at, at as i8, 1),
            KeySpec::Range { first, last, step } => (first, last, step),
            KeySpec::Count { dest: 1, .. } | KeySpec::Sort { .. } | KeySpec::GeoStore(_) => (1, 1, 1),
            KeySpec::Migrate => (3, 3, 1),
            KeySpec::None | KeySpec::Count { .. } | KeySpec::Streams => (0, 0, 0),
        }
    }

    /// The command's only key is argument 1, so that nobody need call [`Spec::keys`]: the fast path.
    pub const fn is_single_key_at_1(&self) -> bool {
        matches!(self.keys, KeySpec::One(1))
    }
}

/// What the proxy does with a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handling {
    /// Sent to the owner of its keys' slot; all of them must share one. See [`Spec::routing_keys`].
    Slot,
    /// Split over the slots of its keys, the replies merged.
    Split(Split),
    /// Answered by the node.
    Local(Local),
    /// Every server would answer alike: sent to any.
    AnyServer,
    /// Not offered yet; the sentence says what and why.
    Unsupported(&'static str),
    /// Not offered through a proxy; the sentence says why.
    Refused(&'static str),
    /// Refused, and the connection closed: no Redis client sends this, so somebody makes another program talk to us.
    Close(&'static str),
    /// A container: one of its subcommands is meant. [`super::resolve`] never returns it.
    Container,
}

/// How a command's parts and replies relate to the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// A key per part, the values in the order of the keys.
    Mget,
    /// A key and a value per part, OK if all are.
    Mset,
    /// A key per part, the integers added.
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
