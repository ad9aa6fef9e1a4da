//! Finds and builds the program under test.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// Returns the path of `pontoon`: `PONTOON_BIN`, or the program of this build, which is built first. With an outdated
/// program, the tests would test old code.
///
/// # Panics
/// When the program cannot be built.
pub fn pontoon() -> &'static Path {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    FOUND.get_or_init(|| match std::env::var_os("PONTOON_BIN") {
        Some(path) => {
            let path = PathBuf::from(path);
            assert!(path.is_file(), "PONTOON_BIN is {}, where there is no file", path.display());
            path
        }
        None => build(),
    })
}

fn build() -> PathBuf {
    // A test is target/PROFILE/deps/NAME, a program target/PROFILE/NAME.
    let exe = std::env::current_exe().expect("the path of the test program is known");
    let folder = exe.parent().expect("the test program is in a folder");
    let is_test = folder.file_name().is_some_and(|name| name == "deps");
    let profile = if is_test { folder.parent().expect("deps is in target/PROFILE") } else { folder }.to_path_buf();
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--package", "pontoon", "--bin", "pontoon"]);
    cargo.current_dir(repository());
    if let Some(target) = profile.parent() {
        cargo.arg("--target-dir").arg(target);
    }
    if profile.file_name().is_some_and(|name| name == "release") {
        cargo.arg("--release");
    }
    let built = cargo.output().expect("cargo can be run");
    assert!(built.status.success(), "cargo build --bin pontoon failed:\n{}", String::from_utf8_lossy(&built.stderr));
    profile.join("pontoon")
}

/// Returns the folder with the workspace's Cargo.toml.
#[must_use]
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("cluster-tests is in the repository").to_path_buf()
}

/// Returns a command for the program without the `PONTOON_` variables: the developer's shell must not change a test.
#[must_use]
pub fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PONTOON_") {
            command.env_remove(name);
        }
    }
    command
}
