//! Programs that others wrote, as clients: redis-cli, redis-benchmark, redis-py, ioredis, grpcio.
//! Knows nothing of how they are installed; `make test` does that and says where they are.

use std::{path::PathBuf, process::Command};

use crate::{binary, cli::Ran};

/// Python with redis-py and grpcio: `PONTOON_PYTHON`, or what `make test` made.
#[must_use]
pub fn python() -> Option<PathBuf> {
    found("PONTOON_PYTHON", &["target/venv/bin/python"])
}

/// Folder with the module ioredis: `PONTOON_NODE_MODULES`, or what `make test` made.
#[must_use]
pub fn node_modules() -> Option<PathBuf> {
    found("PONTOON_NODE_MODULES", &["target/clients/node_modules"])
}

fn found(variable: &str, usual: &[&str]) -> Option<PathBuf> {
    let root = binary::repository();
    let named = std::env::var_os(variable).map(PathBuf::from);
    named.or_else(|| usual.iter().map(|path| root.join(path)).find(|path| path.exists()))
}

/// For a client library that is not there: fails in CI, else says so where a person sees it.
///
/// # Panics
/// When `CI` is set.
pub fn absent(what: &str, variable: &str) {
    let said = format!("{what} is not installed: its test is SKIPPED. `make test` installs it; or set {variable}");
    assert!(std::env::var_os("CI").is_none(), "{said}");
    eprintln!("\n==== {said} ====\n");
}

/// Runs a program to its end.
///
/// # Panics
/// When it cannot be run or fails.
#[track_caller]
pub fn run(command: &mut Command) -> Ran {
    let what = format!("{command:?}");
    let output = command.output().unwrap_or_else(|e| panic!("{what} cannot be run: {e}"));
    let ran = Ran::new(what, &output);
    assert!(ran.code == 0, "this failed: {ran:#?}");
    ran
}

/// A script of cluster-tests/clients.
#[must_use]
pub fn script(name: &str) -> PathBuf {
    binary::repository().join("cluster-tests/clients").join(name)
}
