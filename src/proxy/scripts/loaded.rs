//! Which scripts a server process surely has: those that a SCRIPT LOAD has loaded. (Servers evict scripts that came by EVAL.)
//! Knows nothing of catalogues.

use std::{
    cell::{Cell, RefCell},
    collections::HashSet,
    rc::Rc,
};

use crate::model::{ids::Epoch, script::ScriptDigest};

/// Scripts of a process that are remembered, 20 bytes each; beyond that, all are forgotten and loaded again.
const LOADED_MAX: usize = 4096;

/// What is known of a server process.
#[derive(Debug, Default)]
pub(in crate::proxy) struct ProcessScripts {
    loaded: RefCell<HashSet<ScriptDigest>>,
    /// It has all libraries of the catalogue as it was at this log index.
    pub(in crate::proxy) libraries: Cell<Epoch>,
}

impl ProcessScripts {
    /// Whether it surely has a script.
    #[inline]
    pub(in crate::proxy) fn has(&self, digest: &ScriptDigest) -> bool {
        self.loaded.borrow().contains(digest)
    }

    /// A SCRIPT LOAD was answered.
    pub(in crate::proxy) fn note_loaded(&self, digest: ScriptDigest) {
        let mut loaded = self.loaded.borrow_mut();
        if loaded.len() >= LOADED_MAX {
            loaded.clear();
        }
        loaded.insert(digest);
    }

    /// It may have lost its scripts.
    pub(in crate::proxy) fn forget_loaded(&self) {
        self.loaded.borrow_mut().clear();
    }
}

/// What is known of the process at the other end of a connection, and what is being loaded there.
#[derive(Debug, Default)]
pub(in crate::proxy) struct ConnectionScripts {
    /// `None`: it is not connected.
    process: RefCell<Option<Rc<ProcessScripts>>>,
    /// SCRIPT LOADs that were sent and are not answered: what follows on this connection is executed behind them.
    loading: RefCell<HashSet<ScriptDigest>>,
}

impl ConnectionScripts {
    /// Whether a call that is sent now finds the script.
    #[inline]
    pub(in crate::proxy) fn has(&self, digest: &ScriptDigest) -> bool {
        self.process.borrow().as_ref().is_some_and(|process| process.has(digest)) || self.is_loading(digest)
    }

    fn is_loading(&self, digest: &ScriptDigest) -> bool {
        let loading = self.loading.borrow();
        !loading.is_empty() && loading.contains(digest)
    }

    /// Log index of the catalogue of which the process has all libraries; 0: not known.
    #[inline]
    pub(in crate::proxy) fn libraries(&self) -> Epoch {
        self.process.borrow().as_ref().map_or(Epoch(0), |process| process.libraries.get())
    }

    /// What is known of the process; `None`: it is not connected.
    pub(in crate::proxy) fn process(&self) -> Option<Rc<ProcessScripts>> {
        self.process.borrow().clone()
    }

    /// It is connected to this process.
    pub(in crate::proxy) fn connected(&self, process: Rc<ProcessScripts>) {
        *self.process.borrow_mut() = Some(process);
    }

    /// It is not connected any more.
    pub(in crate::proxy) fn disconnected(&self) {
        *self.process.borrow_mut() = None;
    }

    /// A SCRIPT LOAD is sent.
    pub(in crate::proxy) fn begin(&self, digest: ScriptDigest) {
        self.loading.borrow_mut().insert(digest);
    }

    /// A SCRIPT LOAD has ended, successfully or not.
    pub(in crate::proxy) fn end(&self, digest: ScriptDigest, loaded: bool) {
        self.loading.borrow_mut().remove(&digest);
        if let (true, Some(process)) = (loaded, &*self.process.borrow()) {
            process.note_loaded(digest);
        }
    }

    /// A script that should have been there was not: the process has lost all of them.
    pub(in crate::proxy) fn lost(&self) {
        if let Some(process) = &*self.process.borrow() {
            process.forget_loaded();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_being_loaded_counts_on_its_connection_only_and_until_it_has_failed() {
        let (one, other) = (ConnectionScripts::default(), ConnectionScripts::default());
        let process = Rc::<ProcessScripts>::default();
        one.connected(process.clone());
        other.connected(process.clone());
        let digest = ScriptDigest::of(b"return 1");
        one.begin(digest);
        assert!(one.has(&digest) && !other.has(&digest));
        one.end(digest, false);
        assert!(!one.has(&digest));
        one.begin(digest);
        one.end(digest, true);
        assert!(one.has(&digest) && other.has(&digest));
        one.disconnected();
        assert!(!one.has(&digest) && other.has(&digest));
        other.lost();
        assert!(!other.has(&digest));
    }

    #[test]
    fn what_is_remembered_of_a_process_is_bounded() {
        let process = ProcessScripts::default();
        for n in 0..=LOADED_MAX {
            process.note_loaded(ScriptDigest::of(n.to_string().as_bytes()));
        }
        assert_eq!(process.loaded.borrow().len(), 1);
    }
}
