//! What a SCAN over all groups has to visit: the groups of its beginning, and again each group that has got slots or
//! another primary since (decision 0027). Knows nothing of cursors and servers.

use std::collections::VecDeque;

use super::{ids::GroupId, limits::GROUP_CHANGES_MAX};

/// A change of a product's groups that concerns the SCANs under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupChange {
    /// The group got slots, or has another primary or another process of it, whose hash table has another order: it is
    /// scanned again.
    Changed(GroupId),
    /// The group is new. It has no slots yet.
    Created(GroupId),
    /// The group is gone. It had no slots any more.
    Removed(GroupId),
}

/// The last changes of a product's groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScanHistory {
    /// Number of all changes so far.
    pub count: u64,
    /// The last `GROUP_CHANGES_MAX` of them, oldest first.
    pub last: VecDeque<GroupChange>,
}

impl ScanHistory {
    /// Adds a change.
    pub fn record(&mut self, change: GroupChange) {
        if self.last.len() >= GROUP_CHANGES_MAX {
            self.last.pop_front();
        }
        self.last.push_back(change);
        self.count += 1;
    }

    /// The positions of a scan that began when there had been `start` changes; `groups` are the present ones, ascending.
    /// `None`: the changes since are not known, because there were too many, or will be known later.
    #[must_use]
    pub fn positions(&self, start: u64, groups: impl Iterator<Item = GroupId>) -> Option<ScanPositions> {
        let since = usize::try_from(self.count.checked_sub(start)?).ok()?;
        let first = self.last.len().checked_sub(since)?;
        let mut at_start: Vec<GroupId> = groups.collect();
        for change in self.last.iter().skip(first).rev() {
            match (*change, at_start.binary_search(&change.group())) {
                (GroupChange::Created(_), Ok(at)) => {
                    at_start.remove(at);
                }
                (GroupChange::Removed(group), Err(at)) => at_start.insert(at, group),
                _ => {}
            }
        }
        let groups_at_start = at_start.len();
        let again = self.last.iter().skip(first).map(|change| match change {
            GroupChange::Changed(group) => Some(*group),
            GroupChange::Created(_) | GroupChange::Removed(_) => None,
        });
        Some(ScanPositions { start, groups_at_start, list: at_start.into_iter().map(Some).chain(again).collect() })
    }
}

impl GroupChange {
    /// The group that has changed.
    #[must_use]
    pub const fn group(self) -> GroupId {
        match self {
            Self::Changed(group) | Self::Created(group) | Self::Removed(group) => group,
        }
    }
}

/// The positions of a scan: the groups at its start, ascending, then one for each change since, in the order of the log.
/// Later changes only add positions, so a position means the same at every node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanPositions {
    /// Number of changes at its start.
    pub start: u64,
    /// Number of groups at its start.
    pub groups_at_start: usize,
    /// The groups to scan. `None`: a change for which nothing is scanned again.
    list: Vec<Option<GroupId>>,
}

impl ScanPositions {
    /// The first position from `from` on that has to be scanned, and its group. `owns`: whether a group has slots now.
    ///
    /// A group that comes again later is scanned only then: a key that is there now and stays is there then, too.
    #[must_use]
    pub fn next(&self, from: usize, owns: impl Fn(GroupId) -> bool) -> Option<(usize, GroupId)> {
        let rest = self.list.get(from..)?;
        rest.iter().enumerate().find_map(|(i, group)| {
            let group = (*group)?;
            let again = rest[i + 1..].contains(&Some(group));
            (!again && owns(group)).then_some((from + i, group))
        })
    }

    /// Whether a scan can have come to this position, by the changes that are known.
    #[must_use]
    pub fn has(&self, position: usize) -> bool {
        position < self.list.len()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn positions(history: &ScanHistory, start: u64, groups: &[u32]) -> Option<Vec<Option<u32>>> {
        let positions = history.positions(start, groups.iter().map(|id| GroupId(*id)))?;
        Some(positions.list.iter().map(|group| group.map(|id| id.0)).collect())
    }

    #[test]
    fn positions_keep_their_meaning_while_groups_come_and_go() {
        let mut history = ScanHistory::default();
        assert_eq!(positions(&history, 0, &[1, 3]), Some(vec![Some(1), Some(3)]));
        history.record(GroupChange::Created(GroupId(2)));
        assert_eq!(positions(&history, 0, &[1, 2, 3]), Some(vec![Some(1), Some(3), None]));
        assert_eq!(positions(&history, 1, &[1, 2, 3]), Some(vec![Some(1), Some(2), Some(3)]));
        history.record(GroupChange::Changed(GroupId(2)));
        history.record(GroupChange::Removed(GroupId(1)));
        assert_eq!(positions(&history, 0, &[2, 3]), Some(vec![Some(1), Some(3), None, Some(2), None]));
        assert_eq!(positions(&history, 1, &[2, 3]), Some(vec![Some(1), Some(2), Some(3), Some(2), None]));
        assert_eq!(positions(&history, 3, &[2, 3]), Some(vec![Some(2), Some(3)]));
        assert_eq!(positions(&history, 4, &[2, 3]), None, "of a node that knows more");
        // The same id again.
        history.record(GroupChange::Created(GroupId(1)));
        assert_eq!(positions(&history, 0, &[1, 2, 3]).unwrap()[..2], [Some(1), Some(3)]);
        assert_eq!(positions(&history, 3, &[1, 2, 3]), Some(vec![Some(2), Some(3), None]));
    }

    #[test]
    fn a_group_is_scanned_once_at_its_last_position() {
        let mut history = ScanHistory::default();
        for group in [2, 1, 2] {
            history.record(GroupChange::Changed(GroupId(group)));
        }
        let positions = history.positions(0, [1, 2, 3].into_iter().map(GroupId)).unwrap();
        let visits = |owns: &dyn Fn(GroupId) -> bool| {
            let mut found = Vec::new();
            let mut from = 0;
            while let Some((at, group)) = positions.next(from, owns) {
                found.push((at, group.0));
                from = at + 1;
            }
            found
        };
        assert_eq!(visits(&|_| true), [(2, 3), (4, 1), (5, 2)]);
        assert_eq!(visits(&|group| group != GroupId(1)), [(2, 3), (5, 2)], "a group without slots has nothing to show");
        assert!(positions.has(5) && !positions.has(6) && positions.next(6, |_| true).is_none());
    }

    #[test]
    fn changes_that_are_forgotten_are_noticed() {
        let mut history = ScanHistory::default();
        for _ in 0..GROUP_CHANGES_MAX {
            history.record(GroupChange::Changed(GroupId(1)));
        }
        assert!(positions(&history, 0, &[1]).is_some());
        history.record(GroupChange::Changed(GroupId(1)));
        assert_eq!(positions(&history, 0, &[1]), None);
        assert_eq!(positions(&history, 1, &[1]).unwrap().len(), 1 + GROUP_CHANGES_MAX);
        assert_eq!((history.last.len(), history.count), (GROUP_CHANGES_MAX, GROUP_CHANGES_MAX as u64 + 1));
    }
}
