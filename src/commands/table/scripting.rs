//! Scripts, functions and transactions.
//! Rows only; `spec` and `keys` interpret them.

use super::super::keys::KeySpec;
use super::super::spec::flag::{
    ALLOW_BUSY, DENYOOM, FAST, LOADING, MAY_REPLICATE, MOVABLEKEYS, NO_MANDATORY_KEYS, NOSCRIPT, READONLY,
    SKIP_MONITOR, SKIP_SLOWLOG, STALE, WRITE,
};
use super::super::spec::{Handling, Spec, TransactionCommand, cmd, container};
use super::{KEYS, NONE, SLOT, why};

pub(super) static SCRIPTING: &[Spec] = &[
    cmd(
        "discard",
        1,
        NOSCRIPT | LOADING | STALE | FAST | ALLOW_BUSY,
        NONE,
        Handling::Transaction(TransactionCommand::Discard),
    ),
    cmd(
        "eval",
        -3,
        NOSCRIPT | STALE | SKIP_MONITOR | NO_MANDATORY_KEYS | MOVABLEKEYS | MAY_REPLICATE,
        KeySpec::Count { at: 2, step: 1, dest: 0 },
        SLOT,
    ),
    cmd(
        "eval_ro",
        -3,
        READONLY | NOSCRIPT | STALE | SKIP_MONITOR | NO_MANDATORY_KEYS | MOVABLEKEYS,
        KeySpec::Count { at: 2, step: 1, dest: 0 },
        SLOT,
    ),
    cmd(
        "evalsha",
        -3,
        NOSCRIPT | STALE | SKIP_MONITOR | NO_MANDATORY_KEYS | MOVABLEKEYS | MAY_REPLICATE,
        KeySpec::Count { at: 2, step: 1, dest: 0 },
        SLOT,
    ),
    cmd(
        "evalsha_ro",
        -3,
        READONLY | NOSCRIPT | STALE | SKIP_MONITOR | NO_MANDATORY_KEYS | MOVABLEKEYS,
        KeySpec::Count { at: 2, step: 1, dest: 0 },
        SLOT,
    ),
    cmd("exec", 1, NOSCRIPT | LOADING | STALE | SKIP_SLOWLOG, NONE, Handling::Transaction(TransactionCommand::Exec)),
    cmd(
        "fcall",
        -3,
        NOSCRIPT | STALE | SKIP_MONITOR | NO_MANDATORY_KEYS | MOVABLEKEYS | MAY_REPLICATE,
        KeySpec::Count { at: 2, step: 1, dest: 0 },
        SLOT,
    ),
    cmd(
        "fcall_ro",
        -3,
        READONLY | NOSCRIPT | STALE | SKIP_MONITOR | NO_MANDATORY_KEYS | MOVABLEKEYS,
        KeySpec::Count { at: 2, step: 1, dest: 0 },
        SLOT,
    ),
    container(
        "function",
        -2,
        0,
        Handling::Container,
        &[
            cmd("function|delete", 3, WRITE | NOSCRIPT, NONE, Handling::Unsupported(why::SCRIPTS)),
            cmd("function|dump", 2, NOSCRIPT, NONE, Handling::Unsupported(why::SCRIPTS)),
            cmd("function|flush", -2, WRITE | NOSCRIPT, NONE, Handling::Unsupported(why::SCRIPTS)),
            cmd("function|help", 2, LOADING | STALE, NONE, Handling::AnyServer),
            cmd("function|kill", 2, NOSCRIPT | ALLOW_BUSY, NONE, Handling::Unsupported(why::SCRIPTS)),
            cmd("function|list", -2, NOSCRIPT, NONE, Handling::Unsupported(why::SCRIPTS)),
            cmd("function|load", -3, WRITE | DENYOOM | NOSCRIPT, NONE, Handling::Unsupported(why::SCRIPTS)),
            cmd("function|restore", -3, WRITE | DENYOOM | NOSCRIPT, NONE, Handling::Unsupported(why::SCRIPTS)),
            cmd("function|stats", 2, NOSCRIPT | ALLOW_BUSY, NONE, Handling::Unsupported(why::SCRIPTS)),
        ],
    ),
    cmd(
        "multi",
        1,
        NOSCRIPT | LOADING | STALE | FAST | ALLOW_BUSY,
        NONE,
        Handling::Transaction(TransactionCommand::Multi),
    ),
    container(
        "script",
        -2,
        0,
        Handling::Container,
        &[
            cmd("script|debug", 3, NOSCRIPT, NONE, Handling::Unsupported(why::SCRIPTS)),
            cmd("script|exists", -3, NOSCRIPT, NONE, Handling::Unsupported(why::SCRIPTS)),
            cmd("script|flush", -2, NOSCRIPT, NONE, Handling::Unsupported(why::SCRIPTS)),
            cmd("script|help", 2, LOADING | STALE, NONE, Handling::AnyServer),
            cmd("script|kill", 2, NOSCRIPT | ALLOW_BUSY, NONE, Handling::Unsupported(why::SCRIPTS)),
            cmd("script|load", 3, NOSCRIPT | STALE, NONE, Handling::Unsupported(why::SCRIPTS)),
            // Valkey 8.
            cmd("script|show", 3, NOSCRIPT, NONE, Handling::Unsupported(why::SCRIPTS)),
        ],
    ),
    cmd(
        "unwatch",
        1,
        NOSCRIPT | LOADING | STALE | FAST | ALLOW_BUSY,
        NONE,
        Handling::Transaction(TransactionCommand::Unwatch),
    ),
    cmd(
        "watch",
        -2,
        NOSCRIPT | LOADING | STALE | FAST | ALLOW_BUSY,
        KEYS,
        Handling::Transaction(TransactionCommand::Watch),
    ),
];
