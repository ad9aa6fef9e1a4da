//! Hashes, with the expiring fields of Redis 7.4 and later.
//! Rows only; `spec` and `keys` interpret them.

use super::super::keys::KeySpec;
use super::super::spec::flag::{DENYOOM, FAST, PRIMARY_ONLY, READONLY, WRITE};
use super::super::spec::{Handling, HashImport, Spec, cmd, container};
use super::{KEY, NONE, SLOT};

pub(super) static HASHES: &[Spec] = &[
    cmd("hdel", -3, WRITE | FAST, KEY, SLOT),
    cmd("hexists", 3, READONLY | FAST, KEY, SLOT),
    cmd("hget", 3, READONLY | FAST, KEY, SLOT),
    cmd("hgetall", 2, READONLY, KEY, SLOT),
    cmd("hincrby", 4, WRITE | DENYOOM | FAST, KEY, SLOT),
    cmd("hincrbyfloat", 4, WRITE | DENYOOM | FAST, KEY, SLOT),
    cmd("hkeys", 2, READONLY, KEY, SLOT),
    cmd("hlen", 2, READONLY | FAST, KEY, SLOT),
    cmd("hmget", -3, READONLY | FAST, KEY, SLOT),
    cmd("hmset", -4, WRITE | DENYOOM | FAST, KEY, SLOT),
    cmd("hrandfield", -2, READONLY, KEY, SLOT),
    cmd("hscan", -3, READONLY | PRIMARY_ONLY, KEY, Handling::Cursor),
    cmd("hset", -4, WRITE | DENYOOM | FAST, KEY, SLOT),
    cmd("hsetnx", 4, WRITE | DENYOOM | FAST, KEY, SLOT),
    cmd("hstrlen", 3, READONLY | FAST, KEY, SLOT),
    cmd("hvals", 2, READONLY, KEY, SLOT),
    // Redis 7.4.
    cmd("hexpire", -6, WRITE | FAST, KEY, SLOT),
    cmd("hpexpire", -6, WRITE | FAST, KEY, SLOT),
    cmd("hexpireat", -6, WRITE | FAST, KEY, SLOT),
    cmd("hpexpireat", -6, WRITE | FAST, KEY, SLOT),
    cmd("httl", -5, READONLY | FAST, KEY, SLOT),
    cmd("hpttl", -5, READONLY | FAST, KEY, SLOT),
    cmd("hexpiretime", -5, READONLY | FAST, KEY, SLOT),
    cmd("hpexpiretime", -5, READONLY | FAST, KEY, SLOT),
    cmd("hpersist", -5, WRITE | FAST, KEY, SLOT),
    // Redis 8.0 and Valkey 9.
    cmd("hgetex", -5, WRITE | FAST, KEY, SLOT),
    cmd("hgetdel", -5, WRITE | FAST, KEY, SLOT),
    cmd("hsetex", -6, WRITE | DENYOOM | FAST, KEY, SLOT),
    // Redis 8.10.
    container(
        "himport",
        -2,
        0,
        Handling::Container,
        &[
            cmd("himport|discard", 3, 0, NONE, Handling::HashImport(HashImport::Discard)),
            cmd("himport|discardall", 2, 0, NONE, Handling::HashImport(HashImport::DiscardAll)),
            cmd("himport|prepare", -4, DENYOOM, NONE, Handling::HashImport(HashImport::Prepare)),
            cmd("himport|set", -5, WRITE | DENYOOM, KeySpec::One(2), Handling::HashImport(HashImport::Set)),
        ],
    ),
];
