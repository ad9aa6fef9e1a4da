//! What a mover is told to do, and whom it asks before it changes a server.
//! Knows nothing of the log, of migrations or of who leads.

use std::{collections::BTreeSet, future::Future, pin::Pin, sync::Arc, time::Duration};

use crate::model::{
    ids::{HostPort, SlotId},
    migration::{ConnectionId, Verify},
    secret::Credentials,
    slot::Layout,
};

/// A server and how one logs in there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it listens.
    pub addr: HostPort,
    /// None: it wants no password.
    pub credentials: Option<Credentials>,
}

/// A set of slots of one layout, asked once per key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotSet {
    layout: Layout,
    bits: Vec<u64>,
    len: usize,
}

impl SlotSet {
    /// The given slots; those beyond the layout's are left out.
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

    /// Whether `slot` is in it.
    #[inline]
    #[must_use]
    pub fn contains(&self, slot: SlotId) -> bool {
        self.bits.get(usize::from(slot.0) / 64).is_some_and(|word| word >> (slot.0 % 64) & 1 == 1)
    }

    /// Whether the slot of `key` is in it.
    #[inline]
    #[must_use]
    pub fn has_key(&self, key: &[u8]) -> bool {
        self.len == usize::from(self.layout.slots()) || self.contains(self.layout.slot(key))
    }

    /// Number of slots in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The layout whose slots they are.
    #[must_use]
    pub fn layout(&self) -> Layout {
        self.layout
    }
}

/// CopyEngine slots and keep the copy equal until told to finish.
#[derive(Clone, Debug)]
pub struct CopySpec {
    /// Name of every connection of this run; has no spaces.
    pub name: String,
    /// How keys map to slots.
    pub layout: Layout,
    /// What is copied.
    pub slots: Arc<SlotSet>,
    /// Databases of the product, from 0.
    pub databases: u32,
    /// The source's primary: asked for its identity and offset, never written to.
    pub primary: Endpoint,
    /// Feeds and is fetched from: the primary or a replica of it. Only read.
    pub feed: Endpoint,
    /// The target's primary: the only server that is changed.
    pub target: Endpoint,
    /// Slots whose keys at the target are leftovers of ours and may be wiped.
    pub ours_at_target: Arc<SlotSet>,
    /// Keys of someone else at the target may be wiped, too.
    pub wipe: bool,
    /// The product is a cache: keys that the target evicts are no loss.
    pub cache: bool,
    /// What is compared before the state is [`super::State::CaughtUp`].
    pub verify: Verify,
}

/// Delete the keys of slots at one server.
#[derive(Clone, Debug)]
pub struct CleanSpec {
    /// Name of every connection of this run; has no spaces.
    pub name: String,
    /// How keys map to slots.
    pub layout: Layout,
    /// What is deleted.
    pub slots: Arc<SlotSet>,
    /// Databases of the product, from 0.
    pub databases: u32,
    /// Where.
    pub server: Endpoint,
    /// It ends when two passes that are this far apart found nothing: the request deadline, after which no client's
    /// late write can arrive.
    pub passes_apart: Duration,
}

/// What a mover does.
#[derive(Clone, Debug)]
pub enum RunSpec {
    /// An attempt of a migration.
    Copy(CopySpec),
    /// The cleaning of a source, a wipe after Cancel, a sweep.
    Clean(CleanSpec),
}

/// What [`Authorize::authorize`] returns.
pub type AuthorizationFuture = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// Whom a mover asks before it changes anything (serving.md, "Acts on servers: the connection fence", rule 2).
pub trait Authorize: Send + Sync {
    /// Asked once, with every connection that will change something. They are open, logged in and named.
    /// An error, a sentence for people, ends the run: nothing has been changed.
    fn authorize(&self, connections: Vec<ConnectionId>) -> AuthorizationFuture;

    /// Asked by a copy whose target is clean, before the first key is written there. Returns when the log says that the
    /// copy has begun: from then on whoever comes after this run knows that keys of these slots at the target are ours.
    /// Without it, keys of a run that died just now would be taken for someone else's, and neither overwritten nor wiped.
    /// An error ends the run.
    fn may_write(&self) -> AuthorizationFuture {
        Box::pin(async { Ok(()) })
    }
}
