//! A transaction in flight: which of a server's replies belong to it, and the client's reply.
//! Knows nothing of connections.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use super::{
    LocalCall, Transaction,
    later::Later,
    splice::{OTHER_REPLY, Parts, reply_to_set, splice, was_executed},
};
use crate::{
    proxy::{backend::Backend, pieces::Pieces, replies::Ticket, session::Session, worker::Worker},
    resp::write,
};

/// The reply to a command that is queued.
const QUEUED: &[u8] = b"+QUEUED\r\n";

/// What a reply of the server is to a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proxy) enum BlockReply {
    /// More replies are due. `refused`: the server has refused a command, or MULTI.
    More { refused: bool },
    /// It is the reply to EXEC.
    Last,
    /// It is none to MULTI, a command or EXEC: the connection cannot be used any more.
    Unexpected,
}

/// What a block is for.
#[derive(Debug)]
enum Purpose {
    Execute {
        parts: Rc<Parts>,
        /// Where others are asked for replies of the node's own commands: what asks them.
        later: Option<Rc<Worker>>,
        /// The session's database from now on, if it is executed.
        db: Option<u32>,
    },
    /// One HIMPORT SET, which the client has sent without MULTI.
    Import,
    /// Finding out whether the server executes transactions.
    Probe(Rc<Backend>),
}

/// MULTI, commands and EXEC, as one request in flight.
#[derive(Debug)]
pub(in crate::proxy) struct Block {
    session: Rc<Session>,
    ticket: Option<Ticket>,
    purpose: Purpose,
    /// Replies that are due, with that to EXEC.
    due: Cell<usize>,
    first: Cell<bool>,
    /// The first error of the server before EXEC.
    error: RefCell<Option<Vec<u8>>>,
}

impl Block {
    /// The block of a transaction.
    pub(super) fn of(worker: &Rc<Worker>, session: &Rc<Session>, ticket: Ticket, transaction: Transaction) -> Self {
        let commands = transaction.len();
        let later = transaction.local.iter().any(LocalCall::asks).then(|| worker.clone());
        if later.is_some() {
            // What the client sends behind EXEC comes after what the node does for the transaction.
            session.settle();
        }
        let parts = Rc::new(Parts { local: transaction.local, imports: transaction.imports, commands });
        Self::new(session, Some(ticket), transaction.sent, Purpose::Execute { parts, later, db: transaction.db })
    }

    /// The block of one HIMPORT SET.
    pub(super) fn import(session: &Rc<Session>, ticket: Ticket, transaction: &Transaction) -> Self {
        Self::new(session, Some(ticket), transaction.sent, Purpose::Import)
    }

    /// `sent`: commands between MULTI and EXEC.
    fn new(session: &Rc<Session>, ticket: Option<Ticket>, sent: usize, purpose: Purpose) -> Self {
        Self {
            session: session.clone(),
            ticket,
            purpose,
            due: Cell::new(sent + 2),
            first: Cell::new(true),
            error: RefCell::default(),
        }
    }

    /// Whether it asks only whether the server executes transactions.
    pub(in crate::proxy) fn is_probe(&self) -> bool {
        matches!(self.purpose, Purpose::Probe(_))
    }

    /// Whether it is one HIMPORT SET.
    pub(in crate::proxy) fn is_import(&self) -> bool {
        matches!(self.purpose, Purpose::Import)
    }

    /// The reply to HIMPORT SET, out of that to EXEC. The client knows nothing of the transaction.
    pub(in crate::proxy) fn reply_of_import(&self, reply: &[u8]) -> Vec<u8> {
        match &*self.error.borrow() {
            Some(error) if reply[0] == b'-' => error.clone(),
            _ if reply[0] == b'-' => reply.to_vec(),
            _ => reply_to_set(reply).unwrap_or(OTHER_REPLY).to_vec(),
        }
    }

    /// MULTI and EXEC alone, for a session that waits for the result.
    pub(super) fn probe(session: &Rc<Session>, backend: Rc<Backend>) -> Self {
        Self::new(session, None, 0, Purpose::Probe(backend))
    }

    pub(in crate::proxy) fn session(&self) -> &Rc<Session> {
        &self.session
    }

    /// Takes the next reply of the server.
    pub(in crate::proxy) fn take(&self, reply: &[u8]) -> BlockReply {
        let left = self.due.get() - 1;
        self.due.set(left);
        let is_first = self.first.replace(false);
        let expected: &[u8] = if is_first { b"+OK\r\n" } else { QUEUED };
        match reply[0] {
            b'*' | b'_' | b'-' if left == 0 => BlockReply::Last,
            b'-' if left > 0 && (!is_first || matches!(self.purpose, Purpose::Probe(_))) => {
                self.error.borrow_mut().get_or_insert_with(|| reply.to_vec());
                BlockReply::More { refused: true }
            }
            _ if left > 0 && reply == expected => BlockReply::More { refused: false },
            _ => BlockReply::Unexpected,
        }
    }

    /// Takes the replies at the start of `bytes` that say that commands are queued. Returns their length.
    pub(in crate::proxy) fn take_queued(&self, bytes: &[u8]) -> usize {
        if self.first.get() {
            return 0;
        }
        let left = self.due.get() - 1;
        let queued = bytes.chunks_exact(QUEUED.len()).take(left).take_while(|reply| *reply == QUEUED).count();
        self.due.set(self.due.get() - queued);
        queued * QUEUED.len()
    }

    /// Takes the next reply of the server, which is a large one: only that to EXEC may be.
    pub(in crate::proxy) fn take_large(&self) -> BlockReply {
        let left = self.due.get() - 1;
        self.due.set(left);
        if left == 0 { BlockReply::Last } else { BlockReply::Unexpected }
    }

    /// Answers the client. `len`: bytes of the block.
    pub(in crate::proxy) fn deliver(&self, worker: &Worker, reply: &[u8], len: usize) {
        let error = self.error.borrow();
        match (&self.purpose, &*error) {
            (Purpose::Probe(backend), error) => {
                backend.probe.end(worker, error.is_none() && reply == b"*0\r\n");
            }
            (Purpose::Execute { .. }, Some(error)) if reply[0] == b'-' => {
                let error = String::from_utf8_lossy(error.strip_prefix(b"-").unwrap_or(error));
                self.complete(worker, &abort(error.trim_end()), len);
            }
            (Purpose::Import, _) => self.complete(worker, reply, len),
            (Purpose::Execute { parts, .. }, _) if parts.is_empty() => self.complete(worker, reply, len),
            (Purpose::Execute { parts, later: Some(own), .. }, _) if was_executed(reply) => {
                if let Some(ticket) = self.ticket {
                    let (worker, session, parts) = (own.clone(), self.session.clone(), parts.clone());
                    let later = Later { worker, session, ticket, reply: reply.to_vec(), parts, queued: len };
                    tokio::task::spawn_local(later.run());
                }
            }
            (Purpose::Execute { parts, .. }, _) => {
                let spliced = splice(worker, &self.session, reply, parts);
                self.complete(worker, spliced.as_deref().unwrap_or(OTHER_REPLY), len);
            }
        }
        // Behind the replies of the node, which may select another database before.
        if let Purpose::Execute { db: Some(db), .. } = self.purpose
            && reply[0] == b'*'
        {
            self.session.client.borrow_mut().db = db;
            self.session.forget_backend_set();
        }
    }

    /// The same for a large reply.
    pub(in crate::proxy) fn deliver_in_pieces(&self, worker: &Worker, reply: Pieces, len: usize) {
        match (&self.purpose, self.ticket) {
            (Purpose::Execute { parts, db: None, .. }, Some(ticket)) if parts.is_empty() => {
                self.session.clone().complete_in_pieces(worker, ticket, reply, len);
            }
            _ => self.deliver(worker, &reply.concat(), len),
        }
    }

    /// No reply will arrive. `sent`: the server may have executed the transaction; `error` is the whole line.
    pub(in crate::proxy) fn fail(&self, worker: &Worker, sent: bool, error: &[u8], len: usize) {
        match &self.purpose {
            Purpose::Probe(backend) => backend.probe.end(worker, false),
            Purpose::Import => self.complete(worker, error, len),
            Purpose::Execute { .. } if sent => self.complete(worker, error, len),
            Purpose::Execute { .. } => {
                let text = String::from_utf8_lossy(error.strip_prefix(b"-").unwrap_or(error));
                self.complete(worker, &abort(text.trim_end()), len);
            }
        }
    }

    fn complete(&self, worker: &Worker, reply: &[u8], len: usize) {
        if let Some(ticket) = self.ticket {
            self.session.clone().complete(worker, ticket, reply, len);
        }
    }
}

/// The error of a transaction of which nothing was executed. (Redis, `execCommandAbort`.)
pub(super) fn abort_text(why: &str) -> String {
    format!("EXECABORT Transaction discarded because of: {why}")
}

fn abort(why: &str) -> Vec<u8> {
    let mut reply = Vec::new();
    write::error(&mut reply, &abort_text(why));
    reply
}
