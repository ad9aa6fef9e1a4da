//! What threatens the data of a group, and may be intended. Shown with the group, and not in the status.

use super::{Warning, WarningKind, group::GroupJudgement};
use crate::{
    model::{ids::HostPort, route::Mode, state::Group},
    plan::{
        acks::unmanaged_replicas,
        observation::{Observation, Probe, ReportedRole, answered_now, newest},
    },
};

impl GroupJudgement<'_> {
    /// What threatens the data of the group, and may be intended.
    pub(super) fn advice(&self, seen: &Observation) -> Vec<Warning> {
        let mut advice = Vec::new();
        let store = self.product.mode == Mode::Store;
        let probe = newest(seen, &self.primary.addr).map(|(probe, _)| probe);
        if store && probe.is_some_and(|probe| probe.persistent == Some(false)) {
            advice.push(not_persistent(&self.primary.addr));
        }
        advice.extend(probe.map(|probe| self.unmanaged(seen, probe)).unwrap_or_default());
        if store && self.group.servers.len() == 1 {
            advice.push(Warning::new(
                WarningKind::NoReplica,
                format!("there is no replica: while {} is down, its slots are not served", self.primary.addr),
                self.command("add-server", "HOST:PORT"),
            ));
        }
        if self.group.data_user.is_none() {
            advice.push(Warning::new(
                WarningKind::NoDataUser,
                "there is no data user: scripts of clients may run FLUSHALL, and MIGRATE to any server",
                format!("{}, on servers that let Pontoon run ACL SETUSER", self.command("set", "data-user=new")),
            ));
        }
        advice
    }

    /// Replicas that the primary has and that are not in the group.
    fn unmanaged(&self, seen: &Observation, probe: &Probe) -> Vec<Warning> {
        let Self { group, primary, .. } = self;
        let mut warnings = Vec::new();
        if let ReportedRole::Primary { replicas: in_sync } = &probe.role {
            warnings.extend(unmanaged(group, in_sync).iter().map(|addr| {
                Warning::new(
                    WarningKind::UnmanagedReplica,
                    format!("an unmanaged replica is in sync with the primary: {addr}"),
                    format!(
                        "add it to the group ({}), or end its replication there if it may not have the data",
                        self.command("add-server", addr.as_str())
                    ),
                )
            }));
        }
        if probe.unnamed_replicas > 0 {
            warnings.push(Warning::new(
                WarningKind::UnmanagedReplica,
                format!(
                    "{} unmanaged replica(s) that report no port are in sync with the primary and acknowledge its writes (copy \
                     tools do this)",
                    probe.unnamed_replicas
                ),
                format!("end them, if they may not have the data (CLIENT LIST TYPE replica on {} shows them)", primary.addr),
            ));
        }
        let min_acks = u32::from(self.product.min_acks);
        let demanded =
            min_acks + unmanaged_replicas(group, Some(probe.clone()), |addr| answered_now(seen, addr).cloned());
        if min_acks > 0 && demanded > min_acks {
            warnings.push(Warning::new(
                WarningKind::UnmanagedReplica,
                format!("min-acks is {min_acks}, and because of the unmanaged replicas a write waits for {demanded} replicas"),
                "add the unmanaged replicas to the group, or end their replication",
            ));
        }
        warnings
    }
}

/// What follows when a primary writes nothing to its disk.
#[must_use]
pub fn not_persistent(addr: &HostPort) -> Warning {
    Warning::new(
        WarningKind::NotPersistent,
        format!(
            "the primary {addr} does not persist (no save points, no append-only file): a restart would empty it and its \
             replicas"
        ),
        "set 'save' or 'appendonly yes' in its redis.conf and by CONFIG SET",
    )
}

/// Replicas that a primary has and that are not in its group. A host can have several names, so where no address
/// matches, the port decides: of the replicas with one port, as many as the group has with this port count as the
/// group's own.
fn unmanaged(group: &Group, in_sync: &[(HostPort, u64)]) -> Vec<HostPort> {
    let mut own: Vec<&HostPort> = group.servers.iter().skip(1).map(|server| &server.addr).collect();
    let mut take = |same: &dyn Fn(&HostPort) -> bool| {
        own.iter().position(|addr| same(addr)).map(|place| own.swap_remove(place)).is_some()
    };
    let unnamed: Vec<&HostPort> =
        in_sync.iter().map(|(addr, _)| addr).filter(|addr| !take(&|own| own == *addr)).collect();
    unnamed.into_iter().filter(|addr| !take(&|own| own.port() == addr.port())).cloned().collect()
}
