//! The JSON commands of Redis 8 (RedisJSON).
//! Rows only; `spec` and `keys` interpret them.

use super::super::keys::KeySpec;
use super::super::spec::flag::{DENYOOM, MODULE, PRIMARY_ONLY, READONLY, WRITE};
use super::super::spec::{Handling, Spec, cmd, container};
use super::{KEY, NONE, SLOT};

pub(super) static JSON: &[Spec] = &[
    cmd("json.arrappend", -3, WRITE | MODULE | DENYOOM, KEY, SLOT),
    cmd("json.arrinsert", -5, WRITE | MODULE | DENYOOM, KEY, SLOT),
    cmd("json.clear", -2, WRITE | MODULE | DENYOOM, KEY, SLOT),
    cmd("json.merge", 4, WRITE | MODULE | DENYOOM, KEY, SLOT),
    cmd("json.numincrby", 4, WRITE | MODULE | DENYOOM, KEY, SLOT),
    cmd("json.nummultby", 4, WRITE | MODULE | DENYOOM, KEY, SLOT),
    cmd("json.numpowby", 4, WRITE | MODULE | DENYOOM, KEY, SLOT),
    cmd("json.set", -4, WRITE | MODULE | DENYOOM, KEY, SLOT),
    cmd("json.strappend", -3, WRITE | MODULE | DENYOOM, KEY, SLOT),
    cmd("json.toggle", 3, WRITE | MODULE | DENYOOM, KEY, SLOT),
    cmd("json.arrpop", -2, WRITE | MODULE, KEY, SLOT),
    cmd("json.arrtrim", 5, WRITE | MODULE, KEY, SLOT),
    cmd("json.del", -2, WRITE | MODULE, KEY, SLOT),
    cmd("json.forget", -2, WRITE | MODULE, KEY, SLOT),
    cmd("json.arrindex", -4, READONLY | MODULE, KEY, SLOT),
    cmd("json.arrlen", -2, READONLY | MODULE, KEY, SLOT),
    cmd("json.get", -2, READONLY | MODULE, KEY, SLOT),
    cmd("json.objkeys", -2, READONLY | MODULE, KEY, SLOT),
    cmd("json.objlen", -2, READONLY | MODULE, KEY, SLOT),
    cmd("json.resp", -2, READONLY | MODULE, KEY, SLOT),
    cmd("json.strlen", -2, READONLY | MODULE, KEY, SLOT),
    cmd("json.type", -2, READONLY | MODULE, KEY, SLOT),
    cmd("json.mget", -3, READONLY | MODULE, KeySpec::Range { first: 1, last: -2, step: 1 }, SLOT),
    cmd("json.mset", -4, WRITE | MODULE | DENYOOM, KeySpec::Range { first: 1, last: -1, step: 3 }, SLOT),
    container(
        "json.debug",
        -2,
        READONLY | MODULE,
        Handling::Container,
        &[
            cmd("json.debug|memory", -3, READONLY | MODULE | PRIMARY_ONLY, KeySpec::One(2), SLOT),
            cmd("json.debug|help", 2, READONLY | MODULE, NONE, Handling::AnyServer),
        ],
    ),
];
