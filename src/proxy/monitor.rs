//! MONITOR: the clients that see the requests of a product, and what they see: a sample at a bounded rate.
//! Knows nothing of how requests are handled.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::Rc,
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::{sync::mpsc, time::timeout};

use super::{
    counters::count,
    dispatch::CallContext,
    session::Session,
    shown_call::{Cut, quote, shown},
    worker::{TICK, Worker},
};

/// Clients of a product and node that may monitor: each costs every request of the product.
pub(super) const MONITORS_MAX: usize = 4;

/// Lines that may wait for a monitor; it gets none of those beyond.
pub(super) const LINES_MAX: usize = 1024;

/// Lines that a monitor gets in one turn.
const LINES_PER_TURN: usize = 256;

/// A line stays below 64 KB, so that one request of a gigabyte is not copied for each monitor.
const CUT: Cut = Cut { args: 60, bytes: 1024 };

/// Ticks in a second.
const TICKS_PER_SECOND: u32 = 10;

/// The monitors of a product, as a worker sees them.
#[derive(Debug, Default)]
pub(super) struct Monitors {
    list: RefCell<Vec<mpsc::Sender<Vec<u8>>>>,
    /// Requests that may be shown now.
    tokens: Cell<u32>,
    /// The tick at which tokens were last added; `None`: never.
    filled_at: Cell<Option<u32>>,
}

impl Monitors {
    /// Adds a monitor.
    pub(super) fn add(&self, lines: mpsc::Sender<Vec<u8>>) {
        self.list.borrow_mut().push(lines);
    }

    /// Forgets those that have ended. Returns whether there are others.
    pub(super) fn retain(&self) -> bool {
        let mut list = self.list.borrow_mut();
        list.retain(|lines| !lines.is_closed());
        !list.is_empty()
    }

    /// Number of monitors.
    pub(super) fn count(&self) -> usize {
        self.list.borrow().iter().filter(|lines| !lines.is_closed()).count()
    }

    /// Shows a request of a client, if the rate allows it.
    pub(super) fn show(&self, worker: &Worker, client: (u32, SocketAddr), call: &CallContext<'_>) {
        let list = self.list.borrow();
        if list.is_empty() || call.args.is_empty() {
            return;
        }
        if !self.takes_token(worker) {
            return count(&worker.stats.monitor_skipped);
        }
        let line = line(SystemTime::now(), client, call);
        for lines in list.iter() {
            if lines.try_send(line.clone()).is_err() {
                count(&worker.stats.monitor_skipped);
            }
        }
    }

    /// A second's share of this worker may be shown at once.
    fn takes_token(&self, worker: &Worker) -> bool {
        let workers = u32::try_from(worker.config.workers).unwrap_or(u32::MAX);
        let per_second = (worker.config.limits.monitor_rate / workers).max(1);
        let now = worker.clock.tick();
        match self.filled_at.get() {
            None => self.tokens.set(per_second),
            Some(before) => {
                // What a short time adds may be less than one.
                let added = u64::from(now.wrapping_sub(before)) * u64::from(per_second) / u64::from(TICKS_PER_SECOND);
                if added == 0 && now != before {
                    return self.take();
                }
                let tokens = u64::from(self.tokens.get()) + added;
                self.tokens.set(u32::try_from(tokens.min(per_second.into())).unwrap_or(per_second));
            }
        }
        self.filled_at.set(Some(now));
        self.take()
    }

    fn take(&self) -> bool {
        let left = self.tokens.get().checked_sub(1);
        left.inspect(|left| self.tokens.set(*left)).is_some()
    }
}

/// A request as MONITOR shows it.
fn line(now: SystemTime, (db, addr): (u32, SocketAddr), call: &CallContext<'_>) -> Vec<u8> {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut line = format!("+{}.{:06} [{db} {addr}]", now.as_secs(), now.subsec_micros()).into_bytes();
    for arg in shown(call, CUT) {
        line.push(b' ');
        quote(&mut line, &arg);
    }
    line.extend_from_slice(b"\r\n");
    line
}

/// Gives a monitor its lines until it ends. One that does not read is closed.
pub(super) async fn run(worker: Rc<Worker>, session: Rc<Session>, mut lines: mpsc::Receiver<Vec<u8>>) {
    loop {
        // Nothing says that the session has ended: it is asked in each tick.
        let first = timeout(TICK, lines.recv()).await;
        if session.is_closed() || !session.is_monitor.get() {
            return;
        }
        let Ok(Some(first)) = first else { continue };
        session.answer(&worker, &|out| out.extend_from_slice(&first));
        for _ in 1..LINES_PER_TURN {
            let Ok(line) = lines.try_recv() else { break };
            session.answer(&worker, &|out| out.extend_from_slice(&line));
        }
        session.flush(&worker);
        if session.unread() > worker.config.limits.session_output_max {
            tracing::info!(client = %session.addr, unread_bytes = session.unread(), "closed a monitor that does not read");
            count(&worker.stats.slow_clients);
            session.kill();
        }
        tokio::task::yield_now().await;
    }
}
