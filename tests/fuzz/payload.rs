//! Payloads of DUMP, which are made acceptable for older servers.

use fastrand::Rng;
use pontoon::mover::payload;

use super::fuzzer::{Target, fuzz};

/// Bytes of the version and the checksum at the end.
const FOOTER: usize = 10;

#[test]
fn payloads() {
    let target = Target::new("payload", &[b"\0", b"\xff", b"\xc3", b"\x81"]).structure(another_version);
    let report = fuzz(&target, |bytes, _| check(bytes));
    assert!(report.shapes > 20, "{report:?}: the mutations reach little");
}

/// Changes type, version or value, and makes the checksum right again.
#[expect(clippy::ptr_arg, reason = "the type of a target's structure")]
fn another_version(input: &mut Vec<u8>, rng: &mut Rng) {
    let Some(end) = input.len().checked_sub(FOOTER).filter(|end| *end > 0) else { return };
    match rng.usize(..3) {
        0 => input[0] = rng.u8(..40),
        1 => input[end] = rng.u8(..90),
        _ => input[rng.usize(..end)..end].fill(rng.u8(..)),
    }
    let sum = if rng.u8(..8) == 0 { 0 } else { payload::crc64(&input[..end + 2]) };
    input[end + 2..].copy_from_slice(&sum.to_le_bytes());
}

fn check(bytes: &[u8]) -> Result<String, String> {
    let lowered = payload::lowered(bytes);
    match lowered {
        Ok(low) => {
            if !payload::is_whole(bytes) || !payload::is_whole(&low) {
                return Err("a damaged payload was lowered".into());
            }
            if payload::value(&low) != payload::value(bytes) || low.len() != bytes.len() {
                return Err("the value has changed".into());
            }
            if payload::version(&low).ok() >= payload::version(bytes).ok() {
                return Err("the version is not lower".into());
            }
            match payload::lowered(&low) {
                Err(payload::PayloadError::OldestVersion { .. }) => {}
                other => return Err(format!("lowered twice: {other:?}")),
            }
            Ok(format!("lowered {:?} to {:?}", payload::kind(bytes), payload::version(&low)))
        }
        Err(error) => {
            let whole = bytes.len() > FOOTER && payload::is_whole(bytes);
            if whole != !matches!(error, payload::PayloadError::Short | payload::PayloadError::Damaged) {
                return Err(format!("{error:?} of a payload whose checksum is right: {whole}"));
            }
            if error.to_string().is_empty() {
                return Err("an error without a text".into());
            }
            Ok(error.to_string().chars().filter(|c| !c.is_ascii_digit()).take(60).collect())
        }
    }
}
