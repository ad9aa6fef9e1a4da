//! Third-party programs as clients: redis-cli, redis-benchmark, redis-py, ioredis, grpcio.
//! Installs nothing: `make test` installs the libraries and sets the variables that name their location.

use std::{path::PathBuf, process::Command};

use crate::{binary, cli::Ran};

/// Returns the Python with redis-py and grpcio: `PONTOON_PYTHON`, or the one that `make test` installed.
#[must_use]
pub fn python() -> Option<PathBuf> {
    found("PONTOON_PYTHON", &["target/venv/bin/python"])
}

/// Returns the folder with the module ioredis: `PONTOON_NODE_MODULES`, or the one that `make test` installed.
#[must_use]
pub fn node_modules() -> Option<PathBuf> {
    found("PONTOON_NODE_MODULES", &["target/clients/node_modules"])
}

fn found(variable: &str, usual: &[&str]) -> Option<PathBuf> {
    let root = binary::repository();
    let named = std::env::var_os(variable).map(PathBuf::from);
    named.or_else(|| usual.iter().map(|path| root.join(path)).find(|path| path.exists()))
}

/// Reports that a client library is not installed. It fails in CI; elsewhere it prints that the test is skipped.
///
/// # Panics
/// When `CI` is set.
pub fn absent(what: &str, variable: &str) {
    let message = format!("{what} is not installed: its test is SKIPPED. `make test` installs it; or set {variable}");
    assert!(std::env::var_os("CI").is_none(), "{message}");
    eprintln!("\n==== {message} ====\n");
}

/// Runs a program to its end and returns its output.
///
/// # Panics
/// When the program cannot be started or fails.
#[track_caller]
pub fn run(command: &mut Command) -> Ran {
    let what = format!("{command:?}");
    let output = command.output().unwrap_or_else(|e| panic!("{what} cannot be run: {e}"));
    let ran = Ran::new(what, &output);
    assert!(ran.code == 0, "this failed: {ran:#?}");
    ran
}

/// Returns the path of a script in cluster-tests/clients.
#[must_use]
pub fn script(name: &str) -> PathBuf {
    binary::repository().join("cluster-tests/clients").join(name)
}
