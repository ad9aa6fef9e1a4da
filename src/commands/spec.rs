//! The description of a Redis command: arity, flags, the positions of its keys, and how the proxy handles it.
//! Knows nothing of how arguments are encoded and of which server has a key.

use bitflags::bitflags;

use super::{keys::KeySpec, packed_name::PackedName};

bitflags! {
    /// Flags of a command. The names are those of Redis' `COMMAND`, except MAY_REPLICATE and PRIMARY_ONLY, which
    /// `COMMAND` does not report.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Flags: u32 {
        /// May change data.
        const WRITE = 1;
        /// Changes no data.
        const READONLY = 1 << 1;
        /// Refused by a server that is out of memory.
        const DENYOOM = 1 << 2;
        /// Constant or logarithmic time.
        const FAST = 1 << 3;
        /// May block its connection.
        const BLOCKING = 1 << 4;
        /// For operators.
        const ADMIN = 1 << 5;
        /// Publish and subscribe.
        const PUBSUB = 1 << 6;
        /// Not allowed in scripts.
        const NOSCRIPT = 1 << 7;
        /// Allowed while the data set is loaded.
        const LOADING = 1 << 8;
        /// Allowed on a replica that has lost its primary.
        const STALE = 1 << 9;
        /// Not shown to MONITOR.
        const SKIP_MONITOR = 1 << 10;
        /// Not shown in the slow log.
        const SKIP_SLOWLOG = 1 << 11;
        /// Allowed after ASKING.
        const ASKING = 1 << 12;
        /// Allowed before AUTH.
        const NO_AUTH = 1 << 13;
        /// First key, last key and step do not describe all of its keys.
        const MOVABLEKEYS = 1 << 14;
        /// Not allowed in a transaction.
        const NO_MULTI = 1 << 15;
        /// It may be called without keys.
        const NO_MANDATORY_KEYS = 1 << 16;
        /// Allowed while a script runs for too long.
        const ALLOW_BUSY = 1 << 17;
        /// Not allowed while data are loaded asynchronously.
        const NO_ASYNC_LOADING = 1 << 18;
        /// Of a module.
        const MODULE = 1 << 21;
        /// May change data or be replicated although it does not have [`Self::WRITE`]: scripts, functions, PFCOUNT,
        /// PUBLISH. Redis has the flag but does not report it.
        const MAY_REPLICATE = 1 << 19;
        /// Only reads, but needs the primary: a cursor is valid only at the server that returned it, and access times
        /// and memory use are properties of the server, not of the data. Redis has no such flag.
        const PRIMARY_ONLY = 1 << 20;
    }
}

impl Flags {
    /// The names that `COMMAND` reports for these flags.
    pub fn names(self) -> impl Iterator<Item = String> {
        let reported = self.difference(Self::MAY_REPLICATE.union(Self::PRIMARY_ONLY));
        reported.iter_names().map(|(name, _)| name.to_ascii_lowercase())
    }
}

/// The bits of [`Flags`] as numbers, for the rows of the table: `|` of numbers is a constant expression, that of
/// `Flags` is not.
pub(super) mod flag {
    use super::Flags;

    pub(crate) const WRITE: u32 = Flags::WRITE.bits();
    pub(crate) const READONLY: u32 = Flags::READONLY.bits();
    pub(crate) const DENYOOM: u32 = Flags::DENYOOM.bits();
    pub(crate) const FAST: u32 = Flags::FAST.bits();
    pub(crate) const BLOCKING: u32 = Flags::BLOCKING.bits();
    pub(crate) const ADMIN: u32 = Flags::ADMIN.bits();
    pub(crate) const PUBSUB: u32 = Flags::PUBSUB.bits();
    pub(crate) const NOSCRIPT: u32 = Flags::NOSCRIPT.bits();
    pub(crate) const LOADING: u32 = Flags::LOADING.bits();
    pub(crate) const STALE: u32 = Flags::STALE.bits();
    pub(crate) const SKIP_MONITOR: u32 = Flags::SKIP_MONITOR.bits();
    pub(crate) const SKIP_SLOWLOG: u32 = Flags::SKIP_SLOWLOG.bits();
    pub(crate) const ASKING: u32 = Flags::ASKING.bits();
    pub(crate) const NO_AUTH: u32 = Flags::NO_AUTH.bits();
    pub(crate) const MOVABLEKEYS: u32 = Flags::MOVABLEKEYS.bits();
    pub(crate) const NO_MULTI: u32 = Flags::NO_MULTI.bits();
    pub(crate) const NO_MANDATORY_KEYS: u32 = Flags::NO_MANDATORY_KEYS.bits();
    pub(crate) const ALLOW_BUSY: u32 = Flags::ALLOW_BUSY.bits();
    pub(crate) const NO_ASYNC_LOADING: u32 = Flags::NO_ASYNC_LOADING.bits();
    pub(crate) const MODULE: u32 = Flags::MODULE.bits();
    pub(crate) const MAY_REPLICATE: u32 = Flags::MAY_REPLICATE.bits();
    pub(crate) const PRIMARY_ONLY: u32 = Flags::PRIMARY_ONLY.bits();
}

/// A command, or a subcommand of a container such as `OBJECT`.
#[derive(Debug)]
pub struct Spec {
    /// Name in lower case; of a subcommand the full name as Redis reports it: `object|encoding`.
    pub name: &'static str,
    /// The name as one number, if it is short.
    pub(super) packed: Option<PackedName>,
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
    /// True for all commands that Redis calls writes, even if some of their forms only read (SORT, GETEX, BITFIELD),
    /// and for scripts and functions except their `_RO` forms. False for PFCOUNT: it may write its cache, but repeating
    /// it is safe.
    pub const fn is_write(&self) -> bool {
        self.flags.contains(Flags::WRITE)
            || (self.flags.contains(Flags::MAY_REPLICATE) && !self.flags.contains(Flags::READONLY))
    }

    /// Whether a replica may refuse it: true for all writes ([`Spec::is_write`]) and for PFCOUNT.
    pub const fn needs_primary(&self) -> bool {
        self.flags.intersects(Flags::WRITE.union(Flags::MAY_REPLICATE))
    }

    /// Whether a replica's reply equals the primary's except for its age. (Since Redis 3.2, a replica does not return
    /// expired keys, and it stores times to live as absolute times, so that a reported time to live is no older than
    /// the other data.)
    pub const fn may_read_replica(&self) -> bool {
        self.flags.contains(Flags::READONLY) && !self.needs_primary() && !self.flags.contains(Flags::PRIMARY_ONLY)
    }

    /// First key, last key (negative: counted from the end) and step as `COMMAND` reports them; all 0 if they do not
    /// describe the keys.
    pub const fn key_range(&self) -> (u8, i8, u8) {
        match self.keys {
            KeySpec::One(at) => (at, at as i8, 1),
            KeySpec::Range { first, last, step } => (first, last, step),
            KeySpec::Count { dest: 1, .. } | KeySpec::Sort { .. } | KeySpec::GeoStore(_) => (1, 1, 1),
            KeySpec::Migrate => (3, 3, 1),
            KeySpec::None | KeySpec::Count { .. } | KeySpec::Streams => (0, 0, 0),
        }
    }

    /// Whether it runs a script or a function.
    pub const fn runs_script(&self) -> bool {
        matches!(self.handling, Handling::Script(_))
    }

    /// Whether a module counts its arguments, when it is executed; its key is argument 1.
    pub const fn is_counted_by_module(&self) -> bool {
        self.flags.contains(Flags::MODULE) && matches!(self.handling, Handling::Slot) && self.is_single_key_at_1()
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
    /// As [`Handling::Slot`]; its cursor belongs to a server process, and is passed on with a mark of that process.
    Cursor,
    /// As [`Handling::Slot`]; the call may name another database, which must be one of the product's. See
    /// [`Spec::leaves_databases`].
    Database,
    /// Split over the slots of its keys; the replies are merged.
    Split(Split),
    /// Begins or ends a transaction, or watches keys.
    Transaction(TransactionCommand),
    /// Answered by the node.
    Local(Local),
    /// Answered by the node with what all of its threads know.
    Node(NodeCommand),
    /// Carried out by the node in steps at the primaries of all groups; the replies are merged.
    AllGroups(AllGroups),
    /// A script or function: sent to the group that owns the slot of its keys. Without keys, to the group that owns the slot
    /// that its name hashes to.
    Script(ScriptCall),
    /// About scripts and functions: sent to the primaries of all groups, and recorded.
    Scripts(ScriptCommand),
    /// HIMPORT: the session keeps the fieldsets, and sends them with each HIMPORT SET to the owner of its key.
    HashImport(HashImport),
    /// Sent to any server, because all of them give the same reply.
    AnyServer,
    /// Sent to the groups that the session has written to; the smallest answer counts.
    WaitReplicas,
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
    /// Split by pairs of key and value, unless NX or XX makes the call all or nothing; 1 if all parts return 1.
    Msetex,
    /// Split by keys; the integers are added.
    Sum,
}

impl Handling {
    /// Whether a call is sent, as a whole, to the group that owns the slot of its keys.
    pub const fn is_of_slot(self) -> bool {
        matches!(self, Self::Slot | Self::Cursor | Self::Database)
    }

    /// Whether it is sent to the owners of its keys.
    pub const fn is_by_keys(self) -> bool {
        self.is_of_slot() || matches!(self, Self::Split(_))
    }

    /// Whether servers execute it for the data user.
    pub const fn is_sent(self) -> bool {
        self.is_by_keys()
            || matches!(self, Self::Script(_) | Self::AnyServer | Self::Transaction(_) | Self::WaitReplicas)
            || matches!(self, Self::HashImport(_))
    }
}

/// Commands about the keys of all groups, or about all their primaries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AllGroups {
    Scan,
    Keys,
    Dbsize,
    Randomkey,
    Flushall,
    Flushdb,
    Swapdb,
    Save,
    Bgsave,
    Bgrewriteaof,
    Lastsave,
    Slotsinfo,
    Slotsscan,
}

/// Commands of transactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransactionCommand {
    Multi,
    Exec,
    Discard,
    Watch,
    Unwatch,
}

/// The subcommands of HIMPORT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashImport {
    Prepare,
    Set,
    Discard,
    DiscardAll,
}

/// How a call names what is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScriptCall {
    /// By the body of a script.
    Body,
    /// By the digest of a script.
    Digest,
    /// By the name of a function.
    Function,
}

/// Commands about scripts and functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScriptCommand {
    ScriptExists,
    ScriptFlush,
    ScriptKill,
    ScriptLoad,
    ScriptShow,
    FunctionDelete,
    FunctionDump,
    FunctionFlush,
    FunctionKill,
    FunctionList,
    FunctionLoad,
    FunctionRestore,
    FunctionStats,
}

impl ScriptCommand {
    /// Whether it brings code of a client to the servers.
    #[must_use]
    pub const fn loads(self) -> bool {
        matches!(self, Self::ScriptLoad | Self::FunctionLoad | Self::FunctionRestore)
    }
}

/// Commands about the clients of a node and about what they have asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeCommand {
    ClientKill,
    ClientList,
    ClientPause,
    ClientUnblock,
    ClientUnpause,
    Monitor,
    SlowlogGet,
    SlowlogLen,
    SlowlogReset,
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
    Role,
    ConfigGet,
    ConfigSet,
    ConfigResetstat,
    ConfigHelp,
    Debug,
    AclCat,
    AclDryrun,
    AclGenpass,
    AclGetuser,
    AclHelp,
    AclList,
    AclLog,
    AclUsers,
    AclWhoami,
    LatencyDoctor,
    LatencyGraph,
    LatencyHelp,
    LatencyHistogram,
    LatencyHistory,
    LatencyLatest,
    LatencyReset,
    MemoryDoctor,
    MemoryMallocStats,
    MemoryPurge,
    MemoryStats,
    ModuleHelp,
    ModuleList,
    PontoonHelp,
    PontoonOn,
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
    SlowlogHelp,
    Slotsmapping,
    Slotshashkey,
}

/// A row of the table.
pub(super) const fn cmd(name: &'static str, arity: i16, flags: u32, keys: KeySpec, handling: Handling) -> Spec {
    let packed = PackedName::of(name.as_bytes());
    Spec { name, packed, arity, flags: Flags::from_bits_retain(flags), keys, handling, subcommands: &[] }
}

/// A row of the table for a command with subcommands.
pub(super) const fn container(
    name: &'static str,
    arity: i16,
    flags: u32,
    handling: Handling,
    subcommands: &'static [Spec],
) -> Spec {
    let packed = PackedName::of(name.as_bytes());
    Spec { name, packed, arity, flags: Flags::from_bits_retain(flags), keys: KeySpec::None, handling, subcommands }
}
