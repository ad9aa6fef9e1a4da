//! The keys of a call of a command, those that determine its slot, the database that it names, and whether it blocks.
//! Knows nothing of slots.

use super::{
    keys::{Args, KeySpec, KeysError, Streams, is, sort_patterns, streams},
    spec::{Flags, Handling, Spec},
};
use crate::resp::number;

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
            _ if out.len() == before && (self.handling.is_of_slot() || matches!(self.handling, Handling::Split(_))) => {
                Err(KeysError::NoKeys)
            }
            _ => Ok(()),
        });
        if found.is_err() {
            out.truncate(before);
        }
        found
    }
}

/// Whether this call of a command that is handled as [`Handling::Database`] names a database that the product does not have:
/// the server may have it. Servers check the other arguments.
pub fn is_of_foreign_database<A: Args + ?Sized>(spec: &Spec, args: &A, databases: u32) -> bool {
    // Of a number that is no database at all, the server says so.
    let number = |arg: &[u8]| number::parse(arg).and_then(|db| i32::try_from(db).ok());
    let is_foreign = |arg: &[u8]| number(arg).is_some_and(|db| u32::try_from(db).map_or(true, |db| db >= databases));
    if spec.name == "move" {
        return args.len() > 2 && is_foreign(args.get(2));
    }
    // COPY, the options of which follow the keys.
    let mut i = 3;
    while i + 1 < args.len() {
        let named = is(args.get(i), b"db");
        if named && is_foreign(args.get(i + 1)) {
            return true;
        }
        i += if named { 2 } else { 1 };
    }
    false
}

/// Whether this call may block its connection. XREAD and XREADGROUP block only with BLOCK.
pub fn is_blocking_call<A: Args + ?Sized>(spec: &Spec, args: &A) -> bool {
    if !spec.flags.contains(Flags::BLOCKING) {
        return false;
    }
    if spec.keys != KeySpec::Streams {
        return true;
    }
    matches!(streams(args), Ok(Streams { blocks: true, .. }))
}
