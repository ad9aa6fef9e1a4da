//! The process that `cluster-tests/tests/crash.rs` kills: it writes a node's log, and checks it after the kill.
//! Knows nothing of the log: see `pontoon::consensus::crash_test`, which only a debug build has.
//!
//! | arguments | what it does |
//! |---|---|
//! | `append DIR SEED` | appends until it is killed |
//! | `verify DIR VOTE [TERM INDEX]` | checks what `append` acknowledged last |
//! | `fill DIR` | appends until the disk is full |
//! | `verify-filled DIR INDEX` | checks what `fill` acknowledged last |

use std::process::ExitCode;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args.iter().map(String::as_str).collect::<Vec<_>>()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("log_writer: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the command in the arguments.
///
/// # Errors
/// Returns why the command failed, as text for the output of the test.
#[cfg(debug_assertions)]
async fn run(args: &[&str]) -> Result<(), String> {
    use std::path::Path;

    use pontoon::consensus::crash_test;

    let number = |text: &str| text.parse::<u64>().map_err(|e| format!("{text}: {e}"));
    match *args {
        ["append", dir, seed] => {
            crash_test::append_until_killed(Path::new(dir), number(seed)?).map(|never| match never {})
        }
        ["verify", dir, vote] => crash_test::verify(Path::new(dir), number(vote)?, None),
        ["verify", dir, vote, term, index] => {
            crash_test::verify(Path::new(dir), number(vote)?, Some((number(term)?, number(index)?)))
        }
        ["fill", dir] => crash_test::run_until_disk_is_full(Path::new(dir)).await.map(|never| match never {}),
        ["verify-filled", dir, index] => crash_test::verify_after_full_disk(Path::new(dir), number(index)?),
        _ => Err(format!("there is no command {args:?}")),
    }
}

#[cfg(not(debug_assertions))]
async fn run(_args: &[&str]) -> Result<(), String> {
    Err("a release build of pontoon has no consensus::crash_test; use a debug build".into())
}
