//! Generates what the two sides get, from a seed: single calls, planned sequences, transactions, blocked calls, iterations
//! and raw bytes. Knows nothing of replies.

use std::collections::{BTreeMap, BTreeSet};

use pontoon::commands::{self, Handling, ResolveError};

use super::{
    case::Case,
    connection::{Call, words},
    faults::Faults,
    hazards, scripts,
    sequences::{BLOCKED, ITERATIONS, RARE_SEQUENCES, RAW, SEQUENCES, TRANSACTIONS, Template},
    speller::Command,
    syntax::Syntax,
    vocabulary::Vocabulary,
};

/// What one connection sends.
#[derive(Clone, Debug)]
pub struct Step {
    /// Which of the connections.
    pub connection: usize,
    /// Its calls.
    pub calls: Vec<Call>,
    /// They are sent at once; otherwise each waits for the reply to the one before.
    pub is_pipeline: bool,
}

/// Something that is sent to both sides.
#[derive(Clone, Debug)]
pub enum Unit {
    /// Single calls. Those that are pending are left out.
    Singles(Step),
    /// Calls that belong together, but for those that are pending.
    Sequence(Vec<Step>),
    /// A call that blocks, after other calls of its connection, and what another connection sends then.
    Blocked { before: Step, blocked: Call, then: Step },
    /// SCAN and the like from the first to the last cursor, which stands between these two.
    Iteration { connection: usize, before: Call, after: Call },
    /// One of the keys that there are.
    RandomKey { connection: usize },
    /// Bytes of a connection of its own, which ends.
    Raw(Vec<u8>),
}

/// Generates units.
#[derive(Debug)]
pub struct Generator {
    words: Vocabulary,
    commands: Vec<Command>,
    connections: usize,
    /// Whether the reference answers a login of an unknown user.
    refuses_logins: bool,
    faults: Faults,
    /// The scripts are loaded: a node knows one that came by EVAL to another node only when its own server has it.
    has_begun: bool,
    /// Commands of which single calls were generated.
    pub generated: BTreeSet<&'static str>,
}

/// Single calls of a unit.
const SINGLES_MAX: usize = 40;

/// How often a single call is generated until it may be sent.
const ATTEMPTS: usize = 20;

/// SCRIPT LOAD of all scripts.
fn load_scripts() -> Vec<Call> {
    let load = |body: &&str| [words("SCRIPT LOAD"), vec![body.as_bytes().to_vec()]].concat();
    scripts::BODIES.iter().map(load).collect()
}

impl Generator {
    /// Generates for the commands of the table that the reference has; `offered` are their names in lower case.
    #[must_use]
    pub fn new(
        words: Vocabulary,
        offered: &BTreeSet<String>,
        mut syntax: BTreeMap<String, Syntax>,
        connections: usize,
        refuses_logins: bool,
    ) -> Self {
        let leaves = commands::all()
            .flat_map(|spec| [spec].into_iter().chain(spec.subcommands))
            .filter(|spec| offered.contains(spec.name));
        let unknown = || Syntax { group: String::new(), arguments: Vec::new() };
        let commands: Vec<Command> =
            leaves.map(|spec| Command { spec, syntax: syntax.remove(spec.name).unwrap_or_else(unknown) }).collect();
        let faults = Faults::default();
        Self { words, commands, connections, refuses_logins, faults, has_begun: false, generated: BTreeSet::new() }
    }

    /// Number of commands and subcommands of which single calls are generated.
    #[must_use]
    pub fn commands(&self) -> usize {
        self.commands.len()
    }

    /// The next unit.
    pub fn unit(&mut self) -> Unit {
        match self.words.rng.usize(..100) {
            _ if !self.has_begun => {
                self.has_begun = true;
                let calls = load_scripts();
                Unit::Sequence(vec![self.step(calls)])
            }
            0..30 => self.singles(),
            30..41 => self.faulty(),
            41..50 => Unit::Sequence(vec![self.faulty_transaction()]),
            50..56 => {
                let sequence = self.words.one(TRANSACTIONS);
                // Whether a SELECT in it changes anything is known.
                self.sequence(&format!("SELECT 0 | {sequence} | UNWATCH | SELECT 0"))
            }
            56..72 => {
                let sequence = self.words.one(SEQUENCES);
                self.sequence(sequence)
            }
            72..88 => Unit::Sequence(self.transaction()),
            88..92 => self.blocked(),
            92..96 => self.iteration(),
            96 => Unit::RandomKey { connection: self.connection() },
            97 if self.words.once_in(6) => {
                let sequence = self.words.one(RARE_SEQUENCES);
                self.sequence(sequence)
            }
            97 => Unit::Sequence(vec![self.getkeys()]),
            _ => Unit::Raw(self.words.one(RAW).as_bytes().to_vec()),
        }
    }

    fn connection(&mut self) -> usize {
        self.words.rng.usize(..self.connections)
    }

    fn step(&mut self, calls: Vec<Call>) -> Step {
        Step { connection: self.connection(), calls, is_pipeline: self.words.rng.bool() }
    }

    fn singles(&mut self) -> Unit {
        let count = 1 + self.words.rng.usize(..SINGLES_MAX);
        let mut calls: Vec<Call> = (0..count).map(|_| self.single()).collect();
        if self.words.once_in(6) {
            calls.insert(0, words(self.words.one(&["HELLO 2", "HELLO 3", "HELLO 3"])));
        }
        Unit::Singles(self.step(calls))
    }

    /// Calls with faults.
    fn faulty(&mut self) -> Unit {
        let count = 1 + self.words.rng.usize(..SINGLES_MAX);
        let mut calls = Vec::new();
        for _ in 0..count {
            self.words.choose_tag();
            calls.extend(self.faulty_call());
        }
        Unit::Singles(self.step(calls))
    }

    /// The next call with a fault, if it may be sent.
    fn faulty_call(&mut self) -> Option<Call> {
        let call = self.faults.call(&self.commands, &mut self.words);
        let may_be_sent = hazards::may_be_sent(&Case::new(call.clone())) && !self.is_unanswered(&call);
        may_be_sent.then_some(call)
    }

    /// One in a transaction.
    fn faulty_transaction(&mut self) -> Step {
        self.words.choose_one_tag();
        let before = if self.words.rng.bool() { self.keyed() } else { None };
        let calls = [Some(words("MULTI")), before, self.faulty_call(), Some(words("EXEC")), Some(words("SELECT 0"))];
        let calls = calls.into_iter().flatten().collect();
        self.step(calls)
    }

    /// A call that may be sent.
    fn single(&mut self) -> Call {
        for _ in 0..ATTEMPTS {
            let command = self.commands[self.words.rng.usize(..self.commands.len())].clone();
            let case = Case::new(command.spell(&mut self.words));
            if hazards::may_be_sent(&case) && !self.is_unanswered(&case.call) {
                self.generated.insert(case.name());
                return case.call;
            }
        }
        words("PING")
    }

    fn sequence(&mut self, sequence: &str) -> Unit {
        let mut calls = Template::new(&mut self.words).calls(sequence);
        calls.retain(|call| !self.is_unanswered(call) && !self.is_of_nodes(call));
        if calls.iter().any(|call| Case::new(call.clone()).name() == "script|flush") {
            calls.append(&mut load_scripts());
        }
        Unit::Sequence(vec![self.step(calls)])
    }

    /// Whether a node answers the call itself, also beside servers of a version without it.
    fn is_of_nodes(&self, call: &Call) -> bool {
        let is_lacking = |spec: &commands::Spec| {
            matches!(spec.handling, Handling::Local(_))
                && !self.commands.iter().any(|known| known.spec.name == spec.name)
        };
        match Case::new(call.clone()).resolved {
            Ok(spec) | Err(ResolveError::WrongArity(spec)) => is_lacking(spec),
            Err(_) => false,
        }
    }

    /// Whether the reference has the fault that it does not answer this.
    fn is_unanswered(&self, call: &Call) -> bool {
        let is = |word: &[u8], keyword: &str| word.eq_ignore_ascii_case(keyword.as_bytes());
        let user = call.iter().position(|word| is(word, "AUTH")).and_then(|at| call.get(at + 1));
        let logs_in = is(&call[0], "AUTH") || is(&call[0], "HELLO");
        !self.refuses_logins && logs_in && user.is_some_and(|user| user != b"default")
    }

    /// COMMAND GETKEYS of any call; it is not executed.
    fn getkeys(&mut self) -> Step {
        let calls = (0..SINGLES_MAX).map(|_| {
            let command = self.commands[self.words.rng.usize(..self.commands.len())].clone();
            let mut call = words(self.words.one(&["COMMAND GETKEYS", "COMMAND GETKEYSANDFLAGS"]));
            call.append(&mut command.spell(&mut self.words));
            call
        });
        let calls = calls.collect();
        self.step(calls)
    }

    /// MULTI and EXEC or DISCARD; perhaps a WATCH, and another client that changes something before EXEC.
    fn transaction(&mut self) -> Vec<Step> {
        let connection = self.connection();
        let is_pipeline = self.words.rng.bool();
        self.words.choose_one_tag();
        let own = |calls| Step { connection, calls, is_pipeline };
        let mut steps = vec![own(vec![words("SELECT 0")])];
        let watched = [self.words.key("watch", ""), self.words.key("watch", "")];
        let watches = self.words.once_in(3);
        if watches {
            let mut before = vec![[vec![b"WATCH".to_vec()], watched.to_vec()].concat()];
            before.extend((0..self.words.rng.usize(..3)).filter_map(|_| self.keyed()));
            before.extend(self.words.once_in(8).then(|| words("UNWATCH")));
            steps.push(own(before));
        }
        let mut calls = vec![words("MULTI")];
        for _ in 0..self.words.rng.usize(..8) {
            match self.words.rng.usize(..40) {
                0 => calls.push(words("MULTI")),
                1 => calls.push(words("WATCH a")),
                2 => calls.push(words("UNWATCH")),
                3 => calls.push(words("NOSUCH a b")),
                4 => calls.push(words("GET")),
                5 => calls.push(words("MULTI a")),
                6 => calls.push(words("SELECT 1")),
                7 => calls.push(words("SELECT 16")),
                8 if self.words.once_in(4) => calls.push(words("RESET")),
                9..12 => calls.push(self.single()),
                _ => calls.extend(self.keyed()),
            }
        }
        if watches && self.words.rng.bool() {
            steps.push(own(std::mem::take(&mut calls)));
            let touch = [vec![b"DEL".to_vec()], watched.to_vec()].concat();
            let write = [vec![b"SET".to_vec()], watched[..1].to_vec(), vec![b"touched".to_vec()]].concat();
            let other = (connection + 1) % self.connections;
            let calls = if self.words.rng.bool() { vec![touch] } else { vec![write] };
            steps.push(Step { connection: other, calls, is_pipeline: false });
        }
        calls.push(words(self.words.one(&["EXEC", "EXEC", "EXEC", "EXEC", "DISCARD"])));
        calls.extend(self.words.once_in(10).then(|| words("EXEC")));
        calls.extend(self.words.once_in(10).then(|| words("DISCARD")));
        // Nothing of it is left: SELECT in it may have had an effect, and WATCH behind a RESET.
        calls.extend([words("UNWATCH"), words("SELECT 0")]);
        steps.push(own(calls));
        steps
    }

    /// A call with keys of the slot that was chosen, or at times of any.
    fn keyed(&mut self) -> Option<Call> {
        for _ in 0..ATTEMPTS {
            let command = self.commands[self.words.rng.usize(..self.commands.len())].clone();
            if command.spec.keys == commands::KeySpec::None {
                continue;
            }
            let case = Case::new(command.spell_with_tag(&mut self.words));
            if hazards::may_be_sent(&case) {
                return Some(case.call);
            }
        }
        None
    }

    fn blocked(&mut self) -> Unit {
        let at = self.words.rng.usize(..BLOCKED.len());
        let (before, blocked, then) = BLOCKED[at];
        let mut template = Template::new(&mut self.words);
        let (before, blocked, then) = (template.calls(before), template.call(blocked), template.calls(then));
        let connection = self.connection();
        let other = (connection + 1) % self.connections;
        // Both in the same database.
        let before = [vec![words("SELECT 0")], before].concat();
        let then = [vec![words("SELECT 0")], then].concat();
        let is_pipeline = self.words.rng.bool();
        Unit::Blocked {
            before: Step { connection, calls: before, is_pipeline },
            blocked,
            then: Step { connection: other, calls: then, is_pipeline },
        }
    }

    fn iteration(&mut self) -> Unit {
        let at = self.words.rng.usize(..ITERATIONS.len());
        let (before, after) = ITERATIONS[at];
        let mut template = Template::new(&mut self.words);
        let (before, after) = (template.call(before), template.call(after));
        Unit::Iteration { connection: self.connection(), before, after }
    }
}
