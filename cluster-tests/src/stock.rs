//! Programs and libraries that others wrote, as clients: redis-cli, redis-py, ioredis and the like.
//! Knows nothing of how they are installed; `make tools` does that, and `make test` says where they are.

use std::{path::PathBuf, process::Command};

use crate::{binary, cli::Ran};

/// Python with redis-py and grpcio: `PONTOON_PYTHON`, or what `make tools` made.
///
/// # Panics
/// When there is none: a test that needs it fails, and is not skipped.
#[must_use]
#[track_caller]
pub fn python() -> PathBuf {
    found("Python with redis-py and grpcio", "PONTOON_PYTHON", "target/venv/bin/python")
}

/// Folder with the modules of npm, such as ioredis: `PONTOON_NODE_MODULES`, or what `make tools` made.
///
/// # Panics
/// When there is none: a test that needs it fails, and is not skipped.
#[must_use]
#[track_caller]
pub fn node_modules() -> PathBuf {
    found("the folder of client libraries from npm", "PONTOON_NODE_MODULES", "target/clients/node_modules")
}

#[track_caller]
fn found(what: &str, variable: &str, usual: &str) -> PathBuf {
    let named = std::env::var_os(variable).map(PathBuf::from);
    let path = named.unwrap_or_else(|| binary::repository().join(usual));
    assert!(path.exists(), "{what} is not at {}: install it with `make tools`, or set {variable}", path.display());
    path
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
