//! The fieldsets of a client (HIMPORT): lists of field names, which HIMPORT SET pairs with its values.
//! Knows nothing of servers: a fieldset stays at none of them.

use std::{
    collections::{HashMap, HashSet},
    rc::Rc,
};

use crate::{commands::Args, resp::write};

/// The error for a field that a fieldset has twice. (Redis 8.10.)
const DUPLICATE: &str = "ERR duplicate field name in fieldset";
/// The error for a name that the client has not prepared. (Redis 8.10.)
const UNKNOWN: &str = "ERR no such fieldset";
/// The error for a call with more or fewer values than the fieldset has fields. (Redis 8.10.)
const OTHER_COUNT: &str = "ERR value count does not match fieldset field count";

/// Position of the fieldset's name in HIMPORT PREPARE and DISCARD.
const NAME: usize = 2;
/// Position of the fieldset's name in HIMPORT SET.
const NAME_OF_SET: usize = 3;

/// Bytes that the map and the allocator need for a fieldset, at most.
const OVERHEAD: usize = 192;

/// The requests that surround a HIMPORT SET at the server.
#[derive(Debug)]
pub(super) struct Fieldset {
    /// HIMPORT PREPARE.
    pub(super) prepare: Vec<u8>,
    /// HIMPORT DISCARD.
    pub(super) discard: Vec<u8>,
    fields: usize,
}

impl Fieldset {
    /// Makes the fieldset that HIMPORT PREPARE describes.
    ///
    /// # Errors
    /// Returns the error for the client if a field occurs twice.
    fn of(call: &(impl Args + ?Sized)) -> Result<Self, &'static str> {
        let words: Vec<&[u8]> = (0..call.len()).map(|at| call.get(at)).collect();
        let fields = &words[NAME + 1..];
        if fields.iter().collect::<HashSet<_>>().len() < fields.len() {
            return Err(DUPLICATE);
        }
        let (mut prepare, mut discard) = (Vec::new(), Vec::new());
        write::request(&mut prepare, &words);
        write::request(&mut discard, &[b"HIMPORT", b"DISCARD", words[NAME]]);
        // A fieldset lives as long as its connection: it keeps no unused memory.
        prepare.shrink_to_fit();
        discard.shrink_to_fit();
        Ok(Self { prepare, discard, fields: fields.len() })
    }

    /// Bytes that it adds to a HIMPORT SET.
    pub(super) fn len(&self) -> usize {
        self.prepare.len() + self.discard.len()
    }
}

/// All fieldsets of a client. Most clients have none, and need no memory for them.
#[derive(Debug, Default)]
pub(super) struct Fieldsets(Option<Box<ByName>>);

#[derive(Debug, Default)]
struct ByName {
    fieldsets: HashMap<Vec<u8>, Rc<Fieldset>>,
    memory: usize,
}

impl Fieldsets {
    /// Bytes of memory.
    pub(super) fn memory(&self) -> usize {
        self.0.as_ref().map_or(0, |sets| sets.memory)
    }

    /// Adds the fieldset that HIMPORT PREPARE describes. It replaces one with the same name. `len`: bytes of the request.
    ///
    /// # Errors
    /// Returns the error for the client: a field occurs twice, or all fieldsets together would have more than `max` bytes.
    pub(super) fn prepare(&mut self, call: &(impl Args + ?Sized), len: usize, max: usize) -> Result<(), String> {
        let too_much = || {
            format!(
                "ERR the fieldsets of a connection have at most {max} bytes (proxy.fieldset_bytes_max), not executed. \
                 Discard some with HIMPORT DISCARD"
            )
        };
        // Before anything is copied.
        if len > max {
            return Err(too_much());
        }
        let fieldset = Fieldset::of(call)?;
        let name = call.get(NAME);
        let sets = self.0.get_or_insert_default();
        let former = sets.fieldsets.get(name).map_or(0, |former| memory_of(name, former));
        let memory = sets.memory - former + memory_of(name, &fieldset);
        if memory > max {
            return Err(too_much());
        }
        sets.memory = memory;
        sets.fieldsets.insert(name.to_vec(), Rc::new(fieldset));
        Ok(())
    }

    /// Removes the fieldset that HIMPORT DISCARD names. Returns whether there was one.
    pub(super) fn discard(&mut self, call: &(impl Args + ?Sized)) -> bool {
        let Some(sets) = &mut self.0 else { return false };
        let name = call.get(NAME);
        let Some(former) = sets.fieldsets.remove(name) else { return false };
        sets.memory -= memory_of(name, &former);
        let left = sets.fieldsets.len();
        if left == 0 {
            self.0 = None;
        } else if sets.fieldsets.capacity() > 4 * left {
            sets.fieldsets.shrink_to(2 * left);
        }
        true
    }

    /// Removes all. Returns how many there were.
    pub(super) fn discard_all(&mut self) -> usize {
        self.0.take().map_or(0, |sets| sets.fieldsets.len())
    }

    /// The fieldset that HIMPORT SET names.
    ///
    /// # Errors
    /// Returns the error for the client: it has not prepared the fieldset, or the number of values is another one.
    pub(super) fn of_set(&self, call: &(impl Args + ?Sized)) -> Result<Rc<Fieldset>, &'static str> {
        let fieldset = self.0.as_ref().and_then(|sets| sets.fieldsets.get(call.get(NAME_OF_SET))).ok_or(UNKNOWN)?;
        let values = call.len() - (NAME_OF_SET + 1);
        if values == fieldset.fields { Ok(fieldset.clone()) } else { Err(OTHER_COUNT) }
    }
}

/// Bytes of memory of a fieldset and its name.
fn memory_of(name: &[u8], fieldset: &Fieldset) -> usize {
    OVERHEAD + name.len() + fieldset.len()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// What `of` returns for the call with these words.
    fn with<T>(words: &str, of: impl FnOnce(&[&[u8]]) -> T) -> T {
        of(&words.split(' ').map(str::as_bytes).collect::<Vec<_>>())
    }

    fn prepare(sets: &mut Fieldsets, words: &str) -> Result<(), String> {
        with(words, |call| sets.prepare(call, words.len(), 10_000))
    }

    fn set(sets: &Fieldsets, words: &str) -> Result<String, &'static str> {
        with(words, |call| sets.of_set(call)).map(|set| String::from_utf8(set.prepare.clone()).unwrap())
    }

    #[test]
    fn a_set_needs_its_fieldset_and_as_many_values_as_fields() {
        let mut sets = Fieldsets::default();
        assert_eq!(set(&sets, "HIMPORT SET k f 1 2"), Err(UNKNOWN));
        prepare(&mut sets, "himport prepare f a b").unwrap();
        assert!(set(&sets, "HIMPORT SET k f 1 2").unwrap().ends_with("$1\r\na\r\n$1\r\nb\r\n"));
        assert_eq!(set(&sets, "HIMPORT SET k f 1"), Err(OTHER_COUNT));
        assert_eq!(set(&sets, "HIMPORT SET k f 1 2 3"), Err(OTHER_COUNT));
        assert_eq!(set(&sets, "HIMPORT SET k F 1 2"), Err(UNKNOWN), "names of fieldsets have a case");
    }

    #[test]
    fn a_fieldset_with_a_field_twice_leaves_the_former_one() {
        let mut sets = Fieldsets::default();
        prepare(&mut sets, "HIMPORT PREPARE f a").unwrap();
        assert_eq!(prepare(&mut sets, "HIMPORT PREPARE f a b a"), Err(DUPLICATE.into()));
        assert!(set(&sets, "HIMPORT SET k f 1").is_ok());
        prepare(&mut sets, "HIMPORT PREPARE f x y").unwrap();
        assert!(set(&sets, "HIMPORT SET k f 1 2").unwrap().ends_with("$1\r\nx\r\n$1\r\ny\r\n"));
    }

    #[test]
    fn what_is_discarded_needs_no_memory() {
        let mut sets = Fieldsets::default();
        for words in ["HIMPORT PREPARE f a", "HIMPORT PREPARE g a b", "HIMPORT PREPARE f a b c", "HIMPORT PREPARE h a"]
        {
            prepare(&mut sets, words).unwrap();
        }
        assert!(with("HIMPORT DISCARD f", |call| sets.discard(call)));
        assert!(!with("HIMPORT DISCARD f", |call| sets.discard(call)));
        assert_eq!(set(&sets, "HIMPORT SET k f 1 2 3"), Err(UNKNOWN));
        assert!(sets.memory() > 0);
        assert!(with("HIMPORT DISCARD g", |call| sets.discard(call)));
        assert!(with("HIMPORT DISCARD h", |call| sets.discard(call)));
        assert_eq!((sets.memory(), sets.discard_all()), (0, 0));
        prepare(&mut sets, "HIMPORT PREPARE f a").unwrap();
        prepare(&mut sets, "HIMPORT PREPARE g a").unwrap();
        assert_eq!((sets.discard_all(), sets.memory()), (2, 0));
    }

    #[test]
    fn many_fieldsets_that_are_discarded_leave_no_map() {
        let mut sets = Fieldsets::default();
        for n in 0..1000 {
            with(&format!("HIMPORT PREPARE f{n} a"), |call| sets.prepare(call, 1, 1_000_000)).unwrap();
        }
        for n in 1..1000 {
            assert!(with(&format!("HIMPORT DISCARD f{n}"), |call| sets.discard(call)));
        }
        assert!(sets.0.as_ref().unwrap().fieldsets.capacity() < 10);
        assert!(set(&sets, "HIMPORT SET k f0 1").is_ok());
    }

    #[test]
    fn the_fieldsets_of_a_client_are_bounded() {
        let mut sets = Fieldsets::default();
        let field = "x".repeat(4000);
        prepare(&mut sets, &format!("HIMPORT PREPARE f {field}")).unwrap();
        prepare(&mut sets, &format!("HIMPORT PREPARE f {field}")).unwrap();
        prepare(&mut sets, &format!("HIMPORT PREPARE g {field}")).unwrap();
        let before = sets.memory();
        let error = prepare(&mut sets, &format!("HIMPORT PREPARE h {field}")).unwrap_err();
        assert!(error.contains("proxy.fieldset_bytes_max"), "{error}");
        assert_eq!(sets.memory(), before);
    }
}
