//! Finds a command by its name in any case, without allocating.
//! Knows nothing of what commands mean.

use super::keys::Args;
use super::number::{CommandNumber, FIRST_OF_FAMILY};
use super::packed_name::PackedName;
use super::spec::Spec;
use super::table::FAMILIES;

/// Size of the index: four times the number of commands, so that most names are found at the first probe.
const INDEX_SIZE: usize = 2048;

/// Longest name of a command, in bytes; no server has a longer one. Limits the time to hash a hostile name.
pub const NAME_MAX: usize = 32;

/// A hash table with open addressing, built at compile time. 0 is empty; otherwise the value is family * 256 + row + 1.
/// Pointers would take four times the cache, and the compiler may duplicate what they point to.
static INDEX: [u16; INDEX_SIZE] = build_index();

/// The command with this name, in any case; for `OBJECT` and the like, the container. See [`resolve`] for subcommands.
pub fn lookup(name: &[u8]) -> Option<&'static Spec> {
    find(name).map(|(spec, _)| spec)
}

/// The same with its number.
#[inline]
fn find(name: &[u8]) -> Option<(&'static Spec, CommandNumber)> {
    match PackedName::of(name) {
        Some(packed) => probe(packed.hash(), |spec| spec.packed == Some(packed)),
        None => find_long(name),
    }
}

/// The same for a name that cannot be packed.
fn find_long(name: &[u8]) -> Option<(&'static Spec, CommandNumber)> {
    if name.len() > NAME_MAX {
        return None;
    }
    probe(hash_long(name), |spec| spec.name.as_bytes().eq_ignore_ascii_case(name))
}

/// The first command from place `at` of the index on for which `is_it` is true.
#[inline]
fn probe(mut at: usize, is_it: impl Fn(&Spec) -> bool) -> Option<(&'static Spec, CommandNumber)> {
    loop {
        // Terminates, because the index is never full.
        let place = usize::from(INDEX[at].checked_sub(1)?);
        let (family, row) = (place / 256, place % 256);
        let spec = &FAMILIES[family][row];
        if is_it(spec) {
            return Some((spec, CommandNumber::of_row(FIRST_OF_FAMILY[family], row)));
        }
        at = (at + 1) % INDEX_SIZE;
    }
}

/// All commands in the order of the table, including containers but not their subcommands.
pub fn all() -> impl Iterator<Item = &'static Spec> {
    FAMILIES.iter().flat_map(|family| family.iter())
}

/// Why a call resolves to no command.
#[derive(Debug, Clone, Copy)]
pub enum ResolveError {
    /// There is no such command, or the call is empty.
    Unknown,
    /// The container has no such subcommand.
    UnknownSubcommand(&'static Spec),
    /// The command does not accept this number of arguments.
    WrongArity(&'static Spec),
}

impl std::fmt::Display for ResolveError {
    /// The text without the prefix `ERR `. Contains the name in the table, never the bytes of the client.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ResolveError::Unknown => write!(f, "unknown command, not executed"),
            ResolveError::UnknownSubcommand(spec) => {
                write!(
                    f,
                    "unknown subcommand of '{}', not executed. Try {} HELP.",
                    spec.name,
                    spec.name.to_ascii_uppercase()
                )
            }
            ResolveError::WrongArity(spec) => write!(f, "wrong number of arguments for '{}' command", spec.name),
        }
    }
}

impl std::error::Error for ResolveError {}

/// The command or subcommand of the call `args`. Checks the number of arguments, which servers check before anything
/// else.
///
/// # Errors
/// Returns why there is no such command or subcommand, or that the number of arguments is wrong.
pub fn resolve<A: Args + ?Sized>(args: &A) -> Result<&'static Spec, ResolveError> {
    resolve_numbered(args).0
}

/// The same with the number of the command, which a call with a wrong number of arguments has, too.
#[inline]
pub fn resolve_numbered<A: Args + ?Sized>(args: &A) -> (Result<&'static Spec, ResolveError>, Option<CommandNumber>) {
    if args.len() == 0 {
        return (Err(ResolveError::Unknown), None);
    }
    let Some((mut spec, mut number)) = find(args.get(0)) else { return (Err(ResolveError::Unknown), None) };
    if !spec.subcommands.is_empty() && args.len() > 1 {
        let Some((at, sub)) = spec.find_subcommand(args.get(1)) else {
            return (Err(ResolveError::UnknownSubcommand(spec)), None);
        };
        (spec, number) = (sub, number.of_subcommand(at));
    }
    let resolved = if spec.arity_allows(args.len()) { Ok(spec) } else { Err(ResolveError::WrongArity(spec)) };
    (resolved, Some(number))
}

impl Spec {
    /// The subcommand with this name, in any case, of a container.
    pub fn subcommand(&self, name: &[u8]) -> Option<&'static Spec> {
        self.find_subcommand(name).map(|(_, sub)| sub)
    }

    fn find_subcommand(&self, name: &[u8]) -> Option<(usize, &'static Spec)> {
        // The full name of a subcommand is `container|name`.
        let prefix = self.name.len() + 1;
        let mut all = self.subcommands.iter().enumerate();
        all.find(|(_, sub)| sub.name.as_bytes()[prefix..].eq_ignore_ascii_case(name))
    }
}

/// The position of a name in the index.
const fn hash(name: &[u8]) -> usize {
    match PackedName::of(name) {
        Some(packed) => packed.hash(),
        None => hash_long(name),
    }
}

/// The same for a name that cannot be packed. Folds letters to lower case, and also a few other bytes; the comparison of the
/// names distinguishes those.
const fn hash_long(name: &[u8]) -> usize {
    // FNV-1a: fast for short names. Collisions of the fixed table are known, so resistance to attacks is not needed.
    let mut h: u32 = 0x811c_9dc5;
    let mut i = 0;
    while i < name.len() {
        h = (h ^ (name[i] | 0x20) as u32).wrapping_mul(0x0100_0193);
        i += 1;
    }
    ((h ^ (h >> 15)) as usize) % INDEX_SIZE
}

impl PackedName {
    /// Its position in the index. (Fibonacci hashing: the highest bits of the product depend on all bytes.)
    #[inline]
    const fn hash(self) -> usize {
        (self.0.get().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize % INDEX_SIZE
    }
}

const fn build_index() -> [u16; INDEX_SIZE] {
    let mut index = [0; INDEX_SIZE];
    let mut family = 0;
    while family < FAMILIES.len() {
        let rows = FAMILIES[family];
        assert!(rows.len() < 256);
        let mut row = 0;
        while row < rows.len() {
            let name = rows[row].name.as_bytes();
            assert!(name.len() <= NAME_MAX);
            let mut at = hash(name);
            while index[at] != 0 {
                at = (at + 1) % INDEX_SIZE;
            }
            index[at] = (family * 256 + row + 1) as u16;
            row += 1;
        }
        family += 1;
    }
    index
}
