//! A command as a server describes it, and whether it can be routed by that. Knows nothing of other servers.

use super::{
    super::{
        keys::{Args, KeysError},
        lookup::lookup,
        spec::Flags,
    },
    keys::{KeyCount, KeySearch, ReportedKeys},
};

/// Longest name of a command that is learnt, in bytes. Those of the table have at most 32.
const NAME_MAX: usize = 64;

/// Key specifications of a command that are read. No command of Redis 8 has more than 3.
const KEYS_MAX: usize = 16;

/// Categories whose unknown commands are never sent for clients: they change the connection, which clients share, or the
/// server.
const NOT_FOR_CLIENTS: [&str; 4] = ["@connection", "@admin", "@pubsub", "@dangerous"];

/// An element of the reply to `COMMAND`.
#[derive(Clone, Debug, Default)]
pub struct ReportedCommand {
    /// In any case; of a subcommand `container|name`.
    pub name: String,
    pub arity: i64,
    pub flags: Vec<String>,
    /// First key, last key and step.
    pub range: (i64, i64, i64),
    /// With `@`.
    pub categories: Vec<String>,
    /// `None`: the server does not report them (before Redis 7).
    pub keys: Option<Vec<ReportedKeys>>,
    /// Whether it has subcommands.
    pub is_container: bool,
}

/// A command that the table does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LearntCommand {
    name: String,
    arity: i64,
    flags: Flags,
    range: (i64, i64, i64),
    /// Why it is not for clients.
    category: Option<&'static str>,
    keys: Vec<ReportedKeys>,
    is_container: bool,
}

impl LearntCommand {
    /// `None`: the table has it, or it has no name by which a client could call it.
    pub(super) fn new(reported: ReportedCommand) -> Option<Self> {
        let name = reported.name.to_ascii_lowercase();
        if !is_name(&name) || is_in_table(&name) {
            return None;
        }
        let mut flags = Flags::empty();
        for flag in &reported.flags {
            flags |= Flags::from_name(&flag.to_ascii_uppercase()).unwrap_or(Flags::empty());
        }
        let has = |category: &str| reported.categories.iter().any(|other| other.eq_ignore_ascii_case(category));
        // Of a module's command, servers report the categories that the module has set: none, as a rule.
        let flagged = |category: &str| match category {
            "@admin" => flags.contains(Flags::ADMIN),
            "@pubsub" => flags.contains(Flags::PUBSUB),
            _ => false,
        };
        let category = NOT_FOR_CLIENTS.into_iter().find(|category| has(category) || flagged(category));
        if has("@blocking") {
            flags |= Flags::BLOCKING;
        }
        let is_legacy = reported.keys.is_none();
        let mut keys = match reported.keys {
            Some(keys) => keys,
            None => legacy_keys(reported.range),
        };
        // Before Redis 7, the range may be a part of them.
        let finds_its_keys = flags.contains(Flags::MOVABLEKEYS) && (keys.is_empty() || is_legacy);
        if finds_its_keys || keys.len() > KEYS_MAX {
            keys = vec![ReportedKeys { begin: KeySearch::Unknown, find: KeyCount::Unknown, incomplete: true }];
        }
        let (arity, range, is_container) = (reported.arity, reported.range, reported.is_container);
        Some(Self { name, arity, flags, range, category, keys, is_container })
    }

    /// Its name in lower case.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Number of arguments, the name included; if negative, the absolute value is the minimum.
    #[must_use]
    pub fn arity(&self) -> i64 {
        self.arity
    }

    /// The flags that the table knows.
    #[must_use]
    pub fn flags(&self) -> Flags {
        self.flags
    }

    /// First key, last key and step, as the server reports them.
    #[must_use]
    pub fn key_range(&self) -> (i64, i64, i64) {
        self.range
    }

    /// Whether it has subcommands.
    #[must_use]
    pub fn is_container(&self) -> bool {
        self.is_container
    }

    /// Whether a call that was sent but not answered may have changed data. The server need not say.
    #[must_use]
    pub fn is_write(&self) -> bool {
        !self.flags.contains(Flags::READONLY)
    }

    /// Whether it may block its connection, which must not be one that clients share.
    #[must_use]
    pub fn may_block(&self) -> bool {
        self.flags.contains(Flags::BLOCKING)
    }

    /// Why no call of it is sent for clients; `None`: calls are routed by their keys.
    #[must_use]
    pub fn refusal(&self) -> Option<String> {
        let Self { name, .. } = self;
        if let Some(category) = self.category {
            return Some(format!(
                "'{name}': it belongs to the category {category}, which the proxy does not send for clients, not executed. \
                 Send it to the server itself"
            ));
        }
        if self.keys.is_empty() {
            return Some(format!(
                "'{name}': it has no key that says which server it is for, not executed. Send it to the servers themselves"
            ));
        }
        let incomplete = !self.keys.iter().all(ReportedKeys::is_complete);
        incomplete.then(|| {
            format!(
                "'{name}': its server does not say where all of its keys are, so it cannot be routed, not executed. Send it \
                 to the server itself"
            )
        })
    }

    /// Whether calls of both have the same keys and become the same.
    pub(super) fn is_routed_like(&self, other: &Self) -> bool {
        (&self.keys, self.category, self.is_container) == (&other.keys, other.category, other.is_container)
    }

    /// What is true for both, if servers have different versions of a module.
    pub(super) fn joined(mut self, other: &Self) -> Self {
        if self.arity != other.arity {
            // The server checks it.
            self.arity = -1;
        }
        let blocking = (self.flags | other.flags) & Flags::BLOCKING;
        self.flags = (self.flags & other.flags) | blocking;
        self
    }

    /// Whether the server accepts a call with `len` arguments, the name included.
    #[must_use]
    pub fn arity_allows(&self, len: usize) -> bool {
        let words = i64::try_from(len).unwrap_or(i64::MAX);
        if self.arity < 0 { words >= self.arity.saturating_neg() } else { words == self.arity }
    }

    /// Appends the positions of the keys of the call `args` to `out`.
    ///
    /// # Errors
    /// Returns why they cannot be found.
    pub fn keys<A: Args + ?Sized>(&self, args: &A, out: &mut Vec<usize>) -> Result<(), KeysError> {
        let before = out.len();
        for keys in &self.keys {
            keys.find(args, out)?;
        }
        if out.len() == before { Err(KeysError::NoKeys) } else { Ok(()) }
    }
}

/// Whether it can be the name of a command.
fn is_name(name: &str) -> bool {
    (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(|c| c.is_ascii_graphic())
}

/// Whether the table has a command or subcommand with this name, in lower case.
pub(super) fn is_in_table(name: &str) -> bool {
    match name.split_once('|') {
        Some((container, sub)) => {
            lookup(container.as_bytes()).is_some_and(|spec| spec.subcommand(sub.as_bytes()).is_some())
        }
        None => lookup(name.as_bytes()).is_some(),
    }
}

/// Key specifications with the same meaning as first key, last key and step.
fn legacy_keys((first, last, step): (i64, i64, i64)) -> Vec<ReportedKeys> {
    let (Ok(first), Ok(step)) = (usize::try_from(first), usize::try_from(step)) else { return Vec::new() };
    if first == 0 {
        return Vec::new();
    }
    let last = if last < 0 { last } else { last.saturating_sub(first as i64) };
    let find = KeyCount::Range { last, step, limit: 0 };
    vec![ReportedKeys { begin: KeySearch::Index(first), find, incomplete: false }]
}
