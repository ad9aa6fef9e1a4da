//! What products want of reads, to messages and back: parts of entries and of the state.
//! Knows nothing of bytes.

use super::{
    convert::{DecodeError, bad},
    pb::state as pb,
};
use crate::model::reads::{ReadFrom, ReadPolicy, SetReads};

fn from_to(from: ReadFrom) -> i32 {
    match from {
        ReadFrom::Primary => pb::ReadFrom::Primary,
        ReadFrom::PreferReplica => pb::ReadFrom::PreferReplica,
        ReadFrom::Replica => pb::ReadFrom::Replica,
        ReadFrom::Nearest => pb::ReadFrom::Nearest,
    }
    .into()
}

/// `None`: it is not said.
fn from_from(from: i32) -> Result<Option<ReadFrom>, DecodeError> {
    match pb::ReadFrom::try_from(from) {
        Ok(pb::ReadFrom::Unspecified) => Ok(None),
        Ok(pb::ReadFrom::Primary) => Ok(Some(ReadFrom::Primary)),
        Ok(pb::ReadFrom::PreferReplica) => Ok(Some(ReadFrom::PreferReplica)),
        Ok(pb::ReadFrom::Replica) => Ok(Some(ReadFrom::Replica)),
        Ok(pb::ReadFrom::Nearest) => Ok(Some(ReadFrom::Nearest)),
        Err(_) => bad("where reads go", from),
    }
}

/// Absent where nothing is said, so that what was there before is written as it always was.
pub(super) fn set_reads_to(reads: SetReads) -> Option<pb::SetReads> {
    let SetReads { from, max_lag_ms, own_writes } = reads;
    reads.says_something().then(|| pb::SetReads { from: from.map_or(0, from_to), max_lag_ms, own_writes })
}

pub(super) fn set_reads_from(reads: Option<pb::SetReads>) -> Result<SetReads, DecodeError> {
    let Some(pb::SetReads { from, max_lag_ms, own_writes }) = reads else { return Ok(SetReads::default()) };
    Ok(SetReads { from: from_from(from)?, max_lag_ms, own_writes })
}

/// Absent where nothing was chosen.
pub(super) fn policy_to(policy: ReadPolicy) -> Option<pb::ReadPolicy> {
    let ReadPolicy { from, max_lag_ms, own_writes } = policy;
    (policy != ReadPolicy::default()).then(|| pb::ReadPolicy { from: from_to(from), max_lag_ms, own_writes })
}

pub(super) fn policy_from(policy: Option<pb::ReadPolicy>) -> Result<ReadPolicy, DecodeError> {
    let Some(pb::ReadPolicy { from, max_lag_ms, own_writes }) = policy else { return Ok(ReadPolicy::default()) };
    Ok(ReadPolicy { from: from_from(from)?.unwrap_or_default(), max_lag_ms, own_writes })
}
