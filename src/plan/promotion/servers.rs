//! What a server's answer says about a promotion: whether the candidate is fit, which history its data has.
//! Knows nothing of what follows.

use super::view::{OpenPromotion, Reports};
use crate::{
    model::ids::HostPort,
    plan::observation::{Observation, was_in_sync, was_in_sync_as_another_process},
};

/// A server's replication status, asked over the leader's control connection, so that no earlier control connection can
/// change the server from then on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerStatus {
    /// Identifies the process.
    pub run_id: String,
    /// The configured primary: host (an IPv6 host without brackets) and port. `None`: it is a primary.
    pub follows: Option<(String, u16)>,
    /// The link to its primary is up.
    pub link_up: bool,
    /// It receives a full copy: its data is incomplete.
    pub syncing: bool,
    /// It loads its data from disk.
    pub loading: bool,
    /// Replication id of its data.
    pub replid: String,
    /// The replication id that it had before it became a primary. Empty: none.
    pub former_replid: String,
    /// The offset, in bytes, at which it became a primary. `None`: it has no former history.
    pub former_offset: Option<u64>,
    /// A primary's own offset, or the offset up to which a replica has executed its primary's stream, bytes.
    pub offset: u64,
}

impl ServerStatus {
    /// Whether it follows this server, compared by the configured name.
    #[must_use]
    pub fn is_replica_of(&self, addr: &HostPort) -> bool {
        let host = addr.host();
        let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        self.follows.as_ref().is_some_and(|(h, port)| h == host && *port == addr.port())
    }

    /// Whether it is in sync with this primary, which has this replication id.
    pub(super) fn is_in_sync_with(&self, addr: &HostPort, replid: &str) -> bool {
        self.is_replica_of(addr) && self.link_up && !self.syncing && self.replid == replid
    }

    /// Up to which offset it has the stream of this history; `None`: its data has another history, or is incomplete.
    /// The candidate may be a primary since an earlier attempt: what it has written since (expired keys, for example)
    /// does not count.
    pub(super) fn offset_of_history(&self, replid: &str) -> Option<u64> {
        if self.loading || self.syncing {
            return None;
        }
        match &self.follows {
            Some(_) => (self.replid == replid).then_some(self.offset),
            None if self.former_replid == replid => Some(self.former_offset.unwrap_or(self.offset)),
            None => None,
        }
    }
}

/// Whether the candidate may still be the process that nodes saw in sync, with its data. Otherwise the promotion ends:
/// commands that were sent to the former process ended with it, and it never served, so that another candidate can be
/// chosen whatever was sent. Nodes forget the former process when this one was in sync with another server; then it has
/// the replication id of that server.
///
/// # Errors
/// Returns that it is another process, or has other data, as text for the operator.
pub(super) fn check_same_process(
    open: &OpenPromotion<'_>,
    reports: &Reports<'_>,
    status: &ServerStatus,
) -> Result<(), String> {
    let to = &open.promotion.to;
    let replid = &open.group.replid;
    if open.promotion.forced {
        return Ok(());
    }
    if was_in_sync_as_another_process(reports.servers, to, replid, &status.run_id) {
        return Err(format!("{to} was restarted before it was promoted"));
    }
    let replica = status.follows.is_some() && !status.loading && !status.syncing;
    // If it has copied the old primary again, that one is back, as its probes will show.
    let of_old_primary = status.is_replica_of(&open.promotion.from) && status.link_up;
    if replica && !of_old_primary && status.replid != *replid {
        return Err(format!("{to} was restarted before it was promoted, or has copied other data"));
    }
    Ok(())
}

/// Whether the candidate may be promoted in its present state.
///
/// # Errors
/// Returns why it may not, as text for the operator; its subject is the candidate ("it is loading its data").
pub(super) fn fit(open: &OpenPromotion<'_>, reports: &Reports<'_>, status: &ServerStatus) -> Result<(), String> {
    if status.loading {
        return Err("it is loading its data".into());
    }
    if status.syncing {
        return Err("it is receiving a full copy".into());
    }
    if open.promotion.forced {
        return Ok(());
    }
    if status.follows.is_none() && open.promotion.attempts == 0 {
        return Err("it is a primary already, and Pontoon did not promote it".into());
    }
    has_history(reports.servers, &open.promotion.to, status, &open.group.replid)
}

/// Whether the candidate has the data of this history up to when it was in sync: it is the process that nodes saw in
/// sync, still under that replication id, or under another one since it was promoted.
///
/// # Errors
/// Returns why it has not, as text for the operator.
pub(super) fn has_history(
    servers: &Observation,
    addr: &HostPort,
    status: &ServerStatus,
    replid: &str,
) -> Result<(), String> {
    let own = if status.follows.is_some() { &status.replid } else { &status.former_replid };
    if own != replid {
        return Err("its data has another replication id than the primary's".into());
    }
    if !was_in_sync(servers, addr, replid, &status.run_id) {
        return Err("no node has seen its present process in sync with the primary".into());
    }
    Ok(())
}

/// Whether the candidate was promoted from the group's history, or its promotion is forced.
pub(super) fn was_promoted_from_history(open: &OpenPromotion<'_>, status: &ServerStatus) -> bool {
    status.follows.is_none() && (open.promotion.forced || status.former_replid == open.group.replid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_promoted_server_wrote_itself_does_not_count() {
        let replica = ServerStatus {
            follows: Some(("a".into(), 1)),
            replid: "old".into(),
            offset: 100,
            ..ServerStatus::default()
        };
        assert_eq!(replica.offset_of_history("old"), Some(100));
        assert_eq!(replica.offset_of_history("other"), None);
        assert_eq!(ServerStatus { syncing: true, ..replica.clone() }.offset_of_history("old"), None);
        let promoted = ServerStatus {
            replid: "new".into(),
            former_replid: "old".into(),
            former_offset: Some(90),
            offset: 5_000,
            ..ServerStatus::default()
        };
        assert_eq!(promoted.offset_of_history("old"), Some(90));
        assert_eq!(promoted.offset_of_history("new"), None, "it began that history itself");
    }
}
