//! Converts probe reports between plan's types and node.proto.
//! Knows nothing of how servers are probed, nor of what follows from a report.

use crate::{
    model::{
        ids::HostPort,
        limits::{RUN_ID_LEN_MAX, TEXT_LEN_MAX},
    },
    plan::observation::{Impairment, InSync, Probe, ProbeReport, ReportedRole},
    wire::pb::node as pb,
};

/// Reports that are accepted from one heartbeat. A batch is smaller than this by its limit of bytes.
pub const REPORTS_MAX: usize = 16_384;
/// Replicas of a primary in one report: four times as many as a group has, because others may follow it, too.
pub const REPLICAS_MAX: usize = 64;

/// A report for a heartbeat.
#[must_use]
pub fn write(server: &HostPort, report: &ProbeReport) -> pb::ServerProbeReport {
    let in_sync = |in_sync: &InSync| pb::InSyncRecord {
        to: in_sync.to.to_string(),
        replid: in_sync.replid.clone(),
        run_id: in_sync.run_id.clone(),
        ago_ms: in_sync.ago_ms,
    };
    pb::ServerProbeReport {
        server: server.to_string(),
        probe: report.probe.as_ref().map(|(probe, _)| probe_to_wire(probe)),
        probe_age_ms: report.probe.as_ref().map_or(0, |(_, age_ms)| *age_ms),
        failing_ms: report.failing_ms,
        error: report.error.clone(),
        in_sync: report.in_sync.as_ref().map(in_sync),
        impairment: report.impaired.map_or(pb::Impairment::Unspecified, |(seen, _)| impairment_to_wire(seen)).into(),
        impaired_ms: report.impaired.map_or(0, |(_, for_ms)| for_ms),
    }
}

/// The reports of a heartbeat. A role that this version does not know makes a report without a probe.
///
/// # Errors
/// Returns which part of the reports is wrong, as text for the operator.
pub fn read(reports: Vec<pb::ServerProbeReport>) -> Result<Vec<(HostPort, ProbeReport)>, String> {
    if reports.len() > REPORTS_MAX {
        return Err(format!("a heartbeat reports more than {REPORTS_MAX} servers"));
    }
    reports.into_iter().map(report).collect()
}

const fn impairment_to_wire(impairment: Impairment) -> pb::Impairment {
    match impairment {
        Impairment::Busy => pb::Impairment::Busy,
        Impairment::Loading => pb::Impairment::Loading,
        Impairment::RefusesWrites => pb::Impairment::RefusesWrites,
        Impairment::RefusesLogin => pb::Impairment::RefusesLogin,
    }
}

/// `None` also for an impairment that this version does not know.
fn impairment(wire: i32) -> Option<Impairment> {
    match pb::Impairment::try_from(wire) {
        Ok(pb::Impairment::Busy) => Some(Impairment::Busy),
        Ok(pb::Impairment::Loading) => Some(Impairment::Loading),
        Ok(pb::Impairment::RefusesWrites) => Some(Impairment::RefusesWrites),
        Ok(pb::Impairment::RefusesLogin) => Some(Impairment::RefusesLogin),
        Ok(pb::Impairment::Unspecified) | Err(_) => None,
    }
}

fn probe_to_wire(probe: &Probe) -> pb::ServerProbe {
    let role = match &probe.role {
        ReportedRole::Primary { replicas } => {
            let replica =
                |(server, offset): &(HostPort, u64)| pb::ReplicaOffset { server: server.to_string(), offset: *offset };
            let replicas = replicas.iter().take(REPLICAS_MAX).map(replica).collect();
            pb::server_probe::Role::Primary(pb::PrimaryRole { replicas })
        }
        ReportedRole::Replica { of, link_up, link_down_ms, syncing } => {
            pb::server_probe::Role::Replica(pb::ReplicaRole {
                of: of.to_string(),
                link_up: *link_up,
                link_down_ms: *link_down_ms,
                syncing: *syncing,
            })
        }
    };
    let (replid2, replid2_until) = probe.replid2.clone().unwrap_or_default();
    pb::ServerProbe {
        run_id: probe.run_id.clone(),
        role: Some(role),
        replid: probe.replid.clone(),
        offset: probe.offset,
        replid2,
        replid2_until,
        loading: probe.loading,
        used_memory: probe.used_memory,
        keys: probe.keys,
        ops_per_second: probe.ops_per_second,
        ping_us: probe.ping_us,
        persistent: probe.persistent,
        unnamed_replicas: probe.unnamed_replicas,
        write_error: probe.write_error.clone(),
        busy_reply_ms: probe.busy_reply_ms,
        saves_fail: probe.saves_fail,
    }
}

fn report(report: pb::ServerProbeReport) -> Result<(HostPort, ProbeReport), String> {
    let in_sync = |seen: pb::InSyncRecord| {
        let (replid, run_id) = (id(&seen.replid), id(&seen.run_id));
        Ok::<_, String>(InSync { to: HostPort::parse(&seen.to)?, replid, run_id, ago_ms: seen.ago_ms })
    };
    let probe = report.probe.map(probe).transpose()?.flatten();
    let seen = ProbeReport {
        probe: probe.map(|probe| (probe, report.probe_age_ms)),
        failing_ms: report.failing_ms,
        error: report.error.chars().take(TEXT_LEN_MAX).collect(),
        impaired: impairment(report.impairment).map(|seen| (seen, report.impaired_ms)),
        in_sync: report.in_sync.map(in_sync).transpose()?,
    };
    Ok((HostPort::parse(&report.server)?, seen))
}

fn probe(probe: pb::ServerProbe) -> Result<Option<Probe>, String> {
    let role = match probe.role {
        None => return Ok(None),
        Some(pb::server_probe::Role::Primary(primary)) => {
            let replica = |r: pb::ReplicaOffset| Ok::<_, String>((HostPort::parse(&r.server)?, r.offset));
            let replicas = primary.replicas.into_iter().take(REPLICAS_MAX).map(replica).collect::<Result<_, _>>()?;
            ReportedRole::Primary { replicas }
        }
        Some(pb::server_probe::Role::Replica(replica)) => ReportedRole::Replica {
            of: HostPort::parse(&replica.of)?,
            link_up: replica.link_up,
            link_down_ms: replica.link_down_ms,
            syncing: replica.syncing,
        },
    };
    let replid2 = id(&probe.replid2);
    Ok(Some(Probe {
        run_id: id(&probe.run_id),
        role,
        replid: id(&probe.replid),
        offset: probe.offset,
        replid2: (!replid2.is_empty()).then_some((replid2, probe.replid2_until)),
        loading: probe.loading,
        used_memory: probe.used_memory,
        keys: probe.keys,
        ops_per_second: probe.ops_per_second,
        ping_us: probe.ping_us,
        persistent: probe.persistent,
        unnamed_replicas: probe.unnamed_replicas,
        write_error: probe.write_error.chars().take(TEXT_LEN_MAX).collect(),
        busy_reply_ms: probe.busy_reply_ms,
        saves_fail: probe.saves_fail,
    }))
}

/// A run id or replication id as a server reports it, shortened to the length that the log accepts.
#[must_use]
pub fn id(text: &str) -> String {
    text.chars().filter(char::is_ascii_graphic).take(RUN_ID_LEN_MAX).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn addr(n: usize) -> HostPort {
        HostPort::parse(&format!("127.0.0.1:{n}")).unwrap()
    }

    fn seen(role: ReportedRole) -> ProbeReport {
        let probe = Probe {
            run_id: "run".into(),
            role,
            replid: "id".into(),
            offset: 5,
            replid2: Some(("former".into(), 3)),
            loading: true,
            used_memory: 1,
            keys: 2,
            ops_per_second: 3,
            ping_us: 4,
            persistent: Some(false),
            unnamed_replicas: 2,
            write_error: "MISCONF its disk is full".into(),
            busy_reply_ms: Some(-1),
            saves_fail: true,
        };
        ProbeReport {
            probe: Some((probe, 7)),
            failing_ms: Some(0),
            error: "it hangs".into(),
            impaired: Some((Impairment::Busy, 9)),
            in_sync: Some(InSync { to: addr(2), replid: "id".into(), run_id: "run".into(), ago_ms: 8 }),
        }
    }

    #[test]
    fn a_report_arrives_as_it_was_sent() {
        let replica = ReportedRole::Replica { of: addr(3), link_up: false, link_down_ms: u64::MAX, syncing: true };
        let primary = ReportedRole::Primary { replicas: vec![(addr(4), 9)] };
        let never = ProbeReport { failing_ms: None, ..ProbeReport::default() };
        for report in [seen(replica), seen(primary), never] {
            let read = read(vec![write(&addr(1), &report)]).unwrap();
            assert_eq!(read, [(addr(1), report)]);
        }
    }

    #[test]
    fn what_is_too_much_is_cut_or_refused() {
        let many = ReportedRole::Primary { replicas: (1..=2 * REPLICAS_MAX).map(|n| (addr(n), 0)).collect() };
        let report = ProbeReport { error: "x".repeat(2 * TEXT_LEN_MAX), ..seen(many) };
        let mut wire = write(&addr(1), &report);
        wire.probe.as_mut().unwrap().run_id = "r ".repeat(RUN_ID_LEN_MAX);
        let (_, taken) = read(vec![wire.clone()]).unwrap().remove(0);
        assert_eq!(taken.error.len(), TEXT_LEN_MAX);
        let (probe, _) = taken.probe.unwrap();
        assert_eq!(probe.run_id, "r".repeat(RUN_ID_LEN_MAX));
        assert!(matches!(probe.role, ReportedRole::Primary { replicas } if replicas.len() == REPLICAS_MAX));
        assert!(read(vec![pb::ServerProbeReport::default(); REPORTS_MAX + 1]).is_err());
        for bad in ["", "host", "host:0"] {
            assert!(read(vec![pb::ServerProbeReport { server: bad.into(), ..wire.clone() }]).is_err(), "{bad}");
        }
        // A role of a later version: the server answers, and its role is unknown.
        wire.probe.as_mut().unwrap().role = None;
        assert_eq!(read(vec![wire]).unwrap()[0].1.probe, None);
    }
}
