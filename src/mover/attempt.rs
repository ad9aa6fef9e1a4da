//! The beginning of an attempt to copy: connections opened, named and approved, the target cleaned, the feed attached, and
//! nothing written before the log says so. Knows nothing of how the keys are then copied.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use super::{
    clean::{Cleaner, Verdict, keyspace},
    connection::Connection,
    copy::Copy,
    feed::{self, Feed},
    handle::Order,
    job::{Approve, CopyJob},
    report::{Report, State},
    server::Server,
};
use crate::{
    faults::{self, Point},
    model::migration::{Counters, Limits},
};

/// Connecting, logging in and attaching to the feed; a server that never had a replica prepares for some seconds.
const OPEN_MAX: Duration = Duration::from_secs(20);
/// Foreign keys named when a target is refused.
const NAMED_MAX: usize = 5;

/// What an attempt begins with.
pub(super) struct Opened {
    /// Where keys are fetched: the feed's server.
    pub source: Connection,
    /// Where they are written.
    pub target: Connection,
    pub feed: Box<dyn Feed>,
    /// Of the source.
    pub primary: Server,
    /// Of the source, if it feeds.
    pub replica: Option<Server>,
    pub target_server: Server,
    /// Keys by database, when the feed had begun.
    pub databases: BTreeMap<u32, u64>,
    /// What the cleaning has done.
    pub counters: Counters,
}

/// Copies until told to stop.
///
/// # Errors
/// The attempt cannot go on; a sentence for people.
pub(super) async fn run(
    job: &CopyJob,
    approve: Arc<dyn Approve>,
    limits: watch::Receiver<Limits>,
    orders: &mut mpsc::Receiver<Order>,
    reports: &watch::Sender<Report>,
) -> Result<(), String> {
    let deadline = Instant::now() + OPEN_MAX;
    let text = |error: crate::redis::RedisError| error.to_string();
    let name = job.name.as_str();
    let (mut target, mut target_server) = Server::open_primary(&job.target, name, deadline).await?;
    target_server.guard(!job.cache, deadline).await.map_err(text)?;
    let mut source = Connection::open(&job.feed, name, deadline).await.map_err(text)?;
    approve.approve(vec![target.named()]).await?;

    reports.send_modify(|report| report.state = State::CleaningTarget);
    faults::pause_at(Point::CleaningTarget).await;
    let mut foreign = Vec::new();
    let mut counters = Counters::default();
    let mut cleaner = Cleaner::new(&mut target, &mut target_server, orders, limits.clone());
    let cleaned = cleaner
        .pass(
            &mut |key| {
                if !job.slots.has_key(key) {
                    return Verdict::Keep;
                }
                if job.wipe || job.ours_at_target.has_key(key) {
                    return Verdict::Delete;
                }
                foreign.push(format!("'{}'", key.escape_ascii()));
                if foreign.len() < NAMED_MAX { Verdict::Keep } else { Verdict::Stop }
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
    if !foreign.is_empty() {
        return Err(format!(
            "{} holds keys of these slots that were never this group's: {}; delete them or give --wipe",
            job.target.addr,
            foreign.join(", ")
        ));
    }
    // The log is told, while the rest is opened.
    reports.send_modify(|report| report.state = State::Copying);
    let mut written = approve.may_write();

    // The feed first: what changes from now on is told.
    let deadline = Instant::now() + OPEN_MAX;
    let feed = feed::open(&job.feed, name, deadline).await?;
    // After the feed: making a server keep a backlog gives it another replication id.
    let primary = Server::open(&job.primary, name, deadline).await.map_err(text)?;
    if primary.identity().role != "master" {
        return Err(format!("{} is not a primary any more", job.primary.addr));
    }
    let replica = if job.feed.addr == job.primary.addr {
        None
    } else {
        let replica = Server::open(&job.feed, name, deadline).await.map_err(text)?;
        let (of_replica, of_primary) = (&replica.identity().replid, &primary.identity().replid);
        if of_replica != of_primary || !replica.seen().link_up {
            return Err(format!("{} does not follow {} now", job.feed.addr, job.primary.addr));
        }
        Some(replica)
    };
    let databases = keyspace(&mut source, deadline).await?;
    let opened = Opened { source, target, feed, primary, replica, target_server, databases, counters };
    loop {
        tokio::select! {
            result = &mut written => break result?,
            // Nothing is asked of a copy that has not begun; its owner may be gone.
            order = orders.recv() => if order.is_none() { return Ok(()) },
        }
    }
    Copy::new(job, limits, opened).turns(orders, reports).await
}
