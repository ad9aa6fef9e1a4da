//! Strings: GET, SET and related commands.
//! Rows only; `spec` and `keys` interpret them.

use super::super::keys::KeySpec;
use super::super::spec::flag::{DENYOOM, FAST, MOVABLEKEYS, READONLY, WRITE};
use super::super::spec::{Handling, Spec, Split, cmd};
use super::{KEY, KEYS, PAIR, SLOT};

pub(super) static STRINGS: &[Spec] = &[
    cmd("append", 3, WRITE | DENYOOM | FAST, KEY, SLOT),
    cmd("decr", 2, WRITE | DENYOOM | FAST, KEY, SLOT),
    cmd("decrby", 3, WRITE | DENYOOM | FAST, KEY, SLOT),
    cmd("get", 2, READONLY | FAST, KEY, SLOT),
    cmd("getdel", 2, WRITE | FAST, KEY, SLOT),
    cmd("getex", -2, WRITE | FAST, KEY, SLOT),
    cmd("getrange", 4, READONLY, KEY, SLOT),
    cmd("getset", 3, WRITE | DENYOOM | FAST, KEY, SLOT),
    cmd("incr", 2, WRITE | DENYOOM | FAST, KEY, SLOT),
    cmd("incrby", 3, WRITE | DENYOOM | FAST, KEY, SLOT),
    cmd("incrbyfloat", 3, WRITE | DENYOOM | FAST, KEY, SLOT),
    cmd("lcs", -3, READONLY, PAIR, SLOT),
    cmd("mget", -2, READONLY | FAST, KEYS, Handling::Split(Split::Mget)),
    cmd("mset", -3, WRITE | DENYOOM, KeySpec::Range { first: 1, last: -1, step: 2 }, Handling::Split(Split::Mset)),
    cmd("msetnx", -3, WRITE | DENYOOM, KeySpec::Range { first: 1, last: -1, step: 2 }, SLOT),
    cmd("psetex", 4, WRITE | DENYOOM, KEY, SLOT),
    cmd("set", -3, WRITE | DENYOOM, KEY, SLOT),
    cmd("setex", 4, WRITE | DENYOOM, KEY, SLOT),
    cmd("setnx", 3, WRITE | DENYOOM | FAST, KEY, SLOT),
    cmd("setrange", 4, WRITE | DENYOOM, KEY, SLOT),
    cmd("strlen", 2, READONLY | FAST, KEY, SLOT),
    cmd("substr", 4, READONLY, KEY, SLOT),
    // Redis 8.4 and Valkey 9.
    cmd(
        "msetex",
        -4,
        WRITE | DENYOOM | MOVABLEKEYS,
        KeySpec::Count { at: 1, step: 2, dest: 0 },
        Handling::Split(Split::Msetex),
    ),
    cmd("delex", -2, WRITE | FAST, KEY, SLOT),
    cmd("digest", 2, READONLY | FAST, KEY, SLOT),
    // Redis 8.8.
    cmd("increx", -2, WRITE | DENYOOM | FAST, KEY, SLOT),
    // Valkey 9.
    cmd("delifeq", 3, WRITE | FAST, KEY, SLOT),
];
