//! Scatter-gather: splits MGET, MSET, MSETEX, DEL, UNLINK, EXISTS and TOUCH over several servers and merges their replies into
//! one. An error in a part is never reported as success. Knows nothing of connections.

mod large;
mod values;

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    ops::Range,
    rc::Rc,
};

use tokio::sync::oneshot;

pub(super) use large::LargeSplit;
use values::{Value, Values};

use super::{
    backend::{Backend, InFlight, Requester, Unavailable},
    backend_set::BackendSet,
    dispatch::{CallContext, KeyRoute},
    pieces::{PIECE, Pieces},
    reads::{self, ReadChoice},
    replies::Ticket,
    session::Session,
    worker::Worker,
};
use crate::{
    commands::{Spec, Split},
    model::{
        ids::{Epoch, SlotId},
        reads::ReadFrom,
        route::ProductRoutes,
    },
    resp::{
        number::{Header, header},
        reply::ReplyScanner,
        write,
    },
};

/// A key of a split command: its slot and epoch, which check 2 compares, and the part that contains it.
#[derive(Clone, Copy, Debug)]
pub(super) struct PartKey {
    pub(super) slot: SlotId,
    pub(super) epoch: Epoch,
    part: u16,
}

/// A split command that is not answered yet.
#[derive(Debug)]
pub(super) struct ScatterGather {
    session: Rc<Session>,
    whole: Whole,
    kind: Split,
    is_write: bool,
    keys: Vec<PartKey>,
    merged: RefCell<Merged>,
    /// Bytes that are charged to the session.
    charged: Cell<usize>,
}

/// What the parts of a scatter-gather are together.
#[derive(Debug)]
enum Whole {
    /// A request of `len` bytes, which count as queued until the reply.
    Request { ticket: Ticket, len: usize },
    /// A section of a large split command; its task waits for the result.
    Section(RefCell<Option<oneshot::Sender<Merged>>>),
}

#[derive(Debug, Default)]
struct Merged {
    left: usize,
    /// Number of parts that a server has executed or may have executed.
    executed: usize,
    sum: i64,
    error: Option<Vec<u8>>,
    /// Values of MGET in the order of arrival, and the position of each key's value.
    values: Vec<u8>,
    places: Vec<Range<u32>>,
    /// Values of MGET that are not copied again, by the index of the key; their places are empty.
    large: BTreeMap<usize, Pieces>,
}

/// Why a split command was not started: nothing was sent.
pub(super) enum NotStarted {
    /// The queue of a server is full; the session is woken when there is room.
    Full,
    /// The session uses dedicated connections, and there are too many.
    NoDedicated,
    /// The error for the client.
    Refuse(String),
}

impl ScatterGather {
    /// Sends the parts, one per server.
    ///
    /// # Errors
    /// Returns why nothing was sent.
    pub(super) fn start(
        worker: &Rc<Worker>,
        session: &Rc<Session>,
        backend_set: &BackendSet,
        call: &CallContext<'_>,
        (kind, spec, muted): (Split, &Spec, bool),
        (product, routes): (&ProductRoutes, &[KeyRoute]),
    ) -> Result<(), NotStarted> {
        let is_write = spec.is_write();
        let parts = Parts::new(routes);
        let backends = choose_backends(worker, session, backend_set, spec, &parts.groups, (product, routes))?;
        let len = call.bytes.len();
        let ticket = session.open(muted, len);
        if product.reads.own_writes && is_write {
            session.note_write(ticket);
        }
        Self::send(worker, session, call, (kind, is_write), (routes, parts), &backends, Whole::Request { ticket, len });
        Ok(())
    }

    /// Sends each part to its backend.
    #[inline]
    fn send(
        worker: &Rc<Worker>,
        session: &Rc<Session>,
        call: &CallContext<'_>,
        (kind, is_write): (Split, bool),
        (routes, parts): (&[KeyRoute], Parts),
        backends: &[Rc<Backend>],
        whole: Whole,
    ) {
        let Parts { groups, counts, keys } = parts;
        let mut buffers = worker.buffers.parts.borrow_mut();
        write_parts(&mut buffers, call, kind, &counts, (routes, &keys));
        let places = if kind == Split::Mget { vec![0..0; keys.len()] } else { Vec::new() };
        let merged = Merged { left: groups.len(), places, ..Merged::default() };
        let gather = Rc::new(Self {
            session: session.clone(),
            whole,
            kind,
            is_write,
            keys,
            merged: RefCell::new(merged),
            charged: Cell::new(0),
        });
        gather.charge(worker);
        for (part, backend) in backends.iter().enumerate() {
            let bytes = &buffers[part];
            let requester = Requester::Part(gather.clone(), part as u32);
            if is_write {
                session.note_written(backend);
            }
            backend.send(
                bytes,
                InFlight {
                    requester,
                    epoch: Epoch(0),
                    len: bytes.len().try_into().unwrap_or(u32::MAX),
                    tick: worker.clock.tick(),
                    sent_us: worker.clock.micros(),
                    generation: worker.routes.generation(),
                    slot: None,
                    is_write,
                    command: None,
                },
            );
        }
        // The memory of a large command is freed.
        buffers.retain(|buffer| buffer.capacity() <= KEEP_BUFFER);
    }

    /// Charges its memory to the session.
    fn charge(&self, worker: &Worker) {
        let merged = self.merged.borrow();
        let keys = self.keys.len() * size_of::<PartKey>() + merged.places.len() * size_of::<Range<u32>>();
        let now = if merged.left == 0 { 0 } else { keys + merged.values() };
        drop(merged);
        let before = self.charged.replace(now);
        if before != now {
            self.session.charge_split(worker, before, now);
        }
    }

    /// The session that sent the command.
    pub(super) fn session(&self) -> &Rc<Session> {
        &self.session
    }

    /// The keys of a part, in the order of the request.
    pub(super) fn keys_of(&self, part: usize) -> impl Iterator<Item = &PartKey> {
        self.keys.iter().filter(move |key| usize::from(key.part) == part)
    }

    /// Merges the reply to a part; answers the client after the last part.
    pub(super) fn deliver(&self, worker: &Worker, part: usize, reply: &[u8]) {
        let mut merged = self.merged.borrow_mut();
        let understood = match (self.kind, reply[0]) {
            (_, b'-') => {
                merged.note_error(reply);
                true
            }
            (_, b'!') => {
                // A RESP3 blob error may have several lines. The merged error is a simple error, which is one line.
                let text = reply.splitn(2, |c| *c == b'\n').nth(1).unwrap_or_default();
                let mut line = Vec::new();
                write::error(&mut line, String::from_utf8_lossy(text).trim_end());
                merged.note_error(&line);
                true
            }
            (Split::Mset, b'+') => {
                merged.executed += 1;
                true
            }
            (Split::Sum | Split::Msetex, b':') => match header(reply, 1) {
                Header::Number(n, _) => {
                    merged.executed += 1;
                    merged.sum = merged.sum.saturating_add(n);
                    true
                }
                Header::Incomplete | Header::Bad => false,
            },
            (Split::Mget, b'*') => self.take_values(&mut merged, part, reply).is_some(),
            _ => false,
        };
        if !understood {
            merged.executed += 1;
            merged.note_error(UNEXPECTED);
        }
        self.part_done(worker, merged);
    }

    /// Records that no reply to a part will arrive. `sent`: the server may have executed the part.
    pub(super) fn fail(&self, worker: &Worker, _part: usize, sent: bool, error: &[u8]) {
        let mut merged = self.merged.borrow_mut();
        merged.executed += usize::from(sent);
        merged.note_error(error);
        self.part_done(worker, merged);
    }

    fn take_values(&self, merged: &mut Merged, part: usize, reply: &[u8]) -> Option<()> {
        let Header::Number(count, mut at) = header(reply, 1) else { return None };
        let mine = self.keys.iter().enumerate().filter(|(_, key)| usize::from(key.part) == part);
        let mut taken = 0;
        for (index, _) in mine {
            let len = ReplyScanner::default().scan(&reply[at..]).ok()??;
            merged.add_value(index, &reply[at..at + len]);
            at += len;
            taken += 1;
        }
        (taken == count && at == reply.len() && merged.values.len() < u32::MAX as usize).then_some(())
    }

    /// The same as [`deliver`](Self::deliver) for a large reply.
    pub(super) fn deliver_in_pieces(&self, worker: &Worker, part: usize, reply: Pieces) {
        if self.kind != Split::Mget || reply.first() != Some(b'*') {
            return self.deliver(worker, part, &reply.concat());
        }
        let mut merged = self.merged.borrow_mut();
        if self.take_large_values(&mut merged, part, reply).is_none() {
            merged.note_error(UNEXPECTED);
        }
        self.part_done(worker, merged);
    }

    fn take_large_values(&self, merged: &mut Merged, part: usize, reply: Pieces) -> Option<()> {
        let (mut values, count) = Values::new(reply)?;
        let mine = self.keys.iter().enumerate().filter(|(_, key)| usize::from(key.part) == part);
        let mut taken = 0;
        for (index, _) in mine {
            values.take(|value| match value {
                Value::Small(bytes) => merged.add_value(index, bytes),
                Value::Large(pieces) => {
                    merged.large.insert(index, pieces);
                }
            })?;
            taken += 1;
        }
        (taken == count && values.is_empty() && merged.values.len() < u32::MAX as usize).then_some(())
    }

    fn part_done(&self, worker: &Worker, mut merged: std::cell::RefMut<'_, Merged>) {
        merged.left -= 1;
        if merged.left > 0 {
            drop(merged);
            return self.charge(worker);
        }
        if let (Whole::Request { ticket, len }, Split::Mset, None) = (&self.whole, self.kind, &merged.error) {
            // The usual end of MSET: nothing has to be put together.
            drop(merged);
            self.charge(worker);
            return self.session.clone().complete(worker, *ticket, b"+OK\r\n", *len);
        }
        let result = std::mem::take(&mut *merged);
        drop(merged);
        self.charge(worker);
        match &self.whole {
            Whole::Request { ticket, len } if result.is_large() => {
                let reply = result.reply_in_pieces();
                self.session.clone().complete_in_pieces(worker, *ticket, reply, *len);
            }
            Whole::Request { ticket, len } => {
                let reply = result.reply(self.kind, self.is_write);
                self.session.clone().complete(worker, *ticket, &reply, *len);
            }
            Whole::Section(waiter) => {
                // An error: the task ended with its runtime.
                let _ = waiter.take().map(|waiter| waiter.send(result));
            }
        }
    }
}

/// The parts of a split command, one per group.
struct Parts {
    groups: Vec<u16>,
    /// Number of keys of each part.
    counts: Vec<usize>,
    keys: Vec<PartKey>,
}

impl Parts {
    /// Assigns each key to a part.
    #[inline]
    fn new(routes: &[KeyRoute]) -> Self {
        let mut parts = Self { groups: Vec::new(), counts: Vec::new(), keys: Vec::with_capacity(routes.len()) };
        for route in routes {
            // There are few groups, so a linear search costs less than a map.
            let part = parts.groups.iter().position(|g| *g == route.group).unwrap_or_else(|| {
                parts.groups.push(route.group);
                parts.counts.push(0);
                parts.groups.len() - 1
            });
            parts.counts[part] += 1;
            parts.keys.push(PartKey { slot: route.slot, epoch: route.epoch, part: part as u16 });
        }
        parts
    }
}

/// The backend for each part; an error if one is not available.
#[inline]
fn choose_backends(
    worker: &Rc<Worker>,
    session: &Rc<Session>,
    backend_set: &BackendSet,
    spec: &Spec,
    groups: &[u16],
    (product, routes): (&ProductRoutes, &[KeyRoute]),
) -> Result<Vec<Rc<Backend>>, NotStarted> {
    let mut backends = Vec::with_capacity(groups.len());
    for &group in groups {
        if product.reads.from != ReadFrom::Primary && spec.may_read_replica() {
            let of = routes.iter().filter(|route| route.group == group).map(|route| (route.slot, route.epoch));
            match reads::choose(worker, session, backend_set, product, group, of) {
                ReadChoice::Primary => {}
                ReadChoice::Replica(backend) => {
                    backends.push(backend);
                    continue;
                }
                ReadChoice::Refuse(text) => return Err(NotStarted::Refuse(text)),
            }
        }
        let Some(backend) = backend_set.backend(worker, &session.product, group) else {
            return Err(NotStarted::NoDedicated);
        };
        match backend.available(worker) {
            Ok(()) => backends.push(backend),
            Err(Unavailable::Down) => return Err(NotStarted::Refuse(backend.refusal())),
            Err(Unavailable::Full) => {
                backend.wait_for_room(worker, session);
                return Err(NotStarted::Full);
            }
        }
    }
    Ok(backends)
}

/// Writes the request of each part into its buffer.
#[inline]
fn write_parts(
    buffers: &mut Vec<Vec<u8>>,
    call: &CallContext<'_>,
    kind: Split,
    counts: &[usize],
    (routes, keys): (&[KeyRoute], &[PartKey]),
) {
    let width = kind.width();
    if buffers.len() < counts.len() {
        buffers.resize_with(counts.len(), Vec::new);
    }
    let (name, options) = (call.args[0], kind.options(call));
    let counted = usize::from(kind == Split::Msetex);
    for (buffer, count) in buffers.iter_mut().zip(counts) {
        buffer.clear();
        write::array(buffer, 1 + counted + width * count + call.args.len() - options);
        write::bulk(buffer, name.of(call.bytes));
        if counted > 0 {
            write::bulk(buffer, count.to_string().as_bytes());
        }
    }
    for (route, key) in routes.iter().zip(keys) {
        // From the end of the argument before, so that the bulk header is copied unchanged.
        let from = call.args[route.arg - 1].end + 2;
        let to = call.args[route.arg + width - 1].end + 2;
        buffers[usize::from(key.part)].extend_from_slice(&call.bytes[from..to]);
    }
    if options < call.args.len() {
        let from = call.args[options - 1].end + 2;
        let to = call.args[call.args.len() - 1].end + 2;
        buffers[..counts.len()].iter_mut().for_each(|buffer| buffer.extend_from_slice(&call.bytes[from..to]));
    }
}

fn array_header(len: usize) -> Vec<u8> {
    let mut header = Vec::new();
    write::array(&mut header, len);
    header
}

/// The error for a part whose reply is not one to its command.
const UNEXPECTED: &[u8] = b"-ERR a server answered a part of the command with an unexpected reply\r\n";

/// The beginning of the error of a part that was executed but not confirmed by enough replicas.
const UNCONFIRMED: &[u8] = b"-NOREPLICAS executed";

/// Whether the error of a part also describes the outcome of the whole command.
fn describes_whole_command(error: &[u8]) -> bool {
    error.starts_with(b"-ERR outcome unknown") || error.starts_with(UNCONFIRMED)
}

/// Buffers for parts are kept up to this capacity: a worker has one per group, and most parts are much smaller.
const KEEP_BUFFER: usize = 64 * 1024;

impl Merged {
    /// Bytes of its values.
    fn values(&self) -> usize {
        self.values.capacity() + self.large.values().map(Pieces::memory).sum::<usize>()
    }

    /// Adds the value of a key.
    fn add_value(&mut self, index: usize, value: &[u8]) {
        if value.len() < PIECE {
            let start = self.values.len() as u32;
            self.values.extend_from_slice(value);
            self.places[index] = start..self.values.len() as u32;
        } else {
            let mut piece = Pieces::default();
            piece.append(value);
            self.large.insert(index, piece);
        }
    }

    fn of_error(error: &[u8]) -> Self {
        Self { error: Some(error.to_vec()), ..Self::default() }
    }

    /// The reply to the whole command.
    fn reply(self, kind: Split, is_write: bool) -> Vec<u8> {
        let mut reply = Vec::new();
        match (&self.error, kind) {
            (Some(error), _) if is_write && self.executed > 0 && !describes_whole_command(error) => {
                reply.extend_from_slice(b"-ERR outcome unknown: executed for some keys only; a part failed: ");
                reply.extend_from_slice(error.strip_prefix(b"-").unwrap_or(error));
            }
            // If this error is NOREPLICAS, every part was executed.
            (Some(error), _) => reply.extend_from_slice(error),
            (None, Split::Mset) => write::simple(&mut reply, "OK"),
            // Every part has set its keys: none has a condition.
            (None, Split::Msetex) => write::int(&mut reply, 1),
            (None, Split::Sum) => write::int(&mut reply, self.sum),
            (None, Split::Mget) => {
                reply.reserve(self.values.len() + 16);
                write::array(&mut reply, self.places.len());
                for place in &self.places {
                    reply.extend_from_slice(&self.values[place.start as usize..place.end as usize]);
                }
            }
        }
        reply
    }

    /// Whether it has large values and no error, so that [`reply_in_pieces`](Self::reply_in_pieces) is the reply.
    fn is_large(&self) -> bool {
        !self.large.is_empty() && self.error.is_none()
    }

    /// The reply to MGET.
    fn reply_in_pieces(self) -> Pieces {
        let mut reply = Pieces::default();
        reply.append(&array_header(self.places.len()));
        self.append_values(&mut reply);
        reply
    }

    /// Appends the values of MGET in the order of the keys.
    fn append_values(mut self, out: &mut Pieces) {
        for (index, place) in self.places.iter().enumerate() {
            match self.large.remove(&index) {
                Some(value) => out.extend(value),
                None => out.append(&self.values[place.start as usize..place.end as usize]),
            }
        }
    }

    /// Keeps one error. "Outcome unknown" takes precedence over all others, because it is the most important for the
    /// client. All others take precedence over NOREPLICAS, because a part with that error was executed.
    fn note_error(&mut self, error: &[u8]) {
        let unknown = error.starts_with(b"-ERR outcome unknown");
        let weak = self.error.as_ref().is_some_and(|error| error.starts_with(UNCONFIRMED));
        if self.error.is_none() || unknown || weak {
            self.error = Some(error.to_vec());
        }
    }
}
