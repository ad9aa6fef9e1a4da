//! Servers of another version than the machine's, which `make servers` installs, and servers whose clocks differ.
//! Knows nothing of tests.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// The redis-server of Redis 8, which has times to live of fields.
pub fn redis_8() -> PathBuf {
    let servers = std::env::var_os("PONTOON_SERVERS").map(PathBuf::from);
    let servers = servers.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/servers"));
    let path = servers.join("redis-8");
    assert!(path.exists(), "{} is missing; run 'make servers'", path.display());
    path
}

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
