//! Which server a read goes to, when its product reads from replicas, and what becomes of it when the replica fails it.
//! Knows nothing of how it is known which replicas may serve: it is told, with a moment until which it holds.

use std::rc::Rc;

use super::{
    backend::{Backend, Entry, Owner},
    check::ServeCheck,
    product::BackendSet,
    session::Session,
    worker::Worker,
};
use crate::model::{
    ids::{Epoch, SlotId},
    reads::ReadFrom,
    route::ProductRoutes,
};

/// Where a read goes.
pub(super) enum ReadChoice {
    /// As everything else.
    Primary,
    /// Over this connection to a replica.
    Replica(Rc<Backend>),
    /// Nowhere; the error for the client.
    Refuse(String),
}

/// Chooses for a read of `keys`, all of the group with this index. Called only where the product reads from replicas.
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

/// `Err`: why none, for people. Without an allocation where reads go to the primary only for now.
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
        return Err(because("this node has not looked at them yet"));
    };
    if may.replicas.is_empty() {
        return Err(because(&may.none));
    }
    if keys.clone().any(|(slot, _)| reads.is_moving(slot)) {
        return Err(because("its slot is being moved"));
    }
    let now_ns = worker.batch_ns();
    let Some(wrote_ns) = session.wrote_ns(routes.reads.own_writes, now_ns) else {
        return Err(because("this session has written something that is not answered yet"));
    };
    let newest = keys.by_ref().map(|(_, epoch)| epoch).max().unwrap_or_default();
    let mut why = "";
    let count = may.replicas.len();
    // A session stays with its replica, so that what it reads goes forward in time; sessions are spread.
    for i in 0..count {
        let place = (session.id as usize).wrapping_add(i) % count;
        let replica = &may.replicas[place];
        if now_ns >= replica.until_ns {
            why = "this node has not seen it in step for too long";
        } else if newest > replica.as_of {
            why = "it has not been seen to have what came with the slot";
        } else if wrote_ns >= replica.has_ns && wrote_ns != 0 {
            why = "it has not been seen to have what this session has written";
        } else {
            let backend = backend_set.replica(worker, &session.product, (group, place), (route, &replica.addr));
            if backend.may_ask(worker, &replica.run_id) {
                return Ok(backend);
            }
            why = "it cannot be reached";
        }
    }
    Err(because(why))
}

/// Whether a reply says that the server cannot read for anybody now; then nothing was read.
pub(super) fn is_no_answer(reply: &[u8]) -> bool {
    reply[0] == b'-' && (reply.starts_with(b"-MASTERDOWN") || reply.starts_with(b"-LOADING"))
}

impl Entry {
    /// A read that its replica has not answered, or whose answer may not pass: asked again at the primary, where that is
    /// allowed and possible. `sent`: the replica may have executed it.
    pub(super) fn again(self, worker: &Worker, replica: &Backend, request: &[u8], sent: bool, why: &str) {
        let session = self.owner.session().clone();
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
        let now = if may { self.where_now(&product.routes.borrow()) } else { None };
        let backend = match (now, worker.me.upgrade()) {
            (Some((group, _)), Some(worker)) => {
                Some(product.backend_set(replica.db, replica.version).backend(&worker, product, group))
            }
            _ => None,
        };
        match (now, backend) {
            (Some((_, epoch)), Some(backend)) if backend.available(worker).is_ok() => {
                worker.stats.replica_repeats.set(worker.stats.replica_repeats.get() + 1);
                let (tick, generation) = (worker.tick.get(), worker.generation.get());
                backend.send(request, Self { epoch, tick, generation, ..self });
            }
            _ => self.fail_with(worker, sent, text.as_bytes()),
        }
    }

    /// The group that owns its slots now, by index, and the epoch of its slot; `None`: one of them is held or nobody's, or a
    /// part's are not what they were.
    fn where_now(&self, routes: &ProductRoutes) -> Option<(u16, Epoch)> {
        let free = |slot: SlotId| routes.slots.get(usize::from(slot.0)).filter(|route| route.hold.0 == 0);
        match &self.owner {
            Owner::Part(gather, part) => {
                let mut group = None;
                for key in gather.keys_of(*part as usize) {
                    let route = free(key.slot).filter(|route| route.epoch == key.epoch)?;
                    group = Some(route.group?);
                }
                Some((group?, self.epoch))
            }
            Owner::Session(..) => {
                let route = free(self.slot?)?;
                Some((route.group?, route.epoch))
            }
        }
    }
}
