//! Changes to messages and back, one file per family.
//! Knows nothing of bytes.

mod cluster;
mod ejection;
mod group;
mod member;
mod migration;
mod product;
mod promotion;
mod script;
mod slots;

use super::{
    convert::DecodeError,
    pb::state::{self as pb, change::Kind},
};
use crate::model::change::{Change, for_every_change};

/// A change that has a message in proto/state.proto.
trait Encode: Sized {
    /// Its message.
    type Message;

    fn to_message(&self) -> Self::Message;

    /// Returns what is wrong with a message that is not a change.
    fn from_message(message: Self::Message) -> Result<Self, DecodeError>;
}

macro_rules! dispatch {
    ($($variant:ident($change:ident),)*) => {
        pub(super) fn change_to(change: &Change) -> pb::Change {
            let kind = match change {
                $(Change::$variant(change) => Kind::$variant(change.to_message()),)*
            };
            pb::Change { kind: Some(kind) }
        }

        pub(super) fn change_from(kind: Kind) -> Result<Change, DecodeError> {
            Ok(match kind {
                $(Kind::$variant(message) => Change::$variant(Encode::from_message(message)?),)*
            })
        }
    };
}
for_every_change!(dispatch);
