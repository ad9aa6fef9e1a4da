//! Settings of the whole cluster.
//! Knows nothing of what follows from them.

use crate::model::{
    limits::{HOLD_MS, VOTERS_MAX},
    outcome::Outcome,
    reject::Reject,
    state::{ClusterState, Settings},
};

pub(super) fn set(state: &mut ClusterState, voters: Option<u8>, hold_ms_max: Option<u32>) -> Result<Outcome, Reject> {
    let new = Settings {
        voters: voters.unwrap_or(state.settings.voters),
        hold_ms_max: hold_ms_max.unwrap_or(state.settings.hold_ms_max),
    };
    if !(1..=VOTERS_MAX).contains(&new.voters) {
        return Err(Reject::BadVoters(new.voters));
    }
    if !HOLD_MS.contains(&new.hold_ms_max) {
        return Err(Reject::BadHoldMax(new.hold_ms_max));
    }
    if new == state.settings {
        return Ok(Outcome::Unchanged);
    }

    state.settings = new;
    Ok(Outcome::Done)
}
