//! Reads a complete RESP2 reply value by value without copying.
//! Knows nothing of the request. The scanner has checked that the reply is complete and well-formed.

use crate::{
    redis::clock_ms,
    resp::number::{Header, header},
};

/// One value, or the head of an array whose values follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// `$3 abc`
    Bulk(&'a [u8]),
    /// `+OK`
    Simple(&'a [u8]),
    /// `-ERR ...`, without the dash.
    Error(&'a [u8]),
    /// `:1`
    Int(i64),
    /// `$-1`, `*-1`
    Null,
    /// The head of an array of this many values.
    Array(usize),
}

/// Reads one value after the other.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads a complete reply.
    #[must_use]
    pub fn new(reply: &'a [u8]) -> Self {
        Self { rest: reply }
    }

    /// The next value. `None` at the end, or where the bytes are not RESP2.
    pub fn next(&mut self) -> Option<Value<'a>> {
        let (&kind, _) = self.rest.split_first()?;
        match kind {
            b'+' | b'-' => {
                let end = memchr::memchr(b'\n', self.rest)?;
                let line = self.rest.get(1..end.checked_sub(1)?)?;
                self.rest = &self.rest[end + 1..];
                Some(if kind == b'+' { Value::Simple(line) } else { Value::Error(line) })
            }
            b':' | b'$' | b'*' => {
                let Header::Number(number, end) = header(self.rest, 1) else { return None };
                let rest = &self.rest[end..];
                if kind == b':' {
                    self.rest = rest;
                    return Some(Value::Int(number));
                }
                if number < 0 {
                    self.rest = rest;
                    return Some(Value::Null);
                }
                let count = usize::try_from(number).ok()?;
                if kind == b'*' {
                    self.rest = rest;
                    return Some(Value::Array(count));
                }
                let bulk = rest.get(..count)?;
                self.rest = rest.get(count + 2..)?;
                Some(Value::Bulk(bulk))
            }
            _ => None,
        }
    }

    /// The next value if it is a bulk string, which may be copied into a request as it is.
    pub fn bulk(&mut self) -> Option<&'a [u8]> {
        match self.next()? {
            Value::Bulk(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// The next value if it is a simple string.
    pub fn simple(&mut self) -> Option<&'a [u8]> {
        match self.next()? {
            Value::Simple(text) => Some(text),
            _ => None,
        }
    }

    /// The next value if it is the head of an array: the number of values that follow.
    pub fn array(&mut self) -> Option<usize> {
        match self.next()? {
            Value::Array(count) => Some(count),
            _ => None,
        }
    }

    /// The next value if it is a number, or a string that is a number.
    pub fn int(&mut self) -> Option<i64> {
        match self.next()? {
            Value::Int(number) => Some(number),
            Value::Bulk(text) => crate::resp::number::parse(text),
            _ => None,
        }
    }

    /// The next value if it is a reply to TIME, in milliseconds since the epoch.
    pub fn clock_ms(&mut self) -> Option<i64> {
        (self.array()? == 2).then_some(())?;
        clock_ms(self.int()?, self.int()?)
    }

    /// Skips the next value with everything in it.
    pub fn skip(&mut self) -> Option<()> {
        // Counts instead of recursing: a server must not be able to overflow our stack.
        let mut open: usize = 1;
        while open > 0 {
            open -= 1;
            if let Value::Array(count) = self.next()? {
                open = open.checked_add(count)?;
            }
        }
        Some(())
    }

    /// The bytes that have not been read.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_one_by_one() {
        let mut reader = Reader::new(b"*3\r\n$2\r\nab\r\n*2\r\n:5\r\n*0\r\n$-1\r\n+OK\r\n-ERR x\r\n");
        assert_eq!(reader.array(), Some(3));
        assert_eq!(reader.bulk(), Some(&b"ab"[..]));
        assert_eq!(reader.skip(), Some(()));
        assert_eq!(reader.next(), Some(Value::Null));
        assert_eq!(reader.next(), Some(Value::Simple(b"OK")));
        assert_eq!(reader.next(), Some(Value::Error(b"ERR x")));
        assert_eq!(reader.next(), None);
    }

    #[test]
    fn half_a_value_is_none() {
        for bytes in [&b"$5\r\nab\r\n"[..], b"*", b":x\r\n", b"+OK", b"?1\r\n", b"*2\r\n:1\r\n"] {
            assert_eq!(Reader::new(bytes).skip(), None, "{}", String::from_utf8_lossy(bytes));
        }
    }
}
