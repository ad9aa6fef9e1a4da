//! What a client has watched and queued when a call is sent. Knows nothing of replies.

use std::collections::{BTreeMap, BTreeSet};

use pontoon::commands::ResolveError;

use super::{case::Case, generator::Step};

/// The state of a client that watches keys or has begun a transaction.
#[derive(Clone, Debug, Default)]
pub struct Transaction {
    /// It has sent MULTI.
    pub is_open: bool,
    /// Slots of the watched keys.
    pub watched: BTreeSet<u16>,
    /// Slots of the keys of the queued calls.
    pub queued: BTreeSet<u16>,
    /// A call was refused instead of queued, so that nothing will be executed.
    pub is_refused: bool,
    /// Another database is selected.
    pub selects: bool,
    /// A script is queued.
    pub runs_script: bool,
}

impl Transaction {
    /// Follows a call that is sent now.
    fn follow(&mut self, case: &Case, is_refused: bool) {
        match case.name() {
            _ if self.is_open && is_refused => self.is_refused = true,
            "watch" if !self.is_open && !is_refused => self.watched.extend(case.slots.iter().flatten()),
            "unwatch" if !self.is_open => self.watched.clear(),
            "multi" => self.is_open = true,
            // They are errors that do not end it.
            "watch" => {}
            _ if !self.is_open => {}
            // A module refuses it when it is executed.
            _ if matches!(case.resolved, Err(ResolveError::WrongArity(spec)) if spec.is_counted_by_module()) => {}
            _ if case.resolved.is_err() => self.is_refused = true,
            _ => {
                self.queued.extend(case.slots.iter().flatten());
                self.selects |= case.name() == "select" && ["1", "2"].contains(&case.word(1).as_str());
                self.runs_script |= case.resolved.is_ok_and(|spec| spec.runs_script());
            }
        }
    }
}

/// The calls of each step; each knows what its client has watched and queued before. `refuses`: whether a node refuses the
/// call. No client has begun anything before the first step, and each has selected database 0.
#[must_use]
pub fn follow(steps: &[Step], refuses: impl Fn(&Case) -> bool) -> Vec<Vec<Case>> {
    let mut clients: BTreeMap<usize, Transaction> = BTreeMap::new();
    let mut all = Vec::new();
    for step in steps {
        let mut cases = Vec::new();
        for call in &step.calls {
            let mut case = Case::new(call.clone());
            if ["watch", "multi"].contains(&case.name()) {
                clients.entry(step.connection).or_default();
            }
            if let Some(transaction) = clients.get_mut(&step.connection) {
                case.transaction = Some(transaction.clone());
                let is_refused = refuses(&case);
                transaction.follow(&case, is_refused);
            }
            // Also EXEC with arguments ends it.
            if case.call[0].eq_ignore_ascii_case(b"EXEC") || ["discard", "reset"].contains(&case.name()) {
                clients.remove(&step.connection);
            }
            cases.push(case);
        }
        all.push(cases);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::differential::connection::words;

    #[test]
    fn what_was_sent_before_is_known() {
        let calls = ["GET a", "WATCH {a}1", "GET b", "MULTI", "SET {a}1 x", "NOSUCH", "SET {b}1 x", "EXEC", "GET a"];
        let step = Step { connection: 0, calls: calls.map(words).to_vec(), is_pipeline: false };
        let cases = follow(&[step], |_| false).concat();
        let states: Vec<_> = cases
            .iter()
            .map(|case| {
                let state = case.transaction.as_ref()?;
                Some((state.is_open, state.watched.len(), state.queued.len(), state.is_refused))
            })
            .collect();
        let some = |open, watched, queued, refused| Some((open, watched, queued, refused));
        assert_eq!(
            states,
            [
                None,
                some(false, 0, 0, false),
                some(false, 1, 0, false),
                some(false, 1, 0, false),
                some(true, 1, 0, false),
                some(true, 1, 1, false),
                some(true, 1, 1, true),
                some(true, 1, 2, true),
                None
            ]
        );
    }
}
