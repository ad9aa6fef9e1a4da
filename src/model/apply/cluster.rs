//! Settings of the whole cluster.

use super::{
    Apply,
    events::{self, When},
};
use crate::model::{
    change::SetCluster,
    event::EventKind,
    limits::{FAILOVER_SHARE, HOLD_MS, VOTERS_MAX},
    outcome::Outcome,
    reject::{PromotionReject, Reject},
    state::{ClusterState, Settings},
};

impl Apply for SetCluster {
    fn apply(&self, state: &mut ClusterState, when: When) -> Result<Outcome, Reject> {
        let Self { voters, hold_ms_max, maintenance, failover_share_max } = *self;
        let before = &state.settings;
        let new = Settings {
            voters: voters.unwrap_or(before.voters),
            hold_ms_max: hold_ms_max.unwrap_or(before.hold_ms_max),
            maintenance: maintenance.unwrap_or(before.maintenance),
            failover_share_max: failover_share_max.unwrap_or(before.failover_share_max),
        };
        if !(1..=VOTERS_MAX).contains(&new.voters) {
            return Err(Reject::BadVoters(new.voters));
        }
        if !HOLD_MS.contains(&new.hold_ms_max) {
            return Err(Reject::BadHoldMax(new.hold_ms_max));
        }
        if !FAILOVER_SHARE.contains(&new.failover_share_max) {
            return Err(PromotionReject::BadShare(new.failover_share_max).into());
        }
        if new == *before {
            return Ok(Outcome::Unchanged);
        }

        let switched = (new.maintenance != before.maintenance).then_some(new.maintenance);
        state.settings = new;
        if let Some(on) = switched {
            push_maintenance(state, when, on);
        }
        Ok(Outcome::Done)
    }
}

fn push_maintenance(state: &mut ClusterState, when: When, on: bool) {
    let (kind, text) = if on {
        (EventKind::MaintenanceOn, "nothing is changed automatically in any group")
    } else {
        (
            EventKind::MaintenanceOff,
            "maintenance of the cluster ended; groups with maintenance of their own stay in maintenance",
        )
    };
    events::push(state, when, kind, None, "cluster".to_owned(), text);
}
