//! The last changes of a product's groups to bytes and back.
//! Knows nothing of what they mean for a SCAN.

use super::{
    convert::{DecodeError, bad, need},
    pb::state::{self as pb, group_change::Kind},
};
use crate::model::{
    ids::GroupId,
    limits::GROUP_CHANGES_MAX,
    scan_history::{GroupChange, ScanHistory},
};

/// `None`: no group has changed yet.
pub(super) fn history_to(history: &ScanHistory) -> Option<pb::ScanHistory> {
    let change = |change: &GroupChange| {
        let kind = match *change {
            GroupChange::Changed(group) => Kind::Changed(group.0),
            GroupChange::Created(group) => Kind::Created(group.0),
            GroupChange::Removed(group) => Kind::Removed(group.0),
        };
        pb::GroupChange { kind: Some(kind) }
    };
    let changes = || pb::ScanHistory { count: history.count, last: history.last.iter().map(change).collect() };
    (history.count > 0).then(changes)
}

pub(super) fn history_from(history: Option<pb::ScanHistory>) -> Result<ScanHistory, DecodeError> {
    let Some(history) = history else { return Ok(ScanHistory::default()) };
    let len = history.last.len();
    if len > GROUP_CHANGES_MAX || len as u64 > history.count {
        return bad("the number of changes of groups", len);
    }
    let change = |change: pb::GroupChange| {
        Ok(match need(change.kind, "a change of a group")? {
            Kind::Changed(group) => GroupChange::Changed(GroupId(group)),
            Kind::Created(group) => GroupChange::Created(GroupId(group)),
            Kind::Removed(group) => GroupChange::Removed(GroupId(group)),
        })
    };
    Ok(ScanHistory { count: history.count, last: history.last.into_iter().map(change).collect::<Result<_, _>>()? })
}
