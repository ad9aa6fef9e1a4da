//! The options of a changing call.
//! Knows nothing of the changes.

use std::time::Duration;

use tokio::time::Instant;

use super::{error::CallFailure, origin};
use crate::{
    control::admission::server::ASK_MAX,
    model::{author::Requester, ids::Uuid},
    wire::pb::admin::ChangeOptions,
};

/// Timeout without `wait`: a commit takes milliseconds, an election a second.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Timeout with `wait`: nodes may be starting.
const TIMEOUT_WAIT: Duration = Duration::from_secs(5 * 60);
/// Longest timeout that a caller may ask for.
const TIMEOUT_MAX_MS: u32 = 3_600_000;

/// What every changing call has.
#[derive(Clone, Debug)]
pub struct MutationCall {
    /// Its change id.
    pub id: Uuid,
    /// Hash of the call's name and of the request without its options: a repeat under the same id has the same.
    pub request_hash: u64,
    /// Report only what would change.
    pub dry_run: bool,
    /// Wait for all live nodes.
    pub wait: bool,
    /// When to give up.
    pub deadline: Instant,
    /// Who makes it, and from where.
    pub by: Requester,
}

impl MutationCall {
    /// From the options of a request, and who makes it. An empty id is replaced by a random one.
    ///
    /// # Errors
    /// [`CallFailure::Bad`] if the id is neither empty nor 16 bytes long, or the timeout is longer than an hour.
    pub fn new(options: &ChangeOptions, request_hash: u64, by: Requester) -> Result<Self, CallFailure> {
        let id = match options.change_id.len() {
            0 => Uuid(uuid::Uuid::new_v4().as_u128()),
            len => match <[u8; 16]>::try_from(options.change_id.as_ref()) {
                Ok(bytes) => Uuid(u128::from_be_bytes(bytes)),
                Err(_) => return Err(CallFailure::Bad(format!("a change id has 16 bytes, this one has {len}"))),
            },
        };
        let timeout = match options.timeout_ms {
            0 if options.wait => TIMEOUT_WAIT,
            0 => TIMEOUT,
            ms if ms > TIMEOUT_MAX_MS => return Err(CallFailure::Bad("a timeout is at most one hour".into())),
            ms => Duration::from_millis(ms.into()),
        };
        let by = Requester { declared: origin::declared(&options.declared), ..by };
        let deadline = Instant::now() + timeout;
        Ok(Self { id, request_hash, dry_run: options.dry_run, wait: options.wait, deadline, by })
    }

    /// Until when servers may be probed: one after the other, within the call's deadline.
    #[must_use]
    pub fn admission_deadline(&self) -> Instant {
        self.deadline.min(Instant::now() + ASK_MAX * 4)
    }

    /// A change within this call, under an id of its own, so that a repeat of the call goes on where the first one ended.
    /// Different steps have different ids: an odd factor maps no two numbers to the same one. The whole call waits at its end.
    #[must_use]
    pub fn step(&self, n: u32) -> Self {
        let id = Uuid(self.id.0 ^ (u128::from(n) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835));
        Self { id, wait: false, ..self.clone() }
    }

    /// Time until the deadline.
    #[must_use]
    pub fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn new(options: &ChangeOptions) -> Result<MutationCall, CallFailure> {
        MutationCall::new(options, 0, Requester::default())
    }

    #[test]
    fn ids_and_timeouts() {
        let mut given = ChangeOptions { change_id: vec![1; 16].into(), ..ChangeOptions::default() };
        assert_eq!(new(&given).unwrap().id, Uuid(0x0101_0101_0101_0101_0101_0101_0101_0101));
        assert!(new(&given).unwrap().left() <= TIMEOUT);
        given.wait = true;
        assert!(new(&given).unwrap().left() > TIMEOUT);
        given.change_id = vec![1; 15].into();
        assert!(new(&given).is_err());
        given = ChangeOptions { timeout_ms: TIMEOUT_MAX_MS + 1, ..ChangeOptions::default() };
        assert!(new(&given).is_err());
        given.timeout_ms = 5;
        assert_ne!(new(&given).unwrap().id, new(&given).unwrap().id);
        given = ChangeOptions { declared: "alice\n".into(), ..ChangeOptions::default() };
        assert_eq!(new(&given).unwrap().by.declared, "alice\\u{a}");
    }
}
