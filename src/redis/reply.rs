//! A server's reply as a value.
//! Knows nothing of connections.

use bytes::Bytes;
use redis_protocol::resp2::{decode::decode_bytes, types::BytesFrame};

/// Milliseconds since the epoch from the two parts of a reply to TIME: seconds and microseconds.
#[must_use]
pub fn clock_ms(seconds: i64, micros: i64) -> Option<i64> {
    seconds.checked_mul(1000)?.checked_add(micros / 1000)
}

/// One reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// `+OK`
    Simple(String),
    /// `-ERR ...`, without the dash.
    Error(String),
    /// `:1`
    Integer(i64),
    /// `$3 abc`
    Bulk(Bytes),
    /// `*2 ...`
    Array(Vec<Reply>),
    /// `$-1` and `*-1`
    Null,
}

impl Reply {
    /// Decodes one complete reply whose end [`super::frame::FrameScan`] has found.
    ///
    /// # Errors
    /// Returns why the bytes are not a complete reply.
    pub fn decode(whole: &Bytes) -> Result<Self, String> {
        match decode_bytes(whole) {
            Ok(Some((frame, length))) if length == whole.len() => Ok(Self::of(frame)),
            Ok(_) => Err("a reply does not end where it should".into()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn of(frame: BytesFrame) -> Self {
        match frame {
            BytesFrame::SimpleString(text) => Self::Simple(String::from_utf8_lossy(&text).into_owned()),
            BytesFrame::Error(text) => Self::Error(text.to_string()),
            BytesFrame::Integer(number) => Self::Integer(number),
            BytesFrame::BulkString(bytes) => Self::Bulk(bytes),
            BytesFrame::Array(items) => Self::Array(items.into_iter().map(Self::of).collect()),
            BytesFrame::Null => Self::Null,
        }
    }

    /// The text of a simple or bulk string that is UTF-8.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Simple(text) => Some(text),
            Self::Bulk(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// The number of an integer reply, or of a string that is one.
    #[must_use]
    pub fn integer(&self) -> Option<i64> {
        match self {
            Self::Integer(number) => Some(*number),
            other => other.text().and_then(|text| text.parse().ok()),
        }
    }

    /// The server's clock in milliseconds since the epoch, if this is a reply to TIME.
    #[must_use]
    pub fn clock_ms(&self) -> Option<i64> {
        let [seconds, micros] = self.items()? else { return None };
        clock_ms(seconds.integer()?, micros.integer()?)
    }

    /// The elements of an array.
    #[must_use]
    pub fn items(&self) -> Option<&[Reply]> {
        match self {
            Self::Array(items) => Some(items),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks() {
        let time = |seconds: &'static str, micros: &'static str| {
            Reply::Array([seconds, micros].map(|part| Reply::Bulk(Bytes::from_static(part.as_bytes()))).into())
        };
        assert_eq!(time("5", "999999").clock_ms(), Some(5999));
        assert_eq!(time("9223372036854775807", "0").clock_ms(), None);
        assert_eq!(time("x", "0").clock_ms(), None);
        assert_eq!(Reply::Array(vec![Reply::Integer(1)]).clock_ms(), None);
    }
}
