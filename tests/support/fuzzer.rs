//! A seeded fuzzer inside the test process, for stable Rust: mutates a corpus by structure and keeps inputs with new
//! behaviour. Knows nothing of the code under test: the check reports errors and the shape of the behaviour.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use fastrand::Rng;

/// Inputs per target unless `PONTOON_FUZZ_ITERATIONS` is set: a few seconds each in a debug build.
const ITERATIONS: usize = 30_000;

/// The seed unless `PONTOON_FUZZ_SEED` is set. Fixed, so that a failure is reproducible.
const SEED: u64 = 20_240_501;

/// Longest input in bytes. Checks feed inputs byte by byte, which takes quadratic time.
const INPUT_MAX: usize = 400;

/// Inputs kept in memory in addition to the corpus; if there are more, a new one replaces a random one.
const KEPT_MAX: usize = 2000;

/// Fragments that random bytes rarely form.
const TOKENS: &[&[u8]] = &[
    b"\r\n",
    b"\r",
    b"\n",
    b"\0",
    b"*1\r\n",
    b"*0\r\n",
    b"*-1\r\n",
    b"*2\r\n",
    b"$-1\r\n",
    b"$0\r\n\r\n",
    b"$1\r\nx\r\n",
    b"%1\r\n",
    b"~1\r\n",
    b"|1\r\n",
    b">1\r\n",
    b"_\r\n",
    b"#t\r\n",
    b"#x\r\n",
    b",1.5\r\n",
    b"(123\r\n",
    b"!3\r\nERR\r\n",
    b"=5\r\ntxt:a\r\n",
    b"$?\r\n",
    b";0\r\n",
    b".\r\n",
    b":-1\r\n",
    b"+OK\r\n",
    b"-ERR\r\n",
    b"*1048576\r\n",
    b"*1048577\r\n",
    b"$536870912\r\n",
    b"$536870913\r\n",
    b"*4294967296\r\n",
    b"9223372036854775807",
    b"9223372036854775808",
    b"-0",
    b"00",
    b"+1",
    b"\"",
    b"'",
    b"\\x41",
    b"PING",
    b" ",
    b" STREAMS ",
    b" STORE ",
    b" KEYS ",
    b" BY ",
    b" GET ",
    b" 0 ",
    b" 1 ",
    b" 2 ",
    b" -1 ",
    b"{a}*",
    b"HOST:",
    b"POST",
];

/// The result of a run.
#[derive(Debug)]
pub struct Report {
    /// Number of different behaviours.
    pub shapes: usize,
}

/// A number from the environment, or `default`.
fn setting<T: std::str::FromStr>(name: &str, default: T) -> T {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text:?} is not a number")),
        Err(_) => default,
    }
}

/// Runs `check` on the corpus of `target` and its mutations. `check` returns the shape of the behaviour, or the error.
///
/// # Errors
/// Returns the error, the input, and the seed that finds it again.
pub fn run(target: &str, check: impl Fn(&[u8], &mut Rng) -> Result<String, String>) -> Result<Report, String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut corpus = read_corpus(&folder);
    assert!(!corpus.is_empty(), "no corpus in {}", folder.display());
    let seed = setting("PONTOON_FUZZ_SEED", SEED);
    let iterations = setting("PONTOON_FUZZ_ITERATIONS", ITERATIONS).max(ITERATIONS);
    println!("fuzzing {target}: {} files, PONTOON_FUZZ_SEED={seed} PONTOON_FUZZ_ITERATIONS={iterations}", corpus.len());
    let mut rng = Rng::with_seed(seed);
    let mut shapes = BTreeSet::new();
    let files = corpus.len();
    for i in 0..files + iterations {
        let input = if i < files { corpus[i].clone() } else { mutate(&corpus, &mut rng) };
        let mut check_rng = rng.fork();
        let checked = catch_unwind(AssertUnwindSafe(|| check(&input, &mut check_rng)));
        let why = match checked {
            Ok(Ok(shape)) => {
                // Inputs with new behaviour are mutated further.
                if shapes.insert(shape) && i >= files {
                    if corpus.len() - files < KEPT_MAX {
                        corpus.push(input);
                    } else {
                        let at = rng.usize(files..corpus.len());
                        corpus[at] = input;
                    }
                }
                continue;
            }
            Ok(Err(why)) => why,
            Err(_) => "panicked".to_string(),
        };
        return Err(format!(
            "{target}: {why}\ninput {i} of PONTOON_FUZZ_SEED={seed}: b\"{}\"\nPut it into {} when it is mended.",
            input.escape_ascii(),
            folder.display()
        ));
    }
    Ok(Report { shapes: shapes.len() })
}

/// Sorted by name, so that a seed gives the same run everywhere.
fn read_corpus(folder: &Path) -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

fn mutate(corpus: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
    let mut input = corpus[rng.usize(..corpus.len())].clone();
    for _ in 0..rng.usize(1..5) {
        let at = rng.usize(..=input.len());
        let end = (at + rng.usize(..16)).min(input.len());
        match rng.usize(..11) {
            0 if at < input.len() => input[at] ^= 1 << rng.u32(..8),
            1 if at < input.len() => input[at] = rng.u8(..),
            2 => drop(input.drain(at..end)),
            3 => {
                let piece = input[at..end].to_vec();
                input.splice(at..at, piece);
            }
            4 => input.truncate(at),
            5 | 6 => {
                let token = TOKENS[rng.usize(..TOKENS.len())];
                input.splice(at..at, token.iter().copied());
            }
            7 => {
                let other = &corpus[rng.usize(..corpus.len())];
                input.splice(at.., other[rng.usize(..=other.len())..].iter().copied());
            }
            8 => change_number(&mut input, rng),
            _ => shuffle_lines(&mut input, rng),
        }
    }
    input.truncate(INPUT_MAX);
    input
}

/// Changes a length or count, on which scanners rely: by one, or to a random number.
fn change_number(input: &mut Vec<u8>, rng: &mut Rng) {
    let starts: Vec<usize> = (0..input.len())
        .filter(|i| input[*i].is_ascii_digit() && (*i == 0 || !input[i - 1].is_ascii_digit()))
        .collect();
    if starts.is_empty() {
        return;
    }
    let start = starts[rng.usize(..starts.len())];
    let end = (start..input.len()).find(|i| !input[*i].is_ascii_digit()).unwrap_or(input.len());
    let number = input[start..end].iter().fold(0u64, |n, c| n.wrapping_mul(10).wrapping_add(u64::from(c - b'0')));
    let other = match rng.usize(..4) {
        0 => number.wrapping_add(1),
        1 => number.saturating_sub(1),
        2 => rng.u64(..12),
        _ => 1 << rng.u32(..64),
    };
    input.splice(start..end, other.to_string().bytes());
}

/// Repeats, drops or moves complete lines, so that values stay valid.
fn shuffle_lines(input: &mut Vec<u8>, rng: &mut Rng) {
    let mut lines: Vec<Vec<u8>> = input.split_inclusive(|c| *c == b'\n').map(<[u8]>::to_vec).collect();
    if lines.is_empty() {
        return;
    }
    let (from, to) = (rng.usize(..lines.len()), rng.usize(..lines.len()));
    match rng.usize(..3) {
        0 => lines.swap(from, to),
        1 => drop(lines.remove(from)),
        _ => {
            let line = lines[from].clone();
            lines.insert(to, line);
        }
    }
    *input = lines.concat();
}
