//! `plan::liveness`: who is down, by a table of small clusters and by properties of all.
//! Knows nothing of how it is seen.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use pontoon::{
    model::ids::{HostPort, NodeId},
    plan::{
        liveness::{DOWN_AT_ONCE, FRESH_MS, Liveness, Watchers, liveness, may_fail_over},
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
    }
}

/// What a node says of a server: `u` up, `l` loading, `e` answers and cannot be asked, `n` never probed at with an answer nor
/// a failure, `.` nothing; a number: it has failed for so many hundreds of milliseconds.
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
    Liveness::DownGroup { by: ids(by), for_ms }
}

fn suspect(by: &[u64]) -> Liveness {
    Liveness::Suspect { by: ids(by) }
}

#[test]
fn verdicts_on_the_first_server() {
    // What each node says of all servers, who is alive, what is to come out.
    let table: Vec<(&[&str], &[u64], Liveness)> = vec![
        (&["u u", "u u", "u u"], &[1, 2, 3], Liveness::Up),
        // One sees it fail, for however long.
        (&["99 u", "u u", "u u"], &[1, 2, 3], suspect(&[1])),
        // Two of three, but one of them not for long enough.
        (&["99 u", "28 u", "u u"], &[1, 2, 3], suspect(&[1, 2])),
        (&["99 u", "31 u", "u u"], &[1, 2, 3], down(&[1, 2], 3_200)),
        (&["99 u", "40 u", "u u"], &[1, 2, 3], down(&[1, 2], 4_100)),
        (&["50 u", "60 u", "70 u"], &[1, 2, 3], down(&[1, 2, 3], 6_100)),
        // Half is no majority.
        (&["50 u", "50 u", "u u", "u u"], &[1, 2, 3, 4], suspect(&[1, 2])),
        // A dead voter is not counted, neither in the whole nor by what it said.
        (&["50 u", "50 u", "u u"], &[1, 3], suspect(&[1, 2])),
        (&["50 u", "50 u", "."], &[1, 2], down(&[1, 2], 5_100)),
        (&["50 u", "50 u", "99 u", "u u"], &[1, 2, 4], down(&[1, 2, 3], 5_100)),
        // Of a cluster of one, it is the majority; of an empty one nobody is.
        (&["50 u"], &[1], down(&[1], 5_100)),
        (&["50 u"], &[], suspect(&[1])),
        // Learners suspect, and decide nothing.
        (&["u u", "99 u", "99 u"], &[1], suspect(&[2, 3])),
        // Alive and not ready; for one who gets more out of it, it is up.
        (&["l u", "l u", "l u"], &[1, 2, 3], Liveness::Loading),
        (&["e u", "e u", "."], &[1, 2, 3], Liveness::Loading),
        (&["e u", "u u", "l u"], &[1, 2, 3], Liveness::Up),
        (&["l u", "l u", "2 u"], &[1, 2, 3], suspect(&[3])),
        (&["l u", "50 u", "50 u"], &[1, 2, 3], down(&[2, 3], 5_100)),
        (&[". u", ". u", "."], &[1, 2, 3], Liveness::Unknown),
        // A node that no server answers suspects itself; its silence is no vote, and it counts as alive.
        (&["50 50", "u u", "u u"], &[1, 2, 3], Liveness::Up),
        (&["50 1", "50 u", "u u"], &[1, 2, 3], suspect(&[2])),
        (&["50 1", "50 u", "50 u"], &[1, 2, 3], down(&[2, 3], 5_100)),
        (&["50 1", "."], &[1, 2], Liveness::Unknown),
        // All say so: then it is the servers.
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
fn old_reports_say_nothing() {
    let of = |age_ms| {
        let observation = observed(&["50 u", "50 u", "u u"], age_ms);
        liveness(&Watchers::new(&observation, ids(&[1, 2, 3])), &server(0), DOWN_AFTER)
    };
    assert_eq!(of(FRESH_MS), down(&[1, 2], 5_000 + FRESH_MS));
    assert_eq!(of(FRESH_MS + 1), Liveness::Unknown);
    let observation = observed(&["50 50"], FRESH_MS + 1);
    assert!(Watchers::new(&observation, ids(&[1, 2])).blind().is_empty());
    assert_eq!(liveness(&Watchers::new(&observation, ids(&[1])), &server(9), DOWN_AFTER), Liveness::Unknown);
}

#[test]
fn many_at_once_are_not_failed_over() {
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

/// A cell of the table: nothing, answered, or failing for so long.
fn cell() -> impl Strategy<Value = Option<Option<u64>>> {
    prop_oneof![Just(None), Just(Some(None)), (0..10_000u64).prop_map(|ms| Some(Some(ms)))]
}

/// Nodes from 1 on, of two to five servers; who of them is an alive voter; ages of reports.
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
    matches!(liveness, Liveness::DownGroup { .. })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    /// DownGroup has a majority of the alive voters behind it, each of whom has said so lately and for long enough.
    #[test]
    fn down_is_what_a_majority_says((observation, alive) in world()) {
        let watchers = Watchers::new(&observation, alive.clone());
        for n in 0..5 {
            let says = |node: &NodeId| observation.get(&server(n)).and_then(|by| by.get(node)).is_some_and(|r| {
                r.age_ms <= FRESH_MS && r.report.failing_ms.is_some_and(|ms| ms + r.age_ms >= u64::from(DOWN_AFTER))
            });
            let trusted = alive.iter().filter(|node| !watchers.blind().contains(node) && says(node)).count();
            let liveness = liveness(&watchers, &server(n), DOWN_AFTER);
            prop_assert_eq!(is_down(&liveness), 2 * trusted > alive.len(), "{:?}", liveness);
        }
    }

    /// What a learner or a dead voter says makes nobody down and nobody alive again.
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

    /// A cut-off minority takes nobody down, and does not change what the others find.
    #[test]
    fn blind_nodes_do_not_vote((observation, alive) in world()) {
        let watchers = Watchers::new(&observation, alive.clone());
        prop_assert!(alive.is_empty() || !alive.is_subset(watchers.blind()));
        for n in 0..5 {
            let by: BTreeMap<NodeId, AgedReport> = watchers.reports(&server(n)).map(|(id, r)| (id, r.clone())).collect();
            prop_assert!(by.keys().all(|node| !watchers.blind().contains(node)));
            if let Liveness::DownGroup { by: seers, .. } | Liveness::Suspect { by: seers } = liveness(&watchers, &server(n), DOWN_AFTER) {
                prop_assert!(seers.iter().all(|node| by.contains_key(node)));
            }
        }
    }

    /// The longer down-after is, the fewer are down.
    #[test]
    fn patience_only_helps((observation, alive) in world(), shorter in 500..6_000u32, more in 0..4_000u32) {
        let watchers = Watchers::new(&observation, alive);
        for n in 0..5 {
            let long = liveness(&watchers, &server(n), shorter + more);
            prop_assert!(!is_down(&long) || is_down(&liveness(&watchers, &server(n), shorter)));
        }
    }
}
