//! Servers whose clocks differ from the machine's. Knows nothing of tests.

use std::{path::Path, process::Command};

/// The machine's redis-server with a clock that is ahead by `seconds`; negative: behind. `dir` holds the library that
/// shifts the clock, as long as the server runs.
pub fn with_shifted_clock(seconds: i64, dir: &Path) -> Command {
    let library = dir.join("shifted_clock.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/shifted_clock.c");
    let built = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).status();
    assert!(built.expect("cc is installed, since Rust needs it for linking").success());
    let mut server = Command::new("redis-server");
    server.env("LD_PRELOAD", library).env("SHIFTED_CLOCK_SECONDS", seconds.to_string());
    server
}
