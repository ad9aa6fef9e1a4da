//! Reads a big key page by page: the position and size of the next page and the command that requests it.
//! Knows nothing of events and of the target.

use bytes::Bytes;

use super::{BigKeyType, CHUNK_BYTES, CHUNK_ELEMENTS, requests::Requests, value::Reader};

/// Bytes of a piece of a string. Fixed: pieces are numbered, and a SETBIT makes one piece dirty.
pub const PIECE: u64 = 128 << 10;

/// The position of the next page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cursor {
    /// Cursor of HSCAN, SSCAN or ZSCAN. 0 at the start.
    Scan(u64),
    /// A sorted set from this score on, inclusive, as the server wrote it.
    Score(Bytes),
    /// A list from this index on, a string from this piece on.
    Index(u64),
}

impl Cursor {
    /// The start of a key. `stream.rs` reads streams.
    pub fn start(kind: BigKeyType) -> Self {
        match kind {
            BigKeyType::Hash | BigKeyType::Set | BigKeyType::Stream => Self::Scan(0),
            BigKeyType::Zset => Self::Score(Bytes::from_static(b"-inf")),
            BigKeyType::String | BigKeyType::List => Self::Index(0),
        }
    }
}

/// The number of elements of the next page.
#[derive(Clone, Copy, Debug)]
pub struct PageSize {
    count: usize,
}

impl PageSize {
    /// Computes the size from the key's memory in bytes. 0 means unknown: then pages start small and grow.
    pub fn new(memory: u64, elements: u64) -> Self {
        let count = match memory / elements.max(1) {
            0 if memory == 0 => 16,
            each => fitting(each),
        };
        Self { count }
    }

    /// Adjusts the size after a page. The elements of a key often have similar sizes. Where they have not, a page after
    /// small elements is at most twice as large, and a page after large elements is small at once.
    pub fn learn(&mut self, elements: usize, bytes: usize) {
        if let Some(each) = bytes.checked_div(elements) {
            self.count = fitting(each as u64).min(self.count * 2);
        }
    }

    /// Elements of the next page, from 1 to [`CHUNK_ELEMENTS`].
    pub fn count(&self) -> usize {
        self.count
    }
}

fn fitting(each: u64) -> usize {
    usize::try_from(CHUNK_BYTES / each.max(1)).unwrap_or(CHUNK_ELEMENTS).clamp(1, CHUNK_ELEMENTS)
}

/// Requests the page at `cursor`.
pub fn request_page(kind: BigKeyType, key: &[u8], cursor: &Cursor, count: usize, out: &mut Requests) {
    let text = count.to_string();
    match cursor {
        Cursor::Scan(at) => {
            let name: &[u8] = match kind {
                BigKeyType::Hash => b"HSCAN",
                BigKeyType::Zset => b"ZSCAN",
                _ => b"SSCAN",
            };
            out.push(&[name, key, at.to_string().as_bytes(), b"COUNT", text.as_bytes()]);
        }
        Cursor::Score(min) => {
            out.push(&[b"ZRANGEBYSCORE", key, min, b"+inf", b"WITHSCORES", b"LIMIT", b"0", text.as_bytes()]);
        }
        Cursor::Index(from) if kind == BigKeyType::String => request_piece(key, *from, out),
        Cursor::Index(from) => {
            let (from, to) = (from.to_string(), (from + count as u64 - 1).to_string());
            out.push(&[b"LRANGE", key, from.as_bytes(), to.as_bytes()]);
        }
    }
}

/// Requests a piece of a string.
pub fn request_piece(key: &[u8], piece: u64, out: &mut Requests) {
    let (from, to) = ((piece * PIECE).to_string(), ((piece + 1) * PIECE - 1).to_string());
    out.push(&[b"GETRANGE", key, from.as_bytes(), to.as_bytes()]);
}

/// A page that was read.
pub struct ElementPage<'a> {
    /// Positioned at the first value. Hashes and sorted sets have two values per element. For a string: positioned at
    /// the piece.
    pub values: Reader<'a>,
    /// The number of values.
    pub count: usize,
    /// The next position. `None`: this was the last page.
    pub next: Option<Cursor>,
}

/// Parses the reply to [`request_page`] with the same `cursor` and `count`. Returns `None` if it has another form.
pub fn page<'a>(kind: BigKeyType, reply: &'a [u8], cursor: &Cursor, asked: usize) -> Option<ElementPage<'a>> {
    let mut reader = Reader::new(reply);
    match cursor {
        Cursor::Scan(_) => {
            (reader.array()? == 2).then_some(())?;
            let next = std::str::from_utf8(reader.bulk()?).ok()?.parse::<u64>().ok()?;
            let count = reader.array()?;
            Some(ElementPage { values: reader, count, next: (next != 0).then_some(Cursor::Scan(next)) })
        }
        Cursor::Score(_) => {
            let count = reader.array()?;
            let values = reader;
            let mut next = None;
            if count >= 2 * asked {
                let (mut first, mut last) = (None, &b""[..]);
                for _ in 0..count / 2 {
                    reader.bulk()?;
                    last = reader.bulk()?;
                    first.get_or_insert(last);
                }
                // If all members of a page have one score, the next page cannot begin at a score. ZSCAN
                // continues at a cursor, though it takes longer.
                let stuck = first == Some(last);
                next = Some(if stuck { Cursor::Scan(0) } else { Cursor::Score(Bytes::copy_from_slice(last)) });
            }
            Some(ElementPage { values, count, next })
        }
        Cursor::Index(from) if kind == BigKeyType::String => {
            let values = reader;
            let piece = reader.bulk()?;
            let next = (piece.len() as u64 == PIECE).then_some(Cursor::Index(from + 1));
            Some(ElementPage { values, count: 1, next })
        }
        Cursor::Index(from) => {
            let count = reader.array()?;
            let next = (count >= asked).then_some(Cursor::Index(from + count as u64));
            Some(ElementPage { values: reader, count, next })
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn pages_aim_at_bytes_and_elements() {
        assert_eq!(PageSize::new(100 << 20, 1_000_000).count(), CHUNK_ELEMENTS);
        assert_eq!(PageSize::new(1 << 30, 1000).count(), 1, "elements of a megabyte");
        let mut unknown = PageSize::new(0, 10_000);
        assert_eq!(unknown.count(), 16);
        unknown.learn(16, 160);
        assert_eq!(unknown.count(), 32, "no more than twice");
        unknown.learn(32, 32 << 20);
        assert_eq!(unknown.count(), 1);
        unknown.learn(0, 0);
        assert_eq!(unknown.count(), 1);
    }

    #[test]
    fn a_page_of_one_score_goes_on_with_zscan() {
        let start = Cursor::start(BigKeyType::Zset);
        let page_of = |reply: &[u8]| page(BigKeyType::Zset, reply, &start, 2).unwrap().next;
        assert_eq!(page_of(b"*4\r\n$1\r\na\r\n$1\r\n1\r\n$1\r\nb\r\n$1\r\n1\r\n"), Some(Cursor::Scan(0)));
        let next = page_of(b"*4\r\n$1\r\na\r\n$1\r\n1\r\n$1\r\nb\r\n$3\r\n2.5\r\n");
        assert_eq!(next, Some(Cursor::Score(Bytes::from_static(b"2.5"))));
        assert_eq!(page_of(b"*2\r\n$1\r\na\r\n$1\r\n1\r\n"), None);
    }

    #[test]
    fn other_shapes_are_none() {
        for reply in [&b"+OK\r\n"[..], b"*1\r\n$1\r\n0\r\n", b"*2\r\n$1\r\nx\r\n*0\r\n", b":1\r\n"] {
            assert!(page(BigKeyType::Hash, reply, &Cursor::Scan(0), 10).is_none());
        }
    }
}
