//! Which process is at the other end of a connection, and under which id it knows the connection. Knows nothing of what is
//! sent.

use std::{cell::OnceCell, rc::Rc};

/// The identity of one connection of a backend; each connection has a new one, which exists before it is connected.
#[derive(Debug, Default)]
pub(in crate::proxy) struct ConnectionIdentity(OnceCell<(Rc<str>, u64)>);

impl ConnectionIdentity {
    /// Records what the login has found out. `client_id`: 0 if it did not ask.
    pub(in crate::proxy) fn learn(&self, run_id: &str, client_id: u64) {
        // It is set once per connection.
        let _ = self.0.set((run_id.into(), client_id));
    }

    /// Run id of the process; empty if the server does not report it. `None`: it was never connected.
    pub(in crate::proxy) fn run_id(&self) -> Option<&Rc<str>> {
        self.0.get().map(|(run_id, _)| run_id)
    }

    /// The connection's id at the server; 0: it is not known.
    pub(in crate::proxy) fn client_id(&self) -> u64 {
        self.0.get().map_or(0, |(_, client_id)| *client_id)
    }

    /// Whether both connections are to the same process. False if that is not known.
    pub(in crate::proxy) fn same_process(&self, other: &Self) -> bool {
        match (self.run_id(), other.run_id()) {
            (Some(one), Some(other)) => !one.is_empty() && one == other,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_compared_only_if_both_are_known() {
        let identity = |run_id: &str| {
            let identity = ConnectionIdentity::default();
            identity.learn(run_id, 7);
            identity
        };
        assert!(identity("a").same_process(&identity("a")));
        assert!(!identity("a").same_process(&identity("b")));
        assert!(!identity("").same_process(&identity("")), "a server that does not report it");
        let never = ConnectionIdentity::default();
        assert!(!never.same_process(&never) && !identity("a").same_process(&never));
        assert_eq!((identity("a").client_id(), never.client_id()), (7, 0));
    }
}
