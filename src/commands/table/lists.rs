//! Lists.
//! Rows only; `spec` and `keys` interpret them.

use super::super::keys::KeySpec;
use super::super::spec::flag::{BLOCKING, DENYOOM, FAST, MOVABLEKEYS, NOSCRIPT, READONLY, WRITE};
use super::super::spec::{Spec, cmd};
use super::{KEY, PAIR, SLOT};

pub(super) static LISTS: &[Spec] = &[
    cmd("blmove", 6, WRITE | DENYOOM | NOSCRIPT | BLOCKING, PAIR, SLOT),
    cmd("blmpop", -5, WRITE | BLOCKING | MOVABLEKEYS, KeySpec::Count { at: 2, step: 1, dest: 0 }, SLOT),
    cmd("blpop", -3, WRITE | NOSCRIPT | BLOCKING, KeySpec::Range { first: 1, last: -2, step: 1 }, SLOT),
    cmd("brpop", -3, WRITE | NOSCRIPT | BLOCKING, KeySpec::Range { first: 1, last: -2, step: 1 }, SLOT),
    cmd("brpoplpush", 4, WRITE | DENYOOM | NOSCRIPT | BLOCKING, PAIR, SLOT),
    cmd("lindex", 3, READONLY, KEY, SLOT),
    cmd("linsert", 5, WRITE | DENYOOM, KEY, SLOT),
    cmd("llen", 2, READONLY | FAST, KEY, SLOT),
    cmd("lmove", 5, WRITE | DENYOOM, PAIR, SLOT),
    cmd("lmpop", -4, WRITE | MOVABLEKEYS, KeySpec::Count { at: 1, step: 1, dest: 0 }, SLOT),
    cmd("lpop", -2, WRITE | FAST, KEY, SLOT),
    cmd("lpos", -3, READONLY, KEY, SLOT),
    cmd("lpush", -3, WRITE | DENYOOM | FAST, KEY, SLOT),
    cmd("lpushx", -3, WRITE | DENYOOM | FAST, KEY, SLOT),
    cmd("lrange", 4, READONLY, KEY, SLOT),
    cmd("lrem", 4, WRITE, KEY, SLOT),
    cmd("lset", 4, WRITE | DENYOOM, KEY, SLOT),
    cmd("ltrim", 4, WRITE, KEY, SLOT),
    cmd("rpop", -2, WRITE | FAST, KEY, SLOT),
    cmd("rpoplpush", 3, WRITE | DENYOOM, PAIR, SLOT),
    cmd("rpush", -3, WRITE | DENYOOM | FAST, KEY, SLOT),
    cmd("rpushx", -3, WRITE | DENYOOM | FAST, KEY, SLOT),
    // Redis 8.10.
    cmd("blmovem", -6, WRITE | DENYOOM | BLOCKING, PAIR, SLOT),
    cmd("lmovem", -5, WRITE | DENYOOM, PAIR, SLOT),
];
