//! Spells calls of one command: by its syntax, by the positions of its keys, and wrongly. Knows nothing of other
//! commands, and not which calls may be sent.

use pontoon::commands::Spec;

use super::{
    calls,
    connection::Call,
    syntax::{Argument, Kind, Syntax},
    vocabulary::Vocabulary,
};

/// A command that the reference has.
#[derive(Clone, Debug)]
pub struct Command {
    /// Its row in the command table.
    pub spec: &'static Spec,
    /// Its syntax.
    pub syntax: Syntax,
}

/// How often an argument may be repeated.
const REPEATED_MAX: usize = 3;

impl Command {
    /// A call, in most cases a valid one.
    pub fn spell(&self, words: &mut Vocabulary) -> Call {
        words.choose_tag();
        self.spell_with_tag(words)
    }

    /// As [`Command::spell`], its keys related as the vocabulary was told.
    pub fn spell_with_tag(&self, words: &mut Vocabulary) -> Call {
        let mut call = self.spell_valid(words);
        if words.once_in(8) {
            self.damage(&mut call, words);
        }
        call
    }

    /// A call without intended faults, its keys related as the vocabulary was told.
    pub fn spell_valid(&self, words: &mut Vocabulary) -> Call {
        // The syntax of a module's command may be missing.
        let without_syntax = self.syntax.arguments.is_empty() && self.spec.arity.unsigned_abs() > 1;
        match words.rng.usize(..20) {
            0..3 => self.by_keys(words),
            _ if without_syntax => self.by_keys(words),
            _ => self.by_syntax(words),
        }
    }

    /// By the positions of its keys: the numbers and keywords that say where keys are, and any other words.
    fn by_keys(&self, words: &mut Vocabulary) -> Call {
        // Both decide by random numbers, and each of them has its own.
        let mut rng = words.rng.fork();
        calls::generate_with(self.spec, &mut rng, &mut |kind| match kind {
            "k" | "dest" => words.key(self.spec.name, &self.syntax.group),
            "x" | "more" if words.once_in(3) => words.odd(),
            _ => words.member(),
        })
    }

    fn by_syntax(&self, words: &mut Vocabulary) -> Call {
        let mut call: Call = self.spec.name.split('|').map(|word| word.as_bytes().to_vec()).collect();
        if words.rng.bool() {
            call.iter_mut().for_each(|word| word.make_ascii_uppercase());
        }
        // The same number for all arguments that are repeated: those of XREAD and MSET belong together.
        let repeated = 1 + words.rng.usize(..REPEATED_MAX);
        self.spell_all(&self.syntax.arguments, repeated, words, &mut call);
        call
    }

    fn spell_all(&self, arguments: &[Argument], repeated: usize, words: &mut Vocabulary, call: &mut Call) {
        for argument in arguments {
            if argument.is_optional && !words.once_in(3) {
                continue;
            }
            let times = if argument.is_multiple { repeated } else { 1 };
            for time in 0..times {
                let token = argument.token.as_ref().filter(|_| time == 0 || argument.repeats_token);
                // The server describes an empty token by two quotes.
                call.extend(token.filter(|token| *token != "\"\"").map(|token| token.as_bytes().to_vec()));
                self.spell_one(argument, repeated, words, call);
            }
        }
    }

    fn spell_one(&self, argument: &Argument, repeated: usize, words: &mut Vocabulary, call: &mut Call) {
        match &argument.kind {
            // An entry of which each side would choose the id.
            Kind::Token if self.spec.name == "xadd" && argument.token.as_deref() == Some("*") => {
                call.pop();
                call.push(words.new_entry());
            }
            Kind::Token => {}
            Kind::OneOf(choices) => {
                let at = words.rng.usize(..choices.len());
                let choice = Argument { is_optional: false, ..choices[at].clone() };
                self.spell_all(&[choice], repeated, words, call);
            }
            Kind::Block(parts) => self.spell_all(parts, repeated, words, call),
            Kind::Word(_) if argument.name.starts_with("num") && !words.once_in(12) => {
                call.push(repeated.to_string().into_bytes());
            }
            Kind::Word(kind) => call.push(words.argument(self.spec.name, &self.syntax, kind, &argument.name)),
        }
    }

    /// Replaces, removes, adds or moves some arguments.
    fn damage(&self, call: &mut Call, words: &mut Vocabulary) {
        let first = self.spec.name.split('|').count();
        for _ in 0..1 + words.rng.usize(..2) {
            if call.len() <= first {
                return call.push(words.odd());
            }
            let at = words.rng.usize(first..call.len());
            match words.rng.usize(..6) {
                0 => drop(call.remove(at)),
                1 => call.insert(at, words.odd()),
                2 => call.truncate(at),
                3 => call.swap(at, first),
                _ => call[at] = words.odd(),
            }
        }
    }
}
