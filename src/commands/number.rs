//! Numbers of commands and subcommands, so that what is counted for each fits into an array.
//! Knows nothing of what is counted.

use std::{num::NonZeroU16, sync::LazyLock};

use super::{spec::Spec, table::FAMILIES};

/// Commands of the table, without subcommands.
const COMMANDS: usize = {
    let (mut count, mut family) = (0, 0);
    while family < FAMILIES.len() {
        count += FAMILIES[family].len();
        family += 1;
    }
    count
};

/// The number of the first command of each family.
pub(super) static FIRST_OF_FAMILY: [u16; FAMILIES.len()] = {
    let mut first = [0; FAMILIES.len()];
    let (mut count, mut family) = (0, 0);
    while family < FAMILIES.len() {
        first[family] = count as u16;
        count += FAMILIES[family].len();
        family += 1;
    }
    first
};

/// The number of the first subcommand of each command, and behind the last command the number of all.
static FIRST_SUBCOMMAND: [u16; COMMANDS + 1] = {
    let mut first = [0; COMMANDS + 1];
    let (mut number, mut at, mut family) = (COMMANDS, 0, 0);
    while family < FAMILIES.len() {
        let mut row = 0;
        while row < FAMILIES[family].len() {
            first[at] = number as u16;
            number += FAMILIES[family][row].subcommands.len();
            at += 1;
            row += 1;
        }
        family += 1;
    }
    assert!(number < u16::MAX as usize);
    first[COMMANDS] = number as u16;
    first
};

/// The number of a command or subcommand: below [`CommandNumber::count`], and the same in all threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandNumber(NonZeroU16);

impl CommandNumber {
    /// How many there are.
    #[must_use]
    pub fn count() -> usize {
        usize::from(FIRST_SUBCOMMAND[COMMANDS])
    }

    /// The commands and subcommands in the order of their numbers.
    pub fn all() -> impl Iterator<Item = &'static Spec> {
        let commands = || FAMILIES.iter().flat_map(|family| family.iter());
        commands().chain(commands().flat_map(|spec| spec.subcommands.iter()))
    }

    /// The command that has this number.
    ///
    /// # Panics
    /// Never: numbers are made from the table only.
    #[must_use]
    pub fn spec(self) -> &'static Spec {
        static ALL: LazyLock<Vec<&'static Spec>> = LazyLock::new(|| CommandNumber::all().collect());
        ALL[self.index()]
    }

    /// As an index.
    #[must_use]
    #[inline]
    pub fn index(self) -> usize {
        usize::from(self.0.get() - 1)
    }

    #[inline]
    pub(super) fn of_row(first: u16, row: usize) -> Self {
        Self::of_index(first + row as u16)
    }

    /// The number of its subcommand with this index.
    pub(super) fn of_subcommand(self, at: usize) -> Self {
        Self::of_index(FIRST_SUBCOMMAND[self.index()] + at as u16)
    }

    /// One more than the index is kept, so that `Option` needs no more space.
    #[inline]
    fn of_index(index: u16) -> Self {
        Self(NonZeroU16::MIN.saturating_add(index))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::commands::resolve_numbered;

    #[test]
    fn every_command_and_subcommand_has_a_number_of_its_own() {
        assert_eq!(CommandNumber::all().count(), CommandNumber::count());
        for (index, spec) in CommandNumber::all().enumerate() {
            let words: Vec<&[u8]> = spec.name.split('|').map(str::as_bytes).collect();
            // A call with too few arguments is one of the command, too.
            assert_eq!(resolve_numbered(&words[..]).1.unwrap().index(), index, "{}", spec.name);
        }
        assert!(resolve_numbered(&[&b"nonsense"[..]][..]).1.is_none());
        assert!(resolve_numbered(&[&b"object"[..], b"nonsense"][..]).1.is_none());
    }
}
