//! Sets.
//! Rows only; `spec` and `keys` interpret them.

use super::super::keys::KeySpec;
use super::super::spec::flag::{DENYOOM, FAST, MOVABLEKEYS, PRIMARY_ONLY, READONLY, WRITE};
use super::super::spec::{Handling, Spec, cmd};
use super::{KEY, KEYS, PAIR, SLOT};

pub(super) static SETS: &[Spec] = &[
    cmd("sadd", -3, WRITE | DENYOOM | FAST, KEY, SLOT),
    cmd("scard", 2, READONLY | FAST, KEY, SLOT),
    cmd("sdiff", -2, READONLY, KEYS, SLOT),
    cmd("sdiffstore", -3, WRITE | DENYOOM, KEYS, SLOT),
    cmd("sinter", -2, READONLY, KEYS, SLOT),
    cmd("sintercard", -3, READONLY | MOVABLEKEYS, KeySpec::Count { at: 1, step: 1, dest: 0 }, SLOT),
    cmd("sinterstore", -3, WRITE | DENYOOM, KEYS, SLOT),
    cmd("sismember", 3, READONLY | FAST, KEY, SLOT),
    cmd("smembers", 2, READONLY, KEY, SLOT),
    cmd("smismember", -3, READONLY | FAST, KEY, SLOT),
    cmd("smove", 4, WRITE | FAST, PAIR, SLOT),
    cmd("spop", -2, WRITE | FAST, KEY, SLOT),
    cmd("srandmember", -2, READONLY, KEY, SLOT),
    cmd("srem", -3, WRITE | FAST, KEY, SLOT),
    cmd("sscan", -3, READONLY | PRIMARY_ONLY, KEY, Handling::Cursor),
    cmd("sunion", -2, READONLY, KEYS, SLOT),
    cmd("sunionstore", -3, WRITE | DENYOOM, KEYS, SLOT),
    // Redis 8.10.
    cmd("sdiffcard", -3, READONLY | MOVABLEKEYS, KeySpec::Count { at: 1, step: 1, dest: 0 }, SLOT),
    cmd("sunioncard", -3, READONLY | MOVABLEKEYS, KeySpec::Count { at: 1, step: 1, dest: 0 }, SLOT),
];
