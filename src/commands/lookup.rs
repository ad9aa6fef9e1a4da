//! Finds a command by its name, whatever its case, without allocating.
//! Refuses to know what a command means.

use super::keys::Args;
use super::spec::Spec;
use super::table::FAMILIES;

/// Slots of the index: four times the commands, so that most names are found at the first look.
const INDEX_SIZE: usize = 2048;

/// Longer names are in nobody's table. Keeps hashing of hostile names short.
pub const NAME_MAX: usize = 32;

/// Open-addressed, built by the compiler: 0 is empty, else one more than family * 256 + row. Not pointers: those take four times the
/// cache, and the compiler may duplicate what they point to.
static INDEX: [u16; INDEX_SIZE] = build_index();

/// The command called `name`, in any case; the container for `OBJECT` and the like. See [`resolve`] for subcommands.
pub fn lookup(name: &[u8]) -> Option<&'static Spec> {
    if name.len() > NAME_MAX {
        return None;
    }
    let mut at = hash(name);
    loop {
        // Ends: the index is never full.
        let place = usize::from(INDEX[at].checked_sub(1)?);
        let spec = &FAMILIES[place / 256][place % 256];
        if spec.name.as_bytes().eq_ignore_ascii_case(name) {
            return Some(spec);
        }
        at = (at + 1) % INDEX_SIZE;
    }
}

/// Every command, containers but not their subcommands, in the table's order.
pub fn all() -> impl Iterator<Item = &'static Spec> {
    FAMILIES.iter().flat_map(|family| family.iter())
}

/// Why no command was found, or not with so many arguments.
#[derive(Debug, Clone, Copy)]
pub enum ResolveError {
    /// No such command, or no arguments at all.
    Unknown,
    /// The container has no such subcommand.
    UnknownSubcommand(&'static Spec),
    /// The number of arguments does not fit this command.
    WrongArity(&'static Spec),
}

impl std::fmt::Display for ResolveError {
    /// Without the `ERR ` in front. Names the command of the table, never what the client sent.
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

/// The command or subcommand that `args` call, its number of arguments checked, as the server does before it looks at anything else.
pub fn resolve<A: Args + ?Sized>(args: &A) -> Result<&'static Spec, ResolveError> {
    if args.len() == 0 {
        return Err(ResolveError::Unknown);
    }
    let mut spec = lookup(args.get(0)).ok_or(ResolveError::Unknown)?;
    if !spec.subcommands.is_empty() && args.len() > 1 {
        spec = spec.subcommand(args.get(1)).ok_or(ResolveError::UnknownSubcommand(spec))?;
    }
    if spec.arity_allows(args.len()) { Ok(spec) } else { Err(ResolveError::WrongArity(spec)) }
}

impl Spec {
    /// Of a container: its subcommand called `name`, in any case.
    pub fn subcommand(&self, name: &[u8]) -> Option<&'static Spec> {
        // A subcommand's name is `container|name`.
        let prefix = self.name.len() + 1;
        self.subcommands.iter().find(|sub| sub.name.as_bytes()[prefix..].eq_ignore_ascii_case(name))
    }
}

/// Where a name is looked for first. Folds letters to lower case (and mixes up a few others, which comparing sorts out).
const fn hash(name: &[u8]) -> usize {
    // FNV-1a's constants; names are short, and what is hashed is our own table.
    let mut h: u32 = 0x811c_9dc5;
    let mut i = 0;
    while i < name.len() {
        h = (h ^ (name[i] | 0x20) as u32).wrapping_mul(0x0100_0193);
        i += 1;
    }
    ((h ^ (h >> 15)) as usize) % INDEX_SIZE
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
