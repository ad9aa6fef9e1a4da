//! The server processes that have executed writes of a session, for WAIT. Knows nothing of how they are asked.

use std::{
    cell::{Cell, RefCell},
    ptr,
    rc::Rc,
};

use super::Session;
use crate::{
    model::ids::HostPort,
    proxy::backend::{Backend, ConnectionIdentity},
};

/// The connections over which a session has written.
#[derive(Debug)]
pub(super) struct Written {
    /// That of the last write; only compared.
    last: Cell<*const ConnectionIdentity>,
    servers: RefCell<Vec<WrittenServer>>,
    /// Whether writes are with a process that has ended: no replica is known to have them.
    lost: Cell<bool>,
}

impl Default for Written {
    fn default() -> Self {
        Self { last: Cell::new(ptr::null()), servers: RefCell::default(), lost: Cell::new(false) }
    }
}

/// A server that a session has written to.
#[derive(Clone, Debug)]
pub(in crate::proxy) struct WrittenServer {
    pub(in crate::proxy) addr: HostPort,
    /// Of one of the connections to the process that has executed the writes.
    pub(in crate::proxy) identity: Rc<ConnectionIdentity>,
}

/// What a session has written to.
#[derive(Debug)]
pub(in crate::proxy) struct WrittenServers {
    pub(in crate::proxy) servers: Vec<WrittenServer>,
    /// Whether writes are with a process that has ended.
    pub(in crate::proxy) lost: bool,
}

impl Session {
    /// Records that a write is sent over this connection.
    #[inline]
    pub(in crate::proxy) fn note_written(&self, backend: &Backend) {
        let identity = backend.identity_ptr();
        if self.written.last.replace(identity) != identity {
            self.written.note(&backend.addr, backend.identity());
        }
    }

    /// The servers that it has written to. Called when all its requests are answered.
    pub(in crate::proxy) fn written(&self) -> WrittenServers {
        self.written.merge();
        WrittenServers { servers: self.written.servers.borrow().clone(), lost: self.written.lost.get() }
    }

    /// Forgets the writes to a process that has ended: the client has been told that no replica is known to have them.
    pub(in crate::proxy) fn forget_written(&self, gone: &[HostPort]) {
        self.written.lost.set(false);
        self.written.last.set(ptr::null());
        self.written.servers.borrow_mut().retain(|server| !gone.contains(&server.addr));
    }
}

impl Written {
    #[cold]
    fn note(&self, addr: &HostPort, identity: Rc<ConnectionIdentity>) {
        let known = self.servers.borrow().iter().any(|server| Rc::ptr_eq(&server.identity, &identity));
        if !known {
            // The connections of each server are merged to one or two, so the list stays short.
            self.merge();
            self.servers.borrow_mut().push(WrittenServer { addr: addr.clone(), identity });
        }
    }

    /// Keeps the last process of each server. Connections that were never made have executed nothing.
    fn merge(&self) {
        // An identity that is dropped here may be followed by another one at the same place.
        self.last.set(ptr::null());
        let mut merged: Vec<WrittenServer> = Vec::new();
        let mut pending = Vec::new();
        for server in self.servers.take() {
            if server.identity.run_id().is_none() {
                // Its backend still has it, and may connect.
                if Rc::strong_count(&server.identity) > 1 {
                    pending.push(server);
                }
                continue;
            }
            match merged.iter_mut().find(|other| other.addr == server.addr) {
                Some(other) => {
                    self.lost.set(self.lost.get() || !other.identity.same_process(&server.identity));
                    *other = server;
                }
                None => merged.push(server),
            }
        }
        merged.append(&mut pending);
        self.servers.replace(merged);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn addr(port: u16) -> HostPort {
        HostPort::parse(&format!("h:{port}")).unwrap()
    }

    /// A connection; its backend has it as long as the second reference exists.
    fn connection() -> (Rc<ConnectionIdentity>, Rc<ConnectionIdentity>) {
        let identity = Rc::<ConnectionIdentity>::default();
        (identity.clone(), identity)
    }

    #[test]
    fn each_server_is_listed_once_with_its_last_process() {
        let written = Written::default();
        let (one, _one) = connection();
        let (other, _other) = connection();
        written.note(&addr(1), one.clone());
        written.note(&addr(2), other.clone());
        written.note(&addr(1), one.clone());
        one.learn("a", 1);
        other.learn("b", 1);
        let (again, _again) = connection();
        written.note(&addr(1), again.clone());
        again.learn("a", 2);
        written.merge();
        let servers: Vec<_> =
            written.servers.borrow().iter().map(|s| (s.addr.clone(), s.identity.client_id())).collect();
        assert_eq!((servers, written.lost.get()), (vec![(addr(1), 2), (addr(2), 1)], false));

        let (restarted, _restarted) = connection();
        written.note(&addr(1), restarted.clone());
        restarted.learn("c", 1);
        written.merge();
        assert!(written.lost.get(), "writes are with a process that has ended");
        assert_eq!(written.servers.borrow().len(), 2);
    }

    #[test]
    fn a_connection_that_was_never_made_does_not_count() {
        let written = Written::default();
        let (failed, of_backend) = connection();
        written.note(&addr(1), failed);
        written.merge();
        assert_eq!(written.servers.borrow().len(), 1, "it may still be made");
        drop(of_backend);
        written.merge();
        assert_eq!((written.servers.borrow().len(), written.lost.get()), (0, false));
    }
}
