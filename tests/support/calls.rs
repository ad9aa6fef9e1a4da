//! Generates calls of any command of the table. Knows nothing of what they are used for.

use pontoon::commands::{Flags, KeySpec, Spec};

/// A call that is being generated.
struct Generator<'a> {
    words: Vec<Vec<u8>>,
    rng: &'a mut fastrand::Rng,
    choose: &'a mut dyn FnMut(&str) -> Vec<u8>,
}

impl Generator<'_> {
    /// Appends a word of this kind.
    fn word(&mut self, kind: &str) {
        self.words.push((self.choose)(kind));
    }

    /// Appends a keyword in upper or lower case.
    fn keyword(&mut self, keyword: &str) {
        let word = if self.rng.bool() { keyword.into() } else { keyword.to_lowercase().into_bytes() };
        self.words.push(word);
    }

    fn count(&mut self, spec: &Spec, least: usize, (at, step, dest): (u8, u8, u8)) {
        while self.words.len() < at as usize {
            let kind = if self.words.len() == dest as usize { "dest" } else { "x" };
            self.word(kind);
        }
        let optional = spec.flags.contains(Flags::NO_MANDATORY_KEYS);
        let keys = self.rng.usize(usize::from(!optional)..6);
        self.words.push(keys.to_string().into_bytes());
        for _ in 0..keys * step as usize {
            self.word("k");
        }
        for _ in 0..self.rng.usize(0..4) {
            self.word("more");
        }
        while self.words.len() < least {
            self.word("more");
        }
    }

    fn streams(&mut self, spec: &Spec) {
        if spec.name == "xreadgroup" {
            self.keyword("GROUP");
            self.word("g");
            // A group or consumer may have any name.
            self.word("c");
        }
        for (option, arguments) in [("COUNT", 1), ("BLOCK", 1), ("NOACK", 0)] {
            if self.rng.bool() && (option != "NOACK" || spec.name == "xreadgroup") {
                self.keyword(option);
                for _ in 0..arguments {
                    self.words.push(self.rng.u8(..).to_string().into_bytes());
                }
            }
        }
        self.keyword("STREAMS");
        for _ in 0..2 * self.rng.usize(1..6) {
            self.word("k");
        }
    }

    fn sort(&mut self, store: bool) {
        self.word("k");
        for _ in 0..self.rng.usize(0..6) {
            match self.rng.usize(0..6) {
                0 => {
                    self.keyword("LIMIT");
                    // A sensible call has numbers here; words verify that these arguments are skipped.
                    self.words.push(b"store".to_vec());
                    self.word("x");
                }
                1 => {
                    self.keyword("BY");
                    self.words.push(b"store".to_vec());
                }
                2 => {
                    self.keyword("GET");
                    self.word("pattern*");
                }
                3 if store => {
                    self.keyword("STORE");
                    self.word("dest");
                }
                4 => self.keyword("ALPHA"),
                _ => self.keyword("DESC"),
            }
        }
    }

    fn geo(&mut self, from: u8) {
        for _ in 1..from {
            self.word("k");
        }
        let mut options = vec!["STORE", "STOREDIST", "COUNT", "WITHDIST", "ASC"];
        self.rng.shuffle(&mut options);
        for option in &options[..self.rng.usize(0..=options.len())] {
            self.keyword(option);
            if option.starts_with("STORE") || *option == "COUNT" {
                self.word("x");
            }
        }
    }

    fn migrate(&mut self) {
        let many = self.rng.bool();
        for argument in ["host", "6379", if many { "" } else { "key" }, "0", "1000"] {
            self.words.push(argument.into());
        }
        for (option, arguments) in [("COPY", 0), ("REPLACE", 0), ("AUTH", 1), ("AUTH2", 2)] {
            if self.rng.bool() {
                self.keyword(option);
                for _ in 0..arguments {
                    self.word("x");
                }
            }
        }
        if many {
            self.keyword("KEYS");
            for _ in 0..self.rng.usize(1..6) {
                self.word("k");
            }
        }
    }

    fn plain(&mut self, spec: &Spec, least: usize) {
        while self.words.len() < least {
            self.word("k");
        }
        if spec.arity < 0 {
            let more = match spec.keys {
                KeySpec::Range { step, .. } => self.rng.usize(0..6) * step as usize,
                _ => self.rng.usize(0..6),
            };
            for _ in 0..more {
                self.word("k");
            }
        }
    }
}

/// Generates a call of `spec` with the syntax of the command; it need not be sensible. Its words are unique.
pub fn generate(spec: &Spec, rng: &mut fastrand::Rng) -> Vec<Vec<u8>> {
    let mut unique = 0;
    generate_with(spec, rng, &mut |kind| {
        unique += 1;
        format!("{kind}{unique}").into_bytes()
    })
}

/// As [`generate`], with words that `choose` makes: `k` and `dest` are keys, `g` and `c` a stream's group and consumer,
/// `pattern*` a pattern, `x` the argument of an option, and `more` anything.
pub fn generate_with(spec: &Spec, rng: &mut fastrand::Rng, choose: &mut dyn FnMut(&str) -> Vec<u8>) -> Vec<Vec<u8>> {
    let mut words: Vec<Vec<u8>> = spec.name.split('|').map(|word| word.as_bytes().to_vec()).collect();
    for word in &mut words {
        if rng.bool() {
            word.make_ascii_uppercase();
        }
    }
    // GETKEYS refuses a PFMERGE without sources, which the server executes.
    let least = spec.arity.unsigned_abs() as usize + usize::from(spec.name == "pfmerge");
    let mut call = Generator { words, rng, choose };
    match spec.keys {
        KeySpec::Count { at, step, dest } => call.count(spec, least, (at, step, dest)),
        KeySpec::Streams => call.streams(spec),
        KeySpec::Sort { store } => call.sort(store),
        KeySpec::GeoStore(from) => call.geo(from),
        KeySpec::Migrate => call.migrate(),
        KeySpec::None | KeySpec::One(_) | KeySpec::Range { .. } => call.plain(spec, least),
    }
    call.words
}
