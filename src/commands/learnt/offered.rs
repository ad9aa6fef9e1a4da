//! What one server offers: the names of its commands, and descriptions of those that the table does not have.
//! Knows nothing of other servers.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    DifferingCommands,
    command::{LearntCommand, ReportedCommand, is_in_table},
    identity::ServerIdentity,
};

/// Names of commands of a server that are kept. Redis 8 with all of its modules has about 650.
const NAMES_MAX: usize = 4096;

/// Commands that are learnt from a server: no module has a hundred.
const LEARNT_MAX: usize = 512;

/// The commands of a server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OfferedCommands {
    /// In lower case.
    names: BTreeSet<String>,
    /// Whether the server names subcommands (since Redis 7).
    with_subcommands: bool,
    pub(super) learnt: BTreeMap<String, LearntCommand>,
    pub(super) identity: ServerIdentity,
    /// Those of the table that the server describes otherwise.
    pub differing: DifferingCommands,
}

impl OfferedCommands {
    /// Of a server that has commands with these names, as `COMMAND LIST` returns them (or `COMMAND`, before Redis 7, which
    /// leaves subcommands out).
    #[must_use]
    pub fn new(names: impl IntoIterator<Item = String>) -> Self {
        let names: BTreeSet<String> = names.into_iter().take(NAMES_MAX).map(|name| name.to_ascii_lowercase()).collect();
        let with_subcommands = names.iter().any(|name| name.contains('|'));
        Self { names, with_subcommands, ..Self::default() }
    }

    /// Records what the server is.
    pub fn identify(&mut self, identity: ServerIdentity) {
        self.identity = identity;
    }

    /// Names of commands that the table does not have.
    pub fn unknown(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str).filter(|name| !is_in_table(name)).take(LEARNT_MAX)
    }

    /// Adds the descriptions of commands that the table does not have; others are ignored.
    pub fn learn(&mut self, reported: impl IntoIterator<Item = ReportedCommand>) {
        for command in reported.into_iter().filter_map(LearntCommand::new) {
            if self.learnt.len() >= LEARNT_MAX {
                return;
            }
            self.learnt.insert(command.name().to_owned(), command);
        }
    }

    /// Whether the server has the command or subcommand with this name, in lower case.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        match name.split_once('|') {
            Some((container, _)) if !self.with_subcommands => self.names.contains(container),
            _ => self.names.contains(name),
        }
    }

    /// The commands that the table does not have, by name.
    pub fn learnt(&self) -> impl Iterator<Item = &LearntCommand> {
        self.learnt.values()
    }
}
