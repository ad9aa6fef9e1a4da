//! The payload of DUMP and RESTORE: its type, version and checksum, and how to make it acceptable for an older server.
//! Knows nothing of the value inside, which is not changed.
//!
//! A payload is `type byte | value | version (2 bytes, little endian) | CRC-64 (8 bytes, little endian)`. The checksum
//! covers everything before it (Redis: cluster.c, createDumpPayload). A server refuses a version above its own, even
//! where it supports the type of the value. Then the version may be lowered to the first one that has the type.

use std::fmt;

/// Bytes of the version and the checksum at the end.
const FOOTER: usize = 10;
/// Bytes of the version.
const VERSION: usize = 2;

/// The error of RESTORE for a version that it does not accept (or for damaged bytes).
pub const REFUSED: &str = "DUMP payload version or checksum are wrong";

/// Why a payload cannot be converted for an older server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadError {
    /// Shorter than a type and a footer.
    Short,
    /// The checksum is not that of the bytes.
    Damaged,
    /// The version is already the first one that has the type: the server is too old for it.
    OldestVersion {
        /// The type byte.
        kind: u8,
        /// RDB version.
        version: u16,
    },
    /// A type that has different meanings in different servers, or that only the newest servers support.
    AmbiguousType {
        /// The type byte.
        kind: u8,
        /// RDB version.
        version: u16,
    },
}

impl fmt::Display for PayloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |kind: u8| kind_name(kind).unwrap_or("unknown kind");
        match *self {
            Self::Short => f.write_str("the answer to DUMP is too short to be a payload"),
            Self::Damaged => f.write_str("the answer to DUMP is damaged: its checksum is wrong"),
            Self::OldestVersion { kind, version } => write!(
                f,
                "the target does not know this encoding of a {} (type {kind}, which came with RDB version {version}); \
                 upgrade the target",
                name(kind)
            ),
            Self::AmbiguousType { kind, version } => write!(
                f,
                "a value of type {kind} ({}) in RDB version {version} can only be restored by a server of the same kind \
                 as the source; upgrade the target",
                name(kind)
            ),
        }
    }
}

impl std::error::Error for PayloadError {}

/// The type byte of a payload. `None`: it is empty.
#[must_use]
pub fn kind(payload: &[u8]) -> Option<u8> {
    payload.first().copied()
}

/// Whether a value with this type byte can be copied by its elements (HSCAN, LRANGE, ...: the same for every version) instead of
/// a payload. Values of modules and unknown types cannot.
#[must_use]
pub fn has_elements(kind: u8) -> bool {
    kind_name(kind).is_some_and(|name| name != "module")
}

/// Whether a type byte is that of a stream. CLIENT TRACKING does not report changes of streams' groups.
#[must_use]
pub fn is_stream(kind: u8) -> bool {
    kind_name(kind) == Some("stream")
}

/// Everything before the version and the checksum. Equal bytes are equal values, in whatever version.
///
/// # Errors
/// The payload is too short.
pub fn value(payload: &[u8]) -> Result<&[u8], PayloadError> {
    match payload.len().checked_sub(FOOTER) {
        Some(end) if end > 0 => Ok(&payload[..end]),
        _ => Err(PayloadError::Short),
    }
}

/// The RDB version of a payload.
///
/// # Errors
/// The payload is too short.
pub fn version(payload: &[u8]) -> Result<u16, PayloadError> {
    let end = value(payload)?.len();
    Ok(u16::from_le_bytes([payload[end], payload[end + 1]]))
}

/// Whether the checksum is correct. 0 means that there is none (`rdbchecksum no`, some clones).
#[must_use]
pub fn is_whole(payload: &[u8]) -> bool {
    let Some(end) = payload.len().checked_sub(FOOTER - VERSION).filter(|end| *end > VERSION) else { return false };
    let (body, sum) = payload.split_at(end);
    sum == [0; 8] || sum == crc64(body).to_le_bytes()
}

/// The same payload with the oldest version that has its type.
///
/// # Errors
/// The payload is damaged, its version is the oldest already, or its type has no known oldest version.
pub fn lowered(payload: &[u8]) -> Result<Vec<u8>, PayloadError> {
    let body = value(payload)?;
    let (kind, version) = (body[0], version(payload)?);
    if !is_whole(payload) {
        return Err(PayloadError::Damaged);
    }
    let Some(oldest) = oldest_version(kind) else { return Err(PayloadError::AmbiguousType { kind, version }) };
    if version <= oldest {
        return Err(PayloadError::OldestVersion { kind, version });
    }
    let mut out = Vec::with_capacity(payload.len());
    out.extend_from_slice(body);
    out.extend_from_slice(&oldest.to_le_bytes());
    let sum = crc64(&out);
    out.extend_from_slice(&sum.to_le_bytes());
    Ok(out)
}

/// The first RDB version that has a type, where Redis and Valkey use it for the same encoding (Redis and Valkey: rdb.h,
/// and the releases in which a type appeared). 22 and 23 differ between them; 26 and above exist only in the newest
/// servers.
fn oldest_version(kind: u8) -> Option<u16> {
    match kind {
        // Strings, lists, sets, sorted sets, hashes and their first compact encodings: Redis 2.6.
        0..=4 | 9..=13 => Some(6),
        // Quicklist: Redis 3.2.
        14 => Some(7),
        // Sorted sets with binary scores, modules' own values: Redis 4.
        5 | 7 => Some(8),
        // Streams: Redis 5.
        15 => Some(9),
        // Listpacks of hashes, sorted sets and lists; streams with their first id: Redis 7.0.
        16..=19 => Some(10),
        // Listpacks of sets; streams with their consumers' last activity: Redis 7.2.
        20 | 21 => Some(11),
        // Hashes whose fields have a time to live: Redis 7.4.
        24 | 25 => Some(12),
        _ => None,
    }
}

/// The type of a value by its type byte, as TYPE names it.
fn kind_name(kind: u8) -> Option<&'static str> {
    Some(match kind {
        0 => "string",
        1 | 10 | 14 | 18 => "list",
        2 | 11 | 20 => "set",
        3 | 5 | 12 | 17 => "zset",
        4 | 9 | 13 | 16 | 22..=25 => "hash",
        6 | 7 => "module",
        15 | 19 | 21 | 26 | 27 => "stream",
        _ => return None,
    })
}

static CRC64: crc::Crc<u64> = crc::Crc::<u64>::new(&crc::CRC_64_REDIS);

/// CRC-64 as Redis computes it.
#[must_use]
pub fn crc64(bytes: &[u8]) -> u64 {
    CRC64.checksum(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// `SET a hello`, `DUMP a` on Redis 7.0.15.
    const HELLO: &[u8] = b"\x00\x05hello\n\x00cr\xdfve4 \n";

    fn forged(kind: u8, value: &[u8], version: u16) -> Vec<u8> {
        let mut out = vec![kind];
        out.extend_from_slice(value);
        out.extend_from_slice(&version.to_le_bytes());
        let sum = crc64(&out);
        out.extend_from_slice(&sum.to_le_bytes());
        out
    }

    #[test]
    fn the_checksum_is_that_of_redis() {
        // The self-test of Redis: crc64.c.
        assert_eq!(crc64(b"123456789"), 0xe9c6_d914_c4b8_d9ca);
        assert!(is_whole(HELLO));
        assert_eq!((kind(HELLO), version(HELLO)), (Some(0), Ok(10)));
        assert_eq!(value(HELLO), Ok(b"\x00\x05hello" as &[u8]));
        assert_eq!(forged(0, b"\x05hello", 10), HELLO);
    }

    #[test]
    fn a_new_version_is_lowered_to_the_first_one_of_the_type() {
        for (kind, oldest) in [(0, 6), (5, 8), (14, 7), (15, 9), (18, 10), (20, 11), (25, 12)] {
            for newer in [13, 80] {
                let low = lowered(&forged(kind, b"\x05hello", newer)).unwrap();
                assert_eq!(low, forged(kind, b"\x05hello", oldest), "type {kind} of version {newer}");
                assert!(is_whole(&low));
            }
            let error = lowered(&forged(kind, b"\x05hello", oldest)).unwrap_err();
            assert_eq!(error, PayloadError::OldestVersion { kind, version: oldest });
            assert!(has_elements(kind) && error.to_string().contains("upgrade the target"));
        }
    }

    #[test]
    fn ambiguous_types_and_damaged_payloads_are_refused() {
        for kind in [6, 8, 22, 23, 26, 28, 33, 200] {
            let error = lowered(&forged(kind, b"x", 80)).unwrap_err();
            assert_eq!(error, PayloadError::AmbiguousType { kind, version: 80 });
            assert_eq!(has_elements(kind), matches!(kind, 22 | 23 | 26), "{kind}");
        }
        assert!(!has_elements(7));
        for end in 0..=FOOTER {
            assert_eq!(lowered(&HELLO[..end]), Err(PayloadError::Short), "{end} bytes");
            assert!(!is_whole(&HELLO[..end]));
        }
        for at in 0..HELLO.len() {
            let mut bytes = HELLO.to_vec();
            bytes[at] ^= 0x10;
            assert_eq!(lowered(&bytes), Err(PayloadError::Damaged), "byte {at}");
        }
    }

    #[test]
    fn a_payload_without_a_checksum_is_whole() {
        let mut bytes = HELLO.to_vec();
        let end = bytes.len() - 8;
        bytes[end..].fill(0);
        assert!(is_whole(&bytes));
        assert_eq!(lowered(&bytes), Ok(forged(0, b"\x05hello", 6)));
        assert!(is_stream(15) && is_stream(21) && !is_stream(14));
    }
}
