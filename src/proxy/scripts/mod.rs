//! Scripts and functions on the hot path: what the clients of a product have loaded (the catalogue, which the control plane
//! publishes), which server process surely has what, and what has to be loaded in front of a call.
//! Knows nothing of sockets, and of how the catalogue changes.
//!
//! ```text
//!  EVALSHA --> does the process surely have it? --yes--> sent
//!                      | no
//!                      v
//!  body in the catalogue, or seen in an EVAL of this node? --yes--> SCRIPT LOAD body, EVALSHA on the same connection
//!                      | no
//!                      v
//!  seen by another node? The call waits for the answer --yes--> as above
//!                      | no
//!                      v
//!                    sent: the server may have it
//! ```

mod asked;
mod bodies;
mod loaded;

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
};

use bytes::Bytes;
use tokio::sync::{Notify, mpsc, oneshot, watch};

pub(super) use asked::AskedBodies;
pub(super) use bodies::{EvalBodies, Key as ScriptKey, SeenBodies};
pub(super) use loaded::{ConnectionScripts, ProcessScripts};

use crate::{
    model::{
        ids::{Epoch, HostPort, ProductId},
        script::{ScriptCatalogue, ScriptDigest},
    },
    resp::write,
};

/// The catalogues of all products whose clients have loaded something.
pub type ScriptCatalogues = BTreeMap<ProductId, Arc<ScriptCatalogue>>;

/// A change of a product's catalogue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScriptChange {
    /// A script that servers have accepted is recorded.
    LoadScript(Bytes),
    /// All scripts are forgotten.
    FlushScripts,
    /// A library of functions is loaded everywhere.
    LoadLibrary {
        /// Its code.
        code: Bytes,
        /// Whether it may replace the one of its name.
        replace: bool,
    },
    /// The library of this name is deleted everywhere.
    DeleteLibrary(Bytes),
    /// All libraries are deleted everywhere.
    FlushLibraries,
    /// Libraries are restored everywhere.
    RestoreLibraries {
        /// Of FUNCTION DUMP.
        payload: Bytes,
        /// FLUSH, APPEND or REPLACE; empty: the default.
        policy: Bytes,
    },
}

/// A change that was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScriptsChanged {
    /// The catalogue has it from this log index on; 0: it was so already.
    pub at: Epoch,
    /// The name of a library that was loaded.
    pub library: Option<String>,
    /// At which groups it is not done yet, for people.
    pub partial: Option<String>,
}

/// A request for a change, as a client makes it.
#[derive(Debug)]
pub struct ScriptRequest {
    /// The product.
    pub product: ProductId,
    /// The change.
    pub change: ScriptChange,
    /// The address of the client.
    pub client: SocketAddr,
    /// Gets the result; the error is for the client, and begins with a code.
    pub reply: oneshot::Sender<Result<ScriptsChanged, String>>,
}

/// What a process has, after libraries were loaded there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LibrariesLoaded {
    /// Its `run_id`.
    pub run_id: String,
    /// It has all libraries of the catalogue as it was at this log index.
    pub at: Epoch,
}

/// A request to load the libraries that a primary lacks.
#[derive(Debug)]
pub struct LibraryRequest {
    /// Its product.
    pub product: ProductId,
    /// The primary.
    pub server: HostPort,
    /// Gets the result. Dropped if nothing could be loaded.
    pub reply: oneshot::Sender<LibrariesLoaded>,
}

/// A request about the scripts that other nodes have seen in an EVAL.
#[derive(Debug)]
pub enum BodyRequest {
    /// For the body of one.
    Find {
        /// The product.
        product: ProductId,
        /// What is searched for.
        digest: ScriptDigest,
        /// Gets the body; `None`: no node knows it.
        reply: oneshot::Sender<Option<Bytes>>,
    },
    /// All are forgotten.
    Forget {
        /// The product.
        product: ProductId,
        /// Notified when all nodes that answer have done it.
        reply: oneshot::Sender<()>,
    },
}

/// The scripts that a node has seen in an EVAL, or has been told by another one. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SeenScripts(pub(super) Arc<EvalBodies>);

impl SeenScripts {
    /// The body of a script of a product, if it is known.
    #[must_use]
    pub fn body(&self, product: ProductId, digest: &ScriptDigest) -> Option<Bytes> {
        self.0.get(product, digest)
    }

    /// Forgets those of a product.
    pub fn forget(&self, product: ProductId) {
        self.0.flush(product);
    }
}

/// The connection of the proxy to what the cluster knows of scripts.
#[derive(Clone, Debug)]
pub struct ScriptLink {
    /// The newest catalogues.
    pub catalogues: watch::Receiver<Arc<ScriptCatalogues>>,
    /// Takes requests for changes.
    pub changes: mpsc::Sender<ScriptRequest>,
    /// Takes requests for libraries.
    pub libraries: mpsc::Sender<LibraryRequest>,
    /// Takes requests about scripts that other nodes have seen.
    pub bodies: mpsc::Sender<BodyRequest>,
}

/// A script that has to be loaded at a server before a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ScriptToLoad {
    pub(super) digest: ScriptDigest,
    pub(super) body: Bytes,
}

impl ScriptToLoad {
    /// The request that loads it.
    pub(super) fn request(&self) -> Vec<u8> {
        let mut request = Vec::with_capacity(self.body.len() + 64);
        write::request(&mut request, &[b"SCRIPT", b"LOAD", &self.body]);
        request
    }
}

/// Processes of a product that are remembered. More than it has primaries and replicas, of which some were restarted.
const PROCESSES_MAX: usize = 256;

/// A worker's view of the scripts and libraries of a product.
#[derive(Debug, Default)]
pub(super) struct ProductScripts {
    catalogue: RefCell<Arc<ScriptCatalogue>>,
    /// A copy of `catalogue.libraries_at`.
    libraries_at: Cell<Epoch>,
    /// Notified with every new catalogue.
    swapped: Notify,
    /// By `run_id`.
    processes: RefCell<HashMap<Rc<str>, Rc<ProcessScripts>>>,
}

impl ProductScripts {
    /// The newest catalogue that this worker has.
    pub(super) fn catalogue(&self) -> Arc<ScriptCatalogue> {
        self.catalogue.borrow().clone()
    }

    /// Log index of the last change of libraries; 0: there was none.
    #[inline]
    pub(super) fn libraries_at(&self) -> Epoch {
        self.libraries_at.get()
    }

    /// The body of a script of the catalogue.
    pub(super) fn body(&self, digest: &ScriptDigest) -> Option<Bytes> {
        self.catalogue.borrow().body(digest).cloned()
    }

    /// Replaces the catalogue. Returns whether there was a SCRIPT FLUSH: then no process surely has anything.
    pub(super) fn swap(&self, catalogue: &Arc<ScriptCatalogue>) -> bool {
        let former = self.catalogue.replace(catalogue.clone());
        self.libraries_at.set(catalogue.libraries_at);
        let is_flushed = former.flushed != catalogue.flushed;
        if is_flushed {
            self.forget_loaded();
        }
        self.swapped.notify_waiters();
        is_flushed
    }

    /// Waits until the catalogue has what was changed at this log index.
    pub(super) async fn wait_for(&self, at: Epoch) {
        loop {
            let swapped = self.swapped.notified();
            if self.catalogue.borrow().changed_at() >= at {
                return;
            }
            swapped.await;
        }
    }

    /// No process surely has any script.
    pub(super) fn forget_loaded(&self) {
        self.processes.borrow().values().for_each(|process| process.forget_loaded());
    }

    /// What is known of a process.
    pub(super) fn process(&self, run_id: &Rc<str>) -> Rc<ProcessScripts> {
        // Without an id, a process that was started later would count as the same one.
        if run_id.is_empty() {
            return Rc::default();
        }
        let mut processes = self.processes.borrow_mut();
        if processes.len() >= PROCESSES_MAX {
            // Those to which a connection exists stay.
            processes.retain(|_, process| Rc::strong_count(process) > 1);
        }
        processes.entry(run_id.clone()).or_default().clone()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::model::script::CatalogueLimits;

    #[test]
    fn a_flush_takes_away_every_certainty_and_a_load_does_not() {
        let scripts = ProductScripts::default();
        let process = scripts.process(&"one".into());
        let digest = ScriptDigest::of(b"return 1");
        process.note_loaded(digest);
        let mut catalogue = ScriptCatalogue::default();
        catalogue.load_script(Bytes::from_static(b"return 1"), Epoch(5), 0, &CatalogueLimits::new(0, 1));
        assert!(!scripts.swap(&Arc::new(catalogue.clone())));
        assert!(scripts.process(&"one".into()).has(&digest) && !scripts.process(&"two".into()).has(&digest));
        assert_eq!(scripts.body(&digest).unwrap(), "return 1");
        catalogue.flush_scripts(Epoch(6));
        assert!(scripts.swap(&Arc::new(catalogue)));
        assert!(!process.has(&digest) && scripts.body(&digest).is_none());
    }

    #[test]
    fn processes_without_an_id_and_old_ones_are_not_remembered() {
        let scripts = ProductScripts::default();
        let digest = ScriptDigest::of(b"return 1");
        scripts.process(&"".into()).note_loaded(digest);
        assert!(!scripts.process(&"".into()).has(&digest));
        let kept = scripts.process(&"kept".into());
        kept.note_loaded(digest);
        for n in 0..2 * PROCESSES_MAX {
            scripts.process(&n.to_string().into());
        }
        assert!(scripts.processes.borrow().len() <= PROCESSES_MAX && scripts.process(&"kept".into()).has(&digest));
    }
}
