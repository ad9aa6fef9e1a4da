//! Bytes in pieces: memory is freed as they are sent, and no large buffer is copied to a larger one.
//! Knows nothing of what the bytes mean.

use std::collections::VecDeque;

/// Capacity of a new piece, in bytes, unless a single addition is larger.
pub(super) const PIECE: usize = 64 * 1024;

/// Bytes in the order in which they were added.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    list: VecDeque<Vec<u8>>,
    len: usize,
    memory: usize,
}

impl Pieces {
    /// Number of bytes.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Bytes of memory that it has allocated.
    pub(super) fn memory(&self) -> usize {
        self.memory
    }

    /// The first byte, if there is one.
    pub(super) fn first(&self) -> Option<u8> {
        self.list.front()?.first().copied()
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Adds a copy of `bytes`.
    pub(super) fn append(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        match self.list.back_mut() {
            Some(last) if last.capacity() - last.len() >= bytes.len() => {
                last.extend_from_slice(bytes);
                self.len += bytes.len();
            }
            _ => {
                let mut piece = Vec::with_capacity(bytes.len().max(PIECE));
                piece.extend_from_slice(bytes);
                self.push_whole(piece);
            }
        }
    }

    /// Adds a piece, without a copy unless it is short: many short pieces would waste memory and calls. (No piece is
    /// empty.)
    pub(super) fn push(&mut self, piece: Vec<u8>) {
        if piece.len() < PIECE / 2 {
            self.append(&piece);
        } else {
            self.push_whole(piece);
        }
    }

    fn push_whole(&mut self, piece: Vec<u8>) {
        self.len += piece.len();
        self.memory += piece.capacity();
        self.list.push_back(piece);
    }

    /// Adds all pieces of another one.
    pub(super) fn extend(&mut self, mut more: Self) {
        while let Some(piece) = more.pop() {
            self.push(piece);
        }
    }

    /// Removes the first piece.
    pub(super) fn pop(&mut self) -> Option<Vec<u8>> {
        let piece = self.list.pop_front()?;
        self.len -= piece.len();
        self.memory -= piece.capacity();
        if self.list.is_empty() {
            self.list = VecDeque::new();
        }
        Some(piece)
    }

    /// All bytes in one buffer.
    pub(super) fn concat(mut self) -> Vec<u8> {
        let mut all = Vec::with_capacity(self.len);
        while let Some(piece) = self.pop() {
            all.extend_from_slice(&piece);
        }
        all
    }
}
