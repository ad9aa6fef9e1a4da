//! Settings and counts of a migration that its worker shares with the log.
//! Knows nothing of servers.

/// How much of a copy is compared before the hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verify {
    /// Nothing.
    #[default]
    None,
    /// A part of the keys.
    Sample,
    /// Every key.
    Full,
}

/// What a comparison found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Keys compared.
    pub keys: u64,
    /// Keys that differed lastingly.
    pub different: u64,
}

/// Limits of a migration, changeable while it runs. 0: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Keys copied per second.
    pub keys_per_second: u64,
    /// Bytes of values copied per second.
    pub bytes_per_second: u64,
    /// Budget of a hold, milliseconds; 0: the cluster's.
    pub hold_ms_max: u32,
}

/// What was done in one attempt, for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Keys that SCAN returned, of all slots.
    pub scanned: u64,
    /// Keys written to the target.
    pub keys: u64,
    /// Bytes of serialized values written to the target.
    pub bytes: u64,
    /// Fetches because a key had changed.
    pub refetched: u64,
    /// Keys deleted.
    pub deleted: u64,
    /// Changed keys that wait to be fetched again.
    pub dirty: u64,
}
