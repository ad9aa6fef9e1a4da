//! A snapshot that arrives in pieces. openraft's own receiver would seek to any offset that a piece names.
//! Knows nothing of what a snapshot contains.

use crate::{model::ids::Uuid, wire::snapshot::STATE_LEN_MAX};

/// The snapshot that is arriving: at most one at a time, and at most [`STATE_LEN_MAX`] bytes.
#[derive(Debug, Default)]
pub struct IncomingSnapshot {
    from: Uuid,
    id: String,
    data: Vec<u8>,
}

/// What becomes of a piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// It is kept; more is needed.
    Kept,
    /// It was the last one: all bytes.
    Complete(Vec<u8>),
    /// It does not follow the ones before; the sender must begin again.
    Mismatch,
    /// The snapshot would have more than [`STATE_LEN_MAX`] bytes.
    TooLong,
}

impl IncomingSnapshot {
    /// Takes a piece. One at offset 0 begins a snapshot; a piece that is repeated replaces what follows its offset.
    pub fn take(&mut self, from: Uuid, id: &str, offset: u64, piece: &[u8], last: bool) -> Piece {
        let Ok(offset) = usize::try_from(offset) else { return Piece::Mismatch };
        if offset == 0 {
            *self = Self { from, id: id.to_owned(), data: Vec::new() };
        }
        if (self.from, self.id.as_str()) != (from, id) || offset > self.data.len() {
            return Piece::Mismatch;
        }
        if piece.len() > STATE_LEN_MAX.saturating_sub(offset) {
            *self = Self::default();
            return Piece::TooLong;
        }
        self.data.truncate(offset);
        self.data.extend_from_slice(piece);
        if last { Piece::Complete(std::mem::take(self).data) } else { Piece::Kept }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Uuid = Uuid(1);

    #[test]
    fn pieces_that_follow_each_other_make_a_snapshot() {
        let mut incoming = IncomingSnapshot::default();
        assert_eq!(incoming.take(A, "s", 0, b"ab", false), Piece::Kept);
        assert_eq!(incoming.take(A, "s", 2, b"cd", false), Piece::Kept);
        // The answer was lost: the piece comes again.
        assert_eq!(incoming.take(A, "s", 2, b"cd", false), Piece::Kept);
        assert_eq!(incoming.take(A, "s", 4, b"", true), Piece::Complete(b"abcd".to_vec()));
        // Nothing is left of it.
        assert_eq!(incoming.take(A, "s", 4, b"e", true), Piece::Mismatch);
        assert_eq!(incoming.take(A, "s", 0, b"x", true), Piece::Complete(b"x".to_vec()));
    }

    #[test]
    fn gaps_and_other_snapshots_are_refused() {
        let mut incoming = IncomingSnapshot::default();
        assert_eq!(incoming.take(A, "s", 1 << 63, b"ab", true), Piece::Mismatch);
        assert_eq!(incoming.take(A, "s", 0, b"ab", false), Piece::Kept);
        for offset in [3, 1 << 40, u64::MAX] {
            assert_eq!(incoming.take(A, "s", offset, b"c", true), Piece::Mismatch);
        }
        assert_eq!(incoming.take(Uuid(2), "s", 2, b"c", true), Piece::Mismatch);
        assert_eq!(incoming.take(A, "t", 2, b"c", true), Piece::Mismatch);
        assert_eq!(incoming.take(A, "s", 2, b"c", true), Piece::Complete(b"abc".to_vec()));
    }

    #[test]
    fn the_length_is_bounded() {
        let mut incoming = IncomingSnapshot::default();
        let piece = vec![0; STATE_LEN_MAX / 2];
        assert_eq!(incoming.take(A, "s", 0, &piece, false), Piece::Kept);
        assert_eq!(incoming.take(A, "s", piece.len() as u64, &piece, false), Piece::Kept);
        assert_eq!(incoming.take(A, "s", STATE_LEN_MAX as u64, b"x", false), Piece::TooLong);
        // What was kept of it is dropped.
        assert_eq!(incoming.take(A, "s", STATE_LEN_MAX as u64, b"", true), Piece::Mismatch);
    }
}
