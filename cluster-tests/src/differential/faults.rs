//! Calls that are wrong in a certain way: for each command in turn, each kind of fault. Knows nothing of which calls may be
//! sent.

use super::{connection::Call, speller::Command, vocabulary::Vocabulary};

/// What is wrong with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is the name alone.
    NoArguments,
    /// One argument less than the command needs.
    OneLess,
    /// More arguments than it has.
    More,
    /// An argument is a word that fits nothing.
    Odd,
    /// So is the last one, where options are.
    OddLast,
    /// Its keys are of other types.
    OtherType,
    /// An argument comes twice.
    Twice,
    /// Two arguments changed places.
    Swapped,
    /// It is cut off somewhere.
    Cut,
    /// Its container has no such subcommand.
    OtherSubcommand,
}

/// All of them.
const ALL: [Fault; 10] = [
    Fault::NoArguments,
    Fault::OneLess,
    Fault::More,
    Fault::Odd,
    Fault::OddLast,
    Fault::OtherType,
    Fault::Twice,
    Fault::Swapped,
    Fault::Cut,
    Fault::OtherSubcommand,
];

/// Types of keys, by letter.
const LETTERS: &[u8] = b"slhtzx";

/// Arguments that are too many.
const MORE_MAX: usize = 3;

/// Goes through all commands and faults, so that none is left to chance.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    next: usize,
}

impl Faults {
    /// The next call, with keys related as the vocabulary was told.
    pub fn call(&mut self, commands: &[Command], words: &mut Vocabulary) -> Call {
        let (command, fault) = (self.next % commands.len(), self.next / commands.len() % ALL.len());
        self.next += 1;
        spell(&commands[command], ALL[fault], words)
    }
}

fn spell(command: &Command, fault: Fault, words: &mut Vocabulary) -> Call {
    let mut call = command.spell_valid(words);
    let names = command.spec.name.split('|').count();
    let arguments = call.len().saturating_sub(names);
    let at = |words: &mut Vocabulary| names + words.rng.usize(..arguments);
    match fault {
        Fault::NoArguments => call.truncate(names),
        Fault::OneLess => call.truncate(usize::from(command.spec.arity.unsigned_abs()).saturating_sub(1).max(1)),
        Fault::More => {
            for _ in 0..1 + words.rng.usize(..MORE_MAX) {
                call.push(words.member());
            }
        }
        Fault::OtherSubcommand if names > 1 => call[1] = words.odd(),
        // It has no arguments that could be wrong.
        _ if arguments == 0 => call.push(words.odd()),
        Fault::Odd | Fault::OtherSubcommand => {
            let at = at(words);
            call[at] = words.odd();
        }
        Fault::OddLast => {
            let last = call.len() - 1;
            call[last] = words.odd();
        }
        Fault::OtherType => {
            let mut keys = Vec::new();
            // Without keys it stays as it is.
            let _ = command.spec.keys(&call[..], &mut keys);
            let letter = LETTERS[words.rng.usize(..LETTERS.len())];
            keys.into_iter().for_each(|key| call[key] = words.key_of(letter));
        }
        Fault::Twice => {
            let at = at(words);
            call.insert(at, call[at].clone());
        }
        Fault::Swapped => {
            let (one, other) = (at(words), at(words));
            call.swap(one, other);
        }
        Fault::Cut => {
            let at = at(words);
            call.truncate(at);
        }
    }
    call
}
