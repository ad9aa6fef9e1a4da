//! Where a server's description of a command differs from the table's in what is checked when a command is queued in a
//! transaction: its number of arguments, and whether it may be queued at all. Knows nothing of transactions.

use std::collections::BTreeMap;

use super::ReportedCommand;
use crate::commands::{
    lookup::lookup,
    spec::{Flags, Spec},
};

/// What a server says of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct QueueRule {
    /// As in [`Spec::arity`].
    arity: i16,
    /// It may not be called between MULTI and EXEC.
    is_refused: bool,
}

/// The commands of the table that a server describes otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DifferingCommands {
    by_name: BTreeMap<&'static str, QueueRule>,
}

impl DifferingCommands {
    /// Of a server that describes its commands like this. Those that are not in the table are ignored.
    pub fn of<'a>(reported: impl IntoIterator<Item = &'a ReportedCommand>) -> Self {
        let mut by_name = BTreeMap::new();
        for command in reported {
            let Some(spec) = lookup(command.name.as_bytes()) else { continue };
            let Ok(arity) = i16::try_from(command.arity) else { continue };
            let is_refused = command.flags.iter().any(|flag| flag == "no_multi");
            if arity != spec.arity || is_refused != spec.flags.contains(Flags::NO_MULTI) {
                by_name.insert(spec.name, QueueRule { arity, is_refused });
            }
        }
        Self { by_name }
    }

    fn rule(&self, spec: &Spec) -> Option<&QueueRule> {
        if self.by_name.is_empty() { None } else { self.by_name.get(spec.name) }
    }

    /// Whether the server accepts a call with `len` arguments, the name included.
    #[must_use]
    pub fn arity_allows(&self, spec: &Spec, len: usize) -> bool {
        let arity = self.rule(spec).map_or(spec.arity, |rule| rule.arity);
        if arity >= 0 { len == usize::from(arity.unsigned_abs()) } else { len >= usize::from(arity.unsigned_abs()) }
    }

    /// Whether the server refuses the command between MULTI and EXEC.
    #[must_use]
    pub fn is_refused_in_transactions(&self, spec: &Spec) -> bool {
        self.rule(spec).map_or(spec.flags.contains(Flags::NO_MULTI), |rule| rule.is_refused)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn reported(name: &str, arity: i64, flags: &[&str]) -> ReportedCommand {
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        ReportedCommand { name: name.to_owned(), arity, flags, ..ReportedCommand::default() }
    }

    #[test]
    fn what_a_server_says_comes_before_the_table() {
        let of = |name: &str| lookup(name.as_bytes()).unwrap();
        let valkey =
            [reported("MULTI", 1, &["no_multi"]), reported("get", 2, &[]), reported("nosuch", 5, &["no_multi"])];
        let differing = DifferingCommands::of(&valkey);
        assert_eq!(differing.by_name.len(), 1, "{differing:?}");
        assert!(differing.is_refused_in_transactions(of("multi")) && !differing.is_refused_in_transactions(of("get")));
        assert!(differing.is_refused_in_transactions(of("sync")));
        // ZRANK has an option since 7.2; a module checks the number of arguments itself.
        let differing = DifferingCommands::of(&[reported("zrank", 3, &[]), reported("vinfo", -1, &[])]);
        assert!(differing.arity_allows(of("zrank"), 3) && !differing.arity_allows(of("zrank"), 4));
        assert!(differing.arity_allows(of("vinfo"), 1) && !differing.arity_allows(of("get"), 1));
        let table = DifferingCommands::default();
        assert!(table.arity_allows(of("zrank"), 4) && !table.arity_allows(of("vinfo"), 1));
        assert!(!table.is_refused_in_transactions(of("multi")));
    }
}
