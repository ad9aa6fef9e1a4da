//! Scatter-gather: splits MGET, MSET, DEL, UNLINK, EXISTS and TOUCH over several servers and merges their replies into
//! one. An error in a part is never reported as success. Knows nothing of connections.

use std::{cell::RefCell, ops::Range, rc::Rc};

use super::{
    backend::{Backend, InFlight, Requester},
    dispatch::{CallContext, KeyRoute},
    product::BackendSet,
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
    ticket: Ticket,
    kind: Split,
    is_write: bool,
    keys: Vec<PartKey>,
    /// Bytes of the client's request, counted as queued until the reply.
    len: usize,
    merged: RefCell<Merged>,
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
}

impl ScatterGather {
    /// Sends the parts, one per server.
    ///
    /// # Errors
    /// Returns the error for the client if one of the servers is not available; then nothing was sent.
    pub(super) fn start(
        worker: &Rc<Worker>,
        session: &Rc<Session>,
        backend_set: &BackendSet,
        call: &CallContext<'_>,
        (kind, spec, muted): (Split, &Spec, bool),
        (product, routes): (&ProductRoutes, &[KeyRoute]),
    ) -> Result<(), String> {
        let is_write = spec.is_write();
        let (groups, counts, keys) = parts(routes);
        let backends = choose_backends(worker, session, backend_set, spec, &groups, (product, routes))?;
        let mut buffers = worker.buffers.parts.borrow_mut();
        write_parts(&mut buffers, call, kind, &counts, (routes, &keys));

        let ticket = session.open(muted, call.bytes.len());
        if product.reads.own_writes && is_write {
            session.note_write(ticket);
        }
        let places = if kind == Split::Mget { vec![0..0; keys.len()] } else { Vec::new() };
        let merged = Merged { left: groups.len(), places, ..Merged::default() };
        let gather = Rc::new(Self {
            session: session.clone(),
            ticket,
            kind,
            is_write,
            keys,
            len: call.bytes.len(),
            merged: RefCell::new(merged),
        });
        for (part, backend) in backends.iter().enumerate() {
            let bytes = &buffers[part];
            let requester = Requester::Part(gather.clone(), part as u32);
            backend.send(
                bytes,
                InFlight {
                    requester,
                    epoch: Epoch(0),
                    len: bytes.len().try_into().unwrap_or(u32::MAX),
                    tick: worker.clock.tick(),
                    generation: worker.routes.generation(),
                    slot: None,
                    is_write,
                },
            );
        }
        // The memory of a large command is freed.
        buffers.retain(|buffer| buffer.capacity() <= KEEP_BUFFER);
        Ok(())
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
            (Split::Sum, b':') => match header(reply, 1) {
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
            merged.note_error(b"-ERR a server answered a part of the command with an unexpected reply\r\n");
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
            let start = merged.values.len() as u32;
            merged.values.extend_from_slice(&reply[at..at + len]);
            merged.places[index] = start..merged.values.len() as u32;
            at += len;
            taken += 1;
        }
        (taken == count && at == reply.len() && merged.values.len() < u32::MAX as usize).then_some(())
    }

    fn part_done(&self, worker: &Worker, mut merged: std::cell::RefMut<'_, Merged>) {
        merged.left -= 1;
        if merged.left > 0 {
            return;
        }
        let mut reply = Vec::new();
        match (&merged.error, self.kind) {
            (Some(error), _) if self.is_write && merged.executed > 0 && !describes_whole_command(error) => {
                reply.extend_from_slice(b"-ERR outcome unknown: executed for some keys only; a part failed: ");
                reply.extend_from_slice(error.strip_prefix(b"-").unwrap_or(error));
            }
            // If this error is NOREPLICAS, every part was executed.
            (Some(error), _) => reply.extend_from_slice(error),
            (None, Split::Mset) => write::simple(&mut reply, "OK"),
            (None, Split::Sum) => write::int(&mut reply, merged.sum),
            (None, Split::Mget) => {
                reply.reserve(merged.values.len() + 16);
                write::array(&mut reply, merged.places.len());
                for place in &merged.places {
                    reply.extend_from_slice(&merged.values[place.start as usize..place.end as usize]);
                }
            }
        }
        drop(merged);
        self.session.clone().complete(worker, self.ticket, &reply, self.len);
    }
}

/// Assigns each key to a part, one part per group. Returns the group and the number of keys of each part, and the keys.
#[inline]
fn parts(routes: &[KeyRoute]) -> (Vec<u16>, Vec<usize>, Vec<PartKey>) {
    let mut groups: Vec<u16> = Vec::new();
    let mut counts: Vec<usize> = Vec::new();
    let mut keys = Vec::with_capacity(routes.len());
    for route in routes {
        // There are few groups, so a linear search costs less than a map.
        let part = groups.iter().position(|g| *g == route.group).unwrap_or_else(|| {
            groups.push(route.group);
            counts.push(0);
            groups.len() - 1
        });
        counts[part] += 1;
        keys.push(PartKey { slot: route.slot, epoch: route.epoch, part: part as u16 });
    }
    (groups, counts, keys)
}

/// The backend for each part; `Err` is the error for the client if one is not available.
#[inline]
fn choose_backends(
    worker: &Rc<Worker>,
    session: &Rc<Session>,
    backend_set: &BackendSet,
    spec: &Spec,
    groups: &[u16],
    (product, routes): (&ProductRoutes, &[KeyRoute]),
) -> Result<Vec<Rc<Backend>>, String> {
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
                ReadChoice::Refuse(text) => return Err(text),
            }
        }
        let backend = backend_set.backend(worker, &session.product, group);
        backend.available(worker).map_err(|why| backend.refusal(why))?;
        backends.push(backend);
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
    let width = if kind == Split::Mset { 2 } else { 1 };
    if buffers.len() < counts.len() {
        buffers.resize_with(counts.len(), Vec::new);
    }
    let name = call.args[0];
    for (buffer, count) in buffers.iter_mut().zip(counts) {
        buffer.clear();
        write::array(buffer, 1 + width * count);
        write::bulk(buffer, name.of(call.bytes));
    }
    for (route, key) in routes.iter().zip(keys) {
        // From the end of the argument before, so that the bulk header is copied unchanged.
        let from = call.args[route.arg - 1].end + 2;
        let to = call.args[route.arg + width - 1].end + 2;
        buffers[usize::from(key.part)].extend_from_slice(&call.bytes[from..to]);
    }
}

/// The beginning of the error of a part that was executed but not confirmed by enough replicas.
const UNCONFIRMED: &[u8] = b"-NOREPLICAS executed";

/// Whether the error of a part also describes the outcome of the whole command.
fn describes_whole_command(error: &[u8]) -> bool {
    error.starts_with(b"-ERR outcome unknown") || error.starts_with(UNCONFIRMED)
}

/// Buffers for parts are kept up to this capacity: a worker has one per group, and most parts are much smaller.
const KEEP_BUFFER: usize = 64 * 1024;

impl Merged {
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
