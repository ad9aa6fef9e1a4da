//! Streams.
//! Rows only; `spec` and `keys` interpret them.

use super::super::keys::KeySpec;
use super::super::spec::flag::{BLOCKING, DENYOOM, FAST, LOADING, MOVABLEKEYS, PRIMARY_ONLY, READONLY, STALE, WRITE};
use super::super::spec::{Handling, Spec, cmd, container};
use super::{KEY, NONE, SLOT};

pub(super) static STREAMS: &[Spec] = &[
    cmd("xack", -4, WRITE | FAST, KEY, SLOT),
    cmd("xadd", -5, WRITE | DENYOOM | FAST, KEY, SLOT),
    cmd("xautoclaim", -6, WRITE | FAST, KEY, SLOT),
    cmd("xclaim", -6, WRITE | FAST, KEY, SLOT),
    cmd("xdel", -3, WRITE | FAST, KEY, SLOT),
    container(
        "xgroup",
        -2,
        0,
        Handling::Container,
        &[
            cmd("xgroup|create", -5, WRITE | DENYOOM, KeySpec::One(2), SLOT),
            cmd("xgroup|createconsumer", 5, WRITE | DENYOOM, KeySpec::One(2), SLOT),
            cmd("xgroup|delconsumer", 5, WRITE, KeySpec::One(2), SLOT),
            cmd("xgroup|destroy", 4, WRITE, KeySpec::One(2), SLOT),
            cmd("xgroup|help", 2, LOADING | STALE, NONE, Handling::AnyServer),
            cmd("xgroup|setid", -5, WRITE, KeySpec::One(2), SLOT),
        ],
    ),
    container(
        "xinfo",
        -2,
        0,
        Handling::Container,
        &[
            cmd("xinfo|consumers", 4, READONLY | PRIMARY_ONLY, KeySpec::One(2), SLOT),
            cmd("xinfo|groups", 3, READONLY, KeySpec::One(2), SLOT),
            cmd("xinfo|help", 2, LOADING | STALE, NONE, Handling::AnyServer),
            cmd("xinfo|stream", -3, READONLY | PRIMARY_ONLY, KeySpec::One(2), SLOT),
        ],
    ),
    cmd("xlen", 2, READONLY | FAST, KEY, SLOT),
    cmd("xpending", -3, READONLY, KEY, SLOT),
    cmd("xrange", -4, READONLY, KEY, SLOT),
    cmd("xread", -4, READONLY | BLOCKING | MOVABLEKEYS, KeySpec::Streams, SLOT),
    cmd("xreadgroup", -7, WRITE | BLOCKING | MOVABLEKEYS, KeySpec::Streams, SLOT),
    cmd("xrevrange", -4, READONLY, KEY, SLOT),
    cmd("xsetid", -3, WRITE | DENYOOM | FAST, KEY, SLOT),
    cmd("xtrim", -4, WRITE, KEY, SLOT),
    // Redis 8.2, 8.6 and 8.8.
    cmd("xdelex", -5, WRITE | FAST, KEY, SLOT),
    cmd("xackdel", -6, WRITE | FAST, KEY, SLOT),
    cmd("xnack", -7, WRITE | FAST, KEY, SLOT),
    cmd("xcfgset", -2, WRITE | FAST, KEY, SLOT),
    cmd("xidmprecord", 5, WRITE | DENYOOM | FAST, KEY, SLOT),
];
