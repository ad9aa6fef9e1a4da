//! What a client has said about itself: database, version, names, whether it wants replies.
//! Knows nothing of its connection.

use crate::resp::write::Version;

/// What a client has said about itself.
#[derive(Debug, Default)]
pub(super) struct ClientState {
    pub(super) db: u32,
    pub(super) version: Version,
    pub(super) name: String,
    pub(super) library: String,
    pub(super) library_version: String,
    pub(super) logged_in: bool,
    pub(super) replies: ReplyMode,
}

/// `CLIENT REPLY`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum ReplyMode {
    #[default]
    On,
    Off,
    /// Not the next one; then on again.
    SkipNext,
}
