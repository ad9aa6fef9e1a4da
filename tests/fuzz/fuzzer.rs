//! A seeded fuzzer inside the test process, for stable Rust: mutates a corpus by structure and keeps inputs with new
//! behaviour. Knows nothing of the code under test: the check reports errors and the shape of the behaviour.

use std::{
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use fastrand::Rng;
use rustix::time::{ClockId, clock_gettime};

/// Inputs of each target at least: some seconds in a debug build.
const ITERATIONS: usize = 12_000;

/// The seed unless `PONTOON_FUZZ_SEED` is set. Fixed, so that a failure is reproducible.
const SEED: u64 = 20_240_501;

/// Longest input in bytes, unless a target says otherwise. Checks feed inputs byte by byte, which takes quadratic time.
const INPUT_MAX: usize = 400;

/// Inputs kept in memory in addition to the corpus; if there are more, a new one replaces a random one.
const KEPT_MAX: usize = 2000;

/// An input that takes more CPU time is an error. Inputs take microseconds.
const INPUT_TIME_MAX: Duration = Duration::from_secs(5);

/// Behaviours that are remembered. Further ones count as known, so that a long run stays small.
const SHAPES_MAX: usize = 100_000;

/// Inputs between two looks at the memory, which take a system call.
const PEAK_EVERY: usize = 64;

/// Most memory of the process, in KB, above what it had when the run began, unless a target says otherwise. Inputs are
/// short: only a length that is believed before it is checked takes that much.
const MEMORY_KB_MAX: u64 = 1 << 20;

/// What is fuzzed, and how its inputs are changed.
pub struct Target {
    name: &'static str,
    /// Folder of the corpus.
    folder: PathBuf,
    tokens: &'static [&'static [u8]],
    input_max: usize,
    memory_kb_max: u64,
    structure: fn(&mut Vec<u8>, &mut Rng),
}

impl Target {
    /// A target with its corpus in `fuzz/corpus`. `tokens`: fragments that random bytes rarely form.
    pub fn new(name: &'static str, tokens: &'static [&'static [u8]]) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
        Self { name, folder, tokens, input_max: INPUT_MAX, memory_kb_max: MEMORY_KB_MAX, structure: shuffle_lines }
    }

    /// With the files of this folder of the repository as its corpus.
    pub fn corpus(self, folder: &str) -> Self {
        Self { folder: Path::new(env!("CARGO_MANIFEST_DIR")).join(folder), ..self }
    }

    /// With inputs of at most this many bytes.
    pub fn input_max(self, input_max: usize) -> Self {
        Self { input_max, ..self }
    }

    /// With another limit of memory.
    pub fn memory_kb_max(self, memory_kb_max: u64) -> Self {
        Self { memory_kb_max, ..self }
    }

    /// With a change that knows the format, instead of changes of whole lines.
    pub fn structure(self, structure: fn(&mut Vec<u8>, &mut Rng)) -> Self {
        Self { structure, ..self }
    }
}

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

/// CPU time of this thread: what an input takes, however busy the machine is.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Peak memory of the process, in KB.
fn peak_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().split(' ').next()?.parse().ok()).unwrap_or(0)
}

/// Whether a run goes on after `done` inputs: a number of inputs, or for `PONTOON_FUZZ_SECONDS`.
struct Budget {
    inputs: usize,
    until: Option<Instant>,
}

impl Budget {
    fn of_environment() -> Self {
        let seconds: u64 = setting("PONTOON_FUZZ_SECONDS", 0);
        let until = (seconds > 0).then(|| Instant::now() + Duration::from_secs(seconds));
        Self { inputs: ITERATIONS, until }
    }

    fn goes_on(&self, done: usize) -> bool {
        done < self.inputs || self.until.is_some_and(|until| Instant::now() < until)
    }
}

/// As [`run`]; panics on an error.
pub fn fuzz(target: &Target, check: impl Fn(&[u8], &mut Rng) -> Result<String, String>) -> Report {
    run(target, check).unwrap_or_else(|why| panic!("{why}"))
}

/// Runs `check` on the corpus of `target` and its mutations. `check` returns the shape of the behaviour, or the error.
///
/// # Errors
/// Returns the error, the input, and the seed that finds it again.
pub fn run(target: &Target, check: impl Fn(&[u8], &mut Rng) -> Result<String, String>) -> Result<Report, String> {
    let Target { name, folder, .. } = target;
    let mut corpus = read_corpus(folder);
    assert!(!corpus.is_empty(), "no corpus in {}", folder.display());
    let seed = setting("PONTOON_FUZZ_SEED", SEED);
    let budget = Budget::of_environment();
    let memory = peak_kb();
    println!("fuzzing {name}: {} files, PONTOON_FUZZ_SEED={seed}", corpus.len());
    let mut rng = Rng::with_seed(seed);
    let mut shapes = BTreeSet::new();
    let files = corpus.len();
    let mut done = 0;
    while done < files || budget.goes_on(done - files) {
        let input = if done < files { corpus[done].clone() } else { target.mutate(&corpus, &mut rng) };
        let mut check_rng = rng.fork();
        let began = cpu_time();
        let checked = catch_unwind(AssertUnwindSafe(|| check(&input, &mut check_rng)));
        let why = match checked {
            Ok(Ok(_)) if cpu_time() > began + INPUT_TIME_MAX => format!("took {:?}", cpu_time() - began),
            Ok(Ok(_)) if done.is_multiple_of(PEAK_EVERY) && peak_kb() > memory + target.memory_kb_max => {
                format!("one of the last {PEAK_EVERY} inputs took more than {} KB of memory", target.memory_kb_max)
            }
            Ok(Ok(shape)) => {
                // Inputs with new behaviour are mutated further.
                if shapes.len() < SHAPES_MAX && shapes.insert(shape) && done >= files {
                    if corpus.len() - files < KEPT_MAX {
                        corpus.push(input);
                    } else {
                        let at = rng.usize(files..corpus.len());
                        corpus[at] = input;
                    }
                }
                done += 1;
                continue;
            }
            Ok(Err(why)) => why,
            Err(_) => "panicked".to_string(),
        };
        return Err(format!(
            "{name}: {why}\ninput {done} of PONTOON_FUZZ_SEED={seed}: b\"{}\"\nPut it into {} when it is mended.",
            input.escape_ascii(),
            folder.display()
        ));
    }
    println!("{name}: {done} inputs, {} shapes, {} kept", shapes.len(), corpus.len() - files);
    Ok(Report { shapes: shapes.len() })
}

/// Sorted by name, so that a seed gives the same run everywhere.
fn read_corpus(folder: &Path) -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    // A corpus may be the data of another test.
    paths.retain(|path| path.extension().is_none_or(|name| name != "rs"));
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

impl Target {
    fn mutate(&self, corpus: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
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
                5 | 6 if !self.tokens.is_empty() => {
                    let token = self.tokens[rng.usize(..self.tokens.len())];
                    input.splice(at..at, token.iter().copied());
                }
                7 => {
                    let other = &corpus[rng.usize(..corpus.len())];
                    input.splice(at.., other[rng.usize(..=other.len())..].iter().copied());
                }
                8 => change_number(&mut input, rng),
                _ => (self.structure)(&mut input, rng),
            }
        }
        input.truncate(self.input_max);
        input
    }
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
pub fn shuffle_lines(input: &mut Vec<u8>, rng: &mut Rng) {
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
