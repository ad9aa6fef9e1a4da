//! The hash that distinguishes a repeated request from another request under the same id.
//! It is part of the log, so it must never change: FNV-1a with 64 bits. It protects against mistakes, not against an
//! attacker, who could send any request under an id of its own anyway.

use prost::Message;

use super::change::change_to;
use crate::model::change::Change;

/// The hash of an admin request: of the name of its call, and of its encoded message without its options.
#[must_use]
pub fn request_hash(call: &str, message: &[u8]) -> u64 {
    // A name has no zero byte, so that no name and message can be taken for another pair.
    [call.as_bytes(), &[0], message].into_iter().flatten().fold(OFFSET_BASIS, step)
}

/// The hash of a change that no admin request asked for: of its canonical encoding.
#[must_use]
pub fn change_hash(change: &Change) -> u64 {
    change_to(change).encode_to_vec().iter().fold(OFFSET_BASIS, step)
}

/// Start value of FNV-1a, 64 bits.
const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;

/// Takes one byte in.
fn step(hash: u64, byte: &u8) -> u64 {
    (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The test vectors of the reference implementation.
    #[test]
    fn it_is_fnv_1a() {
        let hash = |text: &str| text.as_bytes().iter().fold(OFFSET_BASIS, step);
        assert_eq!(hash(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(hash("a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(hash("foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn the_call_counts() {
        assert_ne!(request_hash("pause_migration", &[8, 1]), request_hash("resume_migration", &[8, 1]));
    }
}
