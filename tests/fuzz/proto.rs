//! Entries of the log and snapshots: the durable format. What is read is written again with the same meaning, and no
//! entry breaks a state.

use std::sync::LazyLock;

use fastrand::Rng;
use pontoon::{
    model::{
        apply::apply,
        check::check,
        ids::{Epoch, Term},
        route::RouteTable,
        state::{ClusterState, Position},
    },
    wire::{
        entry::{decode_entry, encode_entry},
        snapshot::{decode_state, encode_state},
    },
};

use super::fuzzer::{Target, fuzz};

/// Bytes of the longest input; the longest golden snapshot has 5,400.
const INPUT_MAX: usize = 12_000;
/// How deep messages are changed inside messages.
const DEPTH_MAX: u32 = 6;

/// States with groups, migrations, promotions and ejections, to which entries are applied.
static STATES: LazyLock<Vec<ClusterState>> = LazyLock::new(|| {
    let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    ["state", "state_migrations", "state_promotions", "state_ejections", "state_noted"]
        .map(|name| decode_state(&std::fs::read(golden.join(name).with_extension("bin")).unwrap()).unwrap())
        .into()
});

fn target(name: &'static str) -> Target {
    let tokens: &[&[u8]] = &[b"\x08\x01", b"\x12\x00", b"\xff\xff\xff\xff\x0f", b"\x0a\x02\x08\x01", b"127.0.0.1:1"];
    Target::new(name, tokens).corpus("tests/golden").input_max(INPUT_MAX).structure(change_message)
}

#[test]
fn entries() {
    let report = fuzz(&target("entry"), check_entry);
    assert!(report.shapes > 60, "{report:?}: the mutations reach little");
}

fn check_entry(bytes: &[u8], rng: &mut Rng) -> Result<String, String> {
    let entry = match decode_entry(bytes) {
        Ok(entry) => entry,
        Err(error) => return Ok(error.to_string().chars().filter(|c| !c.is_ascii_digit()).take(60).collect()),
    };
    let written = encode_entry(&entry);
    if decode_entry(&written).as_ref() != Ok(&entry) {
        return Err(format!("written again, {entry:?} is {:?}", decode_entry(&written)));
    }
    let mut state = STATES[rng.usize(..STATES.len())].clone();
    let before = state.clone();
    let broken = check(&state).len();
    let at = Position { index: Epoch(state.applied.0 + 1), term: Term(rng.u64(..3)) };
    let outcome = apply(&mut state, &entry, at);
    let violations = check(&state);
    if violations.len() > broken {
        return Err(format!("{entry:?} breaks the state: {violations:?}"));
    }
    let _ = RouteTable::derive_from(&state, &before, &RouteTable::derive(&before));
    let outcome = format!("{outcome:?}");
    Ok(outcome.chars().take_while(|c| !c.is_ascii_digit()).take(60).collect())
}

#[test]
fn snapshots() {
    let report = fuzz(&target("snapshot"), |bytes, _| check_snapshot(bytes));
    assert!(report.shapes > 30, "{report:?}: the mutations reach little");
}

fn check_snapshot(bytes: &[u8]) -> Result<String, String> {
    let state = match decode_state(bytes) {
        Ok(state) => state,
        Err(error) => return Ok(error.to_string().chars().filter(|c| !c.is_ascii_digit()).take(60).collect()),
    };
    let written = encode_state(&state);
    match decode_state(&written) {
        Ok(again) if again == state => {}
        other => {
            return Err(format!("written again, it is {}", other.map_or_else(|e| e.to_string(), |_| "another".into())));
        }
    }
    let sizes = [state.members.len(), state.products.len(), state.holds.len(), state.migrations.len()];
    Ok(format!("{:?} {}", sizes.map(|n| n.min(3)), state.events.len().min(3)))
}

/// A field of a message.
#[derive(Clone)]
struct Field {
    number: u64,
    value: Value,
}

#[derive(Clone)]
enum Value {
    Varint(u64),
    Fixed64([u8; 8]),
    Bytes(Vec<u8>),
    Fixed32([u8; 4]),
}

/// Changes a field of a message, or of a message in it, and keeps all lengths right.
fn change_message(input: &mut Vec<u8>, rng: &mut Rng) {
    change_at(input, rng, 0);
}

fn change_at(message: &mut Vec<u8>, rng: &mut Rng, depth: u32) {
    let Some(mut fields) = fields_of(message).filter(|fields| !fields.is_empty()) else { return };
    let at = rng.usize(..fields.len());
    match rng.usize(..8) {
        0 => drop(fields.remove(at)),
        1 => {
            let copy = fields[at].clone();
            fields.insert(rng.usize(..=fields.len()), copy);
        }
        2 => fields[at].number = rng.u64(1..40),
        3 => {
            let other = rng.usize(..fields.len());
            fields.swap(at, other);
        }
        _ => match &mut fields[at].value {
            Value::Varint(number) => {
                *number = match rng.usize(..4) {
                    0 => number.wrapping_add(1),
                    1 => rng.u64(..20),
                    2 => u64::MAX - rng.u64(..3),
                    _ => 1 << rng.u32(..64),
                }
            }
            Value::Bytes(bytes) if depth < DEPTH_MAX && fields_of(bytes).is_some_and(|f| !f.is_empty()) => {
                change_at(bytes, rng, depth + 1);
            }
            Value::Bytes(bytes) => match rng.usize(..4) {
                0 => bytes.clear(),
                1 => bytes.extend_from_slice(&[b'x'; 300]),
                2 => bytes.push(rng.u8(..)),
                _ => *bytes = format!("{}:{}", rng.u8(..), rng.u32(..)).into_bytes(),
            },
            Value::Fixed64(bytes) => bytes[rng.usize(..8)] = rng.u8(..),
            Value::Fixed32(bytes) => bytes[rng.usize(..4)] = rng.u8(..),
        },
    }
    message.clear();
    fields.iter().for_each(|field| push_field(message, field));
}

fn fields_of(mut bytes: &[u8]) -> Option<Vec<Field>> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let value = match key & 7 {
            0 => Value::Varint(varint(&mut bytes)?),
            1 => Value::Fixed64(take(&mut bytes, 8)?.try_into().ok()?),
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).ok()?;
                Value::Bytes(take(&mut bytes, length)?.to_vec())
            }
            5 => Value::Fixed32(take(&mut bytes, 4)?.try_into().ok()?),
            _ => return None,
        };
        fields.push(Field { number: key >> 3, value });
    }
    Some(fields)
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (head, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(head)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)?[0];
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

fn push_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn push_field(out: &mut Vec<u8>, Field { number, value }: &Field) {
    let wire = match value {
        Value::Varint(_) => 0,
        Value::Fixed64(_) => 1,
        Value::Bytes(_) => 2,
        Value::Fixed32(_) => 5,
    };
    push_varint(out, number << 3 | wire);
    match value {
        Value::Varint(number) => push_varint(out, *number),
        Value::Fixed64(bytes) => out.extend_from_slice(bytes),
        Value::Bytes(bytes) => {
            push_varint(out, bytes.len() as u64);
            out.extend_from_slice(bytes);
        }
        Value::Fixed32(bytes) => out.extend_from_slice(bytes),
    }
}
