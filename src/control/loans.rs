//! The leader's look at groups of caches that are out, or are to be: carries out what `plan::loan` decides; and empties a server
//! before its group gets slots back. Keeps nothing beyond its term.

use tokio::time::Instant;
use tracing::{info, warn};

use super::{
    failover::of_product,
    fence::{At, Fence, FenceError},
    jobs::Jobs,
};
use crate::{
    model::{
        change::Change,
        ids::{GroupId, ProductId},
        state::ClusterState,
    },
    plan::{
        liveness::Watchers,
        loan::{Health, decide},
        observation::Observation,
    },
    redis::{Client, Standing},
};

/// What this leader remembers of groups that are out.
#[derive(Debug, Default)]
pub struct Loans {
    health: Health,
}

impl Loans {
    /// Looks once and does what is to be done. Sentences about what is waited for.
    pub async fn look(
        &mut self,
        jobs: &Jobs,
        state: &ClusterState,
        (seen, watchers): (&Observation, &Watchers<'_>),
        now_ns: u64,
    ) -> Vec<String> {
        self.health.observe(state, seen, watchers, now_ns);
        let mut sentences = Vec::new();
        for decision in decide(state, seen, watchers, &self.health, (jobs.me, now_ns)) {
            let (product, group) = (decision.product, decision.group);
            let changes = match decision.act {
                Ok(changes) => changes,
                Err(why) => {
                    sentences.push(why);
                    continue;
                }
            };
            for change in changes {
                let returns = matches!(change, Change::ReturnLoan { .. });
                if let Err(why) = propose(jobs, group, change).await {
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

async fn propose(jobs: &Jobs, group: GroupId, change: Change) -> Result<(), String> {
    match &change {
        Change::Lend { to, why, .. } => {
            let to: Vec<String> = to.keys().map(ToString::to_string).collect();
            info!(%group, to = to.join(","), %why, "a group is out; its slots are lent");
        }
        Change::ReturnLoan { .. } => info!(%group, "a group that was out is back; it gets its slots"),
        Change::CancelMigration { migration, .. } => {
            info!(%group, %migration, "a migration of a group that is out ends")
        }
        _ => {}
    }
    jobs.propose(change).await
}

/// Where the primary of a group is that is out, by the newest state; `None`: it is not out any more, or not there.
#[must_use]
pub fn lender(jobs: &Jobs, product: ProductId, group: GroupId) -> Option<At> {
    let state = jobs.consensus.state().borrow().clone();
    let found = state.products.get(&product)?.groups.get(&group).filter(|g| g.loan.is_some())?;
    Some(At { addr: found.servers.first()?.addr.clone(), credentials: found.credentials.clone() })
}

impl Fence {
    /// Deletes all keys of a primary (`FLUSHALL`), if it is still this process and `check` finds nothing wrong just before.
    ///
    /// # Errors
    /// See [`FenceError`]; only with [`FenceError::Refused`] is it certain that nothing was done.
    pub async fn flush(
        &self,
        at: &At,
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
    let before = Standing::ask(client, deadline).await?;
    same_primary(&before, run_id).map_err(refused)?;
    check().map_err(|why| FenceError::Refused { addr: addr.clone(), why })?;
    // In the background: what is large is freed while the server answers on.
    client.ask(&[b"FLUSHALL", b"ASYNC"], deadline).await?;
    let after = Standing::ask(client, deadline).await?;
    // Not `Refused`: it may have been emptied.
    same_primary(&after, run_id)
        .map_err(|why| FenceError::Odd { addr: addr.clone(), why: format!("was told FLUSHALL: {why}") })?;
    if after.keys > 0 {
        let why = format!("has {} keys after FLUSHALL: somebody else writes to it", after.keys);
        return Err(FenceError::Odd { addr, why });
    }
    info!(%addr, keys = before.keys, "a server was emptied, since its group gets slots back");
    Ok(())
}

/// Whether this is the process that was seen, as a primary that is ready.
///
/// # Errors
/// The rest of a sentence.
pub fn same_primary(standing: &Standing, run_id: &str) -> Result<(), String> {
    if standing.run_id != run_id {
        return Err("it was restarted since it was looked at".into());
    }
    if standing.loading {
        return Err("it is loading its data".into());
    }
    match &standing.follows {
        None => Ok(()),
        Some((host, port)) => Err(format!("it is a replica of {host}:{port}")),
    }
}
