//! Why a request is refused, and the error for its client. Knows nothing of how that is decided.

use std::fmt;

use super::LOCAL_ARGS_MAX;
use crate::{
    commands::{InvalidCall, NO_CLUSTER, ResolveError},
    model::ids::SlotId,
    proxy::check::ServeCheck,
};

/// Why a request is refused.
#[derive(Debug)]
pub(in crate::proxy) enum RefusalReason {
    Unresolved(ResolveError),
    /// Of a command that the table does not have; the text is without `ERR `.
    Learnt(String),
    Invalid(InvalidCall),
    NotOffered {
        name: &'static str,
        why: &'static str,
    },
    ScriptsOff(&'static str),
    CrossSlot,
    NotLoggedIn,
    /// The node would answer this command itself.
    TooManyArguments(&'static str),
    ServeCheck(ServeCheck),
    Unassigned(SlotId),
    NoServers,
}

impl fmt::Display for RefusalReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unresolved(error) => write!(f, "ERR {error}"),
            Self::Learnt(text) => write!(f, "ERR {text}"),
            Self::Invalid(error) => error.fmt(f),
            Self::NotOffered { why, .. } if *why == NO_CLUSTER => write!(f, "ERR {why}"),
            Self::NotOffered { name, why } => write!(f, "ERR '{name}': {why}"),
            Self::ScriptsOff(name) => {
                write!(f, "NOPERM '{name}' is not executed: the operator has switched scripts off for this product")
            }
            Self::CrossSlot => f.write_str(
                "CROSSSLOT Keys in request don't hash to the same slot, not executed. Use a hash tag: of {a}b only a \
                    is hashed",
            ),
            Self::NotLoggedIn => f.write_str("NOAUTH Authentication required."),
            Self::TooManyArguments(name) => {
                write!(f, "ERR '{name}' with more than {LOCAL_ARGS_MAX} arguments is not executed. Use several calls")
            }
            Self::ServeCheck(ServeCheck::OldTable) => {
                f.write_str("CLUSTERDOWN this node is still learning the newest routes, not executed")
            }
            Self::ServeCheck(_) => f.write_str("CLUSTERDOWN this node lost contact with its peers, not executed"),
            Self::Unassigned(slot) => {
                write!(f, "CLUSTERDOWN slot {slot} is not assigned to a group, not executed. See: pontoon slot assign")
            }
            Self::NoServers => {
                f.write_str("CLUSTERDOWN this product has no groups, not executed. See: pontoon group create")
            }
        }
    }
}
