//! The settings of a client: database, RESP version, names, reply mode.
//! Knows nothing of its connection.

use super::{fieldsets::Fieldsets, transaction::Transaction};
use crate::{
    model::{auth::ProductAuth, ids::Epoch},
    resp::write::Version,
};

/// The settings of a client.
#[derive(Debug, Default)]
pub(super) struct ClientState {
    pub(super) db: u32,
    pub(super) version: Version,
    pub(super) name: String,
    /// As it has asked; connections to servers are shared, so neither has an effect there.
    pub(super) no_evict: bool,
    pub(super) no_touch: bool,
    pub(super) library: String,
    pub(super) library_version: String,
    /// Version of the credentials that it logged in with (see `ProductAuth`); `None`: it has not logged in.
    pub(super) login: Option<Epoch>,
    /// The commands since MULTI.
    pub(super) transaction: Option<Box<Transaction>>,
    /// What it has prepared for HIMPORT SET.
    pub(super) fieldsets: Fieldsets,
    pub(super) replies: ReplyMode,
}

impl ClientState {
    /// The settings of a new client. It has logged in where no login is required.
    pub(super) fn of(auth: &ProductAuth) -> Self {
        Self { login: (!auth.is_required()).then_some(auth.version), ..Self::default() }
    }

    /// Frees what a client that has left has prepared.
    pub(super) fn free(&mut self) {
        self.transaction = None;
        self.fieldsets = Fieldsets::default();
    }

    /// What the client may send now.
    #[inline]
    pub(super) fn access(&self) -> Access {
        match (self.login.is_some(), self.transaction.is_some()) {
            (true, false) => Access::Open,
            (true, true) => Access::InTransaction,
            (false, _) => Access::NotLoggedIn,
        }
    }
}

/// What a client may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Only commands with which it logs in.
    NotLoggedIn,
    Open,
    /// Its commands are queued up to EXEC or DISCARD.
    InTransaction,
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
