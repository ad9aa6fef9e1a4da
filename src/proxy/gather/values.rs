//! The values of an array that has arrived in pieces. A large value keeps its pieces; only those that it shares with another
//! value are copied. Knows nothing of keys.

use crate::{
    proxy::pieces::{PIECE, Pieces},
    resp::{
        number::{Header, header},
        reply::ReplyScanner,
    },
};

/// A value shorter than this is copied together with the piece behind it, so that small values have no pieces of their own.
const SMALL: usize = PIECE / 4;

/// A value of the array.
#[derive(Debug)]
pub(super) enum Value<'a> {
    Small(&'a [u8]),
    Large(Pieces),
}

/// The values that are not taken yet.
#[derive(Debug)]
pub(super) struct Values {
    /// The next bytes are those from `at` on.
    bytes: Vec<u8>,
    at: usize,
    behind: Pieces,
}

impl Values {
    /// Returns the values and their number; `None` if `reply` is no array.
    pub(super) fn new(mut reply: Pieces) -> Option<(Self, usize)> {
        let bytes = reply.pop()?;
        let mut values = Self { bytes, at: 0, behind: reply };
        loop {
            match header(&values.bytes, 1) {
                Header::Number(count, at) => {
                    values.at = at;
                    return Some((values, usize::try_from(count).ok()?));
                }
                Header::Incomplete => values.join()?,
                Header::Bad => return None,
            }
        }
    }

    /// Whether all bytes were taken.
    pub(super) fn is_empty(&self) -> bool {
        self.at == self.bytes.len() && self.behind.is_empty()
    }

    /// Takes the next value; `None` if no value is left or the bytes are invalid.
    pub(super) fn take(&mut self, with: impl FnOnce(Value<'_>)) -> Option<()> {
        let mut scanner = ReplyScanner::default();
        let mut value = Pieces::default();
        loop {
            let bytes = &self.bytes[self.at..];
            if let Some(len) = scanner.scan(bytes).ok()? {
                if value.is_empty() {
                    with(Value::Small(&bytes[..len]));
                } else {
                    value.append(&bytes[..len]);
                    with(Value::Large(value));
                }
                self.at += len;
                return Some(());
            }
            if bytes.len() < SMALL && value.is_empty() {
                self.join()?;
                continue;
            }
            let len = scanner.forget(bytes);
            if len < bytes.len() {
                value.append(&bytes[..len]);
                self.at += len;
                self.join()?;
            } else if self.at == 0 {
                value.push(std::mem::replace(&mut self.bytes, self.behind.pop()?));
            } else {
                value.append(bytes);
                self.bytes = self.behind.pop()?;
                self.at = 0;
            }
        }
    }

    /// Joins the bytes that are left and the next piece.
    fn join(&mut self) -> Option<()> {
        let next = self.behind.pop()?;
        self.bytes.drain(..std::mem::take(&mut self.at));
        self.bytes.extend_from_slice(&next);
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values of a reply that is cut into pieces at random.
    fn values(reply: &[u8], random: &mut fastrand::Rng) -> Option<Vec<Vec<u8>>> {
        let mut pieces = Pieces::default();
        let mut at = 0;
        while at < reply.len() {
            let len = random.usize(1..=2 * PIECE).min(reply.len() - at);
            pieces.push(reply[at..at + len].to_vec());
            at += len;
        }
        let (mut values, count) = Values::new(pieces)?;
        let mut all = Vec::new();
        for _ in 0..count {
            values.take(|value| {
                all.push(match value {
                    Value::Small(bytes) => bytes.to_vec(),
                    Value::Large(pieces) => pieces.concat(),
                });
            })?;
        }
        values.is_empty().then_some(all)
    }

    #[test]
    fn values_are_the_same_however_the_array_is_cut() {
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..200 {
            let want: Vec<Vec<u8>> = (0..random.usize(0..20))
                .map(|_| match random.u8(0..4) {
                    0 => b"$-1\r\n".to_vec(),
                    1 => b"*2\r\n:1\r\n$1\r\nx\r\n".to_vec(),
                    _ => {
                        let bits = random.u8(1..20);
                        let len = random.usize(0..1 << bits);
                        [format!("${len}\r\n").as_bytes(), &vec![b'x'; len], b"\r\n"].concat()
                    }
                })
                .collect();
            let reply = [format!("*{}\r\n", want.len()).into_bytes(), want.concat()].concat();
            assert_eq!(values(&reply, &mut random), Some(want));
            assert_eq!(values(&reply[..reply.len() - 1], &mut random), None);
        }
    }
}
