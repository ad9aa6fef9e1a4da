//! Asks whether a server can be made its group's primary, and says in a sentence why it cannot and what to do; before
//! anything starts. Knows nothing of the log beyond what it reads: its answer is proposed by whoever called it, and `apply`
//! probes at the log again.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    control::servers::replication_commands::host_and_port,
    model::{
        change::{Change, GiveUpPromotion, StartPromotion},
        ids::{GroupId, HostPort, ProductId},
        promotion::PromotionKind,
        state::{Cause, ClusterState, Group},
    },
    redis::{Client, RedisError, ReplicationStatus},
};

/// How long the servers may take for their answers: an operator waits for them.
const ASK_MAX: Duration = Duration::from_secs(2);
/// A replica that lags more would keep the hold open for longer than its budget: at 100 MB/s this is two thirds of a second,
/// and it catches up before its first hold.
pub const LAG_MAX: u64 = 64 << 20;
/// Name of the connections, for people who probe at a server.
const NAME: &str = "pt:admission";

/// A promotion that somebody wants.
#[derive(Clone, Copy, Debug)]
pub struct SwitchoverRequest<'a> {
    /// In which product.
    pub product: ProductId,
    /// Of which group.
    pub group: GroupId,
    /// The server that is to be the primary.
    pub to: &'a HostPort,
    /// What `to` lacks may be lost.
    pub force: bool,
}

/// A promotion that can work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdmittedSwitchover {
    /// To be proposed before: an open promotion is given up, since the operator forces this one.
    pub before: Option<Change>,
    /// To be proposed: StartPromotion, of kind Switchover, or a forced Failover.
    pub change: Change,
    /// What the operator should know.
    pub warnings: Vec<String>,
}

/// Whether the promotion can work, and as which kind: nothing is lost if the primary answers and the server is in step with
/// it, also with `force`; a forced failover is for a primary that is dead, or a server that is not in step.
///
/// # Errors
/// A sentence: what is in the way, and what to do. Nothing has been changed anywhere.
pub async fn admit(
    state: &ClusterState,
    wanted: SwitchoverRequest<'_>,
    deadline: Instant,
) -> Result<AdmittedSwitchover, String> {
    let (group, before) = by_the_log(state, wanted)?;
    let (to, force) = (wanted.to, wanted.force);
    let primary = group.servers.first().map(|s| &s.addr).ok_or("the group has no server")?;
    let by = deadline.min(Instant::now() + ASK_MAX);
    let (theirs, old) = tokio::join!(ask(group, to, by), ask(group, primary, by));
    let theirs = theirs.map_err(|error| format!("{to} cannot be promoted: {error}"))?;
    if theirs.loading {
        return Err(format!("{to} is loading its data; try again when it is done"));
    }
    if theirs.syncing {
        return Err(format!("{to} is in the middle of a full copy of its primary; try again when it is done"));
    }
    let obstacle = match &old {
        Err(error) => Some(format!("the primary {primary} does not answer ({error})")),
        Ok(old) => in_sync(group, primary, old, to, &theirs).err(),
    };
    let started = |kind, forced, why| {
        Change::StartPromotion(StartPromotion {
            product: wanted.product,
            group: group.id,
            to: to.clone(),
            kind,
            group_epoch: group.epoch,
            required_offset: group.required_offset.clone(),
            forced,
            why,
        })
    };
    match obstacle {
        None => {
            let why = format!("an operator asked for it; {primary} answers, and {to} is in step with it");
            let warnings = if force { vec!["nothing is lost, so --force was not needed".into()] } else { Vec::new() };
            // What the log does not know yet, the servers have said.
            let diverged = group.servers.iter().any(|s| s.addr == *to && s.diverged);
            Ok(AdmittedSwitchover { before, change: started(PromotionKind::Switchover, diverged, why), warnings })
        }
        Some(obstacle) if force => {
            let keys = theirs.keys;
            let warnings = vec![format!("{obstacle}; {to} is promoted as it is ({keys} keys), what it lacks is lost")];
            let why = format!("an operator forced it, although {obstacle}");
            Ok(AdmittedSwitchover { before, change: started(PromotionKind::Failover, true, why), warnings })
        }
        Some(obstacle) => Err(format!(
            "{obstacle}; repair that and try again, or give --force: {to} is then promoted as it is, and what it lacks is lost"
        )),
    }
}

/// What the log says against it.
fn by_the_log<'a>(
    state: &'a ClusterState,
    wanted: SwitchoverRequest<'_>,
) -> Result<(&'a Group, Option<Change>), String> {
    let SwitchoverRequest { product, group: id, to, force } = wanted;
    let product = state.products.get(&product).ok_or("there is no such product; see 'pontoon product ls'")?;
    let group = product.groups.get(&id).ok_or_else(|| {
        format!(
            "product '{}' has no group {id}; see 'pontoon group ls', or create it (pontoon group create)",
            product.name
        )
    })?;
    let Some(at) = group.servers.iter().position(|s| s.addr == *to) else {
        let servers: Vec<_> = group.servers.iter().map(|s| s.addr.as_str()).collect();
        return Err(format!(
            "{to} is not in group {id}, which has {}; add it first (pontoon group add-server {id} {to})",
            servers.join(", ")
        ));
    };
    if at == 0 {
        return Err(format!("{to} is the primary of group {id} already; nothing to do"));
    }
    let mut before = None;
    if let Some(open) = state.promotion_of(product.id, id) {
        let kind = open.kind.name();
        if !force || (open.forced && open.to == *to) {
            return Err(format!("a {kind} of group {id} to {} is open ({}); wait for its end", open.to, open.why));
        }
        let why = format!("an operator forces {to}");
        before = Some(Change::GiveUpPromotion(GiveUpPromotion {
            promotion: open.id,
            why,
            primary_back: false,
            forced: true,
        }));
    }
    for hold in state.holds.values().filter(|hold| hold.product == product.id) {
        if let Cause::Migration(migration) = hold.cause
            && state.migrations.get(&migration).is_some_and(|m| m.from == id || m.to == id)
        {
            return Err(format!(
                "migration {migration} holds slots of group {id} to switch them just now; try again in a second"
            ));
        }
    }
    if group.servers[at].diverged && !force {
        return Err(format!(
            "{to} has diverged from its group's data and has not copied the primary's since; wait until it has (pontoon group \
             show {id}), or give --force: what it lacks is lost"
        ));
    }
    Ok((group, before))
}

/// Whether everything that the primary has is at the other one, or will be in a moment.
fn in_sync(
    group: &Group,
    primary: &HostPort,
    old: &ReplicationStatus,
    to: &HostPort,
    theirs: &ReplicationStatus,
) -> Result<(), String> {
    if let Some((host, port)) = &old.follows {
        return Err(format!("the primary {primary} is itself a replica of {host}:{port}"));
    }
    if old.loading {
        return Err(format!("the primary {primary} is loading its data"));
    }
    let (host, port) = host_and_port(primary);
    match &theirs.follows {
        None => return Err(format!("{to} is no replica of {primary}, but a primary itself")),
        Some((h, p)) if h != host || *p != port => return Err(format!("{to} follows {h}:{p}, not {primary}")),
        Some(_) => {}
    }
    if !theirs.link_up {
        return Err(format!("the link of {to} to its primary {primary} is down"));
    }
    if theirs.replid != old.replid {
        return Err(format!("{to} has not taken over the replication history of {primary}"));
    }
    let lag = old.offset.saturating_sub(theirs.offset);
    if lag > LAG_MAX {
        let max = LAG_MAX >> 20;
        return Err(format!("{to} lags {lag} bytes behind {primary}, more than {max} MiB"));
    }
    if group.required_offset.as_ref().is_some_and(|r| r.replid == theirs.replid && theirs.offset < r.offset) {
        return Err(format!("{to} lacks data of slots that have just moved to this group"));
    }
    Ok(())
}

async fn ask(group: &Group, addr: &HostPort, deadline: Instant) -> Result<ReplicationStatus, RedisError> {
    let mut client = Client::connect(addr, group.credentials.as_ref(), NAME, deadline).await?;
    ReplicationStatus::ask(&mut client, deadline).await
}
