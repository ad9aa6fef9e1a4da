//! Checks whether a server can be promoted before the promotion begins, and says why it cannot and what to do.
//! Knows nothing of the log beyond what it reads: the caller proposes the answer, and `apply` checks the state again.

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
/// How many bytes a replica may lag. At 100 MB/s this is two thirds of a second, so that it catches up before its first
/// hold; a replica that lags more could keep the hold open for longer than its budget.
pub const LAG_MAX: u64 = 64 << 20;
/// The name of the connections, for people who list a server's clients.
const NAME: &str = "pt:admission";

/// A promotion that an operator asks for.
#[derive(Clone, Copy, Debug)]
pub struct SwitchoverRequest<'a> {
    /// The group's product.
    pub product: ProductId,
    /// The group.
    pub group: GroupId,
    /// The server that will be the primary.
    pub to: &'a HostPort,
    /// The operator accepts the loss of what `to` lacks.
    pub force: bool,
}

/// A promotion that can work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdmittedSwitchover {
    /// To be proposed first: gives up an open promotion, since the operator forces this one.
    pub before: Option<Change>,
    /// To be proposed: StartPromotion, of kind Switchover, or a forced Failover.
    pub change: Change,
    /// What the operator should know.
    pub warnings: Vec<String>,
}

/// Whether the promotion can work, and as which kind. It is a switchover, which loses nothing, if the primary answers
/// and the server is in sync with it, also with `force`. It is a forced failover if the primary is down or the server
/// is not in sync.
///
/// # Errors
/// What prevents it and what to do, as text for the operator. Nothing has been changed anywhere.
pub async fn admit(
    state: &ClusterState,
    wanted: SwitchoverRequest<'_>,
    deadline: Instant,
) -> Result<AdmittedSwitchover, String> {
    let (group, before) = check_state(state, wanted)?;
    let (to, force) = (wanted.to, wanted.force);
    let primary = group.servers.first().map(|s| &s.addr).ok_or("the group has no server")?;
    let by = deadline.min(Instant::now() + ASK_MAX);
    let (theirs, old) = tokio::join!(ask(group, to, by), ask(group, primary, by));
    let theirs = theirs.map_err(|error| format!("{to} cannot be promoted: {error}"))?;
    if theirs.loading {
        return Err(format!("{to} is loading its data; try again when it is done"));
    }
    if theirs.syncing {
        return Err(format!("{to} is receiving a full copy from its primary; try again when it is done"));
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
            let why = format!("an operator asked for it; {primary} answers, and {to} is in sync with it");
            let warnings = if force { vec!["nothing is lost, so --force was not needed".into()] } else { Vec::new() };
            // The servers' answers are newer than what the log knows.
            let diverged = group.servers.iter().any(|s| s.addr == *to && s.diverged);
            Ok(AdmittedSwitchover { before, change: started(PromotionKind::Switchover, diverged, why), warnings })
        }
        Some(obstacle) if force => {
            let keys = theirs.keys;
            let warnings =
                vec![format!("{obstacle}; {to} is promoted as it is ({keys} keys), and what it lacks is lost")];
            let why = format!("an operator forced it, although {obstacle}");
            Ok(AdmittedSwitchover { before, change: started(PromotionKind::Failover, true, why), warnings })
        }
        Some(obstacle) => Err(format!(
            "{obstacle}; repair that and try again, or give --force: {to} is then promoted as it is, and what it lacks \
             is lost"
        )),
    }
}

/// Checks the promotion against the state. Returns the group, and the change that gives up an open promotion.
///
/// # Errors
/// What prevents it and what to do, as text for the operator.
fn check_state<'a>(
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
                "migration {migration} holds slots of group {id} for its switch; try again in a second"
            ));
        }
    }
    if group.servers[at].diverged && !force {
        return Err(format!(
            "{to} has diverged from its group's data and has not copied the primary's data since; wait until it has \
             (pontoon group show {id}), or give --force: what it lacks is lost"
        ));
    }
    Ok((group, before))
}

/// Whether the replica has all data of the primary, or will have it in a moment.
///
/// # Errors
/// Why not, as text for the operator.
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
        None => return Err(format!("{to} is a primary itself, not a replica of {primary}")),
        Some((h, p)) if h != host || *p != port => return Err(format!("{to} follows {h}:{p}, not {primary}")),
        Some(_) => {}
    }
    if !theirs.link_up {
        return Err(format!("the link of {to} to its primary {primary} is down"));
    }
    if theirs.replid != old.replid {
        return Err(format!("{to} does not have the replication history of {primary}"));
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
