//! A server's reply as a value.
//! Knows nothing of connections.

use bytes::Bytes;
use redis_protocol::resp2::{decode::decode_bytes, types::BytesFrame};

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

    /// The elements of an array.
    #[must_use]
    pub fn items(&self) -> Option<&[Reply]> {
        match self {
            Self::Array(items) => Some(items),
            _ => None,
        }
    }
}
