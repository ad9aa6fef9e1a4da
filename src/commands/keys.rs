//! Finds the positions of the keys among the arguments of a call. The work is bounded by the number of arguments,
//! whatever their contents. Knows nothing of slots.

/// The arguments of a call; argument 0 is the command's name.
pub trait Args {
    /// Number of arguments, the name included.
    fn len(&self) -> usize;
    /// Argument `i`, which must be less than `len()`.
    fn get(&self, i: usize) -> &[u8];
    /// Whether there are no arguments, not even a name.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Args for [&[u8]] {
    fn len(&self) -> usize {
        <[&[u8]]>::len(self)
    }
    fn get(&self, i: usize) -> &[u8] {
        self[i]
    }
}

impl Args for [Vec<u8>] {
    fn len(&self) -> usize {
        <[Vec<u8>]>::len(self)
    }
    fn get(&self, i: usize) -> &[u8] {
        &self[i]
    }
}

/// The positions of a command's keys, where the name has position 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeySpec {
    /// No keys.
    None,
    /// One key at this position.
    One(u8),
    /// Every `step`-th argument from `first` to `last`. A negative `last` counts from the end; -1 is the last argument.
    Range { first: u8, last: i8, step: u8 },
    /// Argument `at` is the number of keys that follow it, at every `step`-th argument. Argument `dest` is a key, too,
    /// unless 0.
    Count { at: u8, step: u8, dest: u8 },
    /// XREAD and XREADGROUP: the first half of the arguments after STREAMS.
    Streams,
    /// SORT and SORT_RO: argument 1 and, if `store`, the argument of the last STORE.
    Sort { store: bool },
    /// GEORADIUS and GEORADIUSBYMEMBER: argument 1 and the arguments of STORE and STOREDIST, searched from this
    /// position on.
    GeoStore(u8),
    /// MIGRATE: argument 3 or, if that is empty, all arguments after KEYS.
    Migrate,
}

/// Why the keys of a call cannot be found. Nothing was executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeysError {
    /// Too few arguments, or options that the command does not have.
    Syntax,
    /// Not the pairs or triples that the command requires.
    Arity,
    /// The number of keys is not a number or is greater than the arguments allow.
    Numkeys,
    /// The call has no keys and so no slot, such as a script without declared keys.
    NoKeys,
    /// BY or GET of SORT may read keys of other slots.
    Pattern,
}

impl std::fmt::Display for KeysError {
    /// The text for the client, without the prefix `ERR `.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            KeysError::Syntax => "syntax error: the arguments do not fit the command, not executed",
            KeysError::Arity => "the arguments are not complete pairs or triples, not executed",
            KeysError::Numkeys => {
                "the number of keys is not a positive integer, or greater than the number of arguments after it, \
                    not executed"
            }
            KeysError::NoKeys => {
                "a call without keys cannot be routed to a server yet, not executed. Declare a key of the slot in \
                    which it must run"
            }
            KeysError::Pattern => {
                "a BY or GET pattern of SORT reads keys of other slots, not executed. Begin it with the hash tag \
                    of the key, as in {tag}weight_*"
            }
        })
    }
}

impl std::error::Error for KeysError {}

impl KeySpec {
    /// Appends the positions of the keys of the call `args` to `out`.
    pub(super) fn find<A: Args + ?Sized>(self, args: &A, out: &mut Vec<usize>) -> Result<(), KeysError> {
        match self {
            KeySpec::None => Ok(()),
            KeySpec::One(at) => one(args, at as usize, out),
            KeySpec::Range { first, last, step } => range(args, first as usize, last as isize, step as usize, out),
            KeySpec::Count { at, step, dest } => {
                if dest > 0 {
                    one(args, dest as usize, out)?;
                }
                count(args, at as usize, step as usize, out)
            }
            KeySpec::Streams => {
                let Streams { first, .. } = streams(args)?;
                let rest = args.len() - first;
                if rest == 0 || !rest.is_multiple_of(2) {
                    return Err(KeysError::Syntax);
                }
                out.extend(first..first + rest / 2);
                Ok(())
            }
            KeySpec::Sort { store } => {
                one(args, 1, out)?;
                if store {
                    let mut destination = None;
                    sort_options(args, |option, at| {
                        if option == SortOption::Store {
                            destination = Some(at);
                        }
                    });
                    out.extend(destination);
                }
                Ok(())
            }
            KeySpec::GeoStore(from) => {
                one(args, 1, out)?;
                let mut i = from as usize;
                while i + 1 < args.len() {
                    if is(args.get(i), b"store") || is(args.get(i), b"storedist") {
                        i += 1;
                        out.push(i);
                    }
                    i += 1;
                }
                Ok(())
            }
            KeySpec::Migrate => migrate(args, out),
        }
    }
}

fn one<A: Args + ?Sized>(args: &A, at: usize, out: &mut Vec<usize>) -> Result<(), KeysError> {
    if at >= args.len() {
        return Err(KeysError::Syntax);
    }
    out.push(at);
    Ok(())
}

fn range<A: Args + ?Sized>(
    args: &A,
    first: usize,
    last: isize,
    step: usize,
    out: &mut Vec<usize>,
) -> Result<(), KeysError> {
    let len = args.len();
    let end = if last >= 0 { last as usize + 1 } else { (len + 1).saturating_sub(last.unsigned_abs()) };
    if end > len || end <= first {
        return Err(KeysError::Syntax);
    }
    // For example `MSET a 1 b`: the last key has no value.
    if step > 1 && !(end - first).is_multiple_of(step) {
        return Err(KeysError::Arity);
    }
    out.extend((first..end).step_by(step.max(1)));
    Ok(())
}

fn count<A: Args + ?Sized>(args: &A, at: usize, step: usize, out: &mut Vec<usize>) -> Result<(), KeysError> {
    let step = step.max(1);
    let first = at + 1;
    if at >= args.len() {
        return Err(KeysError::Syntax);
    }
    let count = number(args.get(at)).ok_or(KeysError::Numkeys)?;
    // Each key has `step` arguments. The division, unlike a multiplication, cannot overflow, and it bounds the work by
    // the number of arguments.
    if count > (args.len() - first) / step {
        return Err(KeysError::Numkeys);
    }
    out.extend((0..count).map(|i| first + i * step));
    Ok(())
}

/// Parses a count as Redis does: digits, no sign, no leading zero.
pub(super) fn number(text: &[u8]) -> Option<usize> {
    // `ARGS_MAX` has fewer digits.
    if text.is_empty() || text.len() > 9 || (text[0] == b'0' && text.len() > 1) {
        return None;
    }
    text.iter().try_fold(0usize, |n, c| c.is_ascii_digit().then(|| n * 10 + (c - b'0') as usize))
}

pub(super) fn is(text: &[u8], keyword: &[u8]) -> bool {
    text.eq_ignore_ascii_case(keyword)
}

/// The options of XREAD and XREADGROUP, which precede their keys.
pub(super) struct Streams {
    /// Position of the first argument after STREAMS; may equal the number of arguments.
    pub(super) first: usize,
    /// Position of the argument of BLOCK, if there is that option.
    pub(super) block: Option<usize>,
}

/// Reads options as the server does, so that a group or consumer with the name "streams" or "block" is not mistaken for
/// an option.
pub(super) fn streams<A: Args + ?Sized>(args: &A) -> Result<Streams, KeysError> {
    let mut block = None;
    let mut i = 1;
    while i < args.len() {
        let word = args.get(i);
        if is(word, b"streams") {
            return Ok(Streams { first: i + 1, block });
        } else if is(word, b"block") {
            block = Some(i + 1);
            i += 2;
        } else if is(word, b"count") || is(word, b"claim") {
            i += 2;
        } else if is(word, b"group") {
            i += 3;
        } else if is(word, b"noack") {
            i += 1;
        } else {
            return Err(KeysError::Syntax);
        }
    }
    Err(KeysError::Syntax)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum SortOption {
    Store,
    By,
    Get,
}

/// Calls `found` with the kind of each option and the position of its argument.
fn sort_options<A: Args + ?Sized>(args: &A, mut found: impl FnMut(SortOption, usize)) {
    let mut i = 2;
    while i < args.len() {
        let word = args.get(i);
        let option = if is(word, b"store") {
            Some(SortOption::Store)
        } else if is(word, b"by") {
            Some(SortOption::By)
        } else if is(word, b"get") {
            Some(SortOption::Get)
        } else {
            None
        };
        if is(word, b"limit") {
            i += 3;
        } else if let Some(option) = option {
            if i + 1 < args.len() {
                found(option, i + 1);
            }
            i += 2;
        } else {
            i += 1;
        }
    }
}

/// Appends the positions of the patterns of SORT, which must have a fixed hash tag.
pub(super) fn sort_patterns<A: Args + ?Sized>(args: &A, out: &mut Vec<usize>) -> Result<(), KeysError> {
    let mut result = Ok(());
    sort_options(args, |option, at| {
        let pattern = args.get(at);
        let Some(star) = pattern.iter().position(|c| *c == b'*') else {
            // `BY nosort`, `GET #` and patterns without a star read no other key.
            return;
        };
        if option == SortOption::Store {
            return;
        }
        // The hash tag must be closed before the star; otherwise the text that replaces the star could change the tag.
        match pattern[..star].iter().position(|c| *c == b'{') {
            Some(open) if pattern[open + 1..star].iter().position(|c| *c == b'}').is_some_and(|len| len > 0) => {
                out.push(at)
            }
            _ => result = Err(KeysError::Pattern),
        }
    });
    result
}

fn migrate<A: Args + ?Sized>(args: &A, out: &mut Vec<usize>) -> Result<(), KeysError> {
    if args.len() < 6 {
        return Err(KeysError::Syntax);
    }
    if !args.get(3).is_empty() {
        return one(args, 3, out);
    }
    let mut i = 6;
    while i < args.len() {
        let word = args.get(i);
        if is(word, b"keys") {
            out.extend(i + 1..args.len());
            return if i + 1 < args.len() { Ok(()) } else { Err(KeysError::Syntax) };
        }
        i += if is(word, b"auth") {
            2
        } else if is(word, b"auth2") {
            3
        } else {
            1
        };
    }
    Err(KeysError::Syntax)
}
