//! The input of a mover: what it copies or deletes, and who authorizes it to change a server.
//! Knows nothing of the log, of migrations and of leadership.

use std::{collections::BTreeSet, future::Future, pin::Pin, sync::Arc, time::Duration};

use crate::model::{
    ids::{HostPort, SlotId},
    migration::{ConnectionId, Verify},
    secret::Credentials,
    slot::Layout,
};

/// A server and the credentials for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its address.
    pub addr: HostPort,
    /// `None`: it needs no password.
    pub credentials: Option<Credentials>,
}

/// A set of slots of one layout; a lookup takes constant time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotSet {
    layout: Layout,
    bits: Vec<u64>,
    len: usize,
}

impl SlotSet {
    /// Creates a set of the given slots. Slots that the layout does not have are ignored.
    #[must_use]
    pub fn new(layout: Layout, slots: &BTreeSet<SlotId>) -> Self {
        let mut bits = vec![0u64; usize::from(layout.slots()).div_ceil(64)];
        let mut len = 0;
        for slot in slots.iter().filter(|s| s.0 < layout.slots()) {
            bits[usize::from(slot.0) / 64] |= 1 << (slot.0 % 64);
            len += 1;
        }
        Self { layout, bits, len }
    }

    /// Whether the set has `slot`.
    #[inline]
    #[must_use]
    pub fn contains(&self, slot: SlotId) -> bool {
        self.bits.get(usize::from(slot.0) / 64).is_some_and(|word| word >> (slot.0 % 64) & 1 == 1)
    }

    /// Whether the set has the slot of `key`.
    #[inline]
    #[must_use]
    pub fn has_key(&self, key: &[u8]) -> bool {
        self.len == usize::from(self.layout.slots()) || self.contains(self.layout.slot(key))
    }

    /// Number of slots.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the set has no slot.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The layout of the slots.
    #[must_use]
    pub fn layout(&self) -> Layout {
        self.layout
    }
}

/// The processes (`run_id`) of a copy's primaries, as the log knows them; empty: any process will do. In a product with
/// `min-acks`, a primary that was restarted may lack confirmed writes and be replaced by a replica. What such a source
/// lacks must not be lost, and what is copied to such a target would be (`plan::restart`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownProcesses {
    /// The source's primary.
    pub source: String,
    /// The target's primary.
    pub target: String,
}

/// Copies slots and keeps the copy up to date until the cut-over.
#[derive(Clone, Debug)]
pub struct CopySpec {
    /// Name of every connection of this run; has no spaces.
    pub name: String,
    /// How keys map to slots.
    pub layout: Layout,
    /// The slots to copy.
    pub slots: Arc<SlotSet>,
    /// Number of databases of the product.
    pub databases: u32,
    /// The source's primary: asked for its identity and offset, never written to.
    pub primary: Endpoint,
    /// The server that provides the feed and the values: the primary or one of its replicas. Never written to.
    pub feed: Endpoint,
    /// The target's primary: the only server that is changed.
    pub target: Endpoint,
    /// The processes that the log knows as the primaries (`run_id`).
    pub processes: KnownProcesses,
    /// Slots whose keys at the target are leftovers of this group and may be deleted.
    pub deletable_at_target: Arc<SlotSet>,
    /// Unexpected keys at the target may be deleted, too.
    pub wipe: bool,
    /// The product is a cache: evictions at the target are not an error.
    pub cache: bool,
    /// What is compared before the state becomes [`super::State::CaughtUp`].
    pub verify: Verify,
}

/// Deletes the keys of slots at one server.
#[derive(Clone, Debug)]
pub struct CleanSpec {
    /// Name of every connection of this run; has no spaces.
    pub name: String,
    /// How keys map to slots.
    pub layout: Layout,
    /// The slots whose keys are deleted.
    pub slots: Arc<SlotSet>,
    /// Number of databases of the product.
    pub databases: u32,
    /// The server.
    pub server: Endpoint,
    /// The run ends when two passes at least this far apart found nothing. It is the request deadline, after which no
    /// late write of a client can arrive.
    pub passes_apart: Duration,
}

/// What a run does.
#[derive(Clone, Debug)]
pub enum RunSpec {
    /// A copy run of a migration.
    Copy(CopySpec),
    /// Cleaning a source, wiping a target after a cancellation, or a sweep.
    Clean(CleanSpec),
}

/// The result of [`Authorize::authorize`].
pub type AuthorizationFuture = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// Authorizes a mover before it changes anything (the connection fence; see docs/design/serving.md).
pub trait Authorize: Send + Sync {
    /// Called once, with every connection that will change something. They are open, logged in and named. An error, as
    /// text for the operator, ends the run before anything has been changed.
    fn authorize(&self, connections: Vec<ConnectionId>) -> AuthorizationFuture;

    /// Called by a copy whose target is clean, before it writes the first key. Returns when the log says that the copy
    /// has begun: from then on every later run knows that keys of these slots at the target belong to this group.
    /// Without it, keys of a run that has just failed would count as unexpected keys, which are neither overwritten nor
    /// deleted. An error ends the run.
    fn may_write(&self) -> AuthorizationFuture {
        Box::pin(async { Ok(()) })
    }
}
