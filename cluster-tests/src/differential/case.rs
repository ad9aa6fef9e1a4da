//! A call and what the command table says of it: the command, the slots of its keys, and whether the product offers it
//! yet.

use std::collections::BTreeSet;

use pontoon::{
    commands::{Handling, KeysError, ResolveError, Spec, resolve},
    model::slot::Layout,
};

use super::{connection::Call, transaction::Transaction};

/// A call.
#[derive(Clone, Debug)]
pub struct Case {
    /// The command and its arguments.
    pub call: Call,
    /// The command, or why there is none.
    pub resolved: Result<&'static Spec, ResolveError>,
    /// The slots of its keys, or why they are not known.
    pub slots: Result<BTreeSet<u16>, KeysError>,
    /// What the client has watched and queued before, if it has.
    pub transaction: Option<Transaction>,
}

impl Case {
    /// A call outside of transactions.
    #[must_use]
    pub fn new(call: Call) -> Self {
        let resolved = resolve(&call[..]);
        let mut at = Vec::new();
        let found = resolved.map_or(Ok(()), |spec| spec.routing_keys(&call[..], &mut at));
        let slots = found.map(|()| at.iter().map(|at| Layout::Codis.slot(&call[*at]).0).collect());
        Self { call, resolved, slots, transaction: None }
    }

    /// The full name of the command in lower case, `object|encoding`, or nothing if there is no such command.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.resolved.map_or("", |spec| spec.name)
    }

    /// Argument `at` as text.
    #[must_use]
    pub fn word(&self, at: usize) -> String {
        self.call.get(at).map_or_else(String::new, |word| String::from_utf8_lossy(word).into_owned())
    }

    /// Whether one of the arguments is this word, in any case.
    #[must_use]
    pub fn has(&self, keyword: &str) -> bool {
        self.call.iter().skip(1).any(|word| word.eq_ignore_ascii_case(keyword.as_bytes()))
    }

    /// Whether it is a part of a transaction that MULTI has begun.
    #[must_use]
    pub fn is_queued(&self) -> bool {
        self.transaction.as_ref().is_some_and(|transaction| transaction.is_open)
    }

    /// Whether the call is not compared: the command table says that the product does not offer it yet, or it is in
    /// [`LEFT_OUT`].
    #[must_use]
    pub fn is_pending(&self) -> bool {
        self.is_left_out() || matches!(self.resolved, Ok(Spec { handling: Handling::Unsupported(_), .. }))
    }

    /// Whether it is one of [`LEFT_OUT`].
    #[must_use]
    pub fn is_left_out(&self) -> bool {
        let spec = match self.resolved {
            Ok(spec) | Err(ResolveError::WrongArity(spec)) => spec,
            Err(ResolveError::Unknown | ResolveError::UnknownSubcommand(_)) => return false,
        };
        // All commands, which are others.
        let all = spec.name == "command|info" && self.call.len() == 2;
        all || LEFT_OUT.iter().any(|row: &&'static str| match row.strip_suffix('*') {
            Some(container) => spec.name.starts_with(container),
            None => spec.name == *row,
        })
    }
}

/// Commands that are not compared, because their replies describe the server or its clients. Other tests check them.
/// `*`: all subcommands.
const LEFT_OUT: [&str; 29] = [
    "acl|*",
    "client|caching",
    "client|capa",
    "client|help",
    "client|import-source",
    "client|info",
    "client|kill",
    "client|list",
    "client|pause",
    "client|unblock",
    "client|unpause",
    "command",
    "command|count",
    "command|getkeys",
    "command|getkeysandflags",
    "command|help",
    "command|list",
    "commandlog|*",
    "config|*",
    "info",
    "latency|*",
    "memory|doctor",
    "memory|malloc-stats",
    "memory|purge",
    "memory|stats",
    "module|*",
    "monitor",
    "role",
    "slowlog|*",
];
