//! For how long a blocking call waits at most, how the time that is left is written, and which of its arguments mean
//! "from now on". Knows nothing of clocks: the caller says how much time has passed.

use std::time::Duration;

use super::{
    keys::{Args, KeySpec, Streams, streams},
    spec::Spec,
};
use crate::resp::number;

/// The argument of a blocking call that says for how long it waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockTimeout {
    /// Index of the argument.
    pub at: usize,
    unit: Unit,
    /// `None`: for ever, or the argument is none that a server is sure to accept; then the call is sent as it is.
    pub length: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    /// Seconds with a fraction.
    Seconds,
    /// Whole milliseconds.
    Millis,
}

impl BlockTimeout {
    /// The timeout of a call of `spec` that may block. `None`: the position of the argument is not known, or it is missing.
    pub fn of<A: Args + ?Sized>(spec: &Spec, args: &A) -> Option<Self> {
        let last = args.len().checked_sub(1)?;
        let (at, unit) = match (spec.keys, spec.name) {
            (KeySpec::Streams, _) => (streams(args).ok()?.block?, Unit::Millis),
            (_, "wait") => (2, Unit::Millis),
            (_, "waitaof") => (3, Unit::Millis),
            (_, "blpop" | "brpop" | "bzpopmin" | "bzpopmax" | "brpoplpush") => (last, Unit::Seconds),
            (_, "blmpop" | "bzmpop") => (1, Unit::Seconds),
            (_, "bzmove") => (4, Unit::Seconds),
            (_, "blmove" | "blmovem") => (5, Unit::Seconds),
            _ => return None,
        };
        if at == 0 || at > last {
            return None;
        }
        let length = match unit {
            Unit::Seconds => seconds(args.get(at)),
            Unit::Millis => {
                number::parse(args.get(at)).and_then(|ms| u64::try_from(ms).ok()).map(Duration::from_millis)
            }
        };
        Some(Self { at, unit, length: length.filter(|length| !length.is_zero()) })
    }

    /// The argument for the time that is left: at least a millisecond, since 0 means for ever.
    #[must_use]
    pub fn argument(&self, left: Duration) -> String {
        let ms = left.as_nanos().div_ceil(1_000_000).max(1);
        match self.unit {
            Unit::Millis => ms.to_string(),
            Unit::Seconds => format!("{}.{:03}", ms / 1000, ms % 1000),
        }
    }
}

/// Parses seconds as servers do, except for numbers that no client writes (hexadecimal ones).
fn seconds(text: &[u8]) -> Option<Duration> {
    let seconds: f64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

/// The positions of the keys of an XREAD whose entries are awaited from now on, and of the ids (`$`) that say so.
pub fn from_now_on<A: Args + ?Sized>(spec: &Spec, args: &A) -> Vec<(usize, usize)> {
    match streams(args) {
        Ok(Streams { first, .. }) if spec.name == "xread" => {
            let count = (args.len() - first) / 2;
            let pairs = (first..first + count).map(|key| (key, key + count));
            pairs.filter(|(_, id)| args.get(*id) == b"$").collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{super::lookup::resolve, *};

    fn words(line: &str) -> Vec<&[u8]> {
        line.split(' ').map(str::as_bytes).collect()
    }

    fn timeout(line: &str) -> Option<BlockTimeout> {
        let words = words(line);
        BlockTimeout::of(resolve(&words[..]).unwrap(), &words[..])
    }

    #[test]
    fn the_timeout_is_found_and_read() {
        let ms = |ms| Some(Duration::from_millis(ms));
        for (line, at, length) in [
            ("BLPOP a b 1.5", 3, ms(1500)),
            ("BRPOP a 0", 2, None),
            ("BZPOPMIN a 0.25", 2, ms(250)),
            ("BZPOPMAX a 1e1", 2, ms(10_000)),
            ("BRPOPLPUSH a b 2", 3, ms(2000)),
            ("BLMOVE a b LEFT RIGHT .5", 5, ms(500)),
            ("BLMPOP 3 1 a LEFT", 1, ms(3000)),
            ("BZMPOP 3 1 a MIN COUNT 2", 1, ms(3000)),
            ("XREAD BLOCK 20 STREAMS s $", 2, ms(20)),
            ("XREAD BLOCK 20 BLOCK 30 STREAMS s $", 4, ms(30)),
            ("XREADGROUP GROUP g BLOCK BLOCK 7 STREAMS s >", 5, ms(7)),
            ("WAIT 1 50", 2, ms(50)),
            ("WAITAOF 0 1 50", 3, ms(50)),
            // The server says what is wrong with these, or takes them for ever.
            ("BLPOP a -1", 2, None),
            ("BLPOP a x", 2, None),
            ("BLPOP a nan", 2, None),
            ("BLPOP a inf", 2, None),
            ("BLPOP a 1e300", 2, None),
            ("XREAD BLOCK 1.5 STREAMS s $", 2, None),
            ("XREAD BLOCK -1 STREAMS s $", 2, None),
        ] {
            let found = timeout(line).unwrap();
            assert_eq!((found.at, found.length), (at, length), "{line}");
        }
        assert_eq!(timeout("XREAD STREAMS s $"), None);
    }

    #[test]
    fn the_time_that_is_left_is_never_for_ever() {
        let argument = |line: &str, us| timeout(line).unwrap().argument(Duration::from_micros(us));
        for (us, seconds, ms) in [
            (0, "0.001", "1"),
            (1, "0.001", "1"),
            (999, "0.001", "1"),
            (1_001, "0.002", "2"),
            (1_500_000, "1.500", "1500"),
            (3_600_000_000, "3600.000", "3600000"),
        ] {
            assert_eq!(argument("BLPOP a 9999", us), seconds);
            assert_eq!(argument("XREAD BLOCK 9999999 STREAMS s $", us), ms);
        }
    }

    #[test]
    fn only_ids_that_mean_from_now_on_are_found() {
        let found = |line: &str| {
            let words = words(line);
            from_now_on(resolve(&words[..]).unwrap(), &words[..])
        };
        assert_eq!(found("XREAD BLOCK 0 STREAMS a b c $ 0 $"), [(4, 7), (6, 9)]);
        assert_eq!(found("XREAD BLOCK 0 STREAMS $ 0-0"), []);
        assert_eq!(found("XREADGROUP GROUP g c BLOCK 0 STREAMS s $"), []);
        assert_eq!(found("BLPOP $ 0"), []);
    }
}
