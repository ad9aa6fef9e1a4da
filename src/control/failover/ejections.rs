//! Carries out what `plan::ejection` decides about groups of caches. Keeps nothing beyond its term.

use tracing::{info, warn};

use super::group_name::group_name;
use crate::{
    control::leadership::{context::LeaderContext, waits::not_written},
    model::{
        change::{CancelMigration, Change, Eject},
        ids::GroupId,
        state::ClusterState,
    },
    plan::{
        ejection::{EjectedHealth, decide},
        liveness::Watchers,
        observation::Observation,
        waiting::Wait,
    },
};

/// What this leader remembers about ejected groups.
#[derive(Debug, Default)]
pub struct EjectionController {
    health: EjectedHealth,
}

impl EjectionController {
    /// Decides once about all groups and proposes the changes. Returns what is waited for.
    pub async fn step(
        &mut self,
        ctx: &LeaderContext,
        state: &ClusterState,
        (seen, watchers): (&Observation, &Watchers<'_>),
        now_ns: u64,
    ) -> Vec<Wait> {
        self.health.observe(state, seen, watchers, now_ns);
        let mut waiting = Vec::new();
        for decision in decide(state, seen, watchers, &self.health, (ctx.me, now_ns)) {
            let (product, group) = (decision.product, decision.group);
            let changes = match decision.action {
                Ok(changes) => changes,
                Err(wait) => {
                    waiting.push(wait);
                    continue;
                }
            };
            for change in changes {
                let reinstates = matches!(change, Change::Reinstate(_));
                if let Err(why) = propose(ctx, group, change).await {
                    warn!(%group, %why, "a change of an ejection was refused; it is tried again");
                    let group = group_name(state, (product, group));
                    let what = format!("the ejection or reinstatement of {group} could not begin yet");
                    waiting.push(not_written(what, &why));
                }
                if reinstates {
                    self.health.restart_wait(product, group);
                }
            }
        }
        waiting
    }
}

async fn propose(ctx: &LeaderContext, group: GroupId, change: Change) -> Result<(), String> {
    match &change {
        Change::Eject(Eject { to, why, .. }) => {
            let to: Vec<String> = to.keys().map(ToString::to_string).collect();
            info!(%group, to = to.join(","), %why, "a group ejects its slots");
        }
        Change::Reinstate(_) => info!(%group, "an ejected group is reinstated"),
        Change::CancelMigration(CancelMigration { migration, .. }) => {
            info!(%group, %migration, "a migration ends, since its group ejects its slots")
        }
        _ => {}
    }
    ctx.propose(change).await
}
