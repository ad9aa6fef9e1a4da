//! The words that calls are made of: a small keyspace, so that calls meet, and values for every kind of argument.
//! Knows nothing of commands' syntax, and not what the words are sent to.

use super::{scripts, syntax::Syntax};

/// Hash tags of keys; `main` asserts that every group owns some. The empty one: the whole key is hashed.
pub const TAGS: [&str; 6] = ["{a}", "{b}", "{c}", "{d}", "{e}", ""];

/// Keys of each type and tag.
const KEYS_EACH: usize = 3;

/// The type that a key usually has, by a letter in its name: string, number, list, hash, set, sorted set, stream, places,
/// bitmap, HyperLogLog, and any.
const TYPES: &[u8] = b"snlhtzxgbpw";

/// What replaces an argument: numbers at their limits, keywords of options, bytes that are no text.
const ODD: [&[u8]; 46] = [
    b"",
    b"0",
    b"1",
    b"2",
    b"3",
    b"-1",
    b"01",
    b"+1",
    b" 1",
    b"1.5",
    b"abc",
    b"9999999999",
    b"9223372036854775807",
    b"9223372036854775808",
    b"-9223372036854775808",
    b"inf",
    b"nan",
    b"1e400",
    b"(1",
    b"[m1",
    b"(",
    b"-",
    b"+",
    b"$",
    b">",
    b"1-1",
    b"m1",
    b"STORE",
    b"STREAMS",
    b"KEYS",
    b"LIMIT",
    b"GET",
    b"COUNT",
    b"GROUP",
    b"EX",
    b"PX",
    b"NX",
    b"XX",
    b"WITHSCORES",
    b"MATCH",
    b"CH",
    b"REV",
    b"nosuch",
    b"\x00\xff\r\n",
    b"{a}s1",
    b"0.01",
];

/// A time to live is a multiple of this many seconds, each time another one: the two sides execute a call at different
/// moments, and still GT and LT find the same.
const LIFE_STEP: u64 = 10_000;

/// Where absolute times begin: far behind every relative one, for the same reason.
const ABSOLUTE_FROM: u64 = 4_000_000_000;

/// How the keys of a call are related.
#[derive(Clone, Copy, Debug)]
enum Tag {
    /// All have this one.
    One(usize),
    /// Each has one of its own.
    Any,
}

/// Makes words.
#[derive(Debug)]
pub struct Vocabulary {
    /// Decides everything.
    pub rng: fastrand::Rng,
    tag: Tag,
    /// Number of the last stream entry.
    entries: u64,
    /// Times to live made so far.
    lives: u64,
    /// Digests of [`scripts::BODIES`].
    digests: Vec<String>,
}

/// Text as a word.
fn word(text: &str) -> Vec<u8> {
    text.as_bytes().to_vec()
}

impl Vocabulary {
    /// `digests`: those of [`scripts::BODIES`].
    #[must_use]
    pub fn new(seed: u64, digests: Vec<String>) -> Self {
        Self { rng: fastrand::Rng::with_seed(seed), tag: Tag::One(0), entries: 0, lives: 0, digests }
    }

    /// One of these.
    pub fn one<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.rng.usize(..of.len())]
    }

    /// True once in `n` times.
    pub fn once_in(&mut self, n: usize) -> bool {
        self.rng.usize(..n) == 0
    }

    /// Chooses how the keys are related, until the next choice.
    pub fn choose_tag(&mut self) {
        self.tag = if self.once_in(8) { Tag::Any } else { Tag::One(self.rng.usize(..TAGS.len() - 1)) };
    }

    /// From now on, all keys have the same slot.
    pub fn choose_one_tag(&mut self) {
        self.tag = Tag::One(self.rng.usize(..TAGS.len() - 1));
    }

    /// A key of the type with this letter.
    pub fn key_of(&mut self, letter: u8) -> Vec<u8> {
        let tag = match self.tag {
            Tag::One(tag) => tag,
            Tag::Any => self.rng.usize(..TAGS.len()),
        };
        format!("{}{}{}", TAGS[tag], char::from(letter), self.rng.usize(..KEYS_EACH)).into_bytes()
    }

    /// A key that fits the command in most cases.
    pub fn key(&mut self, name: &str, group: &str) -> Vec<u8> {
        let any = TYPES[self.rng.usize(..TYPES.len())];
        let fits = match group {
            "string" if name.contains("incr") || name.contains("decr") => b'n',
            "string" => b's',
            "list" => b'l',
            "hash" => b'h',
            "set" => b't',
            "sorted-set" => b'z',
            "stream" => b'x',
            "geo" => b'g',
            "bitmap" => b'b',
            "hyperloglog" => b'p',
            _ => any,
        };
        let letter = if self.once_in(12) { any } else { fits };
        if self.once_in(40) { word("{a}nosuch") } else { self.key_of(letter) }
    }

    /// A word that hardly fits anything.
    pub fn odd(&mut self) -> Vec<u8> {
        self.one(&ODD).to_vec()
    }

    /// A member of a set, or a field of a hash.
    pub fn member(&mut self) -> Vec<u8> {
        match self.rng.usize(..40) {
            0 => Vec::new(),
            1 => vec![b'm'; 70],
            2 => b"\x00\xff\r\n".to_vec(),
            n @ 3..15 => word(&n.to_string()),
            _ => format!("m{}", self.rng.usize(..12)).into_bytes(),
        }
    }

    /// An integer near 0.
    pub fn integer(&mut self) -> Vec<u8> {
        word(self.one(&["0", "1", "2", "3", "5", "10", "100", "-1", "-2", "-3", "-100"]))
    }

    fn number(&mut self) -> Vec<u8> {
        word(self.one(&["0", "1", "2", "3.5", "-1", "-2.25", "100", "1e3", "inf", "-inf", "0.1"]))
    }

    /// The id of a new stream entry.
    pub fn new_entry(&mut self) -> Vec<u8> {
        self.entries += 1;
        let sequence = self.one(&["0", "1", "*"]);
        format!("{}-{sequence}", self.entries).into_bytes()
    }

    /// The id of a stream entry that may exist.
    fn entry(&mut self) -> Vec<u8> {
        let near = self.entries.saturating_sub(self.rng.u64(..40));
        match self.rng.usize(..6) {
            0 => word("0"),
            1 => word("-"),
            2 => word("+"),
            3 => format!("({near}-0").into_bytes(),
            4 => format!("{near}").into_bytes(),
            _ => format!("{near}-1").into_bytes(),
        }
    }

    /// A number of seconds that no other call gets.
    fn life(&mut self) -> u64 {
        self.lives += 1;
        // The numbers are not in ascending order, so that GT and LT have both results.
        (1 + self.lives * 7919 % 100_003) * LIFE_STEP
    }

    fn time(&mut self, name: &str) -> Vec<u8> {
        // Times in the past delete at once.
        if self.once_in(8) {
            return word(self.one(&["0", "-1", "1", "-9223372036854775808", "9223372036854775807"]));
        }
        let absolute = if name.starts_with("unix") { ABSOLUTE_FROM } else { 0 };
        let seconds = absolute + self.life();
        let factor = if name.contains("milli") || name == "ttl" { 1000 } else { 1 };
        (seconds * factor).to_string().into_bytes()
    }

    /// A word for an argument of the type `kind` and of this name.
    pub fn argument(&mut self, name: &str, syntax: &Syntax, kind: &str, argument: &str) -> Vec<u8> {
        if kind == "key" {
            return self.key(name, &syntax.group);
        }
        if ["seconds", "milliseconds", "unix-time-seconds", "unix-time-milliseconds", "ttl"].contains(&argument)
            && !name.starts_with('x')
        {
            return self.time(argument);
        }
        match syntax.group.as_str() {
            "stream" => self.of_streams(name, argument),
            "sorted-set" => self.of_sorted_sets(name, argument),
            "scripting" => self.of_scripts(argument),
            _ => self.of_values(name, kind, argument),
        }
    }

    fn of_streams(&mut self, name: &str, argument: &str) -> Vec<u8> {
        match argument {
            "group" | "groupname" => word(self.one(&["g1", "g1", "g2"])),
            "consumer" | "consumername" => word(self.one(&["c1", "c2"])),
            "id" if name == "xadd" => self.new_entry(),
            "id" if name == "xreadgroup" => word(self.one(&[">", ">", "0", "1-1"])),
            "id" if name == "xread" => word(self.one(&["0", "0-1", "$", "5-1"])),
            "id" | "last-id" | "lastid" | "start" | "end" | "max-deleted-id" => self.entry(),
            // No entry is idle for long enough to be claimed by its age.
            "min-idle-time" => word(self.one(&["0", "0", "9999999999"])),
            "ms" => word(self.one(&["0", "9999999999"])),
            "unix-time-milliseconds" => word("1000"),
            "milliseconds" => word("10"),
            "threshold" => word(self.one(&["0", "3", "10", "100-1"])),
            "value" | "field" => self.member(),
            _ => self.integer(),
        }
    }

    fn of_sorted_sets(&mut self, name: &str, argument: &str) -> Vec<u8> {
        match argument {
            "min" | "max" | "start" | "stop" if name.contains("lex") => {
                word(self.one(&["-", "+", "[m1", "(m5", "[m9"]))
            }
            "min" | "max" if name.contains("score") || name == "zcount" => {
                word(self.one(&["-inf", "+inf", "(1", "0", "2", "(100"]))
            }
            "min" | "max" | "start" | "stop" => {
                word(self.one(&["0", "-1", "1", "3", "(1", "[m1", "-", "+", "-inf", "+inf"]))
            }
            "member" => self.member(),
            "score" | "increment" | "weight" => self.number(),
            "pattern" => word(self.one(&["*", "m*", "m[1-5]", "nosuch"])),
            "cursor" => word("0"),
            "timeout" => word("0.01"),
            _ => self.integer(),
        }
    }

    fn of_scripts(&mut self, argument: &str) -> Vec<u8> {
        match argument {
            "script" => word(self.one(&scripts::BODIES)),
            "sha1" if self.once_in(3) => word("ffffffffffffffffffffffffffffffffffffffff"),
            "sha1" => {
                let at = self.rng.usize(..self.digests.len());
                word(&self.digests[at].clone())
            }
            "function" => word(self.one(&["f1", "f2", "ro1", "nosuch"])),
            "library-name" | "library-name-pattern" => word(self.one(&["l1", "l2", "l*", "nosuch"])),
            "function-code" => word(self.one(&scripts::LIBRARIES)),
            _ => self.member(),
        }
    }

    fn of_values(&mut self, name: &str, kind: &str, argument: &str) -> Vec<u8> {
        match argument {
            "element" | "pivot" | "field" | "member" | "member1" | "member2" => self.member(),
            "message" | "arg" | "key" => self.member(),
            "value" if name == "setbit" => word(self.one(&["0", "1"])),
            "value" if self.rng.bool() => self.integer(),
            "value" => self.member(),
            "encoding" => word(self.one(&["u8", "i8", "u1", "i16", "u63", "i64", "u64", "x"])),
            "offset" if name.starts_with("bitfield") => word(self.one(&["0", "1", "7", "#1", "#2", "100", "-1"])),
            "offset" => word(self.one(&["0", "1", "7", "100", "-1"])),
            "longitude" | "latitude" => word(self.one(&["0", "13.361389", "38.115556", "15.08", "-10", "89", "181"])),
            "radius" | "width" | "height" => word(self.one(&["0", "1", "200", "5000.5", "-1"])),
            "operation" => word(self.one(&["AND", "OR", "XOR", "NOT", "and"])),
            "destination-db" | "db" | "index1" | "index2" => word(self.one(&["0", "1", "2", "16", "x"])),
            "get-pattern" => word(self.one(&["#", "{a}s*", "{a}h1->m*", "{a}*", "s*"])),
            "pattern" => word(self.one(&["*", "m*", "{a}*", "m[1-5]", "get*", "nosuch"])),
            "cursor" => word("0"),
            "type" => word(self.one(&["string", "list", "set", "zset", "hash", "stream", "nosuch"])),
            "timeout" => word("0.01"),
            "category" | "categoryname" => word(self.one(&["string", "fast", "dangerous", "nosuch"])),
            "username" | "password" => word(self.one(&["default", "nosuch"])),
            "command" | "command-name" => word(self.one(&["get", "set", "object|encoding", "mget", "xadd", "nosuch"])),
            "serialized-value" => self.one(&[VALUE, b"nosuch"]).to_vec(),
            "connection-name" | "clientname" => word(self.one(&["a", "client-1", "a b", ""])),
            "libname" | "libver" => word(self.one(&["lib", "1.2", "a b"])),
            _ if kind == "double" => self.number(),
            _ if kind == "integer" => self.integer(),
            _ => self.member(),
        }
    }
}

/// The number 10 as DUMP of an old server gives it, so that every server reads it.
const VALUE: &[u8] = b"\x00\xc0\n\t\x00\xbem\x06\x89Z(\x00\n";
