//! Deletes keys with SCAN and UNLINK: at a target before it is filled, at a source after the switch, and leftovers.
//! Knows nothing of why keys are deleted; the caller decides for each key.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use super::{
    handle::MoverCommand,
    io::{
        connection::{ANSWER_MAX, Connection},
        monitor::ServerMonitor,
        pace::{Meter, Rests, SHARE_PRIMARY, Share},
        pipeline::STATS_EVERY,
        scan::{COUNT, KeyPage, Scan, text},
    },
    report::{Report, State},
    spec::{Authorize, CleanSpec},
};
use crate::{
    faults::{self, Point},
    model::migration::Limits,
    redis::{Info, RedisError},
    resp::{number, write},
};

/// Keys of one UNLINK: it occupies the server for about 50 microseconds.
const BATCH: usize = 100;
/// COUNT of SCAN on a server that others use, too.
const COUNT_SHARED: u32 = 100;
const OPEN_MAX: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_millis(5);

/// What to do with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyDecision {
    Keep,
    Delete,
    /// Keep it and stop the pass.
    Stop,
}

/// Scans a server and deletes keys.
pub(super) struct Cleaner<'a> {
    connection: &'a mut Connection,
    server: &'a mut ServerMonitor,
    /// Closed when the owner drops the handle; never read.
    commands: &'a mpsc::Receiver<MoverCommand>,
    limits: watch::Receiver<Limits>,
    meter: Meter,
    share: Share,
    rests: Rests,
    stats: Instant,
}

impl<'a> Cleaner<'a> {
    pub fn new(
        connection: &'a mut Connection,
        server: &'a mut ServerMonitor,
        commands: &'a mpsc::Receiver<MoverCommand>,
        limits: watch::Receiver<Limits>,
    ) -> Self {
        let now = Instant::now();
        Self {
            connection,
            server,
            commands,
            limits,
            meter: Meter::new(now),
            share: Share::new(SHARE_PRIMARY, now),
            rests: Rests::default(),
            stats: now,
        }
    }

    /// Makes one pass over all databases. When it returns, every UNLINK has been answered. Returns the number of keys
    /// deleted, or `None` if the mover was stopped. `progress` is called with the numbers of keys scanned and deleted.
    ///
    /// # Errors
    /// Returns why the connection is lost or which command the server refuses, as text for the operator.
    pub async fn pass(
        &mut self,
        decide: &mut dyn FnMut(&Bytes) -> KeyDecision,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Option<u64>, String> {
        let mut scan = Scan::default();
        keyspace(self.connection, Instant::now() + ANSWER_MAX).await?.keys().for_each(|db| scan.add(*db));
        let (mut scanned, mut deleted) = (0, 0);
        let mut selected = None;
        let mut to_delete: Vec<Bytes> = Vec::new();
        let mut stop = false;
        while let Some((db, cursor)) = scan.next_page().filter(|_| !stop) {
            let now = Instant::now();
            let share = self.share.adapt(self.server, now);
            let began = now;
            let mut kinds = Vec::new();
            if selected != Some(db) {
                selected = Some(db);
                self.connection.send(&[b"SELECT", db.to_string().as_bytes()]);
                kinds.push(CleanRequest::Select);
            }
            let (cursor, count) = (cursor.to_string(), if share < 1.0 { COUNT_SHARED } else { COUNT }.to_string());
            self.connection.send(&[b"SCAN", cursor.as_bytes(), b"COUNT", count.as_bytes()]);
            kinds.push(CleanRequest::KeyPage);
            if now.saturating_duration_since(self.stats) >= STATS_EVERY {
                self.stats = now;
                kinds.push(CleanRequest::Stats(self.connection.sent()));
                self.connection.send(&[b"INFO", b"stats"]);
            }
            let mut page = None;
            self.replies(&kinds, &mut |kind, reply, server| match kind {
                CleanRequest::KeyPage => page = KeyPage::parse(reply),
                CleanRequest::Stats(ours) => server.load(text(reply).unwrap_or_default(), ours, Instant::now()),
                CleanRequest::Select | CleanRequest::Unlink => {}
            })
            .await?;
            let page = page.ok_or_else(|| format!("{} answers SCAN in an unknown form", self.connection.addr()))?;
            scan.advance(page.cursor);
            scanned += page.keys.len() as u64;
            for key in page.keys {
                match decide(&key) {
                    KeyDecision::Keep => {}
                    KeyDecision::Delete => to_delete.push(key),
                    KeyDecision::Stop => stop = true,
                }
            }
            self.rests.worked(began.elapsed(), share, Instant::now());
            while !to_delete.is_empty() {
                let Some(room) = self.room().await? else { return Ok(None) };
                let began = Instant::now();
                let share = self.share.adapt(self.server, began);
                let batch: Vec<Bytes> = to_delete.drain(..to_delete.len().min(BATCH).min(room)).collect();
                write::array(&mut self.connection.output.bytes, batch.len() + 1);
                write::bulk(&mut self.connection.output.bytes, b"UNLINK");
                for key in &batch {
                    write::bulk(&mut self.connection.output.bytes, key);
                    self.meter.key();
                }
                self.connection.expect(1);
                self.replies(&[CleanRequest::Unlink], &mut |_, reply, _| {
                    let count = number::parse(&reply[1..reply.len() - 2]).unwrap_or(0);
                    deleted += u64::try_from(count).unwrap_or(0);
                })
                .await?;
                self.rests.worked(began.elapsed(), share, Instant::now());
            }
            progress(scanned, deleted);
            if self.room().await?.is_none() {
                return Ok(None);
            }
        }
        progress(scanned, deleted);
        Ok(Some(deleted))
    }

    /// Waits until the limits and the servers' load allow more work. Returns for how many keys, or `None` if the mover
    /// was stopped.
    async fn room(&mut self) -> Result<Option<usize>, String> {
        loop {
            if self.commands.is_closed() {
                return Ok(None);
            }
            let now = Instant::now();
            self.server.turn(now)?;
            let until = match self.rests.until(now) {
                Some(until) => until,
                None => {
                    let limits = *self.limits.borrow();
                    let room = self.meter.allowed(&limits, now);
                    if room > 0 {
                        return Ok(Some(room));
                    }
                    now + TICK
                }
            };
            self.wait(until.min(now + TICK)).await;
        }
    }

    /// Waits for one reply per element of `kinds`.
    async fn replies(
        &mut self,
        kinds: &[CleanRequest],
        each: &mut dyn FnMut(CleanRequest, &[u8], &mut ServerMonitor),
    ) -> Result<(), String> {
        let text = |error: RedisError| error.to_string();
        let mut kinds = kinds.iter();
        while self.connection.awaited() > 0 {
            let now = Instant::now();
            self.connection.flush().map_err(text)?;
            let filled = self.connection.fill();
            while let Some(len) = self.connection.input.scan()? {
                let Some(kind) = kinds.next() else {
                    return Err(format!("{} sent more replies than it got requests", self.connection.addr()));
                };
                let reply = &self.connection.input.bytes()[..len];
                if reply[0] == b'-' {
                    let text = String::from_utf8_lossy(&reply[1..len - 2]);
                    return Err(RedisError::of_answer(self.connection.addr(), kind.name(), &text).to_string());
                }
                each(*kind, reply, self.server);
                self.connection.input.consume(len);
                self.connection.answered();
            }
            filled.map_err(text)?;
            self.server.turn(now)?;
            if self.connection.silent_for(now) > ANSWER_MAX {
                return Err(format!("{} has not replied for {} s", self.connection.addr(), ANSWER_MAX.as_secs()));
            }
            if self.connection.awaited() > 0 {
                self.wait(now + TICK).await;
            }
        }
        Ok(())
    }

    async fn wait(&self, until: Instant) {
        let mut timer = std::pin::pin!(sleep_until(until));
        std::future::poll_fn(|cx| {
            let mut ready = self.connection.poll_ready(cx).is_ready();
            ready |= self.server.connection().poll_ready(cx).is_ready();
            ready |= timer.as_mut().poll(cx).is_ready();
            if ready { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
    }
}

#[derive(Clone, Copy, Debug)]
enum CleanRequest {
    Select,
    KeyPage,
    Unlink,
    /// INFO stats, and the number of requests before it.
    Stats(u64),
}

impl CleanRequest {
    fn name(self) -> &'static str {
        match self {
            Self::Select => "SELECT",
            Self::KeyPage => "SCAN",
            Self::Unlink => "UNLINK",
            Self::Stats(_) => "INFO",
        }
    }
}

/// Returns the number of keys of each database that has keys. No other reply may be outstanding on the connection.
///
/// # Errors
/// Returns why INFO failed, as text for the operator.
pub(super) async fn keyspace(connection: &mut Connection, deadline: Instant) -> Result<BTreeMap<u32, u64>, String> {
    let reply = connection.ask(&[b"INFO", b"keyspace"], deadline).await.map_err(|error| error.to_string())?;
    let text = reply.text().ok_or_else(|| format!("{} answers INFO in an unknown form", connection.addr()))?;
    Ok(Info::parse(text).keyspace())
}

/// Makes passes over the server until two of them, at least [`CleanSpec::passes_apart`] apart, find nothing.
///
/// # Errors
/// Returns why the run failed, as text for the operator.
pub(super) async fn run(
    spec: &CleanSpec,
    authorize: Arc<dyn Authorize>,
    limits: watch::Receiver<Limits>,
    commands: &mut mpsc::Receiver<MoverCommand>,
    reports: &watch::Sender<Report>,
) -> Result<(), String> {
    let deadline = Instant::now() + OPEN_MAX;
    let (mut connection, mut server) = ServerMonitor::open_primary(&spec.server, &spec.name, deadline).await?;
    authorize.authorize(vec![connection.named()]).await?;
    reports.send_modify(|report| report.state = State::Cleaning);
    faults::pause_at(Point::CleaningSource).await;
    let mut before = (0, 0);
    // Whether the last pass found nothing.
    let mut clean = false;
    loop {
        let mut last = (0, 0);
        let pass = Cleaner::new(&mut connection, &mut server, commands, limits.clone())
            .pass(
                &mut |key| if spec.slots.has_key(key) { KeyDecision::Delete } else { KeyDecision::Keep },
                &mut |scanned, deleted| {
                    last = (scanned, deleted);
                    reports.send_modify(|report| {
                        report.counters.scanned = before.0 + scanned;
                        report.counters.deleted = before.1 + deleted;
                    });
                },
            )
            .await?;
        let Some(deleted) = pass else { return Ok(()) };
        before = (before.0 + last.0, before.1 + last.1);
        if deleted > 0 {
            clean = false;
            continue;
        }
        if !clean {
            clean = true;
            reports.send_modify(|report| {
                report.waiting_on = "late writes, until every client's request has timed out".into()
            });
            let until = Instant::now() + spec.passes_apart;
            while Instant::now() < until {
                if commands.is_closed() {
                    return Ok(());
                }
                server.turn(Instant::now())?;
                sleep_until(until.min(Instant::now() + TICK)).await;
            }
            continue;
        }
        reports.send_modify(|report| {
            report.waiting_on.clear();
            report.state = State::Cleaned;
        });
        // The owner reads the report and ends the run.
        while commands.recv().await.is_some() {}
        return Ok(());
    }
}
