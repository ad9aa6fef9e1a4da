//! The keys of a call of a command, those that determine its slot, and whether the call blocks.
//! Knows nothing of slots.

use super::{
    keys::{Args, KeySpec, KeysError, Streams, sort_patterns, streams},
    spec::{Flags, Handling, Spec},
};

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
            _ if out.len() == before && matches!(self.handling, Handling::Slot | Handling::Split(_)) => {
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
