//! A page of the keys of a server: the reply to SCAN.
//! Knows nothing of groups and slots.

use crate::resp::number::{Header, header, parse};

/// A page of keys.
#[derive(Debug)]
pub(super) struct Page {
    /// The server's cursor; 0: there are no more keys.
    pub(super) next: u64,
    /// Number of keys.
    pub(super) len: usize,
    reply: Vec<u8>,
    /// Position of the first key.
    from: usize,
}

impl Page {
    /// Reads a reply.
    ///
    /// # Errors
    /// Returns the error for the client: that of the server, or that the reply is none to SCAN.
    pub(super) fn of(reply: Vec<u8>) -> Result<Self, String> {
        if reply.first() == Some(&b'-') {
            return Err(String::from_utf8_lossy(&reply[1..]).trim_end().to_owned());
        }
        Self::parse(&reply)
            .map(|(next, len, from)| Self { next, len, reply, from })
            .ok_or_else(|| "ERR a server answers SCAN in an unknown form".to_owned())
    }

    /// The cursor, the number of keys, and the position of the first one.
    fn parse(reply: &[u8]) -> Option<(u64, usize, usize)> {
        let (2, at) = head(reply, 0, b'*')? else { return None };
        let (cursor, at) = bulk(reply, at)?;
        let next = parse_u64(cursor)?;
        let (len, from) = head(reply, at, b'*')?;
        Some((next, len, from))
    }

    /// The keys, each with the bytes of the reply that it consists of.
    pub(super) fn keys(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut at = self.from;
        std::iter::from_fn(move || {
            let (key, end) = bulk(&self.reply, at)?;
            let whole = &self.reply[at..end];
            at = end;
            Some((key, whole))
        })
        .take(self.len)
    }
}

/// The number of a header of this kind, and the position behind it.
fn head(reply: &[u8], at: usize, kind: u8) -> Option<(usize, usize)> {
    if reply.get(at) != Some(&kind) {
        return None;
    }
    match header(reply, at + 1) {
        Header::Number(number, next) => Some((usize::try_from(number).ok()?, next)),
        Header::Incomplete | Header::Bad => None,
    }
}

/// A bulk string, and the position behind it.
fn bulk(reply: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let (len, from) = head(reply, at, b'$')?;
    let to = from.checked_add(len)?;
    Some((reply.get(from..to)?, to.checked_add(2)?.min(reply.len())))
}

/// Cursors of servers take all 64 bits.
fn parse_u64(text: &[u8]) -> Option<u64> {
    match parse(text) {
        Some(number) => u64::try_from(number).ok(),
        None => std::str::from_utf8(text).ok()?.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn pages_are_read() {
        let page = Page::of(b"*2\r\n$2\r\n17\r\n*2\r\n$1\r\na\r\n$4\r\nb\r\nc\r\n".to_vec()).unwrap();
        let keys: Vec<_> = page.keys().collect();
        let want: [(&[u8], &[u8]); 2] = [(b"a", b"$1\r\na\r\n"), (b"b\r\nc", b"$4\r\nb\r\nc\r\n")];
        assert_eq!((page.next, keys.as_slice()), (17, &want[..]));
        let empty = Page::of(b"*2\r\n$1\r\n0\r\n*0\r\n".to_vec()).unwrap();
        assert_eq!((empty.next, empty.keys().count()), (0, 0));
        assert_eq!(Page::of(b"*2\r\n$20\r\n18446744073709551615\r\n*0\r\n".to_vec()).unwrap().next, u64::MAX);
        assert_eq!(Page::of(b"-LOADING wait\r\n".to_vec()).unwrap_err(), "LOADING wait");
        for reply in [&b"+OK\r\n"[..], b"*1\r\n$1\r\n0\r\n", b"*2\r\n$1\r\nx\r\n*0\r\n", b"*2\r\n:0\r\n*0\r\n"] {
            assert!(Page::of(reply.to_vec()).is_err(), "{reply:?}");
        }
    }
}
