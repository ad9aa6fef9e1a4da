//! Reads replies that are arrays of strings. Knows nothing of what they mean.

use crate::resp::number::{Header, header};

/// The texts of an array of strings in RESP2. `None`: the reply is another one.
pub(super) fn texts(reply: &[u8]) -> Option<Vec<String>> {
    let (Some(b'*'), Header::Number(len, mut at)) = (reply.first(), header(reply, 1)) else { return None };
    // Every element has at least three bytes, so that a false length reserves no memory.
    let mut all = Vec::with_capacity(usize::try_from(len).ok()?.min(reply.len() / 3));
    for _ in 0..len {
        match (reply.get(at)?, header(reply, at + 1)) {
            (b'$', Header::Number(len, from)) => {
                let end = from.checked_add(usize::try_from(len).ok()?)?;
                all.push(String::from_utf8_lossy(reply.get(from..end)?).into_owned());
                at = end + 2;
            }
            (b'+', _) => {
                let len = memchr::memchr(b'\r', reply.get(at..)?)?;
                all.push(String::from_utf8_lossy(&reply[at + 1..at + len]).into_owned());
                at += len + 2;
            }
            _ => return None,
        }
    }
    Some(all)
}

/// A text or a number in a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Item {
    Text(String),
    Number(i64),
}

/// The texts and numbers of an array in RESP2 in their order, also those of arrays in it. `None`: the reply is another one, or
/// incomplete.
pub(super) fn items(reply: &[u8]) -> Option<Vec<Item>> {
    let (mut at, mut left, mut all) = (0_usize, 1_u64, Vec::new());
    if reply.first() != Some(&b'*') {
        return None;
    }
    while left > 0 {
        left -= 1;
        let Header::Number(number, from) = header(reply, at + 1) else { return None };
        match reply.get(at)? {
            // A false length reserves no memory, and ends with the reply.
            b'*' => {
                left = left.checked_add(u64::try_from(number).ok()?)?;
                at = from;
            }
            b':' => {
                all.push(Item::Number(number));
                at = from;
            }
            b'$' => {
                let end = from.checked_add(usize::try_from(number).ok()?)?;
                all.push(Item::Text(String::from_utf8_lossy(reply.get(from..end)?).into_owned()));
                at = end + 2;
            }
            _ => return None,
        }
    }
    (at <= reply.len()).then_some(all)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn arrays_of_texts_are_read() {
        assert_eq!(texts(b"*3\r\n$1\r\na\r\n+bc\r\n$0\r\n\r\n").unwrap(), ["a", "bc", ""]);
        assert_eq!(texts(b"*0\r\n").unwrap(), Vec::<String>::new());
        for reply in [&b"-ERR x\r\n"[..], b"*2\r\n$1\r\na\r\n", b"*-1\r\n", b"*1\r\n:1\r\n", b"*9999999999\r\n", b""] {
            assert_eq!(texts(reply), None);
        }
    }
}
