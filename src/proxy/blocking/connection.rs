//! The dedicated connection of a blocked call, and how the call is ended at its server: CLIENT UNBLOCK over the control
//! connection to the same process, since the blocked one takes no requests. Knows nothing of why.

use std::{rc::Rc, time::Duration};

use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};

use super::decision::Unblock;
use crate::{
    model::{ids::HostPort, route::GroupRoute},
    proxy::{
        backend::{Backend, BackendLink},
        backend_set::BackendSet,
        dedicated::DedicatedUse,
        operation::{Blocks, StepRequest, StepResult, StepSlots, send_step},
        session::Session,
        worker::Worker,
    },
    resp::write::{self, Version},
};

/// Pauses between two tries to unblock a call: the server may not have read the call yet, or have no connection for the try.
/// Short at first, since a hold waits; at most a tick.
const AGAIN_MIN: Duration = Duration::from_millis(1);
const AGAIN_MAX: Duration = Duration::from_millis(100);

/// Time for the answer to CLIENT UNBLOCK when the call is answered already. Without it the connection is closed: a late
/// UNBLOCK would end the next call on it.
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum NotOpen {
    /// The server cannot be reached.
    Down(String),
    /// There are too many dedicated connections; the error for the client.
    TooMany(String),
}

/// The connection of one blocked call. Dropping it returns the connection, or closes it if the call is not answered.
#[derive(Debug)]
pub(super) struct BlockedConnection {
    worker: Rc<Worker>,
    session: Rc<Session>,
    set: BackendSet,
    /// The one that the set has borrowed.
    backend: Option<Rc<Backend>>,
    /// The connection to the same server for CLIENT UNBLOCK.
    control: Option<Rc<Backend>>,
    unblocking: Unblocking,
}

/// The tries to unblock a call.
#[derive(Debug, Default)]
struct Unblocking {
    /// Resolves to the answer to the last try.
    answer: Option<oneshot::Receiver<StepResult>>,
    again_after: Option<Duration>,
}

impl BlockedConnection {
    pub(super) fn new(worker: &Rc<Worker>, session: &Rc<Session>) -> Self {
        let (db, version) = {
            let client = session.client.borrow();
            (client.db, client.version)
        };
        Self {
            worker: worker.clone(),
            session: session.clone(),
            set: BackendSet::dedicated(db, version, DedicatedUse::Blocking),
            backend: None,
            control: None,
            unblocking: Unblocking::default(),
        }
    }

    /// Connects to the primary of a group, unless it is connected already.
    ///
    /// # Errors
    /// Returns why there is no connection.
    pub(super) async fn open(&mut self, group: &GroupRoute) -> Result<Rc<Backend>, NotOpen> {
        let addr = &group.primary;
        let product = self.session.product.clone();
        let down = || NotOpen::Down(format!("ERR {} is down, not executed", product.server_name(addr)));
        // The connection that unblocks the call is there before the call. While it is down, its task tries again, and
        // blocked calls do not: thousands would.
        let control = self.control_of(addr).ok_or_else(down)?;
        if !control.connected().await {
            return Err(down());
        }
        self.control = Some(control);
        self.settle().await;
        if self.backend.as_ref().is_some_and(|backend| backend.addr != *addr || !backend.may_be_borrowed()) {
            self.backend = None;
            self.set.release(&product);
        }
        let Some(backend) = self.set.borrow(&self.worker, &product, (group, addr), false) else {
            return Err(NotOpen::TooMany(product.too_many_dedicated(&self.worker)));
        };
        self.backend = Some(backend.clone());
        if backend.connected().await { Ok(backend) } else { Err(down()) }
    }

    /// The control connection to a primary.
    fn control_of(&self, addr: &HostPort) -> Option<Rc<Backend>> {
        let product = &self.session.product;
        let group = product.routes.borrow().groups.iter().position(|group| group.primary == *addr)?;
        product.control_set(0, Version::Resp2).backend(&self.worker, product, u16::try_from(group).ok()?)
    }

    /// Tries to unblock the call, and waits a little. Cancel-safe; called again and again until the call is answered.
    pub(super) async fn unblock(&mut self, how: Unblock) {
        if self.unblocking.answer.is_none() {
            self.unblocking.answer = self.send_unblock(how);
        }
        if let Some(answer) = &mut self.unblocking.answer {
            // What it says does not matter: 0 may mean that the call has not arrived yet.
            let _ = answer.await;
            self.unblocking.answer = None;
        }
        let pause = self.unblocking.again_after.unwrap_or(AGAIN_MIN);
        self.unblocking.again_after = Some((pause * 2).min(AGAIN_MAX));
        tokio::time::sleep(pause).await;
    }

    fn send_unblock(&mut self, how: Unblock) -> Option<oneshot::Receiver<StepResult>> {
        let backend = self.backend.clone()?;
        if self.control.as_ref().is_none_or(|control| control.retired.get()) {
            self.control = self.control_of(&backend.addr);
        }
        let control = self.control.clone()?;
        if control.link.get() != BackendLink::Up {
            control.open();
            return None;
        }
        let id = backend.identity().client_id();
        // Ids begin anew with each process.
        if id == 0 || !control.identity().same_process(&backend.identity()) {
            return None;
        }
        let (mut bytes, id) = (Vec::new(), id.to_string());
        let how: &[u8] = if how == Unblock::Timeout { b"TIMEOUT" } else { b"ERROR" };
        write::request(&mut bytes, &[b"CLIENT", b"UNBLOCK", id.as_bytes(), how]);
        let request = StepRequest { bytes: &bytes, slots: StepSlots::None, is_write: false, blocks: Blocks::No };
        send_step(&self.worker, &self.session, &control, request).ok()
    }

    /// Closes the connection at once, whatever the server sends.
    pub(super) fn close(&mut self) {
        self.unblocking = Unblocking::default();
        if let Some(backend) = self.backend.take() {
            backend.abandon(&self.worker);
            self.set.release(&self.session.product);
        }
    }

    /// Called when the call is answered: waits for the answer to the last CLIENT UNBLOCK, so that it cannot end another
    /// call. Cancel-safe.
    pub(super) async fn settle(&mut self) {
        if let Some(answer) = &mut self.unblocking.answer
            && !matches!(timeout(ANSWER_MAX, answer).await, Ok(Ok(Ok(_))))
        {
            self.close();
        }
        self.unblocking = Unblocking::default();
    }
}

impl Drop for BlockedConnection {
    fn drop(&mut self) {
        if let Some(backend) = &self.backend
            && (self.unblocking.answer.is_some() || !backend.inflight.borrow().is_empty())
        {
            backend.abandon(&self.worker);
        }
        self.set.release(&self.session.product);
    }
}

/// The time that is left until `deadline`. `None`: no time is set.
pub(super) fn left_until(deadline: Option<Instant>) -> Option<Duration> {
    deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
}
