//! What nodes reported about servers: values with their ages, and what can be read from them directly.
//! Knows nothing of how servers are probed, nor of what is decided.

use std::collections::BTreeMap;

use crate::model::ids::{HostPort, NodeId};

/// A probe is fresh for this time, milliseconds: probes and heartbeats come every half second, and a busy machine is
/// late.
pub const PROBE_FRESH_MS: u64 = 3_000;

/// What one node found out about one server. Ages count back from the moment at which the node reported it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProbeReport {
    /// The last probe that was answered, and its age in milliseconds; `None`: none since this node started.
    pub probe: Option<(Probe, u64)>,
    /// For how long all probes have failed, milliseconds; `None`: the last one was answered.
    pub failing_ms: Option<u64>,
    /// Why the last probe failed, for people; empty: it did not. With `failing_ms: None` the server answers but cannot
    /// be probed: it refuses the password or a command, or answers every command with `LOADING`. Then `probe` is an
    /// earlier one.
    pub error: String,
    /// Why the server cannot serve although it answers, and for how long without a break, milliseconds; `None`: it can, as
    /// far as is known.
    pub impaired: Option<(Impairment, u64)>,
    /// When the node last saw it as a replica whose link was up and that was neither loading nor syncing.
    pub in_sync: Option<InSync>,
}

/// Why a server that answers cannot serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Impairment {
    /// It is busy with a script (`-BUSY`).
    Busy,
    /// It loads its data (`-LOADING`).
    Loading,
    /// It refuses writes because it cannot write to its disk (`-MISCONF`).
    RefusesWrites,
    /// It refuses the password of its group, or wants one and the group has none (`-WRONGPASS`, `-NOAUTH`).
    RefusesLogin,
}

impl Impairment {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Busy, Self::Loading, Self::RefusesWrites, Self::RefusesLogin];
}

/// An answered probe of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The `run_id` of its process; empty: it does not report one.
    pub run_id: String,
    /// Its role.
    pub role: ReportedRole,
    /// Replication id under which `offset` counts.
    pub replid: String,
    /// Replication offset, bytes: a primary's own, or how much of its primary's stream a replica has executed.
    pub offset: u64,
    /// The replication id that it had before it was promoted, and the first offset that does not belong to that id any
    /// more.
    pub replid2: Option<(String, u64)>,
    /// It loads its data: it is alive and not ready.
    pub loading: bool,
    /// Bytes in use.
    pub used_memory: u64,
    /// Keys of all databases.
    pub keys: u64,
    /// Commands per second, as the server counts them.
    pub ops_per_second: u64,
    /// How long a PING took, microseconds.
    pub ping_us: u64,
    /// Whether it writes its data to disk automatically (save points or append-only file); `None`: it does not report
    /// this.
    pub persistent: Option<bool>,
    /// Of a primary: replicas that announced no port, so that they are servers of no group, and that have acknowledged
    /// something. The primary counts them in WAIT like any other.
    pub unnamed_replicas: u32,
    /// Why it refuses writes, as it says (`MISCONF ..`: it cannot write to its disk); empty: it does not.
    pub write_error: String,
    /// Its last write to its disk has failed (a snapshot or the append-only file). A primary then refuses writes, a replica
    /// would if it were promoted.
    pub saves_fail: bool,
    /// From which time on it answers -BUSY while a script runs, milliseconds; 0 and less: never. `None`: it does not report
    /// this.
    pub busy_reply_ms: Option<i64>,
}

/// A server's role as it reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReportedRole {
    /// It takes writes.
    Primary {
        /// Replicas that the primary lists as online, with the offset that each has acknowledged.
        replicas: Vec<(HostPort, u64)>,
    },
    /// It follows another server.
    Replica {
        /// That server's address, as configured at the replica.
        of: HostPort,
        /// The link is up and the first copy is complete.
        link_up: bool,
        /// For how long the link has been down, milliseconds; 0: it is up; `u64::MAX`: it was never up since the server
        /// started.
        link_down_ms: u64,
        /// A full copy is being received.
        syncing: bool,
    },
}

/// A replica that was in sync.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InSync {
    /// Its primary, as configured at the replica.
    pub to: HostPort,
    /// The replication id of the data.
    pub replid: String,
    /// The `run_id` of its process then: after a restart it has what it last saved, and that may be old.
    pub run_id: String,
    /// How long ago, milliseconds.
    pub ago_ms: u64,
}

/// A report of a node, and its age.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgedReport {
    /// The report.
    pub report: ProbeReport,
    /// How long ago the report was made, milliseconds. Add it to the ages in the report.
    pub age_ms: u64,
}

/// What all nodes reported, by server and node. A server is identified by the address that its group gives it.
pub type Observation = BTreeMap<HostPort, BTreeMap<NodeId, AgedReport>>;

/// The newest answered probe of a server by any node, and its age in milliseconds.
#[must_use]
pub fn newest<'a>(seen: &'a Observation, addr: &HostPort) -> Option<(&'a Probe, u64)> {
    let probes = seen.get(addr)?.values().filter_map(|reported| {
        let (probe, ago_ms) = reported.report.probe.as_ref()?;
        Some((probe, ago_ms.saturating_add(reported.age_ms)))
    });
    probes.min_by_key(|(_, age_ms)| *age_ms)
}

/// The newest answered probe of a server, if it is fresh ([`PROBE_FRESH_MS`]).
#[must_use]
pub fn fresh_probe<'a>(seen: &'a Observation, addr: &HostPort) -> Option<&'a Probe> {
    newest(seen, addr).filter(|(_, age_ms)| *age_ms <= PROBE_FRESH_MS).map(|(probe, _)| probe)
}

/// The fresh probe of a server, unless a node has seen the server fail since.
#[must_use]
pub fn answered_now<'a>(seen: &'a Observation, addr: &HostPort) -> Option<&'a Probe> {
    let failing = |r: &AgedReport| r.report.failing_ms.is_some();
    fresh_probe(seen, addr).filter(|_| !seen.get(addr).is_some_and(|by_node| by_node.values().any(failing)))
}

/// How long ago a node last saw this process of a server in sync with `primary` under `replid`, milliseconds.
#[must_use]
pub fn last_in_sync_ms(
    seen: &Observation,
    addr: &HostPort,
    primary: &HostPort,
    replid: &str,
    run_id: &str,
) -> Option<u64> {
    let reports = seen.get(addr)?.values();
    let in_sync = reports.filter_map(|AgedReport { report, age_ms }| Some((report.in_sync.as_ref()?, age_ms)));
    let same = in_sync.filter(|(l, _)| l.to == *primary && l.replid == replid && l.run_id == run_id);
    same.map(|(l, age_ms)| l.ago_ms.saturating_add(*age_ms)).min()
}

/// Whether a node ever saw this process of a server in sync under `replid`, with any primary. Then the offset that it
/// reports afterwards refers to the same data.
#[must_use]
pub fn was_in_sync(seen: &Observation, addr: &HostPort, replid: &str, run_id: &str) -> bool {
    let in_sync =
        |report: &ProbeReport| report.in_sync.as_ref().is_some_and(|l| l.replid == replid && l.run_id == run_id);
    seen.get(addr).is_some_and(|by_node| by_node.values().any(|reported| in_sync(&reported.report)))
}

/// Whether a node saw another process of a server than this one in sync under `replid`, and no node ever saw this one:
/// the server was restarted since. (`false` also when no node saw either.)
#[must_use]
pub fn was_in_sync_as_another_process(seen: &Observation, addr: &HostPort, replid: &str, run_id: &str) -> bool {
    let other =
        |report: &ProbeReport| report.in_sync.as_ref().is_some_and(|l| l.replid == replid && l.run_id != run_id);
    let seen_other = seen.get(addr).is_some_and(|by_node| by_node.values().any(|reported| other(&reported.report)));
    seen_other && !was_in_sync(seen, addr, replid, run_id)
}

/// The nodes whose probes of a server fail, for how long, and an error, for the log.
#[must_use]
pub fn failing_nodes_text(by_node: &BTreeMap<NodeId, AgedReport>) -> String {
    let failing: Vec<_> = by_node
        .iter()
        .filter_map(|(node, r)| Some((node, r.report.failing_ms?.saturating_add(r.age_ms), r.report.error.as_str())))
        .collect();
    let each: Vec<String> =
        failing.iter().map(|(node, ms, _)| format!("node {node} for {}.{} s", ms / 1000, ms % 1000 / 100)).collect();
    let error = failing.iter().map(|(_, _, error)| *error).find(|error| !error.is_empty()).unwrap_or("no answer");
    if each.is_empty() { "nobody".into() } else { format!("{} ({error})", each.join(", ")) }
}
