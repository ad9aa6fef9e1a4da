//! A reply as it was received: two replies are equal if all their bytes are. Knows nothing of connections.

use std::fmt;

/// A reply of RESP2 or RESP3.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reply {
    /// `+`, `-`, `:`, `_`, `#`, `,` or `(`, and the rest of the line.
    Line(u8, Vec<u8>),
    /// `$`, `=` or `!`, and the bytes.
    Bulk(u8, Vec<u8>),
    /// `$-1` or `*-1`.
    Null(u8),
    /// `*`, `~`, `>` or `%`, and the elements; those of a map are keys and values in turn.
    Items(u8, Vec<Reply>),
}

/// Bytes of a reply that a message shows.
const SHOWN: usize = 600;

impl Reply {
    /// An error with this text.
    #[must_use]
    pub fn error(text: &str) -> Self {
        Self::Line(b'-', text.as_bytes().to_vec())
    }

    /// A status such as `OK`.
    #[must_use]
    pub fn status(text: &str) -> Self {
        Self::Line(b'+', text.as_bytes().to_vec())
    }

    /// A bulk string.
    #[must_use]
    pub fn bulk(text: &str) -> Self {
        Self::Bulk(b'$', text.as_bytes().to_vec())
    }

    /// Whether it is an error.
    #[must_use]
    pub fn is_error(&self) -> bool {
        matches!(self, Self::Line(b'-', _) | Self::Bulk(b'!', _))
    }

    /// Whether it is the status `text`.
    #[must_use]
    pub fn is_status(&self, text: &str) -> bool {
        matches!(self, Self::Line(b'+', line) if line == text.as_bytes())
    }

    /// The bytes of a line or a bulk string, else nothing.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Line(_, bytes) | Self::Bulk(_, bytes) => bytes,
            Self::Null(_) | Self::Items(..) => &[],
        }
    }

    /// The text of a line or a bulk string, else nothing.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(self.bytes()).into_owned()
    }

    /// The number of an integer reply.
    #[must_use]
    pub fn integer(&self) -> Option<i64> {
        match self {
            Self::Line(b':', digits) => std::str::from_utf8(digits).ok()?.parse().ok(),
            _ => None,
        }
    }

    /// The elements of an aggregate, else nothing.
    #[must_use]
    pub fn items(&self) -> &[Self] {
        match self {
            Self::Items(_, items) => items,
            _ => &[],
        }
    }

    /// The value of a field, where fields and values are elements in turn, as in a map.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&Self> {
        self.items().chunks_exact(2).find(|pair| pair[0].bytes() == name.as_bytes()).map(|pair| &pair[1])
    }

    /// The first reply in `bytes` and its length, or `None` if it is incomplete.
    ///
    /// # Errors
    /// When the bytes are not valid RESP.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, String> {
        let Some(end) = bytes.windows(2).position(|pair| pair == b"\r\n") else { return Ok(None) };
        let invalid = || format!("not valid RESP: {}", bytes[..end.min(SHOWN)].escape_ascii());
        let (kind, rest) = bytes[..end].split_first().ok_or_else(invalid)?;
        let start = end + 2;
        if b"+-:_#,(".contains(kind) {
            return Ok(Some((Self::Line(*kind, rest.to_vec()), start)));
        }
        let count: i64 = std::str::from_utf8(rest).ok().and_then(|text| text.parse().ok()).ok_or_else(invalid)?;
        let Ok(count) = usize::try_from(count) else { return Ok(Some((Self::Null(*kind), start))) };
        match kind {
            b'$' | b'=' | b'!' => {
                let stop = start + count;
                if bytes.len() < stop + 2 {
                    return Ok(None);
                }
                if &bytes[stop..stop + 2] != b"\r\n" {
                    return Err(invalid());
                }
                Ok(Some((Self::Bulk(*kind, bytes[start..stop].to_vec()), stop + 2)))
            }
            b'*' | b'~' | b'>' | b'%' => {
                let (mut items, mut at) = (Vec::new(), start);
                for _ in 0..if *kind == b'%' { 2 * count } else { count } {
                    let Some((item, len)) = Self::parse(&bytes[at..])? else { return Ok(None) };
                    items.push(item);
                    at += len;
                }
                Ok(Some((Self::Items(*kind, items), at)))
            }
            _ => Err(invalid()),
        }
    }

    fn write(&self, out: &mut String) {
        if out.len() > SHOWN {
            return;
        }
        match self {
            Self::Line(kind, bytes) => *out += &format!("{}{}", char::from(*kind), bytes.escape_ascii()),
            Self::Bulk(b'$', bytes) => *out += &format!("\"{}\"", bytes.escape_ascii()),
            Self::Bulk(kind, bytes) => *out += &format!("{}\"{}\"", char::from(*kind), bytes.escape_ascii()),
            Self::Null(kind) => *out += &format!("{}-1", char::from(*kind)),
            Self::Items(kind, items) => {
                out.push(char::from(*kind));
                out.push('[');
                for (at, item) in items.iter().enumerate() {
                    *out += if at > 0 { " " } else { "" };
                    item.write(out);
                }
                out.push(']');
            }
        }
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = String::new();
        self.write(&mut out);
        match out.char_indices().nth(SHOWN) {
            Some((end, _)) => write!(f, "{}...", &out[..end]),
            None => f.write_str(&out),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_byte_makes_a_difference() {
        let all: [&[u8]; 12] = [
            b"+OK\r\n",
            b"-OK\r\n",
            b"$2\r\nOK\r\n",
            b"=2\r\nOK\r\n",
            b"*-1\r\n",
            b"$-1\r\n",
            b"_\r\n",
            b"*0\r\n",
            b"~0\r\n",
            b"*1\r\n:1\r\n",
            b"*1\r\n:2\r\n",
            b"%1\r\n:1\r\n:1\r\n",
        ];
        let parsed: Vec<_> = all.iter().map(|bytes| Reply::parse(bytes).unwrap().unwrap()).collect();
        for (at, (reply, len)) in parsed.iter().enumerate() {
            assert_eq!(*len, all[at].len());
            assert_eq!(parsed.iter().filter(|(other, _)| other == reply).count(), 1, "{reply:?}");
            for end in 0..*len {
                assert_eq!(Reply::parse(&all[at][..end]), Ok(None));
            }
        }
        assert!(Reply::parse(b"?\r\n").is_err() && Reply::parse(b"$1\r\nabc").is_err());
    }
}
