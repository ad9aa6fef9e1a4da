//! The reply to EXEC, with those of the commands that the node answers itself. Knows nothing of how a transaction is sent.

use super::{LocalCall, NodeCall};
use crate::{
    commands::Args,
    proxy::{dispatch::CallContext, local, session::Session, worker::Worker},
    resp::{
        number::{Header, header},
        reply::ReplyScanner,
        request::RequestScanner,
        write,
    },
};

/// The error for the client if a server answers EXEC with what is no reply to EXEC.
pub(super) const OTHER_REPLY: &[u8] = b"-ERR outcome unknown: a server answered EXEC with another reply\r\n";

/// Whether a reply to EXEC says that the transaction was executed.
pub(super) fn was_executed(reply: &[u8]) -> bool {
    matches!((reply[0], header(reply, 1)), (b'*', Header::Number(0.., _)))
}

/// What the reply to EXEC has other than that of the server.
#[derive(Debug)]
pub(super) struct Parts {
    /// The commands that the node answers itself.
    pub(super) local: Vec<LocalCall>,
    /// The places of HIMPORT SET among all commands. The replies before and behind it go to nobody.
    pub(super) imports: Vec<usize>,
    /// Number of commands of the client.
    pub(super) commands: usize,
}

impl Parts {
    /// Whether the server's reply is the client's.
    pub(super) fn is_empty(&self) -> bool {
        self.local.is_empty() && self.imports.is_empty()
    }
}

/// The reply to EXEC with those of the commands that the node answers itself. `None`: the server's reply is not one to EXEC.
pub(super) fn splice(worker: &Worker, session: &Session, reply: &[u8], parts: &Parts) -> Option<Vec<u8>> {
    let (count, mut at) = match (reply[0], header(reply, 1)) {
        (b'*', Header::Number(count @ 0.., at)) => (usize::try_from(count).ok()?, at),
        // Nil or an error: nothing was executed.
        _ => return Some(reply.to_vec()),
    };
    let Parts { local, imports, commands } = parts;
    if count + local.len() != commands + 2 * imports.len() {
        return None;
    }
    let mut out = Vec::with_capacity(reply.len() + 64 * local.len());
    write::array(&mut out, *commands);
    let (mut local, mut imports) = (local.iter().peekable(), imports.iter().peekable());
    for place in 0..*commands {
        if let Some(call) = local.next_if(|call| call.place == place) {
            answer(worker, session, call, &mut out);
            continue;
        }
        let is_import = imports.next_if(|import| **import == place).is_some();
        if is_import {
            at += ReplyScanner::default().scan(&reply[at..]).ok()??;
        }
        let len = ReplyScanner::default().scan(&reply[at..]).ok()??;
        out.extend_from_slice(&reply[at..at + len]);
        at += len;
        if is_import {
            at += ReplyScanner::default().scan(&reply[at..]).ok()??;
        }
    }
    Some(out)
}

/// The reply to HIMPORT SET out of that to EXEC. `None`: it is not one to this block.
pub(super) fn reply_to_set(reply: &[u8]) -> Option<&[u8]> {
    let (b'*', Header::Number(3, at)) = (reply[0], header(reply, 1)) else { return None };
    let rest = &reply[at..];
    let prepared = ReplyScanner::default().scan(rest).ok()??;
    let rest = &rest[prepared..];
    let len = ReplyScanner::default().scan(rest).ok()??;
    Some(&rest[..len])
}

/// Writes the node's own reply to a command of a transaction.
fn answer(worker: &Worker, session: &Session, call: &LocalCall, out: &mut Vec<u8>) {
    let asked = call.reply.borrow();
    if !asked.is_empty() {
        return out.extend_from_slice(&asked);
    }
    let NodeCall::Local(command) = call.command else { return write::error(out, "ERR not executed") };
    let mut scanner = RequestScanner::default();
    // It was scanned when it was queued.
    if scanner.scan(&call.request).is_err() {
        debug_assert!(false, "what was queued is a request");
        return write::error(out, "ERR not executed");
    }
    let context = CallContext { bytes: &call.request, args: scanner.args() };
    debug_assert!(context.len() > 0);
    let routes = session.product.routes.borrow().clone();
    // A transaction neither closes its connection nor delays its reply.
    let _ = local::answer(worker, session, &routes, command, &context, out);
}
