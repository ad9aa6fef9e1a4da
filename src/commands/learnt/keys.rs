//! Where a server says that the keys of a command are: a key specification of Redis 7. The work is bounded by the number of
//! arguments, whatever the server says. Knows nothing of which command it is.

use super::super::keys::{Args, KeysError, is};
use crate::resp::number;

/// Where the search for keys begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySearch {
    /// At this argument.
    Index(usize),
    /// Behind this word, which is searched from an argument on; a negative one counts from the end, and is searched
    /// backwards from.
    Keyword(String, i64),
    /// The server does not say.
    Unknown,
}

/// How many keys there are from there on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyCount {
    /// Every `step`-th argument up to `last`, which counts from the first one or, if it is negative, from the end. With a
    /// `limit` of 2 or more, -1 means the last one of that part of the arguments: 2 is a half.
    Range { last: i64, step: usize, limit: usize },
    /// The argument at `at` is the number of keys, the first of which is at `first`; both count from where the search
    /// began.
    Counted { at: usize, first: usize, step: usize },
    /// The server does not say.
    Unknown,
}

/// A key specification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportedKeys {
    pub begin: KeySearch,
    pub find: KeyCount,
    /// The command may have keys that the server's specifications do not describe.
    pub incomplete: bool,
}

impl ReportedKeys {
    /// Whether the keys of every call are found.
    pub(super) fn is_complete(&self) -> bool {
        !self.incomplete && self.begin != KeySearch::Unknown && self.find != KeyCount::Unknown
    }

    /// Appends the positions of the keys of the call `args` to `out`.
    pub(super) fn find<A: Args + ?Sized>(&self, args: &A, out: &mut Vec<usize>) -> Result<(), KeysError> {
        let len = args.len();
        let begin = match &self.begin {
            KeySearch::Index(at) => *at,
            // Without the word, the call does not have these keys.
            KeySearch::Keyword(word, from) => match behind(args, word, *from) {
                Some(at) => at,
                None => return Ok(()),
            },
            KeySearch::Unknown => return Err(KeysError::Syntax),
        };
        let (first, last, step) = match self.find {
            KeyCount::Range { last, step, limit } => {
                let last = match usize::try_from(last) {
                    Ok(last) => begin.checked_add(last),
                    Err(_) if limit < 2 => from_end(len, last),
                    Err(_) => from_end(begin + len.saturating_sub(begin) / limit, last),
                };
                (begin, last, step)
            }
            KeyCount::Counted { at, first, step } => {
                let at = begin.checked_add(at).filter(|at| *at < len).ok_or(KeysError::Syntax)?;
                let count = number::parse(args.get(at)).and_then(|count| usize::try_from(count).ok());
                let Some(more) = count.ok_or(KeysError::Numkeys)?.checked_sub(1) else { return Ok(()) };
                let first = begin.saturating_add(first);
                (first, more.checked_mul(step.max(1)).and_then(|more| first.checked_add(more)), step)
            }
            KeyCount::Unknown => return Err(KeysError::Syntax),
        };
        match last {
            Some(last) if first <= last && last < len => {
                out.extend((first..=last).step_by(step.max(1)));
                Ok(())
            }
            _ => Err(KeysError::Syntax),
        }
    }
}

/// The position `back` (negative) before `len`.
fn from_end(len: usize, back: i64) -> Option<usize> {
    len.checked_sub(usize::try_from(back.unsigned_abs()).ok()?)
}

/// The position behind a word.
fn behind<A: Args + ?Sized>(args: &A, word: &str, from: i64) -> Option<usize> {
    let found = |at: &usize| is(args.get(*at), word.as_bytes());
    match usize::try_from(from) {
        Ok(from) => (from..args.len()).find(found),
        Err(_) => (1..=from_end(args.len(), from)?).rev().find(found),
    }
    .map(|at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(keys: &ReportedKeys, line: &str) -> Result<Vec<usize>, KeysError> {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let mut out = Vec::new();
        keys.find(&args[..], &mut out).map(|()| out)
    }

    fn keys(begin: KeySearch, find: KeyCount) -> ReportedKeys {
        ReportedKeys { begin, find, incomplete: false }
    }

    #[test]
    fn keys_are_found_as_redis_finds_them() {
        use KeyCount::{Counted, Range};
        use KeySearch::{Index, Keyword};
        let word = |word: &str, from| Keyword(word.to_owned(), from);
        for (begin, find, line, want) in [
            (Index(1), Range { last: 0, step: 1, limit: 0 }, "get k", Ok(vec![1])),
            (Index(1), Range { last: 1, step: 1, limit: 0 }, "copy a b", Ok(vec![1, 2])),
            (Index(1), Range { last: -1, step: 2, limit: 0 }, "mset a 1 b 2", Ok(vec![1, 3])),
            (Index(1), Range { last: -2, step: 1, limit: 0 }, "blpop a b 0", Ok(vec![1, 2])),
            (Index(1), Range { last: 0, step: 1, limit: 0 }, "get", Err(KeysError::Syntax)),
            (Index(1), Range { last: -1, step: 1, limit: 0 }, "del", Err(KeysError::Syntax)),
            (
                word("streams", 1),
                Range { last: -1, step: 1, limit: 2 },
                "xread count 1 STREAMS a b 0 0",
                Ok(vec![4, 5]),
            ),
            (word("keys", -2), Range { last: -1, step: 1, limit: 0 }, "migrate h 1 keys 0 1 KEYS a b", Ok(vec![7, 8])),
            (word("store", 2), Range { last: 0, step: 1, limit: 0 }, "sort k alpha", Ok(vec![])),
            (word("store", 2), Range { last: 0, step: 1, limit: 0 }, "sort k store", Err(KeysError::Syntax)),
            (Index(2), Counted { at: 0, first: 1, step: 1 }, "eval x 2 a b c", Ok(vec![3, 4])),
            (Index(1), Counted { at: 0, first: 1, step: 2 }, "msetex 2 a 1 b 2 nx", Ok(vec![2, 4])),
            (Index(2), Counted { at: 0, first: 1, step: 1 }, "eval x 0 a", Ok(vec![])),
            (Index(2), Counted { at: 0, first: 1, step: 1 }, "eval x 3 a b", Err(KeysError::Syntax)),
            (Index(2), Counted { at: 0, first: 1, step: 1 }, "eval x many a", Err(KeysError::Numkeys)),
            (Index(2), Counted { at: 0, first: 1, step: 1 }, "eval x -1 a", Err(KeysError::Numkeys)),
        ] {
            assert_eq!(found(&keys(begin, find), line), want, "{line}");
        }
    }

    /// What a server says may be nonsense.
    #[test]
    fn the_work_is_bounded() {
        let mut random = fastrand::Rng::with_seed(1);
        let huge = [0, 1, 2, 3, usize::MAX - 1, usize::MAX];
        let signed = [0, 1, 2, -1, -2, -3, i64::MAX, i64::MIN];
        let lines = ["x", "x 1", "x 9223372036854775807 a", "x 2 a b c", "x a store b c d"];
        for _ in 0..20_000 {
            let mut one = || huge[random.usize(..huge.len())];
            let begin = match one() {
                0 => KeySearch::Keyword("store".into(), signed[one() % signed.len()]),
                at => KeySearch::Index(at),
            };
            let find = match one() {
                0 => KeyCount::Counted { at: one(), first: one(), step: one() },
                _ => KeyCount::Range { last: signed[one() % signed.len()], step: one(), limit: one() },
            };
            let keys = keys(begin, find);
            for line in lines {
                let at = found(&keys, line).unwrap_or_default();
                assert!(at.iter().all(|at| *at < line.split(' ').count()), "{keys:?} {line} {at:?}");
            }
        }
    }
}
