//! Registers across failovers: the replies of each primary must be linearizable, and a new primary must begin with a
//! value that the previous primary may have had last, except for the writes that the failover may lose. Knows nothing
//! of the clients (`crate::load`).

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    history::{Action, History, Op},
    linear,
    loss::Losses,
};

/// Checks the registers.
///
/// # Errors
/// Returns which key has a violation, and why, as text.
pub(crate) fn check(history: &History, losses: &Losses) -> Result<(), String> {
    let mut by_key: BTreeMap<String, Vec<Op>> = BTreeMap::new();
    for op in history.ops() {
        by_key.entry(op.key.clone()).or_default().push(op);
    }
    for (key, ops) in by_key {
        let cuts: Vec<(u64, u64)> =
            losses.of_key(&key).into_iter().map(|cut| (history.at(cut.kept), history.at(cut.at))).collect();
        check_key(&ops, &cuts).map_err(|why| format!("register '{key}': {why}"))?;
    }
    Ok(())
}

/// Checks one register. `cuts`: for each failover in order, the time up to which acknowledged writes are kept, and the
/// time from which the new primary answers, both in nanoseconds.
fn check_key(ops: &[Op], cuts: &[(u64, u64)]) -> Result<(), String> {
    let mut begin = 0;
    let mut firsts: BTreeSet<Option<u64>> = [None].into();
    for phase in 0..=cuts.len() {
        let end = cuts.get(phase).map_or(u64::MAX, |(_, at)| *at);
        // An unanswered write may take effect in every phase that ends after it was sent.
        let here = |op: &&Op| op.end.map_or(op.begin <= end, |ended| begin < ended && ended <= end);
        let now: Vec<Op> = ops.iter().filter(here).cloned().collect();
        if firsts.len() > 1 {
            // Initial values that nobody reads are indistinguishable, so one of them is enough.
            let read: BTreeSet<Option<u64>> = now.iter().filter_map(read_value).collect();
            let unread = firsts.iter().find(|first| !read.contains(first)).copied();
            firsts = firsts.into_iter().filter(|first| read.contains(first)).chain(unread).collect();
        }
        let mut last = Ok(());
        for first in &firsts {
            last = linear::check(&begun_with(&now, *first));
            if last.is_ok() {
                break;
            }
        }
        last.map_err(|why| {
            format!("none of its possible values after {phase} failovers ({firsts:?}) explains the later reads: {why}")
        })?;
        if let Some((kept, at)) = cuts.get(phase) {
            firsts = may_be_last(ops, *kept, *at);
            begin = *at;
        }
    }
    Ok(())
}

fn read_value(op: &Op) -> Option<Option<u64>> {
    match op.action {
        Action::Read(value) => Some(value),
        Action::Write(_) => None,
    }
}

/// Returns the operations, preceded by a write of the initial value.
fn begun_with(ops: &[Op], first: Option<u64>) -> Vec<Op> {
    let Some(value) = first else { return ops.to_vec() };
    let Some(key) = ops.first().map(|op| op.key.clone()) else { return Vec::new() };
    let before = Op { key, action: Action::Write(value), begin: 0, end: Some(0) };
    // An unanswered write of the initial value has taken effect before, and does not take effect again.
    let again = |op: &&Op| op.action == Action::Write(value) && op.end.is_none();
    std::iter::once(before).chain(ops.iter().filter(|op| !again(op)).cloned()).collect()
}

/// Returns the possible values at `at`, if every write that was acknowledged up to `kept` is kept.
fn may_be_last(ops: &[Op], kept: u64, at: u64) -> BTreeSet<Option<u64>> {
    let writes = || {
        ops.iter().filter_map(|op| match op.action {
            Action::Write(value) => Some((value, op)),
            Action::Read(_) => None,
        })
    };
    let replaced = |op: &Op| {
        let by = |(_, later): (u64, &Op)| {
            op.end.is_some_and(|end| end < later.begin) && later.end.is_some_and(|e| e <= kept)
        };
        writes().any(by)
    };
    let mut values: BTreeSet<Option<u64>> = writes()
        .filter(|(_, op)| op.begin <= at && op.end.is_none_or(|end| end <= at) && !replaced(op))
        .map(|(value, _)| Some(value))
        .collect();
    if !writes().any(|(_, op)| op.end.is_some_and(|end| end <= kept)) {
        values.insert(None);
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(action: Action, begin: u64, end: u64) -> Op {
        Op { key: "k".into(), action, begin, end: (end > 0).then_some(end) }
    }
    fn w(value: u64, begin: u64, end: u64) -> Op {
        op(Action::Write(value), begin, end)
    }
    fn r(value: u64, begin: u64, end: u64) -> Op {
        op(Action::Read((value > 0).then_some(value)), begin, end)
    }
    const CUT: &[(u64, u64)] = &[(100, 200)];

    #[test]
    fn a_failover_loses_no_write_that_was_kept() {
        let before = [w(1, 10, 20), w(2, 80, 90), w(3, 120, 130), r(3, 140, 150), w(4, 160, 170)];
        let with = |after: &[Op]| check_key(&[&before, after].concat(), CUT);
        for kept in [2, 3, 4] {
            assert_eq!(with(&[r(kept, 210, 220), r(kept, 230, 240), w(9, 250, 260), r(9, 270, 280)]), Ok(()));
        }
        assert_eq!(with(&[w(9, 250, 260), r(9, 270, 280)]), Ok(()));
        // A value that is too old, no value, a value that nobody wrote, two initial values, a write lost after the
        // failover.
        for wrong in [
            vec![r(1, 210, 220)],
            vec![r(0, 210, 220)],
            vec![r(7, 210, 220)],
            vec![r(3, 210, 220), r(4, 230, 240)],
            vec![w(9, 210, 220), r(4, 230, 240)],
        ] {
            assert!(with(&wrong).is_err(), "{wrong:?}");
        }
        // Without the failover the same would be wrong.
        assert!(check_key(&[&before[..], &[r(3, 210, 220)]].concat(), &[]).is_err());
    }

    #[test]
    fn a_failover_with_min_acks_loses_only_writes_that_were_not_acknowledged() {
        let keeps_all = &[(200, 200)];
        let seen = [w(1, 10, 20), w(2, 120, 0), r(2, 130, 140)];
        for kept in [1, 2] {
            assert_eq!(check_key(&[&seen[..], &[r(kept, 210, 220)]].concat(), keeps_all), Ok(()));
        }
        let acknowledged = [w(1, 10, 20), w(2, 120, 130), r(2, 140, 150)];
        assert!(check_key(&[&acknowledged[..], &[r(1, 210, 220)]].concat(), keeps_all).is_err());
        assert_eq!(check_key(&[&acknowledged[..], &[r(2, 210, 220)]].concat(), keeps_all), Ok(()));
    }

    #[test]
    fn a_write_with_an_unknown_outcome_may_exist_or_not() {
        let before = [w(1, 10, 20), w(2, 120, 0)];
        for kept in [1, 2] {
            assert_eq!(check_key(&[&before[..], &[r(kept, 210, 220)]].concat(), CUT), Ok(()));
        }
        assert_eq!(check_key(&[&before[..], &[r(1, 210, 220), r(2, 230, 240)]].concat(), CUT), Ok(()));
        assert_eq!(check_key(&[r(0, 10, 20), r(0, 210, 220)], CUT), Ok(()));
    }
}
