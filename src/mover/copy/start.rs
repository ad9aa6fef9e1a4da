//! The beginning of an attempt to copy: connections opened, named and authorized, the target cleaned, the feed attached, and
//! nothing written before the log says so. Knows nothing of how the keys are then copied.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use super::engine::CopyEngine;
use crate::{
    faults::{self, Point},
    model::migration::{Counters, Limits},
    mover::{
        clean::{Cleaner, KeyDecision, keyspace},
        feed::{self, Feed},
        handle::MoverCommand,
        io::{connection::Connection, monitor::ServerMonitor},
        report::{Report, State},
        spec::{Authorize, CopySpec},
    },
};

/// Connecting, logging in and attaching to the feed; a server that never had a replica prepares for some seconds.
const OPEN_MAX: Duration = Duration::from_secs(20);
/// Foreign keys named when a target is refused.
const NAMED_MAX: usize = 5;

/// What an attempt begins with.
pub(in crate::mover) struct OpenedCopy {
    /// Where keys are fetched: the feed's server.
    pub source: Connection,
    /// Where they are written.
    pub target: Connection,
    pub feed: Box<dyn Feed>,
    /// Of the source.
    pub primary: ServerMonitor,
    /// Of the source, if it feeds.
    pub replica: Option<ServerMonitor>,
    pub target_server: ServerMonitor,
    /// Keys by database, when the feed had begun.
    pub databases: BTreeMap<u32, u64>,
    /// What the cleaning has done.
    pub counters: Counters,
}

/// Copies until told to stop.
///
/// # Errors
/// The attempt cannot go on; a sentence for people.
pub(in crate::mover) async fn run(
    spec: &CopySpec,
    authorize: Arc<dyn Authorize>,
    limits: watch::Receiver<Limits>,
    orders: &mut mpsc::Receiver<MoverCommand>,
    reports: &watch::Sender<Report>,
) -> Result<(), String> {
    let deadline = Instant::now() + OPEN_MAX;
    let text = |error: crate::redis::RedisError| error.to_string();
    let name = spec.name.as_str();
    let (mut target, mut target_server) = ServerMonitor::open_primary(&spec.target, name, deadline).await?;
    target_server.guard(!spec.cache, deadline).await.map_err(text)?;
    let mut source = Connection::open(&spec.feed, name, deadline).await.map_err(text)?;
    authorize.authorize(vec![target.named()]).await?;

    reports.send_modify(|report| report.state = State::CleaningTarget);
    faults::pause_at(Point::CleaningTarget).await;
    let mut unexpected = Vec::new();
    let mut counters = Counters::default();
    let mut cleaner = Cleaner::new(&mut target, &mut target_server, orders, limits.clone());
    let cleaned = cleaner
        .pass(
            &mut |key| {
                if !spec.slots.has_key(key) {
                    return KeyDecision::Keep;
                }
                if spec.wipe || spec.ours_at_target.has_key(key) {
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
        return Ok(());
    }
    if !unexpected.is_empty() {
        return Err(format!(
            "{} holds keys of these slots that were never this group's: {}; delete them or give --wipe",
            spec.target.addr,
            unexpected.join(", ")
        ));
    }
    // The log is told, while the rest is opened.
    reports.send_modify(|report| report.state = State::Copying);
    let mut written = authorize.may_write();

    // The feed first: what changes from now on is told.
    let deadline = Instant::now() + OPEN_MAX;
    let feed = feed::open(&spec.feed, name, deadline).await?;
    // After the feed: making a server keep a backlog gives it another replication id.
    let primary = ServerMonitor::open(&spec.primary, name, deadline).await.map_err(text)?;
    if primary.identity().role != "master" {
        return Err(format!("{} is not a primary any more", spec.primary.addr));
    }
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
    let databases = keyspace(&mut source, deadline).await?;
    let opened = OpenedCopy { source, target, feed, primary, replica, target_server, databases, counters };
    loop {
        tokio::select! {
            result = &mut written => break result?,
            // Nothing is asked of a copy that has not begun; its owner may be gone.
            order = orders.recv() => if order.is_none() { return Ok(()) },
        }
    }
    CopyEngine::new(spec, limits, opened).turns(orders, reports).await
}
