//! The start of a copy run: opens, names and authorizes connections, cleans the target and attaches the feed. Writes no
//! key before the log says that the copy has begun. Knows nothing of how keys are copied.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use super::{
    engine::{CopyEngine, OpenedCopy},
    monitors::Monitors,
};
use crate::{
    faults::{self, Point},
    model::migration::{Counters, Limits, unexpected_keys_remedy},
    mover::{
        clean::{Cleaner, KeyDecision, keyspace},
        expiry::ExpiryQuery,
        feed,
        handle::MoverCommand,
        io::{connection::Connection, monitor::ServerMonitor},
        report::{Report, State},
        spec::{Authorize, CopySpec, Endpoint},
    },
    redis::{RedisError, capabilities::EXPIRE_TIME_PROBE},
};

/// Time limit for connecting, logging in and attaching to the feed. A server that never had a replica needs some
/// seconds.
const OPEN_MAX: Duration = Duration::from_secs(20);
/// Unexpected keys named when a target is refused.
const NAMED_MAX: usize = 5;

/// Runs a copy until its owner drops the handle.
///
/// # Errors
/// Returns why the copy failed, as text for the operator.
pub(in crate::mover) async fn run(
    spec: &CopySpec,
    authorize: Arc<dyn Authorize>,
    limits: watch::Receiver<Limits>,
    commands: &mut mpsc::Receiver<MoverCommand>,
    reports: &watch::Sender<Report>,
) -> Result<(), String> {
    let deadline = Instant::now() + OPEN_MAX;
    let name = spec.name.as_str();
    let (mut target, mut target_monitor) = ServerMonitor::open_primary(&spec.target, name, deadline).await?;
    check_process(&target_monitor, &spec.target, &spec.processes.target)?;
    target_monitor.guard(!spec.cache, deadline).await.map_err(text)?;
    let source = Connection::open(&spec.feed, name, deadline).await.map_err(text)?;
    authorize.authorize(vec![target.named()]).await?;

    reports.send_modify(|report| report.state = State::CleaningTarget);
    faults::pause_at(Point::CleaningTarget).await;
    let cleaner = Cleaner::new(&mut target, &mut target_monitor, commands, limits.clone());
    let Some(counters) = clean_target(spec, cleaner, reports).await? else { return Ok(()) };
    // The log entry is made while the feed is opened.
    reports.send_modify(|report| report.state = State::Copying);
    let mut written = authorize.may_write();
    let opened = open_source(spec, source, target, target_monitor, counters).await?;
    loop {
        tokio::select! {
            result = &mut written => break result?,
            // No command is sent before the copy has begun, but the owner may drop the handle.
            command = commands.recv() => if command.is_none() { return Ok(()) },
        }
    }
    CopyEngine::new(spec, limits, opened).run(commands, reports).await
}

/// Deletes leftovers at the target, and unexpected keys if that is allowed. Returns what was done, or `None` if the
/// mover was stopped.
async fn clean_target(
    spec: &CopySpec,
    mut cleaner: Cleaner<'_>,
    reports: &watch::Sender<Report>,
) -> Result<Option<Counters>, String> {
    let mut unexpected = Vec::new();
    let mut counters = Counters::default();
    let cleaned = cleaner
        .pass(
            &mut |key| {
                if !spec.slots.has_key(key) {
                    return KeyDecision::Keep;
                }
                if spec.wipe || spec.deletable_at_target.has_key(key) {
                    return KeyDecision::Delete;
                }
                unexpected.push(format!("'{}'", key.escape_ascii()));
                if unexpected.len() < NAMED_MAX { KeyDecision::Keep } else { KeyDecision::Stop }
            },
            &mut |_, deleted| {
                counters.deleted = deleted;
                reports.send_modify(|report| report.counters = counters);
            },
        )
        .await?;
    if cleaned.is_none() {
        return Ok(None);
    }
    if unexpected.is_empty() {
        return Ok(Some(counters));
    }
    Err(format!(
        "{} holds keys of these slots that were never this group's: {}; {}",
        spec.target.addr,
        unexpected.join(", "),
        unexpected_keys_remedy("SLOTS --to GID")
    ))
}

/// Opens the feed and the monitors of the source.
async fn open_source(
    spec: &CopySpec,
    mut source: Connection,
    target: Connection,
    target_monitor: ServerMonitor,
    counters: Counters,
) -> Result<OpenedCopy, String> {
    let deadline = Instant::now() + OPEN_MAX;
    let name = spec.name.as_str();
    // The feed first: it reports every change from now on.
    let feed = feed::open(&spec.feed, name, deadline).await?;
    // After the feed: creating a backlog gives the server another replication id.
    let primary = ServerMonitor::open(&spec.primary, name, deadline).await.map_err(text)?;
    if primary.identity().role != "master" {
        return Err(format!("{} is not a primary any more", spec.primary.addr));
    }
    check_process(&primary, &spec.primary, &spec.processes.source)?;
    let replica = if spec.feed.addr == spec.primary.addr {
        None
    } else {
        let replica = ServerMonitor::open(&spec.feed, name, deadline).await.map_err(text)?;
        let (of_replica, of_primary) = (&replica.identity().replid, &primary.identity().replid);
        if of_replica != of_primary || !replica.status().link_up {
            return Err(format!("{} does not follow {} now", spec.feed.addr, spec.primary.addr));
        }
        Some(replica)
    };
    let expiry_query = expiry_query(&mut source, deadline).await.map_err(text)?;
    let databases = keyspace(&mut source, deadline).await?;
    let monitors = Monitors { primary, replica, target: target_monitor };
    Ok(OpenedCopy { source, expiry_query, target, feed, monitors, databases, counters })
}

/// That a primary is the process that the log knows. From now on, its monitor sees that it stays the same.
fn check_process(monitor: &ServerMonitor, endpoint: &Endpoint, known: &str) -> Result<(), String> {
    if known.is_empty() || monitor.identity().run_id == known {
        return Ok(());
    }
    Err(format!(
        "{} was restarted, and may have less than min-acks confirmed; slots move when a replica has replaced it or it has \
         been accepted (`pontoon group show`)",
        endpoint.addr
    ))
}

/// How the source is asked when a key expires.
async fn expiry_query(source: &mut Connection, deadline: Instant) -> Result<ExpiryQuery, RedisError> {
    match source.ask(EXPIRE_TIME_PROBE, deadline).await {
        Ok(_) => Ok(ExpiryQuery::ExpireTime),
        // The server is older than Redis 7.0, or its user may not run the command.
        Err(error) if error.answered() => Ok(ExpiryQuery::TimeAndTtl),
        Err(error) => Err(error),
    }
}

fn text(error: RedisError) -> String {
    error.to_string()
}
