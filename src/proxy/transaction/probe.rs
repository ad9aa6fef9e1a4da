//! Whether a server executes transactions. Where MULTI or EXEC is renamed or forbidden, a block would be executed command by
//! command, or would leave the connection in a transaction, so each connection is asked before its first block.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use crate::proxy::{session::Session, worker::Worker};

/// What is known of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::proxy) enum Supported {
    /// It was not asked yet.
    #[default]
    Unknown,
    Asked,
    Yes,
    /// It answered with an error in this tick of the worker. Later it is asked again: a user may have got more rights.
    NotAt(u32),
}

/// What is known of a connection, and the sessions that wait for its answer.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Probe {
    supported: Cell<Supported>,
    waiting: RefCell<Vec<Rc<Session>>>,
}

impl Probe {
    /// What is known at this tick.
    pub(super) fn supported(&self, tick: u32) -> Supported {
        match self.supported.get() {
            // The sessions that waited run a little later, perhaps in the next tick.
            Supported::NotAt(then) if tick.wrapping_sub(then) > 1 => Supported::Unknown,
            known => known,
        }
    }

    /// The connection is asked, and the session waits for the answer.
    pub(super) fn wait(&self, session: &Rc<Session>) {
        self.supported.set(Supported::Asked);
        self.waiting.borrow_mut().push(session.clone());
    }

    /// Records the answer.
    pub(super) fn end(&self, worker: &Worker, supported: bool) {
        self.supported.set(if supported { Supported::Yes } else { Supported::NotAt(worker.clock.tick()) });
        self.wake();
    }

    /// Nothing is known of a new connection.
    pub(in crate::proxy) fn reset(&self) {
        self.supported.set(Supported::Unknown);
        self.wake();
    }

    fn wake(&self) {
        for session in std::mem::take(&mut *self.waiting.borrow_mut()) {
            session.wake();
        }
    }
}
