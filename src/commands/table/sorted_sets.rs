//! Sorted sets.
//! Rows only; `spec` and `keys` interpret them.

use super::super::keys::KeySpec;
use super::super::spec::flag::{BLOCKING, DENYOOM, FAST, MOVABLEKEYS, NOSCRIPT, PRIMARY_ONLY, READONLY, WRITE};
use super::super::spec::{Handling, Spec, cmd};
use super::{KEY, PAIR, SLOT};

pub(super) static SORTED_SETS: &[Spec] = &[
    cmd("bzmpop", -5, WRITE | BLOCKING | MOVABLEKEYS, KeySpec::Count { at: 2, step: 1, dest: 0 }, SLOT),
    cmd("bzpopmax", -3, WRITE | NOSCRIPT | BLOCKING | FAST, KeySpec::Range { first: 1, last: -2, step: 1 }, SLOT),
    cmd("bzpopmin", -3, WRITE | NOSCRIPT | BLOCKING | FAST, KeySpec::Range { first: 1, last: -2, step: 1 }, SLOT),
    cmd("zadd", -4, WRITE | DENYOOM | FAST, KEY, SLOT),
    cmd("zcard", 2, READONLY | FAST, KEY, SLOT),
    cmd("zcount", 4, READONLY | FAST, KEY, SLOT),
    cmd("zdiff", -3, READONLY | MOVABLEKEYS, KeySpec::Count { at: 1, step: 1, dest: 0 }, SLOT),
    cmd("zdiffstore", -4, WRITE | DENYOOM | MOVABLEKEYS, KeySpec::Count { at: 2, step: 1, dest: 1 }, SLOT),
    cmd("zincrby", 4, WRITE | DENYOOM | FAST, KEY, SLOT),
    cmd("zinter", -3, READONLY | MOVABLEKEYS, KeySpec::Count { at: 1, step: 1, dest: 0 }, SLOT),
    cmd("zintercard", -3, READONLY | MOVABLEKEYS, KeySpec::Count { at: 1, step: 1, dest: 0 }, SLOT),
    cmd("zinterstore", -4, WRITE | DENYOOM | MOVABLEKEYS, KeySpec::Count { at: 2, step: 1, dest: 1 }, SLOT),
    cmd("zlexcount", 4, READONLY | FAST, KEY, SLOT),
    cmd("zmpop", -4, WRITE | MOVABLEKEYS, KeySpec::Count { at: 1, step: 1, dest: 0 }, SLOT),
    cmd("zmscore", -3, READONLY | FAST, KEY, SLOT),
    cmd("zpopmax", -2, WRITE | FAST, KEY, SLOT),
    cmd("zpopmin", -2, WRITE | FAST, KEY, SLOT),
    cmd("zrandmember", -2, READONLY, KEY, SLOT),
    cmd("zrange", -4, READONLY, KEY, SLOT),
    cmd("zrangebylex", -4, READONLY, KEY, SLOT),
    cmd("zrangebyscore", -4, READONLY, KEY, SLOT),
    cmd("zrangestore", -5, WRITE | DENYOOM, PAIR, SLOT),
    // Three arguments before Redis 7.2, which has WITHSCORE.
    cmd("zrank", -3, READONLY | FAST, KEY, SLOT),
    cmd("zrem", -3, WRITE | FAST, KEY, SLOT),
    cmd("zremrangebylex", 4, WRITE, KEY, SLOT),
    cmd("zremrangebyrank", 4, WRITE, KEY, SLOT),
    cmd("zremrangebyscore", 4, WRITE, KEY, SLOT),
    cmd("zrevrange", -4, READONLY, KEY, SLOT),
    cmd("zrevrangebylex", -4, READONLY, KEY, SLOT),
    cmd("zrevrangebyscore", -4, READONLY, KEY, SLOT),
    cmd("zrevrank", -3, READONLY | FAST, KEY, SLOT),
    cmd("zscan", -3, READONLY | PRIMARY_ONLY, KEY, Handling::Cursor),
    cmd("zscore", 3, READONLY | FAST, KEY, SLOT),
    cmd("zunion", -3, READONLY | MOVABLEKEYS, KeySpec::Count { at: 1, step: 1, dest: 0 }, SLOT),
    cmd("zunionstore", -4, WRITE | DENYOOM | MOVABLEKEYS, KeySpec::Count { at: 2, step: 1, dest: 1 }, SLOT),
];
