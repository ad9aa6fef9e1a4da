//! The script catalogue of a product: what its clients have loaded for later calls, scripts by SCRIPT LOAD and libraries
//! by FUNCTION LOAD. Servers lose scripts when they restart and do not replicate them, and a group that joins has neither.
//! Knows nothing of servers.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use bytes::Bytes;
use sha1::{Digest, Sha1};

use super::{
    ids::Epoch,
    limits::{
        DELETED_LIBRARIES_MAX, FULL_CATALOGUES, LIBRARIES_MAX, LIBRARY_BYTES_MAX, LIBRARY_NAME_LEN_MAX,
        LOADED_BYTES_MAX, LOADS_MINUTE_MS, SCRIPT_BYTES_MAX, SCRIPT_LEN_MAX, SCRIPT_LOADS_DEFAULT, SCRIPTS_MAX,
    },
};

/// The SHA1 digest of a script, by which EVALSHA names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScriptDigest([u8; 20]);

impl ScriptDigest {
    /// The digest of a body.
    #[must_use]
    pub fn of(body: &[u8]) -> Self {
        Self(Sha1::digest(body).into())
    }

    /// Reads 40 hexadecimal digits, as Redis does.
    #[inline]
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let text: &[u8; 40] = text.try_into().ok()?;
        let mut digest = [0; 20];
        for (byte, pair) in digest.iter_mut().zip(text.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Some(Self(digest))
    }
}

const fn digit(c: u8) -> Option<u8> {
    match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        b'A'..=b'F' => Some(c - b'A' + 10),
        _ => None,
    }
}

impl fmt::Display for ScriptDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A text that a client has loaded.
#[derive(Clone, PartialEq, Eq)]
pub struct Loaded {
    /// The body of a script, or the code of a library.
    pub text: Bytes,
    /// Log index of the entry that loaded it.
    pub at: Epoch,
}

impl fmt::Debug for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loaded").field("len", &self.text.len()).field("at", &self.at).finish()
    }
}

/// What was loaded within a minute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecentLoads {
    /// When the minute began, milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// Scripts and libraries.
    pub count: u32,
    /// Their bytes.
    pub bytes: u64,
}

impl RecentLoads {
    /// The loads of the minute that is running at `now_ms`. (A clock that went back begins a new one.)
    #[must_use]
    pub const fn at(self, now_ms: u64) -> Self {
        if now_ms >= self.since_ms && now_ms - self.since_ms < LOADS_MINUTE_MS {
            self
        } else {
            Self { since_ms: now_ms, count: 0, bytes: 0 }
        }
    }
}

/// What a catalogue may hold and take in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CatalogueLimits {
    /// Scripts and libraries that it takes in within a minute.
    pub loads: u32,
    /// Bytes of its scripts.
    pub script_bytes: usize,
    /// Bytes of its libraries.
    pub library_bytes: usize,
}

impl CatalogueLimits {
    /// `loads_max`: the setting of the product, 0 for the default. `products`: all of the cluster, which share its
    /// snapshot.
    #[must_use]
    pub const fn new(loads_max: u32, products: usize) -> Self {
        let products = if products > FULL_CATALOGUES { products } else { FULL_CATALOGUES };
        Self {
            loads: if loads_max == 0 { SCRIPT_LOADS_DEFAULT } else { loads_max },
            script_bytes: SCRIPT_BYTES_MAX * FULL_CATALOGUES / products,
            library_bytes: LIBRARY_BYTES_MAX * FULL_CATALOGUES / products,
        }
    }
}

/// Why a script or a library cannot be loaded. The texts are for clients.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScriptReject {
    /// It is too long.
    #[error("a script or library has at most {max} bytes, this one has {len}; send it in parts, or a script with EVAL")]
    TooLong {
        /// Its length.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// Too many were loaded within a minute.
    #[error(
        "the clients of this product have loaded {count} new scripts and libraries ({bytes} bytes) within a minute, and may load \
         {max} (product set NAME script-loads-max=N) and {bytes_max} bytes; load each script once, and give it what changes as \
         arguments"
    )]
    TooMany {
        /// Loaded within the minute.
        count: u32,
        /// Their bytes.
        bytes: u64,
        /// The limit.
        max: u32,
        /// The limit of their bytes.
        bytes_max: u64,
    },
    /// There are too many libraries.
    #[error(
        "the libraries of a product may be {max} with {bytes_max} bytes together, and there are {count} with {bytes}; delete one \
         that is not used any more (FUNCTION DELETE)"
    )]
    NoRoom {
        /// Libraries that there are.
        count: usize,
        /// Their bytes.
        bytes: usize,
        /// The limit.
        max: usize,
        /// The limit of their bytes.
        bytes_max: usize,
    },
    /// The name of a library.
    #[error("the name of a library has 1 to 128 letters, digits and underscores")]
    BadName,
}

/// The scripts and libraries of a product.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScriptCatalogue {
    scripts: BTreeMap<ScriptDigest, Loaded>,
    script_bytes: usize,
    /// Log index of the last SCRIPT FLUSH.
    pub flushed: Epoch,
    libraries: BTreeMap<String, Loaded>,
    library_bytes: usize,
    /// Libraries that were deleted, with the log index of the deletion: servers that had no part in it may still have
    /// them.
    deleted: BTreeMap<String, Epoch>,
    /// Log index of the last change of libraries. 0: there was none, so they are not the cluster's business.
    pub libraries_at: Epoch,
    /// For the limit of loads.
    pub recent: RecentLoads,
}

impl ScriptCatalogue {
    /// Puts together what was written apart; the order and the sums follow from the parts.
    #[must_use]
    pub fn of(
        scripts: BTreeMap<ScriptDigest, Loaded>,
        libraries: BTreeMap<String, Loaded>,
        deleted: BTreeMap<String, Epoch>,
    ) -> Self {
        let sum = |texts: &mut dyn Iterator<Item = &Loaded>| texts.map(|loaded| loaded.text.len()).sum();
        Self {
            script_bytes: sum(&mut scripts.values()),
            library_bytes: sum(&mut libraries.values()),
            scripts,
            libraries,
            deleted,
            ..Self::default()
        }
    }

    /// All scripts.
    #[must_use]
    pub const fn scripts(&self) -> &BTreeMap<ScriptDigest, Loaded> {
        &self.scripts
    }

    /// The body of a script.
    #[must_use]
    pub fn body(&self, digest: &ScriptDigest) -> Option<&Bytes> {
        self.scripts.get(digest).map(|script| &script.text)
    }

    /// Bytes of all scripts.
    #[must_use]
    pub const fn script_bytes(&self) -> usize {
        self.script_bytes
    }

    /// All libraries by name.
    #[must_use]
    pub const fn libraries(&self) -> &BTreeMap<String, Loaded> {
        &self.libraries
    }

    /// Bytes of all libraries.
    #[must_use]
    pub const fn library_bytes(&self) -> usize {
        self.library_bytes
    }

    /// Whether a library was deleted and not loaded again since.
    #[must_use]
    pub fn is_deleted(&self, name: &str) -> bool {
        self.deleted.contains_key(name)
    }

    /// Libraries that were deleted, with the log index of the deletion.
    #[must_use]
    pub const fn deleted(&self) -> &BTreeMap<String, Epoch> {
        &self.deleted
    }

    /// Log index of the last change.
    #[must_use]
    pub fn changed_at(&self) -> Epoch {
        // A script that has displaced others is the newest one.
        let scripts = self.scripts.values().map(|script| script.at);
        scripts.chain([self.flushed, self.libraries_at]).max().unwrap_or_default()
    }

    /// Whether a text of `len` bytes may be loaded at `now_ms`.
    ///
    /// # Errors
    /// Returns why not.
    pub fn admits(&self, len: usize, now_ms: u64, limits: &CatalogueLimits) -> Result<(), ScriptReject> {
        if len > SCRIPT_LEN_MAX {
            return Err(ScriptReject::TooLong { len, max: SCRIPT_LEN_MAX });
        }
        let RecentLoads { count, bytes, .. } = self.recent.at(now_ms);
        if count >= limits.loads || bytes + len as u64 > LOADED_BYTES_MAX {
            return Err(ScriptReject::TooMany { count, bytes, max: limits.loads, bytes_max: LOADED_BYTES_MAX });
        }
        Ok(())
    }

    /// As [`admits`](Self::admits), for a library, which is never displaced by another one.
    ///
    /// # Errors
    /// Returns why not.
    pub fn admits_library(
        &self,
        name: &str,
        len: usize,
        now_ms: u64,
        limits: &CatalogueLimits,
    ) -> Result<(), ScriptReject> {
        Self::check_name(name)?;
        self.admits(len, now_ms, limits)?;
        let replaced = self.libraries.get(name).map(|library| library.text.len());
        let (count, bytes) = (self.libraries.len(), self.library_bytes);
        let fits = bytes - replaced.unwrap_or(0) + len <= limits.library_bytes;
        if !fits || (replaced.is_none() && count >= LIBRARIES_MAX) {
            return Err(ScriptReject::NoRoom { count, bytes, max: LIBRARIES_MAX, bytes_max: limits.library_bytes });
        }
        Ok(())
    }

    /// Whether a library may have this name: what Redis allows.
    ///
    /// # Errors
    /// [`ScriptReject::BadName`] if not.
    pub fn check_name(name: &str) -> Result<(), ScriptReject> {
        let allowed = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
        let fits = (1..=LIBRARY_NAME_LEN_MAX).contains(&name.len()) && name.bytes().all(allowed);
        if fits { Ok(()) } else { Err(ScriptReject::BadName) }
    }

    /// Adds a script that it does not have and that it admits. The oldest ones make room.
    pub fn load_script(&mut self, body: Bytes, at: Epoch, now_ms: u64, limits: &CatalogueLimits) {
        self.count_load(body.len(), now_ms);
        self.script_bytes += body.len();
        self.scripts.insert(ScriptDigest::of(&body), Loaded { text: body, at });
        while self.scripts.len() > SCRIPTS_MAX || self.script_bytes > limits.script_bytes {
            // The newest one stays.
            let oldest = self.scripts.iter().filter(|(_, script)| script.at != at).min_by_key(|(_, script)| script.at);
            let Some(oldest) = oldest.map(|(digest, _)| *digest) else { return };
            self.script_bytes -= self.scripts.remove(&oldest).map_or(0, |script| script.text.len());
        }
    }

    /// Forgets all scripts.
    pub fn flush_scripts(&mut self, at: Epoch) {
        self.scripts.clear();
        self.script_bytes = 0;
        self.flushed = at;
    }

    /// Adds a library that it admits, or replaces the one of this name.
    pub fn load_library(&mut self, name: String, code: Bytes, at: Epoch, now_ms: u64) {
        self.count_load(code.len(), now_ms);
        self.deleted.remove(&name);
        self.library_bytes += code.len();
        let former = self.libraries.insert(name, Loaded { text: code, at });
        self.library_bytes -= former.map_or(0, |former| former.text.len());
        self.libraries_at = at;
    }

    /// Removes libraries, and remembers that they were deleted; also those that it does not have.
    pub fn delete_libraries(&mut self, names: &BTreeSet<String>, at: Epoch) {
        for name in names {
            self.library_bytes -= self.libraries.remove(name).map_or(0, |library| library.text.len());
            self.deleted.insert(name.clone(), at);
        }
        while self.deleted.len() > DELETED_LIBRARIES_MAX {
            let oldest = self.deleted.iter().min_by_key(|(_, at)| **at).map(|(name, _)| name.clone());
            let Some(oldest) = oldest else { break };
            self.deleted.remove(&oldest);
        }
        self.libraries_at = at;
    }

    fn count_load(&mut self, len: usize, now_ms: u64) {
        let RecentLoads { since_ms, count, bytes } = self.recent.at(now_ms);
        self.recent = RecentLoads { since_ms, count: count + 1, bytes: bytes + len as u64 };
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const LIMITS: CatalogueLimits = CatalogueLimits::new(0, 1);

    #[test]
    fn digests_are_those_of_redis() {
        let digest = ScriptDigest::of(b"return 1");
        assert_eq!(digest.to_string(), "e0e1f9fabfc9d4800c877a703b823ac0578ff8db");
        assert_eq!(ScriptDigest::parse(b"E0E1F9FABFC9D4800C877A703B823AC0578FF8DB"), Some(digest));
        for wrong in ["", "e0e1", "g0e1f9fabfc9d4800c877a703b823ac0578ff8db", &"0".repeat(41)] {
            assert_eq!(ScriptDigest::parse(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn the_oldest_scripts_make_room() {
        let mut catalogue = ScriptCatalogue::default();
        let body = |n: usize| Bytes::from(format!("return {n}"));
        for n in 0..SCRIPTS_MAX + 2 {
            catalogue.load_script(body(n), Epoch(n as u64 + 1), 0, &LIMITS);
        }
        let has = |catalogue: &ScriptCatalogue, n| catalogue.body(&ScriptDigest::of(&body(n))).is_some();
        assert_eq!(catalogue.scripts().len(), SCRIPTS_MAX);
        assert!(!has(&catalogue, 0) && !has(&catalogue, 1) && has(&catalogue, 2) && has(&catalogue, SCRIPTS_MAX + 1));
        // A large one displaces many, and never itself.
        let small = CatalogueLimits { script_bytes: 100, ..LIMITS };
        catalogue.load_script(Bytes::from(vec![b'x'; 200]), Epoch(10_000), 0, &small);
        assert_eq!((catalogue.scripts().len(), catalogue.script_bytes()), (1, 200));
        catalogue.flush_scripts(Epoch(10_001));
        assert_eq!((catalogue.scripts().len(), catalogue.script_bytes(), catalogue.flushed), (0, 0, Epoch(10_001)));
    }

    #[test]
    fn a_minute_has_room_for_so_many_loads() {
        let mut catalogue = ScriptCatalogue::default();
        let limits = CatalogueLimits { loads: 3, ..LIMITS };
        for n in 0..3 {
            catalogue.admits(8, 1_000_000 + n, &limits).unwrap();
            catalogue.load_script(Bytes::from(format!("return {n}")), Epoch(n + 1), 1_000_000 + n, &limits);
        }
        let refused = catalogue.admits(8, 1_000_000 + LOADS_MINUTE_MS - 1, &limits).unwrap_err();
        assert!(refused.to_string().contains("have loaded 3 new scripts"), "{refused}");
        catalogue.admits(8, 1_000_000 + LOADS_MINUTE_MS, &limits).unwrap();
        // A new leader's clock may be behind.
        catalogue.admits(8, 999_999, &limits).unwrap();
        assert!(matches!(catalogue.admits(SCRIPT_LEN_MAX + 1, 0, &limits), Err(ScriptReject::TooLong { .. })));
        catalogue.recent = RecentLoads { since_ms: 5, count: 1, bytes: LOADED_BYTES_MAX - 7 };
        assert!(matches!(catalogue.admits(8, 5, &limits), Err(ScriptReject::TooMany { .. })));
    }

    #[test]
    fn libraries_are_never_displaced() {
        let mut catalogue = ScriptCatalogue::default();
        let limits = CatalogueLimits { library_bytes: 10, ..LIMITS };
        catalogue.admits_library("one", 6, 0, &limits).unwrap();
        catalogue.load_library("one".into(), Bytes::from_static(b"123456"), Epoch(1), 0);
        let refused = catalogue.admits_library("two", 5, 0, &limits).unwrap_err();
        assert!(refused.to_string().contains("delete one"), "{refused}");
        // A replacement counts for the difference.
        catalogue.admits_library("one", 10, 0, &limits).unwrap();
        for bad in ["", "a b", "a-b", &"x".repeat(LIBRARY_NAME_LEN_MAX + 1)] {
            assert_eq!(catalogue.admits_library(bad, 1, 0, &limits), Err(ScriptReject::BadName), "{bad}");
        }
        catalogue.delete_libraries(&["one".to_owned(), "elsewhere".to_owned()].into(), Epoch(2));
        assert_eq!((catalogue.libraries().len(), catalogue.library_bytes(), catalogue.libraries_at), (0, 0, Epoch(2)));
        assert_eq!(catalogue.deleted().len(), 2);
        catalogue.load_library("one".into(), Bytes::from_static(b"1"), Epoch(3), 0);
        assert_eq!(catalogue.deleted().keys().collect::<Vec<_>>(), ["elsewhere"]);
        let many = (0..DELETED_LIBRARIES_MAX).map(|n| format!("l{n}")).collect();
        catalogue.delete_libraries(&many, Epoch(4));
        assert!(catalogue.deleted().len() == DELETED_LIBRARIES_MAX && !catalogue.deleted().contains_key("elsewhere"));
    }

    #[test]
    fn products_share_the_snapshot() {
        assert_eq!(CatalogueLimits::new(0, 1), CatalogueLimits::new(0, FULL_CATALOGUES));
        assert_eq!(CatalogueLimits::new(7, 2 * FULL_CATALOGUES).script_bytes, SCRIPT_BYTES_MAX / 2);
        assert_eq!(CatalogueLimits::new(7, 1).loads, 7);
    }
}
