//! Bitmaps and HyperLogLog.
//! Rows only; `spec` and `keys` interpret them.

use super::super::keys::KeySpec;
use super::super::spec::flag::{ADMIN, DENYOOM, FAST, MAY_REPLICATE, READONLY, WRITE};
use super::super::spec::{Handling, Local, Spec, cmd};
use super::{KEY, KEYS, NONE, SLOT, why};

pub(super) static BITS: &[Spec] = &[
    cmd("bitcount", -2, READONLY, KEY, SLOT),
    cmd("bitfield", -2, WRITE | DENYOOM, KEY, SLOT),
    cmd("bitfield_ro", -2, READONLY | FAST, KEY, SLOT),
    cmd("bitop", -4, WRITE | DENYOOM, KeySpec::Range { first: 2, last: -1, step: 1 }, SLOT),
    cmd("bitpos", -3, READONLY, KEY, SLOT),
    cmd("getbit", 3, READONLY | FAST, KEY, SLOT),
    cmd("pfadd", -2, WRITE | DENYOOM | FAST, KEY, SLOT),
    cmd("pfcount", -2, READONLY | MAY_REPLICATE, KEYS, SLOT),
    cmd("pfdebug", 3, WRITE | DENYOOM | ADMIN, KeySpec::One(2), Handling::Local(Local::Debug)),
    cmd("pfmerge", -2, WRITE | DENYOOM, KEYS, SLOT),
    cmd("pfselftest", 1, ADMIN, NONE, Handling::Refused(why::OPERATORS)),
    cmd("setbit", 4, WRITE | DENYOOM, KEY, SLOT),
];
