//! The settings of a client: database, RESP version, names, reply mode.
//! Knows nothing of its connection.

use crate::resp::write::Version;

/// The settings of a client.
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

/// The setting of `CLIENT REPLY`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum ReplyMode {
    #[default]
    On,
    Off,
    /// The next reply is not sent; then `On` again.
    SkipNext,
}
