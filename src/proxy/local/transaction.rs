//! MULTI, EXEC and DISCARD, while transactions are not supported: MULTI is refused, and with it every command up to
//! EXEC or DISCARD. Else the commands of a client library's default pipeline would be executed one by one, the library
//! would report that the transaction failed, and its retries would execute them again.

use crate::{
    proxy::{session::Session, worker::Worker},
    resp::write,
};

/// Refuses MULTI, and from now on every command of the session up to EXEC or DISCARD.
pub(super) fn multi(worker: &Worker, session: &Session, out: &mut Vec<u8>) {
    if std::mem::replace(&mut session.client.borrow_mut().multi_refused, true) {
        return write::error(out, "ERR MULTI calls can not be nested");
    }
    worker.stats.transactions_refused.set(worker.stats.transactions_refused.get() + 1);
    write::error(
        out,
        "ERR 'multi': transactions are not supported by this proxy yet, not executed: it and everything up to EXEC or \
            DISCARD. A script with declared keys is atomic",
    );
}

/// Ends the refused transaction.
pub(super) fn exec(session: &Session, out: &mut Vec<u8>) {
    let text = match end(session) {
        true => "EXECABORT Transaction discarded because MULTI was refused: no command of it was executed",
        false => "ERR EXEC without MULTI",
    };
    write::error(out, text);
}

/// Ends the refused transaction.
pub(super) fn discard(session: &Session, out: &mut Vec<u8>) {
    match end(session) {
        true => write::simple(out, "OK"),
        false => write::error(out, "ERR DISCARD without MULTI"),
    }
}

/// Returns whether there was one.
fn end(session: &Session) -> bool {
    std::mem::take(&mut session.client.borrow_mut().multi_refused)
}
