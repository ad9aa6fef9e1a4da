//! Commands for keys of any type.
//! Rows only; `spec` and `keys` interpret them.

use super::super::keys::KeySpec;
use super::super::spec::flag::{
    BLOCKING, DENYOOM, FAST, LOADING, MOVABLEKEYS, NOSCRIPT, PRIMARY_ONLY, READONLY, STALE, WRITE,
};
use super::super::spec::{Handling, Spec, Split, cmd, container};
use super::{KEY, KEYS, NONE, PAIR, SLOT, why};

pub(super) static GENERIC: &[Spec] = &[
    cmd("copy", -3, WRITE | DENYOOM, PAIR, Handling::SlotAndDatabase),
    cmd("del", -2, WRITE, KEYS, Handling::Split(Split::Sum)),
    cmd("dump", 2, READONLY, KEY, SLOT),
    cmd("exists", -2, READONLY | FAST, KEYS, Handling::Split(Split::Sum)),
    cmd("expire", -3, WRITE | FAST, KEY, SLOT),
    cmd("expireat", -3, WRITE | FAST, KEY, SLOT),
    cmd("expiretime", 2, READONLY | FAST, KEY, SLOT),
    cmd("keys", 2, READONLY, NONE, Handling::Unsupported(why::WHOLE_CLUSTER)),
    cmd("migrate", -6, WRITE | MOVABLEKEYS, KeySpec::Migrate, Handling::Refused(why::MIGRATE)),
    cmd("move", 3, WRITE | FAST, KEY, Handling::SlotAndDatabase),
    container(
        "object",
        -2,
        0,
        Handling::Container,
        &[
            cmd("object|encoding", 3, READONLY | PRIMARY_ONLY, KeySpec::One(2), SLOT),
            cmd("object|freq", 3, READONLY | PRIMARY_ONLY, KeySpec::One(2), SLOT),
            cmd("object|help", 2, LOADING | STALE, NONE, Handling::AnyServer),
            cmd("object|idletime", 3, READONLY | PRIMARY_ONLY, KeySpec::One(2), SLOT),
            cmd("object|refcount", 3, READONLY | PRIMARY_ONLY, KeySpec::One(2), SLOT),
        ],
    ),
    cmd("persist", 2, WRITE | FAST, KEY, SLOT),
    cmd("pexpire", -3, WRITE | FAST, KEY, SLOT),
    cmd("pexpireat", -3, WRITE | FAST, KEY, SLOT),
    cmd("pexpiretime", 2, READONLY | FAST, KEY, SLOT),
    cmd("pttl", 2, READONLY | FAST, KEY, SLOT),
    cmd("randomkey", 1, READONLY, NONE, Handling::Unsupported(why::WHOLE_CLUSTER)),
    cmd("rename", 3, WRITE, PAIR, SLOT),
    cmd("renamenx", 3, WRITE | FAST, PAIR, SLOT),
    cmd("restore", -4, WRITE | DENYOOM, KEY, SLOT),
    cmd("scan", -2, READONLY, NONE, Handling::Unsupported(why::WHOLE_CLUSTER)),
    cmd("sort", -2, WRITE | DENYOOM | MOVABLEKEYS, KeySpec::Sort { store: true }, SLOT),
    cmd("sort_ro", -2, READONLY | MOVABLEKEYS, KeySpec::Sort { store: false }, SLOT),
    cmd("touch", -2, READONLY | PRIMARY_ONLY | FAST, KEYS, Handling::Split(Split::Sum)),
    cmd("ttl", 2, READONLY | FAST, KEY, SLOT),
    cmd("type", 2, READONLY | FAST, KEY, SLOT),
    cmd("unlink", -2, WRITE | FAST, KEYS, Handling::Split(Split::Sum)),
    cmd("wait", 3, NOSCRIPT, NONE, Handling::Unsupported(why::WAITING)),
    // Redis 7.2.
    cmd("waitaof", 4, NOSCRIPT | BLOCKING, NONE, Handling::Unsupported(why::WAITING)),
    // Valkey 9.1.
    cmd("clusterscan", -2, READONLY, NONE, Handling::Unsupported(why::WHOLE_CLUSTER)),
];
