//! What `min-acks` requires of a group: which replicas of a primary count, and how many must answer before one of them
//! may replace it. Knows nothing of how writes wait for replicas (`proxy::acks`), nor of how servers are probed.

use super::observation::{Observation, Probe, ReportedRole, answered_now};
use crate::model::{
    ids::HostPort,
    state::{Group, Server},
};

/// The number of unmanaged replicas of a group's primary. They confirm writes to the primary but cannot replace it when
/// it fails, so that each of them makes one more confirmation necessary. `primary`: the last probe of the primary;
/// `fresh`: the fresh probe of a replica, because a replica that does not answer may have lost its link since.
///
/// A primary may list a replica under another address than the group does (names, address translation). Therefore
/// replicas under unknown addresses count as the group's own, up to the number of its replicas that the primary does
/// not list under their addresses and that report that they follow it. Replicas without a port are always unmanaged: a
/// server of a group announces its port.
#[must_use]
pub fn unmanaged_replicas(group: &Group, primary: Option<Probe>, fresh: impl Fn(&HostPort) -> Option<Probe>) -> u32 {
    let Some(Probe { role: ReportedRole::Primary { replicas }, replid, unnamed_replicas, .. }) = primary else {
        return 0;
    };
    let servers = || group.servers.iter().skip(1);
    let unknown = replicas.iter().filter(|(addr, _)| !servers().any(|s| s.addr == *addr)).count();
    let unlisted = servers().filter(|server| !replicas.iter().any(|(addr, _)| *addr == server.addr));
    let follows = |server: &HostPort| {
        fresh(server)
            .is_some_and(|l| l.replid == replid && matches!(l.role, ReportedRole::Replica { link_up: true, .. }))
    };
    let own = unlisted.filter(|server| follows(&server.addr)).count();
    u32::try_from(unknown.saturating_sub(own)).unwrap_or(u32::MAX).saturating_add(unnamed_replicas)
}

/// How many of a group's replicas are in sync with its primary, as nodes see them now. `None`: the primary does not answer.
#[must_use]
pub fn replicas_in_sync(group: &Group, seen: &Observation) -> Option<usize> {
    let (primary, replicas) = group.servers.split_first()?;
    let primary = answered_now(seen, &primary.addr)?;
    let in_sync = |server: &&Server| answered_now(seen, &server.addr).is_some_and(|probe| copies(probe, primary));
    Some(replicas.iter().filter(in_sync).count())
}

/// Whether a replica has the primary's data and receives its stream.
fn copies(replica: &Probe, primary: &Probe) -> bool {
    let linked = matches!(replica.role, ReportedRole::Replica { link_up: true, syncing: false, .. });
    linked && !replica.loading && replica.replid == primary.replid
}

/// How many of a group's replicas must answer so that at least one of them has every write that `min_acks` of them
/// confirmed. (With fewer replicas than `min_acks` no write is ever confirmed, and one answer suffices.)
#[must_use]
pub fn needed_answers(group: &Group, min_acks: u8) -> usize {
    let replicas = group.servers.len().saturating_sub(1);
    (replicas + 1).saturating_sub(usize::from(min_acks)).max(1)
}

/// Whether a replica may leave its group: enough of the others are in sync that, whichever of them answer when the
/// primary fails ([`needed_answers`]), one has every confirmed write.
///
/// # Errors
/// Returns why it may not, and what the operator can do first, as text for the operator.
pub fn may_leave(
    group: &Group,
    min_acks: u8,
    addr: &HostPort,
    in_sync: impl Fn(&HostPort) -> bool,
) -> Result<(), String> {
    let rest: Vec<&HostPort> = group.servers.iter().skip(1).map(|s| &s.addr).filter(|other| *other != addr).collect();
    let wanted = usize::from(min_acks).min(rest.len());
    let fit = rest.iter().filter(|other| in_sync(other)).count();
    if fit >= wanted {
        return Ok(());
    }
    Err(format!(
        "{addr} may be the only replica that has some of the confirmed writes: min-acks is {min_acks}, and of the \
         other {} replica(s) of group {} {fit} are in sync with the primary; bring them back first (pontoon group show \
         {}), or accept the loss of what only {addr} has: pontoon product set .. min-acks=0",
        rest.len(),
        group.id,
        group.id
    ))
}

/// Whether `to` provably has every confirmed write: enough replicas answer, and none of them has a higher offset.
/// `offset`: the replication offset of a replica that answers and has data of the primary's history; `None` for any
/// other. `failed`: how many replicas have failed with a restarted primary (`plan::restart`), so that they need not answer.
///
/// # Errors
/// See [`MissingConfirmation`].
pub fn has_all_confirmed(
    group: &Group,
    (min_acks, failed): (u8, usize),
    to: &HostPort,
    offset: impl Fn(&HostPort) -> Option<u64>,
) -> Result<(), MissingConfirmation> {
    if min_acks == 0 {
        return Ok(());
    }
    let answer: Vec<_> =
        group.servers.iter().skip(1).filter_map(|server| Some((&server.addr, offset(&server.addr)?))).collect();
    let needed = needed_answers(group, min_acks).saturating_sub(failed).max(1);
    let theirs = answer.iter().find(|(addr, _)| *addr == to).map(|(_, offset)| *offset);
    let (Some(theirs), true) = (theirs, answer.len() >= needed) else {
        let answering: Vec<_> = answer.iter().map(|(addr, _)| addr.to_string()).collect();
        let answering = if answering.is_empty() { "none".to_owned() } else { answering.join(", ") };
        return Err(MissingConfirmation::Answers(format!(
            "min-acks is {min_acks}, so {needed} of the {} replicas must answer with its data, or confirmed writes \
             could be lost; answering: {answering}",
            group.servers.len().saturating_sub(1)
        )));
    };
    match answer.iter().filter(|(_, offset)| *offset > theirs).max_by_key(|(_, offset)| *offset) {
        None => Ok(()),
        Some((addr, offset)) => Err(MissingConfirmation::Writes(format!(
            "min-acks is {min_acks}, and {addr} has more (offset {offset}) than {to} ({theirs}): confirmed writes \
             could be lost"
        ))),
    }
}

/// Why a replica may not be promoted automatically; each text is for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MissingConfirmation {
    /// Too few replicas answer.
    Answers(String),
    /// Another replica has a higher offset.
    Writes(String),
}

impl MissingConfirmation {
    /// The text.
    #[must_use]
    pub fn into_text(self) -> String {
        match self {
            Self::Answers(text) | Self::Writes(text) => text,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;

    use super::*;
    use crate::model::{
        ids::{Epoch, GroupId},
        state::{GroupOptions, Server},
    };

    fn addr(port: u16) -> HostPort {
        HostPort::parse(&format!("10.0.0.1:{port}")).unwrap()
    }

    fn group(servers: u16) -> Group {
        Group {
            id: GroupId(1),
            servers: (1..=servers).map(|port| Server::new(addr(port), String::new(), 0)).collect(),
            credentials: None,
            former: None,
            data_user: None,
            epoch: Epoch(1),
            given_away: Default::default(),
            sweep: None,
            options: GroupOptions::default(),
            replid: String::new(),
            run_id: String::new(),
            restarted_with: None,
            required_offset: None,
            ejection: None,
        }
    }

    fn probe(role: ReportedRole, replid: &str) -> Probe {
        Probe {
            run_id: String::new(),
            role,
            replid: replid.into(),
            offset: 0,
            replid2: None,
            loading: false,
            used_memory: 0,
            keys: 0,
            ops_per_second: 0,
            ping_us: 0,
            persistent: None,
            unnamed_replicas: 0,
            write_error: String::new(),
            busy_reply_ms: None,
            saves_fail: false,
        }
    }

    #[test]
    fn unmanaged_replicas_are_counted() {
        let check = |listed: &[u16], following: &[u16], want: u32| {
            let replicas = listed.iter().map(|port| (addr(*port), 0)).collect();
            let mut probes = BTreeMap::from([(addr(1), probe(ReportedRole::Primary { replicas }, "id"))]);
            for port in following {
                let role = ReportedRole::Replica { of: addr(1), link_up: true, link_down_ms: 0, syncing: false };
                probes.insert(addr(*port), probe(role, "id"));
            }
            let primary = probes.get(&addr(1)).cloned();
            let count = unmanaged_replicas(&group(3), primary, |a| probes.get(a).cloned());
            assert_eq!(count, want, "{listed:?} {following:?}");
        };
        check(&[2, 3], &[2, 3], 0);
        check(&[2, 3, 9], &[2, 3], 1);
        check(&[2, 9], &[2], 1);
        check(&[9], &[], 1);
        // The primary lists the group's own replicas under other addresses.
        check(&[82, 83], &[2, 3], 0);
        check(&[82, 83, 9], &[2, 3], 1);
        // One of the group's own is still listed, but no longer reports that it follows.
        check(&[2, 3], &[2], 0);
        // The group's own replicas are gone; the unmanaged one is there.
        check(&[9], &[], 1);
        check(&[82, 9], &[2], 1);
        check(&[2, 9], &[2, 3], 0);
        assert_eq!(unmanaged_replicas(&group(3), None, |_| None), 0);
        // Replicas without a port are always unmanaged.
        for (listed, own, want) in [(&[2, 3][..], 2, 2), (&[82, 83], 2, 2), (&[2, 9], 1, 3), (&[], 0, 2)] {
            let replicas = listed.iter().map(|port| (addr(*port), 0)).collect();
            let primary = Probe { unnamed_replicas: 2, ..probe(ReportedRole::Primary { replicas }, "id") };
            let following = ReportedRole::Replica { of: addr(1), link_up: true, link_down_ms: 0, syncing: false };
            let probes = |a: &HostPort| match a.port() {
                port if usize::from(port) <= own + 1 => Some(probe(following.clone(), "id")),
                _ => None,
            };
            assert_eq!(unmanaged_replicas(&group(3), Some(primary.clone()), probes), want, "{listed:?}");
        }
    }

    #[test]
    fn a_replica_may_leave_when_enough_others_are_in_sync() {
        for (servers, min_acks, in_sync, may) in [
            (2, 1, &[][..], true),
            (3, 0, &[], true),
            (3, 1, &[], false),
            (3, 1, &[2], true),
            // The replica that leaves does not count.
            (3, 1, &[3], false),
            (4, 2, &[2], false),
            (4, 2, &[2, 3], true),
            (4, 1, &[2], true),
        ] {
            let left = may_leave(&group(servers), min_acks, &addr(servers), |a| in_sync.contains(&a.port()));
            assert_eq!(left.is_ok(), may, "{servers} servers, min-acks {min_acks}, in sync {in_sync:?}: {left:?}");
            assert!(left.is_ok() || !left.unwrap_err().contains("  "), "no double spaces");
        }
    }

    #[test]
    fn a_candidate_must_have_every_confirmed_write() {
        let check = |servers: u16, min_acks: u8, offsets: &[(u16, u64)], want: &str| {
            let offsets: BTreeMap<_, _> = offsets.iter().map(|(port, offset)| (addr(*port), *offset)).collect();
            let got = has_all_confirmed(&group(servers), (min_acks, 0), &addr(2), |a| offsets.get(a).copied());
            let got = match got {
                Ok(()) => "yes",
                Err(MissingConfirmation::Answers(_)) => "answers",
                Err(MissingConfirmation::Writes(_)) => "writes",
            };
            assert_eq!(got, want, "{servers} servers, min-acks {min_acks}, {offsets:?}");
        };
        check(3, 0, &[], "yes");
        check(2, 1, &[(2, 5)], "yes");
        check(3, 1, &[(2, 5)], "answers");
        check(3, 1, &[(2, 5), (3, 5)], "yes");
        check(3, 1, &[(2, 5), (3, 6)], "writes");
        check(3, 2, &[(2, 5)], "yes");
        check(3, 2, &[(3, 5)], "answers");
        check(4, 1, &[(2, 5), (3, 4)], "answers");
        check(4, 2, &[(2, 5), (3, 4)], "yes");
        // Nothing was ever confirmed there.
        check(2, 2, &[(2, 5)], "yes");
    }
}
