//! The error of Redis 7 for a call in which no keys can be found: the proxy must refuse the call before a server sees
//! it, and a client library compares the text. Knows nothing of how keys are found.

use std::fmt;

use super::{
    keys::{Args, KeySpec, KeysError, is},
    spec::Spec,
};
use crate::resp::number;

/// Why a call is refused. Nothing was executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidCall {
    Syntax,
    /// Of the command with this name.
    WrongArity(&'static str),
    NotInteger,
    NumkeysTooHigh,
    NumkeysNegative,
    /// FCALL: not a number.
    NumkeysBad,
    /// The number of keys is not a positive number.
    NumkeysNotPositive,
    /// MSETEX: likewise.
    Numkeys,
    /// MSETEX: the number of keys is not that of the pairs that follow.
    KeyValuePairs,
    /// The command with this name needs a key.
    NeedsKey(&'static str),
    /// EVALSHA: not the digest of a script.
    NoScript,
    Timeout,
    TimeoutNegative,
    /// XREAD with an option of XREADGROUP.
    OnlyXreadgroup(&'static str),
    UnbalancedStreams,
    /// The product does not have the database.
    Database,
    /// Redis has no such error.
    OfProxy(KeysError),
}

impl InvalidCall {
    /// Whether servers of every version refuse the call, whatever its arguments mean, but each in its own words.
    #[must_use]
    pub const fn has_other_texts(self) -> bool {
        matches!(self, Self::NoScript | Self::UnbalancedStreams)
    }

    /// What Redis answers to the call `args` of `spec`, whose keys were not found because of `error`.
    #[cold]
    pub fn new<A: Args + ?Sized>(spec: &Spec, args: &A, error: KeysError) -> Self {
        match (spec.keys, error) {
            (_, KeysError::Arity) => Self::WrongArity(spec.name),
            (KeySpec::Count { at, .. }, KeysError::Numkeys | KeysError::NoKeys) => {
                numkeys(spec.name, args, usize::from(at)).unwrap_or(Self::OfProxy(error))
            }
            (KeySpec::Streams, KeysError::Syntax) => streams(args),
            (_, KeysError::Syntax) => Self::Syntax,
            (_, KeysError::Numkeys | KeysError::NoKeys | KeysError::Pattern) => Self::OfProxy(error),
        }
    }
}

/// The error for the number of keys at `at`, which each family of commands checks in its own way. `None`: Redis executes
/// the call.
fn numkeys<A: Args + ?Sized>(name: &'static str, args: &A, at: usize) -> Option<InvalidCall> {
    let count = number::parse(args.get(at));
    let too_high = count.is_some_and(|count| usize::try_from(count).is_ok_and(|count| count >= args.len() - at));
    Some(match (name, count) {
        ("evalsha" | "evalsha_ro", _) if args.get(1).len() != SHA_LEN => InvalidCall::NoScript,
        ("fcall" | "fcall_ro", None) => InvalidCall::NumkeysBad,
        ("eval" | "eval_ro" | "evalsha" | "evalsha_ro", None) => InvalidCall::NotInteger,
        ("eval" | "eval_ro" | "evalsha" | "evalsha_ro" | "fcall" | "fcall_ro", Some(count)) => match count {
            ..0 => InvalidCall::NumkeysNegative,
            _ if too_high => InvalidCall::NumkeysTooHigh,
            _ => return None,
        },
        ("lmpop" | "zmpop" | "blmpop" | "bzmpop" | "sintercard" | "sunioncard" | "sdiffcard", None | Some(..=0)) => {
            InvalidCall::NumkeysNotPositive
        }
        ("sintercard" | "sunioncard" | "sdiffcard", _) => InvalidCall::NumkeysTooHigh,
        ("msetex", Some(count @ 1..)) if i32::try_from(count).is_ok() => InvalidCall::KeyValuePairs,
        ("msetex", _) => InvalidCall::Numkeys,
        (_, None) => InvalidCall::NotInteger,
        (_, Some(..=0)) => InvalidCall::NeedsKey(name),
        _ => InvalidCall::Syntax,
    })
}

/// Hexadecimal digits of a script's digest.
const SHA_LEN: usize = 40;

/// The first error in the options of XREAD and XREADGROUP.
fn streams<A: Args + ?Sized>(args: &A) -> InvalidCall {
    let is_group = is(args.get(0), b"xreadgroup");
    let mut at = 1;
    while at < args.len() {
        let (option, more) = (args.get(at), args.len() - at - 1);
        if is(option, b"block") && more > 0 {
            match number::parse(args.get(at + 1)) {
                None => return InvalidCall::Timeout,
                Some(..0) => return InvalidCall::TimeoutNegative,
                Some(_) => at += 2,
            }
        } else if is(option, b"count") && more > 0 {
            if number::parse(args.get(at + 1)).is_none() {
                return InvalidCall::NotInteger;
            }
            at += 2;
        } else if is(option, b"streams") && more > 0 {
            return if more.is_multiple_of(2) { InvalidCall::Syntax } else { InvalidCall::UnbalancedStreams };
        } else if is(option, b"group") && more >= 2 {
            if !is_group {
                return InvalidCall::OnlyXreadgroup("GROUP");
            }
            at += 3;
        } else if is(option, b"noack") {
            if !is_group {
                return InvalidCall::OnlyXreadgroup("NOACK");
            }
            at += 1;
        } else {
            return InvalidCall::Syntax;
        }
    }
    InvalidCall::Syntax
}

impl fmt::Display for InvalidCall {
    /// The whole text for the client. Contains names of the table, never the bytes of the client.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax => f.write_str("ERR syntax error"),
            Self::WrongArity(name) => write!(f, "ERR wrong number of arguments for '{name}' command"),
            Self::NotInteger => f.write_str("ERR value is not an integer or out of range"),
            Self::NumkeysTooHigh => f.write_str("ERR Number of keys can't be greater than number of args"),
            Self::NumkeysNegative => f.write_str("ERR Number of keys can't be negative"),
            Self::NumkeysBad => f.write_str("ERR Bad number of keys provided"),
            Self::NumkeysNotPositive => f.write_str("ERR numkeys should be greater than 0"),
            Self::Numkeys => f.write_str("ERR invalid numkeys value"),
            Self::KeyValuePairs => f.write_str("ERR wrong number of key-value pairs"),
            Self::NeedsKey(name) => write!(f, "ERR at least 1 input key is needed for '{name}' command"),
            Self::NoScript => f.write_str("NOSCRIPT No matching script. Please use EVAL."),
            Self::Timeout => f.write_str("ERR timeout is not an integer or out of range"),
            Self::TimeoutNegative => f.write_str("ERR timeout is negative"),
            Self::OnlyXreadgroup(option) => {
                write!(f, "ERR The {option} option is only supported by XREADGROUP. You called XREAD instead.")
            }
            Self::UnbalancedStreams => {
                f.write_str("ERR Unbalanced XREAD list of streams: for each stream key an ID or '$' must be specified.")
            }
            Self::Database => f.write_str("ERR DB index is out of range"),
            Self::OfProxy(error) => write!(f, "ERR {error}"),
        }
    }
}
