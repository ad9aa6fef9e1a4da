//! Chooses the server for a read of a product that reads from replicas, and repeats reads at the primary that a replica
//! did not answer. Knows nothing of how replicas are probed: the read table says which ones may serve, and until when.

use std::rc::Rc;

use super::{
    backend::{Backend, InFlight, Requester},
    backend_set::BackendSet,
    check::ServeCheck,
    session::Session,
    worker::Worker,
};
use crate::model::{
    ids::{Epoch, SlotId},
    reads::ReadFrom,
    route::ProductRoutes,
};

/// The choice of a server for a read.
pub(super) enum ReadChoice {
    /// The primary, as for all other requests.
    Primary,
    /// This backend of a replica.
    Replica(Rc<Backend>),
    /// No server; the error for the client.
    Refuse(String),
}

/// Chooses the server for a read of `keys`, which all belong to the group with this index. Called only if the product
/// reads from replicas.
pub(super) fn choose(
    worker: &Rc<Worker>,
    session: &Session,
    backend_set: &BackendSet,
    routes: &ProductRoutes,
    group: u16,
    keys: impl Iterator<Item = (SlotId, Epoch)> + Clone,
) -> ReadChoice {
    match find(worker, session, backend_set, routes, group, keys) {
        Ok(backend) => {
            worker.stats.replica_reads.set(worker.stats.replica_reads.get() + 1);
            ReadChoice::Replica(backend)
        }
        Err(why) if routes.reads.from == ReadFrom::Replica => {
            let id = routes.groups[usize::from(group)].id;
            ReadChoice::Refuse(format!("TRYAGAIN no replica of group {id} may serve now: {why}, not executed"))
        }
        Err(_) => ReadChoice::Primary,
    }
}

/// Finds a replica that may serve the read.
///
/// # Errors
/// Returns why no replica may serve the read, as text for the client. The text is empty, without an allocation, if the
/// read can go to the primary instead.
fn find(
    worker: &Rc<Worker>,
    session: &Session,
    backend_set: &BackendSet,
    routes: &ProductRoutes,
    group: u16,
    mut keys: impl Iterator<Item = (SlotId, Epoch)> + Clone,
) -> Result<Rc<Backend>, String> {
    let strict = routes.reads.from == ReadFrom::Replica;
    let because = |why: &str| if strict { why.to_owned() } else { String::new() };
    let route = &routes.groups[usize::from(group)];
    let reads = session.product.reads();
    let Some((reads, may)) = reads.as_ref().and_then(|reads| Some((reads, reads.groups.get(&route.id)?))) else {
        return Err(because("this node has not probed them yet"));
    };
    if may.replicas.is_empty() {
        return Err(because(&may.none));
    }
    if keys.clone().any(|(slot, _)| reads.is_moving(slot)) {
        return Err(because("its slot is being moved"));
    }
    let now_ns = worker.clock.batch_ns();
    let Some(last_write_ns) = session.last_write_ns(routes.reads.own_writes, now_ns) else {
        return Err(because("a write of this session is not answered yet"));
    };
    let newest = keys.by_ref().map(|(_, epoch)| epoch).max().unwrap_or_default();
    let mut why = "";
    let count = may.replicas.len();
    // A session stays with one replica, so that it never reads older data than before; sessions are spread over
    // replicas.
    for i in 0..count {
        let index = (session.id as usize).wrapping_add(i) % count;
        let replica = &may.replicas[index];
        if now_ns >= replica.until_ns {
            why = "the last probe that found it in sync is too old";
        } else if newest > replica.as_of {
            why = "it is not known to have the data that came with the slot";
        } else if last_write_ns >= replica.has_ns && last_write_ns != 0 {
            why = "it is not known to have the last write of this session";
        } else {
            let backend = backend_set.replica(worker, &session.product, (group, index), (route, &replica.addr));
            if let Some(backend) = backend.filter(|backend| backend.may_send_read(worker, &replica.run_id)) {
                return Ok(backend);
            }
            why = "it cannot be reached";
        }
    }
    Err(because(why))
}

/// Whether a reply says that the server cannot serve reads now; then it read nothing.
pub(super) fn is_not_serving(reply: &[u8]) -> bool {
    reply[0] == b'-' && (reply.starts_with(b"-MASTERDOWN") || reply.starts_with(b"-LOADING"))
}

impl InFlight {
    /// Repeats a read at the primary, if that is allowed and possible, because the replica did not answer it or check 2
    /// withholds the answer. `sent`: the replica may have executed it.
    pub(super) fn retry_at_primary(self, worker: &Worker, replica: &Backend, request: &[u8], sent: bool, why: &str) {
        if let Requester::Load(_) = &self.requester {
            return self.fail_with(worker, sent, b"");
        }
        let session = self.requester.session().clone();
        if session.is_closed() {
            return;
        }
        let text = match sent {
            true => format!("-TRYAGAIN not delivered, safe to repeat: {why}\r\n"),
            false => format!("-TRYAGAIN {why}, not executed\r\n"),
        };
        let product = &session.product;
        let strict = product.routes.borrow().reads.from == ReadFrom::Replica;
        let may = !strict && worker.serve_check(product) == ServeCheck::Open;
        let now = if may { self.current_route(&product.routes.borrow()) } else { None };
        let backend = match (now, worker.weak_self.upgrade()) {
            (Some((group, _)), Some(worker)) => {
                product.backend_set(replica.db, replica.version).backend(&worker, product, group)
            }
            _ => None,
        };
        match (now, backend) {
            (Some((_, epoch)), Some(backend)) if backend.available(worker).is_ok() => {
                worker.stats.replica_repeats.set(worker.stats.replica_repeats.get() + 1);
                let (tick, generation) = (worker.clock.tick(), worker.routes.generation());
                session.load_script_of(worker, &backend, request);
                backend.send(request, Self { epoch, tick, generation, ..self });
            }
            _ => self.fail_with(worker, sent, text.as_bytes()),
        }
    }

    /// The index of the group that owns the slots now, and the epoch of the slot. `None`: a slot is held or unassigned,
    /// or a slot of a part of a split command has changed.
    fn current_route(&self, routes: &ProductRoutes) -> Option<(u16, Epoch)> {
        let free = |slot: SlotId| routes.slots.get(usize::from(slot.0)).filter(|route| route.hold.0 == 0);
        match &self.requester {
            Requester::Part(gather, part) => {
                let mut group = None;
                for key in gather.keys_of(*part as usize) {
                    let route = free(key.slot).filter(|route| route.epoch == key.epoch)?;
                    group = Some(route.group?);
                }
                Some((group?, self.epoch))
            }
            Requester::Session(..) | Requester::Block(_) | Requester::Step(_) | Requester::Load(_) => {
                let route = free(self.slot?)?;
                Some((route.group?, route.epoch))
            }
        }
    }
}
