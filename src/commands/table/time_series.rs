//! Time series of Redis 8 (RedisTimeSeries).
//! Rows only; `spec` and `keys` interpret them.

use super::super::keys::KeySpec;
use super::super::spec::flag::{DENYOOM, MODULE, READONLY, WRITE};
use super::super::spec::{Handling, Spec, cmd};
use super::{KEY, NONE, PAIR, SLOT, why};

pub(super) static TIME_SERIES: &[Spec] = &[
    cmd("ts.add", -4, WRITE | MODULE | DENYOOM, KEY, SLOT),
    cmd("ts.alter", -2, WRITE | MODULE | DENYOOM, KEY, SLOT),
    cmd("ts.create", -2, WRITE | MODULE | DENYOOM, KEY, SLOT),
    cmd("ts.decrby", -3, WRITE | MODULE | DENYOOM, KEY, SLOT),
    cmd("ts.incrby", -3, WRITE | MODULE | DENYOOM, KEY, SLOT),
    cmd("ts.del", 4, WRITE | MODULE, KEY, SLOT),
    cmd("ts.madd", -4, WRITE | MODULE | DENYOOM, KeySpec::Range { first: 1, last: -1, step: 3 }, SLOT),
    cmd("ts.createrule", -6, WRITE | MODULE | DENYOOM, PAIR, SLOT),
    cmd("ts.deleterule", 3, WRITE | MODULE, PAIR, SLOT),
    cmd("ts.get", -2, READONLY | MODULE, KEY, SLOT),
    cmd("ts.info", -2, READONLY | MODULE, KEY, SLOT),
    cmd("ts.range", -4, READONLY | MODULE, KEY, SLOT),
    cmd("ts.revrange", -4, READONLY | MODULE, KEY, SLOT),
    cmd("ts.mget", -3, READONLY | MODULE, NONE, Handling::Refused(why::INDEX)),
    cmd("ts.mrange", -6, READONLY | MODULE, NONE, Handling::Refused(why::INDEX)),
    cmd("ts.mrevrange", -6, READONLY | MODULE, NONE, Handling::Refused(why::INDEX)),
    cmd("ts.queryindex", -2, READONLY | MODULE, NONE, Handling::Refused(why::INDEX)),
];
