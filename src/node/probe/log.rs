//! The probe log: what this node found out about each server, and which of it the leader does not have yet.
//! Knows nothing of how servers are probed, nor of how a heartbeat travels; reads no clock.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;

use super::report_wire;
use crate::{
    model::ids::{HostPort, Term},
    plan::observation::{Impairment, InSync, Probe, ProbeReport, ReportedRole},
    wire::pb::node::ServerProbeReport,
};

/// Bytes of reports in one heartbeat: a quarter of what gRPC accepts, enough for several thousand servers.
const BATCH_BYTES_MAX: usize = 1 << 20;
/// A probe that took longer than this did not end at its deadline: this node did not run meanwhile, and did not see the
/// server fail.
const STALLED_NS: u64 = 1_000_000_000;
/// Probes that are further apart than this have a gap between them: this node did not probe meanwhile.
const APART_NS: u64 = 2_000_000_000;
/// A server that sent something to a worker within this time answers, even if it answers no probe: it is busy. As long as
/// a probe may take.
const ACTIVE_NS: u64 = 500_000_000;
/// For how long after the last answered probe data counts as an answer: it may come from buffers on the way while the
/// process is dead or stopped, and a server that answers no probe for a minute is of no use.
const DATA_COUNTS_NS: u64 = 60_000_000_000;
const NS_PER_MS: u64 = 1_000_000;

/// The outcome of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeOutcome {
    /// The server answered.
    Answered(Probe),
    /// The server answered, and the answer cannot be used; why, for people, and as an impairment if it is one.
    Unusable(String, Option<Impairment>),
    /// The server did not answer, or not as a Redis server; how, for people.
    Failed(String),
}

/// The probe log. It has a row for each server that is watched, and no others.
#[derive(Debug, Default)]
pub struct ProbeLog {
    rows: BTreeMap<HostPort, Row>,
    /// Number of the last probe.
    version: u64,
    /// The term whose leader has what is marked as kept.
    kept_in: Term,
}

/// The row of a server. Times are nanoseconds on one clock.
#[derive(Debug, Default)]
struct Row {
    probe: Option<(Probe, u64)>,
    failing_since_ns: Option<u64>,
    /// When a worker last received bytes from the process that answered the last probe.
    received_ns: Option<u64>,
    error: String,
    /// Why the server cannot serve although it answers, and since when.
    impaired: Option<(Impairment, u64)>,
    in_sync: Option<InSyncSince>,
    /// When the last probe ended; 0 if there was none.
    ended_ns: u64,
    /// Number of the last probe.
    version: u64,
    /// Number of the last one that the leader has.
    kept: u64,
    /// Number of the last one that was news.
    news: u64,
}

#[derive(Debug)]
struct InSyncSince {
    to: HostPort,
    replid: String,
    run_id: String,
    at_ns: u64,
}

/// The part of the probe log that one heartbeat carries.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReportBatch {
    /// The reports.
    pub reports: Vec<ServerProbeReport>,
    /// The numbers of their probes.
    marks: Vec<(HostPort, u64)>,
    /// There was no room for everything that the leader does not have.
    more: bool,
}

impl ProbeLog {
    /// Keeps a row for each of these servers, and for no others. What is known about a server stays.
    pub fn watch_only(&mut self, servers: &BTreeSet<&HostPort>) {
        self.rows.retain(|server, _| servers.contains(server));
        for server in servers {
            if !self.rows.contains_key(server) {
                self.rows.insert((*server).clone(), Row::default());
            }
        }
    }

    /// The run id of the process that answered the last probe; empty: unknown.
    #[must_use]
    pub fn run_id(&self, server: &HostPort) -> &str {
        let probe = self.rows.get(server).and_then(|row| row.probe.as_ref());
        probe.map_or("", |(probe, _)| &probe.run_id)
    }

    /// Notes that a worker received bytes from the process that answered the last probe: it is alive, even if it answers
    /// no probe. Counts from the next probe on.
    pub fn note_bytes(&mut self, server: &HostPort, at_ns: u64) {
        if let Some(row) = self.rows.get_mut(server) {
            row.received_ns = row.received_ns.max(Some(at_ns));
        }
    }

    /// Notes a probe. Returns whether it is news, worth an immediate heartbeat.
    pub fn note(&mut self, server: &HostPort, seen: ProbeOutcome, began_ns: u64, now_ns: u64) -> bool {
        let Some(row) = self.rows.get_mut(server) else { return false };
        self.version += 1;
        row.version = self.version;
        let first = row.ended_ns == 0;
        let (failed, usable) = (row.failing_since_ns.is_some(), row.error.is_empty());
        row.note_impairment(&seen, began_ns, now_ns);
        let news = match seen {
            ProbeOutcome::Answered(probe) => {
                let news = first || !usable || row.probe.as_ref().is_none_or(|(before, _)| differ(before, &probe));
                if let Some((to, replid)) = in_sync(&probe) {
                    row.in_sync = Some(InSyncSince { to, replid, run_id: probe.run_id.clone(), at_ns: now_ns });
                }
                (row.failing_since_ns, row.error) = (None, String::new());
                row.probe = Some((probe, now_ns));
                news
            }
            ProbeOutcome::Unusable(why, _) => {
                (row.failing_since_ns, row.error) = (None, why);
                first || failed || usable
            }
            ProbeOutcome::Failed(why)
                if row.received_ns(now_ns).is_some_and(|ns| now_ns.saturating_sub(ns) <= ACTIVE_NS) =>
            {
                (row.failing_since_ns, row.error) = (None, format!("{why}, but sends data to clients"));
                first || failed || usable
            }
            ProbeOutcome::Failed(why) => {
                let began_ns = if now_ns.saturating_sub(began_ns) > STALLED_NS { now_ns } else { began_ns };
                let unbroken = row.failing_since_ns.filter(|_| began_ns.saturating_sub(row.ended_ns) <= APART_NS);
                // Bytes that arrived since then end a failure; the next begins with the last of them.
                row.failing_since_ns = Some(unbroken.unwrap_or(began_ns)).max(row.received_ns(now_ns));
                row.error = why;
                !failed
            }
        };
        row.ended_ns = now_ns;
        if news {
            row.news = row.version;
        }
        news
    }

    /// What the leader does not have, news first, then what it has lacked for the longest time.
    #[must_use]
    pub fn batch(&self, now_ns: u64) -> ReportBatch {
        let mut missing: Vec<_> = self.rows.iter().filter(|(_, row)| row.version > row.kept).collect();
        missing.sort_by_key(|(_, row)| (row.news <= row.kept, row.kept));
        let (mut batch, mut bytes) = (ReportBatch::default(), 0);
        for (server, row) in missing {
            let report = report_wire::write(server, &row.report(now_ns));
            bytes += report.encoded_len();
            if bytes > BATCH_BYTES_MAX || batch.reports.len() >= report_wire::REPORTS_MAX {
                batch.more = true;
                break;
            }
            batch.reports.push(report);
            batch.marks.push((server.clone(), row.version));
        }
        batch
    }

    /// Notes that the leader of this term has kept a batch. A new leader has none of the batches before. Returns
    /// whether there is more that it should get now.
    pub fn kept(&mut self, batch: &ReportBatch, term: Term) -> bool {
        let new_leader = term != self.kept_in;
        if new_leader {
            self.kept_in = term;
            self.rows.values_mut().for_each(|row| row.kept = 0);
        }
        for (server, version) in &batch.marks {
            if let Some(row) = self.rows.get_mut(server) {
                row.kept = row.kept.max(*version);
            }
        }
        batch.more || new_leader && self.rows.values().any(|row| row.version > 0 && row.kept == 0)
    }

    /// What is known about a server; `None` if it is not watched.
    #[must_use]
    pub fn get(&self, server: &HostPort, now_ns: u64) -> Option<ProbeReport> {
        self.rows.get(server).map(|row| row.report(now_ns))
    }
}

impl Row {
    /// When a worker last received bytes from the server, if that still counts.
    fn received_ns(&self, now_ns: u64) -> Option<u64> {
        let answered = self.probe.as_ref().is_some_and(|(_, at)| now_ns.saturating_sub(*at) <= DATA_COUNTS_NS);
        self.received_ns.filter(|_| answered)
    }

    /// Notes whether the server can serve. A probe that failed says nothing of that.
    fn note_impairment(&mut self, seen: &ProbeOutcome, began_ns: u64, now_ns: u64) {
        let seen = match seen {
            ProbeOutcome::Answered(probe) if probe.loading => Some(Impairment::Loading),
            ProbeOutcome::Answered(probe) if !probe.write_error.is_empty() => Some(Impairment::RefusesWrites),
            ProbeOutcome::Answered(_) => None,
            ProbeOutcome::Unusable(_, impairment) => *impairment,
            ProbeOutcome::Failed(_) => return,
        };
        // What happened while this node did not probe is not known.
        let unbroken = self.impaired.filter(|_| began_ns.saturating_sub(self.ended_ns) <= APART_NS);
        self.impaired = seen.map(|seen| match unbroken {
            Some((before, since_ns)) if before == seen => (seen, since_ns),
            _ => (seen, now_ns),
        });
    }

    fn report(&self, now_ns: u64) -> ProbeReport {
        let age = |at_ns: u64| now_ns.saturating_sub(at_ns) / NS_PER_MS;
        ProbeReport {
            probe: self.probe.as_ref().map(|(probe, at_ns)| (probe.clone(), age(*at_ns))),
            failing_ms: self.failing_since_ns.map(age),
            error: self.error.clone(),
            impaired: self.impaired.map(|(impairment, since_ns)| (impairment, age(since_ns))),
            in_sync: self.in_sync.as_ref().map(|InSyncSince { to, replid, run_id, at_ns }| InSync {
                to: to.clone(),
                replid: replid.clone(),
                run_id: run_id.clone(),
                ago_ms: age(*at_ns),
            }),
        }
    }
}

/// Whether two probes differ in what decisions depend on, other than by the passage of time.
fn differ(before: &Probe, now: &Probe) -> bool {
    let roles = match (&before.role, &now.role) {
        (ReportedRole::Primary { .. }, ReportedRole::Primary { .. }) => false,
        (
            ReportedRole::Replica { of, link_up, syncing, .. },
            ReportedRole::Replica { of: of_now, link_up: up_now, syncing: syncing_now, .. },
        ) => (of, link_up, syncing) != (of_now, up_now, syncing_now),
        (ReportedRole::Primary { .. }, ReportedRole::Replica { .. })
        | (ReportedRole::Replica { .. }, ReportedRole::Primary { .. }) => true,
    };
    let refuses = |probe: &Probe| !probe.write_error.is_empty();
    roles
        || refuses(before) != refuses(now)
        || (&before.run_id, &before.replid, before.loading) != (&now.run_id, &now.replid, now.loading)
}

/// The primary and the replication id of a replica that is in sync.
fn in_sync(probe: &Probe) -> Option<(HostPort, String)> {
    match &probe.role {
        ReportedRole::Replica { of, link_up: true, syncing: false, .. } if !probe.loading => {
            Some((of.clone(), probe.replid.clone()))
        }
        ReportedRole::Replica { .. } | ReportedRole::Primary { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const MS: u64 = NS_PER_MS;

    fn addr(n: u16) -> HostPort {
        HostPort::parse(&format!("127.0.0.1:{n}")).unwrap()
    }

    fn probe(role: ReportedRole) -> Probe {
        Probe {
            run_id: "run".into(),
            role,
            replid: "id".into(),
            offset: 5,
            replid2: None,
            loading: false,
            used_memory: 1,
            keys: 2,
            ops_per_second: 3,
            ping_us: 4,
            persistent: Some(true),
            unnamed_replicas: 0,
            write_error: String::new(),
            busy_reply_ms: None,
            saves_fail: false,
        }
    }

    fn primary() -> Probe {
        probe(ReportedRole::Primary { replicas: Vec::new() })
    }

    fn replica(link_up: bool, syncing: bool) -> Probe {
        probe(ReportedRole::Replica { of: addr(1), link_up, link_down_ms: 0, syncing })
    }

    fn failed() -> ProbeOutcome {
        ProbeOutcome::Failed("it does not answer".into())
    }

    /// A probe log of one server, with probes at these milliseconds that took 1 ms each.
    fn log_of(probes: Vec<(u64, ProbeOutcome)>) -> (ProbeLog, Vec<bool>) {
        let mut reports = ProbeLog::default();
        reports.watch_only(&BTreeSet::from([&addr(1)]));
        let news = probes.into_iter().map(|(at, seen)| reports.note(&addr(1), seen, at * MS, (at + 1) * MS)).collect();
        (reports, news)
    }

    #[test]
    fn failing_counts_from_the_first_probe_that_failed() {
        let (reports, news) =
            log_of(vec![(100, ProbeOutcome::Answered(primary())), (600, failed()), (1_100, failed())]);
        let report = reports.get(&addr(1), 2_000 * MS).unwrap();
        assert_eq!((report.failing_ms, report.probe.unwrap().1), (Some(1_400), 1_899));
        assert_eq!(report.error, "it does not answer");
        assert_eq!(news, [true, true, false]);
        let (reports, news) = log_of(vec![(600, failed()), (1_100, ProbeOutcome::Answered(primary()))]);
        let report = reports.get(&addr(1), 2_000 * MS).unwrap();
        assert_eq!((report.failing_ms, report.error.as_str()), (None, ""));
        assert_eq!(news, [true, true]);
    }

    #[test]
    fn a_server_that_sends_data_does_not_fail() {
        let (mut reports, _) = log_of(vec![(100, ProbeOutcome::Answered(primary()))]);
        let mut failing = |began: u64, received: u64| {
            reports.note_bytes(&addr(1), received * MS);
            reports.note(&addr(1), failed(), began * MS, (began + 500) * MS);
            let report = reports.get(&addr(1), (began + 500) * MS).unwrap();
            (report.failing_ms, report.error.ends_with("sends data to clients"))
        };
        assert_eq!(failing(600, 1_050), (None, true), "bytes 50 ms ago");
        assert_eq!(failing(1_100, 1_100), (None, true), "bytes 500 ms ago");
        assert_eq!(failing(1_600, 1_100), (Some(500), false));
        assert_eq!(failing(2_100, 1_100), (Some(1_000), false));
        assert_eq!(failing(2_600, 2_300), (Some(800), false), "bytes in between");
        assert_eq!(failing(3_100, 3_500), (None, true));
        // Buffers on the way may be large: without an answered probe, data does not count for ever.
        assert_eq!(failing(59_500, 59_900), (None, true));
        assert_eq!(failing(60_000, 60_400), (Some(500), false));
        assert_eq!(failing(60_500, 60_900), (Some(1_000), false));
    }

    #[test]
    fn a_node_that_did_not_run_reports_no_failure() {
        // The node was stopped between two probes: the failure after that counts from its own beginning.
        let (reports, _) = log_of(vec![(600, failed()), (9_000, failed())]);
        assert_eq!(reports.get(&addr(1), 9_100 * MS).unwrap().failing_ms, Some(100));
        // The node was stopped during a probe: what the server did meanwhile is unknown.
        let (mut reports, _) = log_of(vec![(600, ProbeOutcome::Answered(primary()))]);
        reports.note(&addr(1), failed(), 1_100 * MS, 9_000 * MS);
        assert_eq!(reports.get(&addr(1), 9_100 * MS).unwrap().failing_ms, Some(100));
    }

    #[test]
    fn a_server_with_an_unusable_answer_does_not_fail() {
        let refuses = || ProbeOutcome::Unusable("it refuses the password".into(), None);
        let (reports, news) = log_of(vec![(0, failed()), (500, refuses()), (1_000, refuses())]);
        let report = reports.get(&addr(1), 2_000 * MS).unwrap();
        assert_eq!((report.failing_ms, report.error.as_str()), (None, "it refuses the password"));
        assert_eq!(news, [true, true, false]);
    }

    #[test]
    fn an_impairment_counts_from_the_first_probe_that_shows_it() {
        let busy = || ProbeOutcome::Unusable("it is busy".into(), Some(Impairment::Busy));
        let loading = || ProbeOutcome::Answered(Probe { loading: true, ..primary() });
        let full = || ProbeOutcome::Answered(Probe { write_error: "MISCONF it is full".into(), ..primary() });
        for (probes, want) in [
            (vec![(0, ProbeOutcome::Unusable("it refuses the password".into(), None))], None),
            (vec![(0, busy()), (500, busy()), (1_000, busy())], Some((Impairment::Busy, 1_999))),
            (
                vec![(0, busy()), (500, ProbeOutcome::Answered(primary())), (1_000, busy())],
                Some((Impairment::Busy, 999)),
            ),
            (vec![(0, busy()), (500, loading()), (1_000, loading())], Some((Impairment::Loading, 1_499))),
            (vec![(0, full()), (1_000, full())], Some((Impairment::RefusesWrites, 1_999))),
            (vec![(0, busy()), (1_000, ProbeOutcome::Answered(primary()))], None),
            (vec![(0, busy()), (500, failed()), (1_000, busy())], Some((Impairment::Busy, 1_999))),
        ] {
            let (reports, _) = log_of(probes.clone());
            assert_eq!(reports.get(&addr(1), 2_000 * MS).unwrap().impaired, want, "{probes:?}");
        }
        // This node did not probe for a while.
        let (reports, _) = log_of(vec![(0, busy()), (9_000, busy())]);
        assert_eq!(reports.get(&addr(1), 10_000 * MS).unwrap().impaired, Some((Impairment::Busy, 999)));
    }

    #[test]
    fn only_a_replica_in_sync_is_noted_as_in_sync() {
        let loading = Probe { loading: true, ..replica(true, false) };
        for probe in [primary(), replica(false, false), replica(true, true), loading] {
            let (reports, _) = log_of(vec![(100, ProbeOutcome::Answered(probe.clone()))]);
            assert_eq!(reports.get(&addr(1), 0).unwrap().in_sync, None, "{probe:?}");
        }
        let probes = vec![
            (100, ProbeOutcome::Answered(replica(true, false))),
            (600, ProbeOutcome::Answered(replica(false, false))),
        ];
        let (reports, _) = log_of(probes);
        let in_sync = reports.get(&addr(1), 1_101 * MS).unwrap().in_sync.unwrap();
        assert_eq!(in_sync, InSync { to: addr(1), replid: "id".into(), run_id: "run".into(), ago_ms: 1_000 });
    }

    #[test]
    fn what_decisions_depend_on_is_news_and_time_is_not() {
        let later = Probe { offset: 9, keys: 9, ping_us: 9, ..primary() };
        let restarted = Probe { run_id: "other".into(), ..primary() };
        let other_data = Probe { replid: "other".into(), ..primary() };
        let loading = Probe { loading: true, ..primary() };
        let full = Probe { write_error: "MISCONF it is full".into(), ..primary() };
        let elsewhere = probe(ReportedRole::Replica { of: addr(2), link_up: true, link_down_ms: 0, syncing: false });
        for (before, now, is_news) in [
            (primary(), later, false),
            (primary(), restarted, true),
            (primary(), other_data, true),
            (primary(), loading, true),
            (primary(), full, true),
            (primary(), replica(true, false), true),
            (replica(true, false), replica(true, false), false),
            (replica(true, false), replica(false, false), true),
            (replica(false, false), replica(false, true), true),
            (replica(true, false), elsewhere, true),
        ] {
            let (_, news) =
                log_of(vec![(0, ProbeOutcome::Answered(before)), (500, ProbeOutcome::Answered(now.clone()))]);
            assert_eq!(news, [true, is_news], "{now:?}");
        }
    }

    fn named(batch: &ReportBatch) -> Vec<&str> {
        batch.reports.iter().map(|s| s.server.as_str()).collect()
    }

    #[test]
    fn a_leader_gets_what_is_new_and_a_new_leader_everything() {
        let mut reports = ProbeLog::default();
        let (one, two, three) = (addr(1), addr(2), addr(3));
        reports.watch_only(&BTreeSet::from([&one, &two, &three]));
        assert_eq!(reports.batch(0), ReportBatch::default(), "nobody has probed yet");
        reports.note(&one, ProbeOutcome::Answered(primary()), 0, MS);
        reports.note(&two, ProbeOutcome::Answered(primary()), 0, MS);
        let batch = reports.batch(MS);
        assert_eq!(named(&batch), ["127.0.0.1:1", "127.0.0.1:2"]);
        assert_eq!(named(&reports.batch(MS)), named(&batch), "nobody has answered");
        // While the batch travels, there is another probe.
        reports.note(&two, ProbeOutcome::Answered(primary()), 0, MS);
        assert!(!reports.kept(&batch, Term(3)));
        assert_eq!(named(&reports.batch(MS)), ["127.0.0.1:2"]);
        reports.note(&three, failed(), 0, MS);
        assert_eq!(named(&reports.batch(MS)), ["127.0.0.1:3", "127.0.0.1:2"], "news come first");
        let batch = reports.batch(MS);
        assert!(reports.kept(&batch, Term(4)), "it does not have the first");
        assert_eq!(named(&reports.batch(MS)), ["127.0.0.1:1"]);
        // A server that is no longer watched is not reported.
        reports.watch_only(&BTreeSet::from([&three]));
        assert_eq!(reports.batch(MS), ReportBatch::default());
        assert!(!reports.note(&one, failed(), 0, MS), "a probe that ends after");
        assert_eq!(reports.get(&one, MS), None);
    }

    #[test]
    fn many_servers_are_reported_in_batches() {
        let servers: Vec<HostPort> = (1..=9_000).map(addr).collect();
        let mut reports = ProbeLog::default();
        reports.watch_only(&servers.iter().collect());
        let replicas = (1..=8).map(|n| (addr(n), 1 << 40)).collect();
        for server in &servers {
            let seen = ProbeOutcome::Answered(probe(ReportedRole::Primary { replicas: Vec::clone(&replicas) }));
            reports.note(server, seen, 0, MS);
        }
        let (mut reported, mut batches) = (BTreeSet::new(), 0);
        loop {
            let batch = reports.batch(MS);
            assert!(batch.reports.iter().map(Message::encoded_len).sum::<usize>() <= BATCH_BYTES_MAX);
            for report in &batch.reports {
                assert!(reported.insert(report.server.clone()), "{} is reported twice", report.server);
            }
            batches += 1;
            if !reports.kept(&batch, Term(1)) {
                break;
            }
        }
        assert_eq!(reported.len(), servers.len());
        assert!((2..20).contains(&batches), "{batches}");
    }
}
