//! Counters of the control plane, for `/metrics`: one line each. (Those of the hot path are in `proxy/counters.rs`,
//! without atomics.) Nodes of one process share them, which only tests have.
//! Knows nothing of who reads them.

use std::sync::atomic::{AtomicU64, Ordering};

/// A counter of this process.
#[derive(Debug)]
pub struct Counter {
    /// Its name in `/metrics`, without the prefix `pontoon_` and the suffix `_total`.
    pub name: &'static str,
    /// Its description.
    pub help: &'static str,
    value: AtomicU64,
}

impl Counter {
    /// Counts one.
    pub fn increment(&self) {
        self.add(1);
    }

    /// Counts several.
    pub fn add(&self, count: u64) {
        self.value.fetch_add(count, Ordering::Relaxed);
    }

    /// The number counted since the start.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.value.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($(#[doc = $help:literal] $counter:ident $name:literal;)*) => {
        $(
            #[doc = $help]
            pub static $counter: Counter =
                Counter { name: $name, help: $help.trim_ascii(), value: AtomicU64::new(0) };
        )*

        /// All of them.
        pub static ALL: &[&Counter] = &[$(&$counter),*];
    };
}

counters! {
    /// Accepts of the admin port that failed, mostly for lack of file descriptors.
    ADMIN_ACCEPTS_FAILED "admin_accepts_failed";
    /// Connections of blocked clients that this node closed at servers, because the lease of their node had ended.
    BLOCKED_CONNECTIONS_CLOSED "blocked_connections_closed";
    /// Connections of the admin port that were closed because there were too many.
    ADMIN_CONNECTIONS_CLOSED "admin_connections_closed";
    /// Accepts of product ports that failed, mostly for lack of file descriptors.
    CLIENT_ACCEPTS_FAILED "client_accepts_failed";
    /// Scripts of servers that this node ended because they ran for too long.
    SCRIPTS_ENDED "scripts_ended";
    /// Attempts to let another node lead because no file descriptor was left.
    TRANSFERS_WITHOUT_FILES "leadership_transfers_without_files";
}
