//! A call and what the command table says of it: the command, the slots of its keys, and whether the product offers it
//! yet.

use std::collections::BTreeSet;

use pontoon::{
    commands::{Handling, KeysError, ResolveError, Spec, is_blocking_call, lookup, resolve},
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

    /// Whether the product does not offer it yet, so that there is nothing to compare. This ends by itself: when the
    /// command table offers a feature, its calls are compared.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        let Ok(spec) = self.resolved else { return false };
        match spec.handling {
            Handling::Unsupported(_) => true,
            Handling::Refused(_) | Handling::Close(_) => false,
            _ if is_blocking_call(spec, &self.call[..]) => is_unsupported("blpop"),
            _ if spec.runs_script() && self.slots == Err(KeysError::NoKeys) => is_unsupported("script"),
            // A server knows only scripts that it has executed.
            _ if spec.name.starts_with("evalsha") => is_unsupported("script"),
            handling => OWED.contains(&(spec.name, &format!("{handling:?}"))),
        }
    }
}

/// Commands that a node answers otherwise than Redis as long as the table handles them like this: each row ends by itself
/// when somebody mends it, and can then be removed.
const OWED: [(&str, &str); 11] = [
    ("client|help", "Local(ClientHelp)"),
    ("client|info", "Local(ClientInfo)"),
    ("command", "Local(CommandAll)"),
    ("command|count", "Local(CommandCount)"),
    ("command|getkeysandflags", "Local(CommandGetkeysandflags)"),
    ("command|help", "Local(CommandHelp)"),
    ("command|info", "Local(CommandInfo)"),
    ("command|list", "Local(CommandList)"),
    ("config|get", "Local(ConfigGet)"),
    ("config|help", "Local(ConfigHelp)"),
    ("info", "Local(Info)"),
];

/// Whether the table does not offer the command yet; of a container: one of its subcommands.
fn is_unsupported(name: &str) -> bool {
    let spec = lookup(name.as_bytes()).unwrap_or_else(|| panic!("'{name}' is not in the command table"));
    let refused = |spec: &Spec| matches!(spec.handling, Handling::Unsupported(_));
    refused(spec) || spec.subcommands.iter().any(refused)
}
