//! Scripts, functions and transactions.
//! Rows only; `spec` and `keys` interpret them.

use super::super::keys::KeySpec;
use super::super::spec::flag::{
    ALLOW_BUSY, DENYOOM, FAST, LOADING, MAY_REPLICATE, MOVABLEKEYS, NO_MANDATORY_KEYS, NOSCRIPT, READONLY,
    SKIP_MONITOR, SKIP_SLOWLOG, STALE, WRITE,
};
use super::super::spec::{Handling, ScriptCall, ScriptCommand, Spec, TransactionCommand, cmd, container};
use super::{KEYS, NONE, why};

const BODY: Handling = Handling::Script(ScriptCall::Body);
const DIGEST: Handling = Handling::Script(ScriptCall::Digest);
const FUNCTION: Handling = Handling::Script(ScriptCall::Function);

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
        BODY,
    ),
    cmd(
        "eval_ro",
        -3,
        READONLY | NOSCRIPT | STALE | SKIP_MONITOR | NO_MANDATORY_KEYS | MOVABLEKEYS,
        KeySpec::Count { at: 2, step: 1, dest: 0 },
        BODY,
    ),
    cmd(
        "evalsha",
        -3,
        NOSCRIPT | STALE | SKIP_MONITOR | NO_MANDATORY_KEYS | MOVABLEKEYS | MAY_REPLICATE,
        KeySpec::Count { at: 2, step: 1, dest: 0 },
        DIGEST,
    ),
    cmd(
        "evalsha_ro",
        -3,
        READONLY | NOSCRIPT | STALE | SKIP_MONITOR | NO_MANDATORY_KEYS | MOVABLEKEYS,
        KeySpec::Count { at: 2, step: 1, dest: 0 },
        DIGEST,
    ),
    cmd("exec", 1, NOSCRIPT | LOADING | STALE | SKIP_SLOWLOG, NONE, Handling::Transaction(TransactionCommand::Exec)),
    cmd(
        "fcall",
        -3,
        NOSCRIPT | STALE | SKIP_MONITOR | NO_MANDATORY_KEYS | MOVABLEKEYS | MAY_REPLICATE,
        KeySpec::Count { at: 2, step: 1, dest: 0 },
        FUNCTION,
    ),
    cmd(
        "fcall_ro",
        -3,
        READONLY | NOSCRIPT | STALE | SKIP_MONITOR | NO_MANDATORY_KEYS | MOVABLEKEYS,
        KeySpec::Count { at: 2, step: 1, dest: 0 },
        FUNCTION,
    ),
    container(
        "function",
        -2,
        0,
        Handling::Container,
        &[
            cmd("function|delete", 3, WRITE | NOSCRIPT, NONE, Handling::Scripts(ScriptCommand::FunctionDelete)),
            cmd("function|dump", 2, NOSCRIPT, NONE, Handling::Scripts(ScriptCommand::FunctionDump)),
            cmd("function|flush", -2, WRITE | NOSCRIPT, NONE, Handling::Scripts(ScriptCommand::FunctionFlush)),
            cmd("function|help", 2, LOADING | STALE, NONE, Handling::AnyServer),
            cmd("function|kill", 2, NOSCRIPT | ALLOW_BUSY, NONE, Handling::Scripts(ScriptCommand::FunctionKill)),
            cmd("function|list", -2, NOSCRIPT, NONE, Handling::Scripts(ScriptCommand::FunctionList)),
            cmd("function|load", -3, WRITE | DENYOOM | NOSCRIPT, NONE, Handling::Scripts(ScriptCommand::FunctionLoad)),
            cmd(
                "function|restore",
                -3,
                WRITE | DENYOOM | NOSCRIPT,
                NONE,
                Handling::Scripts(ScriptCommand::FunctionRestore),
            ),
            cmd("function|stats", 2, NOSCRIPT | ALLOW_BUSY, NONE, Handling::Scripts(ScriptCommand::FunctionStats)),
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
            cmd("script|debug", 3, NOSCRIPT, NONE, Handling::Refused(why::SCRIPT_DEBUG)),
            cmd("script|exists", -3, NOSCRIPT, NONE, Handling::Scripts(ScriptCommand::ScriptExists)),
            cmd("script|flush", -2, NOSCRIPT, NONE, Handling::Scripts(ScriptCommand::ScriptFlush)),
            cmd("script|help", 2, LOADING | STALE, NONE, Handling::AnyServer),
            cmd("script|kill", 2, NOSCRIPT | ALLOW_BUSY, NONE, Handling::Scripts(ScriptCommand::ScriptKill)),
            cmd("script|load", 3, NOSCRIPT | STALE, NONE, Handling::Scripts(ScriptCommand::ScriptLoad)),
            // Valkey 8.
            cmd("script|show", 3, NOSCRIPT, NONE, Handling::Scripts(ScriptCommand::ScriptShow)),
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
