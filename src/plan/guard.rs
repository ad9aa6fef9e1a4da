//! The guard: no automatic failover of primaries that fail together with many others.
//! Knows nothing of how failures are found out, nor of what is done about one.

/// The number of primaries that may fail together whatever the failover share is: in a small cluster one machine may
/// carry two of them.
pub const DOWN_AT_ONCE: usize = 2;

/// Primaries fail together if their failures began within this time of each other, milliseconds. A rack or a network
/// fails within seconds, and nodes notice within down-after and a restart of theirs; failures that are further apart
/// have causes of their own. Without this limit, groups that have been dead for days would stop all others.
pub const TOGETHER_MS: u64 = 60_000;

/// What ends it that a group is held back.
pub const GUARD_ENDS_WHEN: &str = "fewer primaries fail: check what they have in common; or more of them may \
                                   (pontoon cluster set failover-share-max=..); or you promote by hand: pontoon group promote";

/// The failures that the guard counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FailoverGuard {
    /// Primaries for which something could be done.
    pub primaries: usize,
    /// For how long those of them that fail have failed, milliseconds.
    pub failing_ms: Vec<u64>,
    /// The failover share, percent.
    pub share_max: u8,
}

impl FailoverGuard {
    /// Whether a group may be failed over without an operator that has failed for this long, milliseconds. A group that
    /// is held back stays so while those that failed together with it fail.
    ///
    /// # Errors
    /// As [`may_fail_over`].
    pub fn may_fail_over(&self, failing_ms: u64) -> Result<(), String> {
        let together = self.failing_ms.iter().filter(|other| other.abs_diff(failing_ms) <= TOGETHER_MS).count();
        may_fail_over(together, self.primaries, self.share_max)
    }
}

/// Whether groups may be failed over without an operator while `together` of `primaries` primaries have failed
/// together: at most [`DOWN_AT_ONCE`], or `share_max` percent of all if that is more. When many fail at once, the cause
/// is a network or a rack, and promotions use up candidates without making anything reachable.
///
/// # Errors
/// Returns why not, as text for the operator; [`GUARD_ENDS_WHEN`] says what he can do.
pub fn may_fail_over(together: usize, primaries: usize, share_max: u8) -> Result<(), String> {
    let most = (primaries.saturating_mul(share_max.into()) / 100).max(DOWN_AT_ONCE);
    if together <= most {
        return Ok(());
    }
    Err(format!(
        "{together} of {primaries} primaries have failed together, and nothing is failed over automatically when more \
         than {most} do"
    ))
}
