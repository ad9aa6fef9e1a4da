//! Checks whether a history of registers is linearizable: there must be one order of its operations that agrees with
//! their times and values.
//!
//! The algorithm is the search of Wing and Gong with a table of the visited states. Keys are checked independently.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::history::{Action, Op};

/// Checks the history of each key.
///
/// # Errors
/// Returns which key is not linearizable, and the operations around the point where the search failed, as text.
pub fn check(ops: &[Op]) -> Result<(), String> {
    let mut by_key: BTreeMap<&str, Vec<&Op>> = BTreeMap::new();
    for op in ops {
        by_key.entry(&op.key).or_default().push(op);
    }
    for (key, ops) in by_key {
        check_register(ops).map_err(|why| format!("register '{key}' is not linearizable: {why}"))?;
    }
    Ok(())
}

/// Checks one register, which has no value at the begin.
fn check_register(mut ops: Vec<&Op>) -> Result<(), String> {
    // An unanswered write whose value nobody read can be ignored: it may never have happened. Each such write would
    // double the search.
    let read: BTreeSet<u64> =
        ops.iter().filter_map(|op| if let Action::Read(value) = op.action { value } else { None }).collect();
    ops.retain(|op| op.end.is_some() || matches!(op.action, Action::Write(value) if read.contains(&value)));
    ops.sort_by_key(|op| op.begin);
    let must: usize = ops.iter().filter(|op| op.end.is_some()).count();
    let mut search = Search { ops: &ops, must, seen: HashSet::new(), furthest: Vec::new() };
    let mut done = vec![false; ops.len()];
    if search.run(&mut done) {
        return Ok(());
    }
    let stuck: Vec<_> = ops
        .iter()
        .zip(&search.furthest)
        .filter(|(_, done)| !**done)
        .take(6)
        .map(|(op, _)| format!("\n  {:?} from {} us to {}", op.action, op.begin / 1000, end_text(op)))
        .collect();
    let last: Vec<_> = ops.iter().zip(&search.furthest).filter(|(_, done)| **done).map(|(op, _)| op).collect();
    let last: Vec<_> = last[last.len().saturating_sub(4)..]
        .iter()
        .map(|op| format!("\n  {:?} from {} us to {}", op.action, op.begin / 1000, end_text(op)))
        .collect();
    Err(format!("an order exists up to{}, and it cannot be continued with{}", last.concat(), stuck.concat()))
}

fn end_text(op: &Op) -> String {
    op.end.map_or_else(|| "(unknown)".into(), |end| format!("{} us", end / 1000))
}

struct Search<'a> {
    ops: &'a [&'a Op],
    must: usize,
    seen: HashSet<(usize, Vec<usize>, Option<u64>)>,
    furthest: Vec<bool>,
}

impl Search<'_> {
    /// Searches depth first, with an explicit stack: histories have thousands of operations.
    fn run(&mut self, done: &mut [bool]) -> bool {
        struct Step {
            placed: Option<usize>,
            value: Option<u64>,
            candidates: Vec<usize>,
        }
        let (mut count, mut best) = (0usize, 0usize);
        self.furthest = done.to_vec();
        let mut stack = vec![Step { placed: None, value: None, candidates: self.candidates(done, None) }];
        loop {
            if count == self.must {
                return true;
            }
            let Some(step) = stack.last_mut() else { return false };
            let Some(next) = step.candidates.pop() else {
                if let Some(op) = step.placed {
                    done[op] = false;
                    count -= usize::from(self.ops[op].end.is_some());
                }
                stack.pop();
                continue;
            };
            let value = match self.ops[next].action {
                Action::Write(written) => Some(written),
                Action::Read(_) => step.value,
            };
            done[next] = true;
            if !self.seen.insert(state(done, value)) {
                done[next] = false;
                continue;
            }
            count += usize::from(self.ops[next].end.is_some());
            if count > best {
                best = count;
                self.furthest = done.to_vec();
            }
            let candidates = self.candidates(done, value);
            stack.push(Step { placed: Some(next), value, candidates });
        }
    }

    /// Returns the operations that may come next: they began before any remaining operation ended, and they agree with
    /// the value.
    fn candidates(&self, done: &[bool], value: Option<u64>) -> Vec<usize> {
        let first = done.iter().position(|done| !done).unwrap_or(done.len());
        let mut first_end = u64::MAX;
        let mut found = Vec::new();
        for (i, op) in self.ops.iter().enumerate().skip(first) {
            // The operations are sorted by begin: no later one can come before the earliest end.
            if op.begin > first_end {
                break;
            }
            if done[i] {
                continue;
            }
            first_end = first_end.min(op.end.unwrap_or(u64::MAX));
            let agrees = match &op.action {
                Action::Write(_) => true,
                Action::Read(seen) => *seen == value,
            };
            if agrees {
                found.push(i);
            }
        }
        found.retain(|i| self.ops[*i].begin <= first_end);
        // The last element is tried first: reads that agree, then the earliest write.
        found.reverse();
        found.sort_by_key(|i| matches!(self.ops[*i].action, Action::Read(_)));
        found
    }
}

/// Returns a compact form of a state, also in a long history: the first operation that is not placed, the operations
/// after it that are placed, and the value.
fn state(done: &[bool], value: Option<u64>) -> (usize, Vec<usize>, Option<u64>) {
    let first = done.iter().position(|done| !done).unwrap_or(done.len());
    // A write with an unknown outcome may stay unplaced for ever, which makes this list longer. Such writes are few.
    let behind = (first..done.len()).filter(|i| done[*i]).collect();
    (first, behind, value)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
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

    #[test]
    fn accepts_linearizable_histories_and_no_others() {
        check(&[]).unwrap();
        check(&[r(0, 1, 2), w(1, 3, 4), r(1, 5, 6)]).unwrap();
        // Overlapping operations may take effect in either order, but in only one.
        check(&[w(1, 1, 10), r(0, 2, 3), r(1, 4, 5)]).unwrap();
        check(&[w(1, 1, 10), r(1, 2, 3), r(0, 4, 5)]).unwrap_err();
        check(&[w(1, 1, 10), w(2, 1, 10), r(1, 11, 12), r(1, 13, 14)]).unwrap();
        check(&[w(1, 1, 10), w(2, 1, 10), r(1, 11, 12), r(2, 13, 14)]).unwrap_err();
        // A lost write, a stale read, a value that nobody wrote.
        check(&[w(1, 1, 2), r(0, 3, 4)]).unwrap_err();
        check(&[w(1, 1, 2), w(2, 3, 4), r(1, 5, 6)]).unwrap_err();
        check(&[r(7, 1, 2)]).unwrap_err();
    }

    #[test]
    fn an_unknown_write_may_happen_late_or_never_but_not_twice() {
        check(&[w(1, 1, 0), r(0, 2, 3), r(1, 4, 5)]).unwrap();
        check(&[w(1, 1, 0), r(0, 2, 3)]).unwrap();
        check(&[w(1, 1, 2), w(2, 3, 0), r(1, 4, 5), r(2, 6, 7), r(1, 8, 9)]).unwrap_err();
        // It cannot happen before it began.
        check(&[r(1, 1, 2), w(1, 3, 0)]).unwrap_err();
    }

    #[test]
    fn keys_are_checked_separately() {
        let mut other = r(0, 3, 4);
        other.key = "another".into();
        check(&[w(1, 1, 2), other]).unwrap();
    }

    #[test]
    fn a_long_history_of_many_clients_is_checked_quickly() {
        let mut ops = Vec::new();
        for i in 1..=3_000 {
            // Three overlapping writers, and a reader that reads the value of the last of them to begin.
            ops.extend([
                w(i * 3, i * 100, i * 100 + 50),
                w(i * 3 + 1, i * 100 + 1, i * 100 + 60),
                w(i * 3 + 2, i * 100 + 2, i * 100 + 70),
            ]);
            ops.push(r(i * 3 + 2, i * 100 + 80, i * 100 + 90));
        }
        check(&ops).unwrap();
        ops.push(r(3, 400_000, 400_001));
        check(&ops).unwrap_err();
    }
}
