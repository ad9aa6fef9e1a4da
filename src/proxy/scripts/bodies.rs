//! The bodies of scripts that came by EVAL: an EVALSHA may follow at another group, or at a server that was promoted. All
//! workers of a node share them, and a worker remembers which ones it has noted, so that an EVAL seldom takes the lock.
//! Knows nothing of catalogues.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, HashSet, VecDeque},
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;

use crate::model::{ids::ProductId, limits::SCRIPT_LEN_MAX, script::ScriptDigest};

/// Bodies of all products: as many as a catalogue may have. The oldest ones make room.
const BODIES_MAX: usize = 1000;

/// Bytes of all bodies.
const BYTES_MAX: usize = 16 << 20;

/// Digests that a worker remembers to have noted.
const NOTED_MAX: usize = 4096;

pub(in crate::proxy) type Key = (ProductId, ScriptDigest);

#[derive(Debug, Default)]
struct Bodies {
    all: HashMap<Key, Bytes>,
    /// Oldest first. May name some that were flushed.
    order: VecDeque<Key>,
    bytes: usize,
    /// How often those of a product were flushed.
    flushes: HashMap<ProductId, u64>,
}

/// The bodies of a node.
#[derive(Debug, Default)]
pub(in crate::proxy) struct EvalBodies {
    bodies: RwLock<Bodies>,
    /// How often bodies were removed.
    removals: AtomicU64,
}

impl EvalBodies {
    /// The body of a script.
    pub(in crate::proxy) fn get(&self, product: ProductId, digest: &ScriptDigest) -> Option<Bytes> {
        let bodies = self.bodies.read().unwrap_or_else(PoisonError::into_inner);
        bodies.all.get(&(product, *digest)).cloned()
    }

    /// Forgets those of a product, because of a SCRIPT FLUSH.
    pub(in crate::proxy) fn flush(&self, product: ProductId) {
        let mut bodies = self.bodies.write().unwrap_or_else(PoisonError::into_inner);
        bodies.all.retain(|(of, _), _| *of != product);
        bodies.order.retain(|(of, _)| *of != product);
        bodies.bytes = bodies.all.values().map(Bytes::len).sum();
        *bodies.flushes.entry(product).or_default() += 1;
        self.removals.fetch_add(1, Ordering::Release);
    }

    /// How often those of a product were flushed.
    pub(in crate::proxy) fn flushes(&self, product: ProductId) -> u64 {
        let bodies = self.bodies.read().unwrap_or_else(PoisonError::into_inner);
        bodies.flushes.get(&product).copied().unwrap_or_default()
    }

    /// Keeps a body.
    pub(in crate::proxy) fn add(&self, key: Key, body: &[u8]) {
        let known = self.bodies.read().unwrap_or_else(PoisonError::into_inner).all.contains_key(&key);
        if known || body.len() > SCRIPT_LEN_MAX {
            return;
        }
        let mut bodies = self.bodies.write().unwrap_or_else(PoisonError::into_inner);
        if bodies.all.insert(key, Bytes::copy_from_slice(body)).is_none() {
            bodies.order.push_back(key);
            bodies.bytes += body.len();
        }
        while bodies.order.len() > BODIES_MAX || bodies.bytes > BYTES_MAX {
            let Some(oldest) = bodies.order.pop_front() else { break };
            bodies.bytes -= bodies.all.remove(&oldest).map_or(0, |body| body.len());
            self.removals.fetch_add(1, Ordering::Release);
        }
    }
}

/// What a worker has noted.
#[derive(Debug, Default)]
pub(in crate::proxy) struct SeenBodies {
    noted: RefCell<HashSet<Key>>,
    /// The number of removals then.
    removals: Cell<u64>,
}

impl SeenBodies {
    /// Keeps the body of an EVAL.
    pub(in crate::proxy) fn note(&self, bodies: &EvalBodies, product: ProductId, digest: ScriptDigest, body: &[u8]) {
        let mut noted = self.noted.borrow_mut();
        let removals = bodies.removals.load(Ordering::Acquire);
        if self.removals.replace(removals) != removals || noted.len() >= NOTED_MAX {
            noted.clear();
        }
        if noted.insert((product, digest)) {
            bodies.add((product, digest), body);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const PRODUCT: ProductId = ProductId(1);

    fn note(seen: &SeenBodies, bodies: &EvalBodies, product: ProductId, body: &str) -> ScriptDigest {
        let digest = ScriptDigest::of(body.as_bytes());
        seen.note(bodies, product, digest, body.as_bytes());
        digest
    }

    #[test]
    fn a_body_is_known_to_its_product_until_it_is_flushed() {
        let (bodies, seen) = (EvalBodies::default(), SeenBodies::default());
        let digest = note(&seen, &bodies, PRODUCT, "return 1");
        assert_eq!(bodies.get(PRODUCT, &digest).unwrap(), "return 1");
        assert_eq!(bodies.get(ProductId(2), &digest), None);
        note(&seen, &bodies, ProductId(2), "return 1");
        bodies.flush(PRODUCT);
        assert_eq!(bodies.get(PRODUCT, &digest), None);
        assert!(bodies.get(ProductId(2), &digest).is_some());
        // It is noted again, although this worker has noted it before.
        note(&seen, &bodies, PRODUCT, "return 1");
        assert!(bodies.get(PRODUCT, &digest).is_some());
    }

    #[test]
    fn bodies_are_bounded_in_number_and_bytes() {
        let (bodies, seen) = (EvalBodies::default(), SeenBodies::default());
        let first = note(&seen, &bodies, PRODUCT, "return 'first'");
        for n in 0..BODIES_MAX {
            note(&seen, &bodies, PRODUCT, &format!("return {n}"));
        }
        assert_eq!(bodies.get(PRODUCT, &first), None);
        assert_eq!(bodies.bodies.read().unwrap().all.len(), BODIES_MAX);
        let large = "-".repeat(SCRIPT_LEN_MAX - 8);
        for n in 0..40 {
            note(&seen, &bodies, PRODUCT, &format!("{large}{n}"));
        }
        let kept = bodies.bodies.read().unwrap();
        assert!(kept.bytes <= BYTES_MAX && kept.bytes == kept.all.values().map(Bytes::len).sum::<usize>());
        drop(kept);
        // Longer ones are not kept at all.
        let long = note(&seen, &bodies, PRODUCT, &"-".repeat(SCRIPT_LEN_MAX + 1));
        assert_eq!(bodies.get(PRODUCT, &long), None);
    }
}
