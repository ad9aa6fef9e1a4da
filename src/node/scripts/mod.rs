//! What the proxy's workers ask about scripts and functions: changes of catalogues, which the leader makes (changes),
//! libraries that a primary lacks (libraries), and scripts that other nodes may know (bodies). Knows nothing of what clients
//! send.

pub mod bodies;
pub mod changes;
pub mod libraries;

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use crate::proxy::{BodyRequest, LibraryRequest, ScriptCatalogues, ScriptLink, ScriptRequest};

/// Requests of a kind that may wait. One that finds no room is refused, not executed.
const REQUESTS_MAX: usize = 256;

/// The requests of all workers.
#[derive(Debug)]
pub struct ScriptRequests {
    /// For changes of catalogues.
    pub changes: mpsc::Receiver<ScriptRequest>,
    /// For libraries.
    pub libraries: mpsc::Receiver<LibraryRequest>,
    /// For the bodies of scripts.
    pub bodies: mpsc::Receiver<BodyRequest>,
}

/// The link of the workers, and its other end.
#[must_use]
pub fn link(catalogues: watch::Receiver<Arc<ScriptCatalogues>>) -> (ScriptLink, ScriptRequests) {
    let (changes, of_changes) = mpsc::channel(REQUESTS_MAX);
    let (libraries, of_libraries) = mpsc::channel(REQUESTS_MAX);
    let (bodies, of_bodies) = mpsc::channel(REQUESTS_MAX);
    let requests = ScriptRequests { changes: of_changes, libraries: of_libraries, bodies: of_bodies };
    (ScriptLink { catalogues, changes, libraries, bodies }, requests)
}
