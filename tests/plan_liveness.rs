//! `plan::liveness`: which servers are down, by a table of small clusters and by properties of all clusters.
//! Knows nothing of how servers are probed.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use pontoon::{
    model::ids::{HostPort, NodeId},
    plan::{
        guard::{DOWN_AT_ONCE, FailoverGuard, TOGETHER_MS, may_fail_over},
        liveness::{Liveness, REPORT_FRESH_MS, Watchers, liveness},
        observation::{AgedReport, Observation, Probe, ProbeReport, ReportedRole},
    },
};
use proptest::prelude::*;

const DOWN_AFTER: u32 = 3_000;

fn server(n: usize) -> HostPort {
    HostPort::parse(&format!("10.0.0.{n}:6379")).unwrap()
}

fn probe(loading: bool) -> Probe {
    Probe {
        run_id: "r".into(),
        role: ReportedRole::Primary { replicas: Vec::new() },
        replid: "i".into(),
        offset: 1,
        replid2: None,
        loading,
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

/// A node's report about a server: `u` up, `l` loading, `e` answers and cannot be probed, `n` probed with neither an
/// answer nor a failure yet, `.` no report; a number: it has failed for this many hundreds of milliseconds.
fn report(word: &str) -> Option<ProbeReport> {
    let answered = |loading| ProbeReport { probe: Some((probe(loading), 100)), ..ProbeReport::default() };
    Some(match word {
        "." => return None,
        "u" => answered(false),
        "l" => answered(true),
        "e" => ProbeReport { error: "it refuses the password".into(), ..answered(false) },
        "n" => ProbeReport::default(),
        hundreds => ProbeReport {
            failing_ms: Some(hundreds.parse::<u64>().unwrap() * 100),
            error: "it does not answer".into(),
            ..answered(false)
        },
    })
}

/// A line for each node from 1 on, a word for each server.
fn observed(nodes: &[&str], age_ms: u64) -> Observation {
    let mut observation = Observation::new();
    for (node, words) in (1..).zip(nodes) {
        for (n, word) in words.split(' ').enumerate() {
            if let Some(report) = report(word) {
                observation.entry(server(n)).or_default().insert(NodeId(node), AgedReport { report, age_ms });
            }
        }
    }
    observation
}

fn ids(nodes: &[u64]) -> BTreeSet<NodeId> {
    nodes.iter().map(|n| NodeId(*n)).collect()
}

fn down(by: &[u64], for_ms: u64) -> Liveness {
    Liveness::Down { by: ids(by), for_ms }
}

fn suspect(by: &[u64]) -> Liveness {
    Liveness::Suspect { by: ids(by) }
}

#[test]
fn verdicts_on_the_first_server() {
    // The reports of each node about all servers, the live voters, the expected liveness of the first server.
    let table: Vec<(&[&str], &[u64], Liveness)> = vec![
        (&["u u", "u u", "u u"], &[1, 2, 3], Liveness::Up),
        // It fails for one node, for however long.
        (&["99 u", "u u", "u u"], &[1, 2, 3], suspect(&[1])),
        // It fails for two of three, but for one of them not for long enough.
        (&["99 u", "28 u", "u u"], &[1, 2, 3], suspect(&[1, 2])),
        (&["99 u", "31 u", "u u"], &[1, 2, 3], down(&[1, 2], 3_200)),
        (&["99 u", "40 u", "u u"], &[1, 2, 3], down(&[1, 2], 4_100)),
        (&["50 u", "60 u", "70 u"], &[1, 2, 3], down(&[1, 2, 3], 6_100)),
        // Half is no majority.
        (&["50 u", "50 u", "u u", "u u"], &[1, 2, 3, 4], suspect(&[1, 2])),
        // A voter that is not alive does not count, neither as a voter nor with its report.
        (&["50 u", "50 u", "u u"], &[1, 3], suspect(&[1, 2])),
        (&["50 u", "50 u", "."], &[1, 2], down(&[1, 2], 5_100)),
        (&["50 u", "50 u", "99 u", "u u"], &[1, 2, 4], down(&[1, 2, 3], 5_100)),
        // A single voter is the majority of a cluster of one; an empty cluster has no majority.
        (&["50 u"], &[1], down(&[1], 5_100)),
        (&["50 u"], &[], suspect(&[1])),
        // Learners suspect, and decide nothing.
        (&["u u", "99 u", "99 u"], &[1], suspect(&[2, 3])),
        // Alive and not ready; if one node gets a complete answer, it is up.
        (&["l u", "l u", "l u"], &[1, 2, 3], Liveness::Loading),
        (&["e u", "e u", "."], &[1, 2, 3], Liveness::NotProbed),
        (&["e u", "u u", "l u"], &[1, 2, 3], Liveness::Up),
        (&["e u", "l u", "."], &[1, 2, 3], Liveness::Loading),
        (&["n u", "n u", "."], &[1, 2, 3], Liveness::Unknown),
        (&["l u", "l u", "2 u"], &[1, 2, 3], suspect(&[3])),
        (&["l u", "50 u", "50 u"], &[1, 2, 3], down(&[2, 3], 5_100)),
        (&[". u", ". u", "."], &[1, 2, 3], Liveness::Unknown),
        // The reports of a node that no server answers do not count, but it counts as a live voter.
        (&["50 50", "u u", "u u"], &[1, 2, 3], Liveness::Up),
        (&["50 1", "50 u", "u u"], &[1, 2, 3], suspect(&[2])),
        (&["50 1", "50 u", "50 u"], &[1, 2, 3], down(&[2, 3], 5_100)),
        (&["50 1", "."], &[1, 2], Liveness::Unknown),
        // No server answers any node: then the servers are down.
        (&["50 50", "50 50", "50 50"], &[1, 2, 3], down(&[1, 2, 3], 5_100)),
        (&["50 1", "50 1", "u u"], &[1, 2], down(&[1, 2], 5_100)),
        // With one server there is nothing to compare with.
        (&["50", "50", "u"], &[1, 2, 3], down(&[1, 2], 5_100)),
    ];
    for (nodes, alive, want) in table {
        let observation = observed(nodes, 100);
        let watchers = Watchers::new(&observation, ids(alive));
        assert_eq!(liveness(&watchers, &server(0), DOWN_AFTER), want, "{nodes:?}, alive {alive:?}");
    }
}

#[test]
fn old_reports_do_not_count() {
    let of = |age_ms| {
        let observation = observed(&["50 u", "50 u", "u u"], age_ms);
        liveness(&Watchers::new(&observation, ids(&[1, 2, 3])), &server(0), DOWN_AFTER)
    };
    assert_eq!(of(REPORT_FRESH_MS), down(&[1, 2], 5_000 + REPORT_FRESH_MS));
    assert_eq!(of(REPORT_FRESH_MS + 1), Liveness::Unknown);
    let observation = observed(&["50 50"], REPORT_FRESH_MS + 1);
    assert!(Watchers::new(&observation, ids(&[1, 2])).blind().is_empty());
    assert_eq!(liveness(&Watchers::new(&observation, ids(&[1])), &server(9), DOWN_AFTER), Liveness::Unknown);
}

#[test]
fn many_primaries_that_fail_together_are_not_failed_over() {
    for (down, primaries, share, may) in [
        (0, 0, 50, true),
        (1, 1, 50, true),
        (DOWN_AT_ONCE, 2, 1, true),
        (3, 3, 50, false),
        (3, 6, 50, true),
        (4, 7, 50, false),
        (4, 100, 1, false),
        (100, 100, 100, true),
        (50, 100, 50, true),
        (51, 100, 50, false),
    ] {
        let answer = may_fail_over(down, primaries, share);
        assert_eq!(answer.is_ok(), may, "{down} of {primaries} at {share} %: {answer:?}");
    }
    let why = may_fail_over(51, 100, 50).unwrap_err();
    assert!(why.contains("51 of 100") && why.contains("more than 50"), "{why}");
}

#[test]
fn failures_that_began_apart_do_not_count_together() {
    let guard = |failing_ms: &[u64]| FailoverGuard { primaries: 6, failing_ms: failing_ms.to_vec(), share_max: 1 };
    const DAY: u64 = 86_400_000;
    for (failing, of, may) in [
        (vec![4_000], 4_000, true),
        (vec![4_000, DAY, DAY, DAY], 4_000, true),
        (vec![4_000, DAY, DAY, DAY], DAY, false),
        (vec![4_000, 3_000, 500], 4_000, false),
        (vec![4_000, 4_000 + TOGETHER_MS, 4_000 + TOGETHER_MS], 4_000, false),
        (vec![4_000, 4_000 + TOGETHER_MS, 4_001 + TOGETHER_MS], 4_000, true),
        (vec![DAY, DAY - TOGETHER_MS, DAY + TOGETHER_MS], DAY, false),
    ] {
        assert_eq!(guard(&failing).may_fail_over(of).is_ok(), may, "{of} of {failing:?}");
    }
}

/// A cell of the table: no report, answered, or failing for this time in milliseconds.
fn cell() -> impl Strategy<Value = Option<Option<u64>>> {
    prop_oneof![Just(None), Just(Some(None)), (0..10_000u64).prop_map(|ms| Some(Some(ms)))]
}

/// Reports of nodes from 1 on about two to five servers; the live voters among them; ages of reports.
fn world() -> impl Strategy<Value = (Observation, BTreeSet<NodeId>)> {
    (1..8usize, 1..5usize).prop_flat_map(|(nodes, servers)| {
        let cells = proptest::collection::vec((cell(), 0..2_500u64), nodes * servers);
        (cells, proptest::collection::vec(any::<bool>(), nodes)).prop_map(move |(cells, alive)| {
            let mut observation = Observation::new();
            for (i, (cell, age_ms)) in cells.into_iter().enumerate() {
                let Some(failing_ms) = cell else { continue };
                let report = ProbeReport { probe: Some((probe(false), 0)), failing_ms, ..ProbeReport::default() };
                let node = NodeId((i / servers + 1) as u64);
                observation.entry(server(i % servers)).or_default().insert(node, AgedReport { report, age_ms });
            }
            let alive = (1..).zip(alive).filter(|(_, alive)| *alive).map(|(n, _)| NodeId(n)).collect();
            (observation, alive)
        })
    })
}

fn is_down(liveness: &Liveness) -> bool {
    matches!(liveness, Liveness::Down { .. })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    /// A server is down only if a majority of the live voters reported this recently and for long enough.
    #[test]
    fn a_server_is_down_only_by_a_majority((observation, alive) in world()) {
        let watchers = Watchers::new(&observation, alive.clone());
        for n in 0..5 {
            let reports_failure = |node: &NodeId| observation.get(&server(n)).and_then(|by| by.get(node)).is_some_and(|r| {
                r.age_ms <= REPORT_FRESH_MS && r.report.failing_ms.is_some_and(|ms| ms + r.age_ms >= u64::from(DOWN_AFTER))
            });
            let trusted = alive.iter().filter(|node| !watchers.blind().contains(node) && reports_failure(node)).count();
            let liveness = liveness(&watchers, &server(n), DOWN_AFTER);
            prop_assert_eq!(is_down(&liveness), 2 * trusted > alive.len(), "{:?}", liveness);
        }
    }

    /// Reports of learners and of voters that are not alive make no server down and none up.
    #[test]
    fn others_decide_nothing((observation, alive) in world()) {
        let mut without = observation.clone();
        without.values_mut().for_each(|by| by.retain(|node, _| alive.contains(node)));
        for n in 0..5 {
            let with = liveness(&Watchers::new(&observation, alive.clone()), &server(n), DOWN_AFTER);
            let without = liveness(&Watchers::new(&without, alive.clone()), &server(n), DOWN_AFTER);
            prop_assert_eq!(is_down(&with), is_down(&without));
        }
    }

    /// A minority that is cut off makes no server down, and does not change the result of the others.
    #[test]
    fn blind_nodes_do_not_vote((observation, alive) in world()) {
        let watchers = Watchers::new(&observation, alive.clone());
        prop_assert!(alive.is_empty() || !alive.is_subset(watchers.blind()));
        for n in 0..5 {
            let by: BTreeMap<NodeId, AgedReport> = watchers.reports(&server(n)).map(|(id, r)| (id, r.clone())).collect();
            prop_assert!(by.keys().all(|node| !watchers.blind().contains(node)));
            if let Liveness::Down { by: seers, .. } | Liveness::Suspect { by: seers } = liveness(&watchers, &server(n), DOWN_AFTER) {
                prop_assert!(seers.iter().all(|node| by.contains_key(node)));
            }
        }
    }

    /// The longer down-after is, the fewer servers are down.
    #[test]
    fn a_longer_down_after_downs_no_server((observation, alive) in world(), shorter in 500..6_000u32, more in 0..4_000u32) {
        let watchers = Watchers::new(&observation, alive);
        for n in 0..5 {
            let long = liveness(&watchers, &server(n), shorter + more);
            prop_assert!(!is_down(&long) || is_down(&liveness(&watchers, &server(n), shorter)));
        }
    }
}
