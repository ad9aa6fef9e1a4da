//! The leader's probe at groups of caches that are out, or are to be: carries out what `plan::ejection` decides; and empties a server
//! before its group gets slots back. Keeps nothing beyond its term.

use tokio::time::Instant;
use tracing::{info, warn};

use super::groups::of_product;
use crate::{
    control::{
        leadership::context::LeaderContext,
        servers::fence::{ControlTarget, Fence, FenceError},
    },
    model::{
        change::{CancelMigration, Change, Eject},
        ids::{GroupId, ProductId},
        state::ClusterState,
    },
    plan::{
        ejection::{EjectedHealth, decide},
        liveness::Watchers,
        observation::Observation,
    },
    redis::{Client, ReplicationStatus},
};

/// What this leader remembers of groups that are out.
#[derive(Debug, Default)]
pub struct EjectionController {
    health: EjectedHealth,
}

impl EjectionController {
    /// Looks once and does what is to be done. Sentences about what is waited for.
    pub async fn probe(
        &mut self,
        ctx: &LeaderContext,
        state: &ClusterState,
        (seen, watchers): (&Observation, &Watchers<'_>),
        now_ns: u64,
    ) -> Vec<String> {
        self.health.observe(state, seen, watchers, now_ns);
        let mut sentences = Vec::new();
        for decision in decide(state, seen, watchers, &self.health, (ctx.me, now_ns)) {
            let (product, group) = (decision.product, decision.group);
            let changes = match decision.action {
                Ok(changes) => changes,
                Err(why) => {
                    sentences.push(why);
                    continue;
                }
            };
            for change in changes {
                let returns = matches!(change, Change::Reinstate(_));
                if let Err(why) = propose(ctx, group, change).await {
                    warn!(%group, %why, "a change of a group that is out was refused; it is tried again");
                    let group = of_product(state, (product, group));
                    sentences.push(format!("{group} is out, or to be, and this could not be done yet: {why}"));
                }
                if returns {
                    self.health.again(product, group);
                }
            }
        }
        sentences
    }
}

async fn propose(ctx: &LeaderContext, group: GroupId, change: Change) -> Result<(), String> {
    match &change {
        Change::Eject(Eject { to, why, .. }) => {
            let to: Vec<String> = to.keys().map(ToString::to_string).collect();
            info!(%group, to = to.join(","), %why, "a group is out; its slots are reinstates");
        }
        Change::Reinstate(_) => info!(%group, "a group that was out is back; it gets its slots"),
        Change::CancelMigration(CancelMigration { migration, .. }) => {
            info!(%group, %migration, "a migration of a group that is out ends")
        }
        _ => {}
    }
    ctx.propose(change).await
}

/// Where the primary of a group is that is out, by the newest state; `None`: it is not out any more, or not there.
#[must_use]
pub fn ejected_group(ctx: &LeaderContext, product: ProductId, group: GroupId) -> Option<ControlTarget> {
    let state = ctx.consensus.state().borrow().clone();
    let found = state.products.get(&product)?.groups.get(&group).filter(|g| g.ejection.is_some())?;
    Some(ControlTarget { addr: found.servers.first()?.addr.clone(), credentials: found.credentials.clone() })
}

impl Fence {
    /// Deletes all keys of a primary (`FLUSHALL`), if it is still this process and `check` finds nothing wrong just before.
    ///
    /// # Errors
    /// See [`FenceError`]; only with [`FenceError::Refused`] is it certain that nothing was done.
    pub async fn flush(
        &self,
        at: &ControlTarget,
        run_id: &str,
        check: &(dyn Fn() -> Result<(), String> + Send + Sync),
        deadline: Instant,
    ) -> Result<(), FenceError> {
        self.with(at, deadline, async |client| flush(client, run_id, check, deadline).await).await
    }
}

async fn flush(
    client: &mut Client,
    run_id: &str,
    check: &(dyn Fn() -> Result<(), String> + Send + Sync),
    deadline: Instant,
) -> Result<(), FenceError> {
    let addr = client.addr().clone();
    let refused = |why: String| FenceError::Refused { addr: addr.clone(), why };
    let before = ReplicationStatus::ask(client, deadline).await?;
    same_primary(&before, run_id).map_err(refused)?;
    check().map_err(|why| FenceError::Refused { addr: addr.clone(), why })?;
    // In the background: what is large is freed while the server answers on.
    client.ask(&[b"FLUSHALL", b"ASYNC"], deadline).await?;
    let after = ReplicationStatus::ask(client, deadline).await?;
    // Not `Refused`: it may have been emptied.
    same_primary(&after, run_id)
        .map_err(|why| FenceError::Unexpected { addr: addr.clone(), why: format!("was told FLUSHALL: {why}") })?;
    if after.keys > 0 {
        let why = format!("has {} keys after FLUSHALL: somebody else writes to it", after.keys);
        return Err(FenceError::Unexpected { addr, why });
    }
    info!(%addr, keys = before.keys, "a server was emptied, since its group gets slots back");
    Ok(())
}

/// Whether this is the process that was seen, as a primary that is ready.
///
/// # Errors
/// The rest of a sentence.
pub fn same_primary(replication_status: &ReplicationStatus, run_id: &str) -> Result<(), String> {
    if replication_status.run_id != run_id {
        return Err("it was restarted since it was probed at".into());
    }
    if replication_status.loading {
        return Err("it is loading its data".into());
    }
    match &replication_status.follows {
        None => Ok(()),
        Some((host, port)) => Err(format!("it is a replica of {host}:{port}")),
    }
}
