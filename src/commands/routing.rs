//! The keys of a call of a command, those that determine its slot, the database that it names, and whether it blocks.
//! Knows nothing of slots.

use super::{
    keys::{Args, KeySpec, KeysError, Streams, is, number, sort_patterns, streams},
    spec::{Flags, Spec, Split},
};
use crate::resp;

impl Spec {
    /// Appends the positions of the call's keys to `out`; these are the keys that `COMMAND GETKEYS` reports. `args`
    /// must be a call of this command; its arity need not have been checked.
    ///
    /// # Errors
    /// Returns why the server would refuse the call; `out` is unchanged.
    pub fn keys<A: Args + ?Sized>(&self, args: &A, out: &mut Vec<usize>) -> Result<(), KeysError> {
        let before = out.len();
        let found = self.keys.find(args, out);
        if found.is_err() {
            out.truncate(before);
        }
        found
    }

    /// Appends the positions of all arguments that determine the slot of the call: [`Spec::keys`], and the patterns of
    /// SORT, whose hash tag counts like that of a key.
    ///
    /// # Errors
    /// The errors of [`Spec::keys`]; also `NoKeys` if a command that is routed by keys has none, and `Pattern` if a
    /// pattern has no fixed hash tag.
    pub fn routing_keys<A: Args + ?Sized>(&self, args: &A, out: &mut Vec<usize>) -> Result<(), KeysError> {
        let before = out.len();
        let found = self.keys(args, out).and_then(|()| match self.keys {
            KeySpec::Sort { .. } => sort_patterns(args, out),
            _ if out.len() == before && self.handling.is_by_keys() => Err(KeysError::NoKeys),
            _ => Ok(()),
        });
        if found.is_err() {
            out.truncate(before);
        }
        found
    }

    /// Whether the call names a database of which there are only `databases` (MOVE, COPY with DB). What else may be wrong
    /// with the call, the server reports.
    pub fn leaves_databases<A: Args + ?Sized>(&self, args: &A, databases: u32) -> bool {
        // A number that is no `i32` has another error.
        let number = |at: usize| resp::number::parse(args.get(at)).and_then(|db| i32::try_from(db).ok());
        let is_outside = |db: i32| u32::try_from(db).is_ok_and(|db| db >= databases);
        if self.name == "move" {
            return args.len() == 3 && number(2).is_some_and(is_outside);
        }
        let mut at = 3;
        while at < args.len() {
            if is(args.get(at), b"db") && at + 1 < args.len() {
                match number(at + 1) {
                    Some(db) if is_outside(db) => return true,
                    Some(_) => at += 2,
                    None => return false,
                }
            } else if is(args.get(at), b"replace") {
                at += 1;
            } else {
                return false;
            }
        }
        false
    }
}

impl Split {
    /// Number of arguments that belong to one key, the key included.
    pub const fn width(self) -> usize {
        match self {
            Self::Mset | Self::Msetex => 2,
            Self::Mget | Self::Sum => 1,
        }
    }

    /// Position of the first argument behind the keys of the call `args`, whose keys were found.
    pub fn options<A: Args + ?Sized>(self, args: &A) -> usize {
        match self {
            Self::Msetex => (2 + 2 * number(args.get(1)).unwrap_or(0)).min(args.len()),
            Self::Mget | Self::Mset | Self::Sum => args.len(),
        }
    }

    /// Whether the call changes either all of its keys or none, so that it cannot be split.
    pub fn is_all_or_nothing<A: Args + ?Sized>(self, args: &A) -> bool {
        (self.options(args)..args.len()).any(|at| is(args.get(at), b"nx") || is(args.get(at), b"xx"))
    }
}

/// Whether this call may block its connection. XREAD and XREADGROUP block only with BLOCK.
pub fn is_blocking_call<A: Args + ?Sized>(spec: &Spec, args: &A) -> bool {
    if !spec.flags.contains(Flags::BLOCKING) {
        return false;
    }
    if spec.keys != KeySpec::Streams {
        return true;
    }
    matches!(streams(args), Ok(Streams { block: Some(_), .. }))
}
