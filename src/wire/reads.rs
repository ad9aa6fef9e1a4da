//! Read settings of products to messages and back: parts of entries and of the state.

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

fn from_from(from: i32) -> Result<ReadFrom, DecodeError> {
    match pb::ReadFrom::try_from(from) {
        Ok(pb::ReadFrom::Primary) => Ok(ReadFrom::Primary),
        Ok(pb::ReadFrom::PreferReplica) => Ok(ReadFrom::PreferReplica),
        Ok(pb::ReadFrom::Replica) => Ok(ReadFrom::Replica),
        Ok(pb::ReadFrom::Nearest) => Ok(ReadFrom::Nearest),
        Ok(pb::ReadFrom::Unspecified) | Err(_) => bad("where reads go", from),
    }
}

pub(super) fn set_reads_to(reads: SetReads) -> pb::SetReads {
    let SetReads { from, max_lag_ms, own_writes, confirmed } = reads;
    pb::SetReads { from: from.map(from_to), max_lag_ms, own_writes, confirmed }
}

pub(super) fn set_reads_from(reads: pb::SetReads) -> Result<SetReads, DecodeError> {
    let pb::SetReads { from, max_lag_ms, own_writes, confirmed } = reads;
    Ok(SetReads { from: from.map(from_from).transpose()?, max_lag_ms, own_writes, confirmed })
}

pub(super) fn policy_to(policy: ReadPolicy) -> pb::ReadPolicy {
    let ReadPolicy { from, max_lag_ms, own_writes, confirmed } = policy;
    pb::ReadPolicy { from: from_to(from), max_lag_ms, own_writes, confirmed }
}

pub(super) fn policy_from(policy: pb::ReadPolicy) -> Result<ReadPolicy, DecodeError> {
    let pb::ReadPolicy { from, max_lag_ms, own_writes, confirmed } = policy;
    Ok(ReadPolicy { from: from_from(from)?, max_lag_ms, own_writes, confirmed })
}
