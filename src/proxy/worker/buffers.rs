//! Memory that all sessions and backends of a worker share, so that requests allocate nothing.
//! Knows nothing of what the buffers contain.

use std::cell::RefCell;

use crate::proxy::dispatch::Scratch;

/// Size of the read buffer of a worker, in bytes: a read that fills it is followed by another.
const READ_BUFFER: usize = 64 * 1024;

/// Number of reply buffers that a worker keeps for sessions that are not idle: at most 8 MB with the capacity below.
const POOL_MAX: usize = 512;

/// Largest capacity of a reply buffer that is kept, in bytes; most replies are much smaller.
const POOLED_BUFFER_MAX: usize = 16 * 1024;

/// Capacity of a new reply buffer, in bytes: enough for the replies of a usual turn.
const REPLY_BUFFER: usize = 1024;

/// Buffers from this size on, in bytes, grow by a quarter instead of doubling: a growing buffer is copied, and both copies
/// count for a moment.
const GROWS_SLOWLY_FROM: usize = 1024 * 1024;

/// Makes room for at least `more` bytes.
pub(in crate::proxy) fn reserve(buffer: &mut Vec<u8>, more: usize) {
    if buffer.len() < GROWS_SLOWLY_FROM {
        buffer.reserve(more);
    } else if buffer.capacity() - buffer.len() < more {
        buffer.reserve_exact(more.max(buffer.len() / 4));
    }
}

/// The buffers of a worker.
#[derive(Debug)]
pub(in crate::proxy) struct Buffers {
    /// Where sockets are read into.
    pub(in crate::proxy) read: RefCell<Vec<u8>>,
    /// Scratch space of `dispatch`.
    pub(in crate::proxy) dispatch: RefCell<Scratch>,
    /// Requests for the parts of a split command.
    pub(in crate::proxy) parts: RefCell<Vec<Vec<u8>>>,
    /// Unused reply buffers.
    pool: RefCell<Vec<Vec<u8>>>,
}

impl Buffers {
    pub(super) fn new() -> Self {
        Self {
            read: RefCell::new(vec![0; READ_BUFFER]),
            dispatch: RefCell::default(),
            parts: RefCell::default(),
            pool: RefCell::default(),
        }
    }

    /// Takes a buffer for replies.
    #[inline]
    pub(in crate::proxy) fn take_reply(&self) -> Vec<u8> {
        self.pool.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(REPLY_BUFFER))
    }

    /// Returns a buffer for replies; it is freed if the pool is full or the buffer is too large.
    #[inline]
    pub(in crate::proxy) fn return_reply(&self, mut buffer: Vec<u8>) {
        let mut pool = self.pool.borrow_mut();
        if pool.len() < POOL_MAX && buffer.capacity() <= POOLED_BUFFER_MAX {
            buffer.clear();
            pool.push(buffer);
        }
    }
}
