//! Whether the primary of a group with `min-acks` was restarted and may have come back with less than it had, while
//! replicas still have what the former process had. Then a replica replaces it, and none copies its data before that
//! (the replication user, docs/design/failover.md). Knows nothing of how replicas are kept from copying.

use super::{
    liveness::Watchers,
    observation::{
        AgedReport, Observation, PROBE_FRESH_MS, Probe, ReportedRole, fresh_probe, newest,
        was_in_sync_as_another_process,
    },
};
use crate::model::{
    ids::HostPort,
    route::Mode,
    state::{Group, Product, Server},
};

/// Whether replicas of the groups of a product log in with the replication user: writes wait for them, and the product
/// is not a cache, where availability comes first.
#[must_use]
pub fn is_protected(product: &Product) -> bool {
    confirmations(product) > 0
}

/// How many replicas confirm a write in the groups of a product before it is acknowledged; 0: they are not protected.
#[must_use]
pub fn confirmations(product: &Product) -> u8 {
    if product.mode == Mode::Store { product.min_acks } else { 0 }
}

/// The newest probe of the primary of a group, if it is another process than the log knows and a replica may have more
/// than it: an undecided restart. `confirmations`: see [`confirmations`]; `None` for a group that is not protected.
///
/// The new process has only what the former one had saved, and no offset tells how much that is. It is accepted as it is
/// when nothing better is left: a replica has copied its data, or every replica answers and none may have more.
#[must_use]
pub fn undecided_restart<'a>(confirmations: u8, group: &Group, seen: &'a Observation) -> Option<&'a Probe> {
    let (primary, replicas) = group.servers.split_first()?;
    if confirmations == 0 || group.run_id.is_empty() || group.replid.is_empty() {
        return None;
    }
    let (probe, _) = newest(seen, &primary.addr)?;
    let restarted = !probe.run_id.is_empty() && probe.run_id != group.run_id;
    let is_primary = matches!(probe.role, ReportedRole::Primary { .. }) && !probe.loading;
    if !restarted || !is_primary || probe.replid.is_empty() || probe.replid == group.replid {
        return None;
    }
    let copied = |addr: &HostPort| {
        newest(seen, addr).is_some_and(|(theirs, _)| !theirs.loading && theirs.replid == probe.replid)
    };
    if replicas.iter().any(|server| copied(&server.addr)) {
        return None;
    }
    // What a diverged server had was given up. What it has copied since counts.
    let mut others = replicas.iter().filter(|server| !server.diverged || has_copied(group, &server.addr, seen));
    others.any(|server| may_have_more(group, &server.addr, seen)).then_some(probe)
}

/// Whether a diverged server may have copied data of the group: of the former process of its primary, or, if that was the
/// primary for a short time only, of the one before.
fn has_copied(group: &Group, addr: &HostPort, seen: &Observation) -> bool {
    let last = newest(seen, addr).map(|(theirs, _)| theirs);
    // No probe may have seen its link up, and it may be silent now.
    let has_history = last.is_some_and(|theirs| theirs.replid == group.replid);
    has_history || last.is_some_and(|theirs| copied_as(&theirs.run_id, addr, seen))
}

/// Whether nodes saw this process of a server in sync with any primary.
fn copied_as(run_id: &str, addr: &HostPort, seen: &Observation) -> bool {
    let mut reports = seen.get(addr).into_iter().flat_map(|by_node| by_node.values());
    reports.any(|reported| reported.report.in_sync.as_ref().is_some_and(|in_sync| in_sync.run_id == run_id))
}

/// Whether a replica that has not copied the data of the group's new process may have data of the former one that the
/// new one lacks. One whose link was never up since it was started has only what it loaded from its own disk. After a
/// promotion, replicas have the history of the primary before until they have reached the new one; then the link to the
/// new one was never up either, but nodes saw this process in sync before.
fn may_have_more(group: &Group, addr: &HostPort, seen: &Observation) -> bool {
    // What it has copied since its last probe is not known while it is silent.
    let answers = seen.get(addr).is_some_and(|by_node| by_node.values().any(|r| r.report.failing_ms.is_none()));
    let probe = fresh_probe(seen, addr).filter(|theirs| answers && !theirs.loading);
    let Some(theirs) = probe else { return true };
    match theirs.role {
        ReportedRole::Replica { link_up, link_down_ms, .. } => {
            link_up || link_down_ms != u64::MAX || copied_as(&theirs.run_id, addr, seen)
        }
        ReportedRole::Primary { .. } => theirs.replid2.as_ref().is_some_and(|(id, _)| *id == group.replid),
    }
}

/// How many replicas have failed, too, when the primary's restart is undecided: they answer as other processes than those
/// that nodes saw in sync, and have copied nothing since. What only they had is gone, and waiting does not bring it back;
/// since the restart they have confirmed nothing. 0 if the restart is not undecided.
#[must_use]
pub fn failed_replicas(confirmations: u8, group: &Group, seen: &Observation) -> usize {
    let Some(new) = undecided_restart(confirmations, group, seen) else { return 0 };
    let failed = |server: &&Server| {
        fresh_probe(seen, &server.addr).is_some_and(|theirs| {
            !theirs.loading && has_failed(group, new, &server.addr, (&theirs.run_id, &theirs.replid), seen)
        })
    };
    group.servers.iter().skip(1).filter(failed).count()
}

/// Whether a replica with this `run_id` and replication id has failed, as in [`failed_replicas`]. `new`: the process of an
/// undecided restart.
#[must_use]
pub fn has_failed(
    group: &Group,
    new: &Probe,
    addr: &HostPort,
    (run_id, replid): (&str, &str),
    seen: &Observation,
) -> bool {
    let other_data = *replid != new.replid && *replid != group.replid;
    other_data && was_in_sync_as_another_process(seen, addr, &group.replid, run_id)
}

/// Whether a majority of the live voters sees the process of an undecided restart ([`undecided_restart`]).
#[must_use]
pub fn majority_sees_restart(confirmations: u8, group: &Group, watchers: &Watchers<'_>) -> bool {
    let Some(newest) = undecided_restart(confirmations, group, watchers.observation()) else { return false };
    let Some(primary) = group.servers.first() else { return false };
    let sees = |r: &AgedReport| {
        let fresh = |ago: &u64| r.report.failing_ms.is_none() && ago.saturating_add(r.age_ms) <= PROBE_FRESH_MS;
        r.report.probe.as_ref().is_some_and(|(probe, ago)| fresh(ago) && probe.run_id == newest.run_id)
    };
    let by = watchers.reports(&primary.addr).filter(|(node, r)| watchers.alive().contains(node) && sees(r));
    by.count() > watchers.alive().len() / 2
}
