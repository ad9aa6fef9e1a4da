//! Where a node answers otherwise than one Redis, and why: the only differences that the comparison accepts.
//! docs/commands.md has this table; a test holds the two equal.

use pontoon::{
    commands::{Flags, Handling, InvalidCall, KeysError, NO_CLUSTER},
    model::scan_cursor::canonical_cursor,
};

use super::{case::Case, reply::Reply};

/// A kind of call that a node cannot answer as one Redis does.
#[derive(Clone, Copy, Debug)]
pub struct Deviation {
    /// Which calls; this and the next three are a row of the document.
    pub calls: &'static str,
    /// What one Redis does.
    pub redis: &'static str,
    /// What a node answers.
    pub node: &'static str,
    /// Why a node cannot answer as one Redis does.
    pub reason: &'static str,
    /// The reply that a node must give.
    pub wanted: Wanted,
}

/// The reply that a node must give to a call, or `None` if the deviation is not about the call.
#[derive(Clone, Copy, Debug)]
pub enum Wanted {
    /// Redis would execute the call, so it is not asked: its data would differ from then on.
    Alone(fn(&Case) -> Option<Reply>),
    /// Redis is asked, and this was its reply.
    Beside(fn(&Case, &Reply) -> Option<Reply>),
}

/// All deviations. Each is as narrow as possible, and one that no call meets fails the test.
pub const DEVIATIONS: &[Deviation] = &[
    Deviation {
        calls: "the commands in [Refused](#refused)",
        redis: "executes them",
        node: "`ERR 'NAME': ` and the reason",
        reason: "they concern one server, or bypass the cluster",
        wanted: Wanted::Alone(|case| match case.resolved.ok()?.handling {
            // Redis refuses these, too.
            Handling::Refused(_) if case.is_queued() && case.resolved.ok()?.flags.contains(Flags::NO_MULTI) => {
                Some(Reply::error("ERR Command not allowed inside a transaction"))
            }
            // A Redis without cluster mode refuses it alike, though it queues it.
            Handling::Refused(why) if why == NO_CLUSTER => Some(Reply::error(&format!("ERR {why}"))),
            Handling::Refused(why) => Some(Reply::error(&format!("ERR '{}': {why}", case.name()))),
            _ => None,
        }),
    },
    Deviation {
        calls: "`HSCAN` `SSCAN` `ZSCAN` with another cursor than 0 in `MULTI`",
        redis: "queues them",
        node: "`ERR 'NAME' with another cursor than 0 is not executed in a transaction by this proxy. Send it without MULTI`; `EXEC` \
            answers `EXECABORT`",
        reason: "the cursor is valid for one process of a server, and only the node knows for which",
        wanted: Wanted::Alone(|case| {
            let spec = case.resolved.ok().filter(|spec| spec.handling == Handling::Cursor && case.is_queued())?;
            canonical_cursor(&case.call[2]).is_some_and(|cursor| cursor != 0).then(|| {
                Reply::error(&format!(
                    "ERR '{}' with another cursor than 0 is not executed in a transaction by this proxy. Send it without MULTI",
                    spec.name
                ))
            })
        }),
    },
    Deviation {
        calls: "`COPY` and `MOVE` to a database that the product does not have, in `MULTI`",
        redis: "queues them; the error is in the reply of `EXEC`",
        node: "the same error at once; `EXEC` answers `EXECABORT`",
        reason: "the servers may have more databases than the product",
        wanted: Wanted::Alone(|case| {
            let is_refused = case.is_queued() && is_of_unknown_database(case);
            is_refused.then(|| Reply::error(&InvalidCall::Database.to_string()))
        }),
    },
    Deviation {
        calls: "commands with keys of several slots, other than `MGET` `MSET` `DEL` `UNLINK` `EXISTS` `TOUCH`",
        redis: "executes them",
        node: "`CROSSSLOT Keys in request don't hash to the same slot, not executed. ...`",
        reason: "the keys may belong to different servers, now or after a migration",
        wanted: Wanted::Alone(|case| {
            let slots = case.slots.as_ref().ok()?;
            let spec = case.resolved.ok()?;
            let is_whole = spec.handling.is_of_slot() || spec.runs_script() || spec.name == "watch" || case.is_queued();
            (is_whole && slots.len() > 1 && !is_of_unknown_database(case)).then(|| Reply::error(CROSSSLOT))
        }),
    },
    Deviation {
        calls: "`SORT` and `SORT_RO` whose `BY` or `GET` pattern has no hash tag before its `*`",
        redis: "reads the keys of the pattern",
        node: "`ERR a BY or GET pattern of SORT reads keys of other slots, not executed. Begin it with the hash tag of the key, \
            as in {tag}weight_*`",
        reason: "the keys that the pattern names may belong to other servers",
        wanted: Wanted::Alone(|case| {
            (case.slots == Err(KeysError::Pattern)).then(|| Reply::error(&format!("ERR {}", KeysError::Pattern)))
        }),
    },
    Deviation {
        calls: "`FCALL` of an unknown function with a wrong number of keys",
        redis: "`ERR Function not found`",
        node: "the error about the number of keys",
        reason: "without keys the node does not know which server to ask",
        wanted: Wanted::Beside(|case, redis| {
            let spec = case.resolved.ok().filter(|spec| spec.name.starts_with("fcall"))?;
            let error = case.slots.as_ref().err().filter(|_| *redis == Reply::error("ERR Function not found"))?;
            Some(Reply::error(&InvalidCall::new(spec, &case.call[..], *error).to_string()))
        }),
    },
    Deviation {
        calls: "scripts and functions in a `MULTI` with a `SELECT` of another database",
        redis: "queues them",
        node: "`ERR a transaction that selects another database runs no scripts and functions, not executed. Send SELECT before \
            MULTI`; `EXEC` answers `EXECABORT`",
        reason: "the user as which scripts run may not select a database",
        wanted: Wanted::Alone(|case| {
            let transaction = case.transaction.as_ref().filter(|state| state.is_open && !state.is_refused)?;
            let spec = case.resolved.ok()?;
            let selects = spec.name == "select" && ["1", "2"].contains(&case.word(1).as_str());
            ((transaction.selects && spec.runs_script()) || (transaction.runs_script && selects)).then(|| {
                Reply::error(
                    "ERR a transaction that selects another database runs no scripts and functions, not executed. Send SELECT \
                        before MULTI",
                )
            })
        }),
    },
    Deviation {
        calls: "a command in `MULTI` with keys of another slot than those of the commands before",
        redis: "queues it",
        node: "`CROSSSLOT ...`; `EXEC` answers `EXECABORT`",
        reason: "a transaction is executed by one server, also while slots move",
        wanted: Wanted::Alone(|case| {
            let transaction = case.transaction.as_ref().filter(|transaction| transaction.is_open)?;
            let slots = case.slots.as_ref().ok()?;
            let differ = !transaction.is_refused && transaction.queued.union(slots).count() > 1;
            (differ && !slots.is_empty() && case.name() != "watch").then(|| Reply::error(CROSSSLOT))
        }),
    },
    Deviation {
        calls: "`EXEC` of commands whose slot is not that of the watched keys",
        redis: "executes them",
        node: "`EXECABORT Transaction discarded because of: CROSSSLOT ...`",
        reason: "a watch belongs to a connection to the server of the watched keys",
        wanted: Wanted::Alone(|case| {
            let transaction =
                case.transaction.as_ref().filter(|transaction| case.name() == "exec" && transaction.is_open)?;
            let differ = !transaction.is_refused
                && !transaction.queued.is_empty()
                && transaction.watched.union(&transaction.queued).count() > 1;
            differ.then(|| aborted(CROSSSLOT))
        }),
    },
    Deviation {
        calls: "commands over all groups (`DBSIZE` `SCAN` `KEYS` `FLUSHALL` `SCRIPT LOAD` `FUNCTION LOAD` ...) in `MULTI`",
        redis: "queues them",
        node: "`ERR 'NAME' concerns all groups of the product and is not executed in a transaction, which runs in one group. Call \
            it without MULTI`; `EXEC` answers `EXECABORT`",
        reason: "a transaction is executed by one server",
        wanted: Wanted::Alone(|case| {
            let spec = case.resolved.ok().filter(|spec| case.is_queued() && !spec.flags.contains(Flags::NO_MULTI))?;
            matches!(spec.handling, Handling::AllGroups(_) | Handling::Scripts(_)).then(|| {
                Reply::error(&format!(
                    "ERR '{}' concerns all groups of the product and is not executed in a transaction, which runs in one group. \
                     Call it without MULTI",
                    spec.name
                ))
            })
        }),
    },
    Deviation {
        calls: "`HELLO` and `AUTH` in `MULTI`",
        redis: "queues them",
        node: "`ERR 'NAME' is not executed in a transaction by this proxy. Send it before MULTI`; `EXEC` answers `EXECABORT`",
        reason: "a failed login is answered late, and the version of the protocol must not change within the reply of `EXEC`",
        wanted: Wanted::Alone(|case| {
            (case.is_queued() && ["hello", "auth"].contains(&case.name())).then(|| {
                let name = case.name();
                Reply::error(&format!(
                    "ERR '{name}' is not executed in a transaction by this proxy. Send it before MULTI"
                ))
            })
        }),
    },
    Deviation {
        calls: "`EXEC` with a `SELECT` of another database, after `WATCH`",
        redis: "executes the commands",
        node: "`EXECABORT Transaction discarded because of: the database or the protocol is changed after WATCH, not executed. Send \
            SELECT and HELLO before WATCH`",
        reason: "a watch belongs to a connection to one server, and to its database",
        wanted: Wanted::Alone(|case| {
            let transaction =
                case.transaction.as_ref().filter(|transaction| case.name() == "exec" && transaction.is_open)?;
            (transaction.selects && !transaction.is_refused && !transaction.watched.is_empty()).then(|| {
                aborted(
                    "the database or the protocol is changed after WATCH, not executed. Send SELECT and HELLO before WATCH",
                )
            })
        }),
    },
    Deviation {
        calls: "`CLIENT SETNAME`, `SETINFO` and `HELLO SETNAME` of a text with a NUL",
        redis: "Redis 8 and Valkey accept it: they look at the text up to the NUL",
        node: "`ERR Client names cannot contain spaces, newlines or special characters.` and the like, as Redis 7",
        reason: "the bytes behind the NUL would break the lines of `CLIENT LIST`",
        wanted: Wanted::Beside(|case, redis| {
            let has_nul = case.call.iter().any(|word| word.contains(&0));
            let what = match case.name() {
                "client|setname" | "hello" => "Client names".to_owned(),
                "client|setinfo" => case.word(2),
                _ => return None,
            };
            let text = format!("ERR {what} cannot contain spaces, newlines or special characters.");
            (has_nul && !redis.is_error()).then(|| Reply::error(&text))
        }),
    },
];

/// What a node answers where keys of one slot are needed.
const CROSSSLOT: &str =
    "CROSSSLOT Keys in request don't hash to the same slot, not executed. Use a hash tag: of {a}b only a is hashed";

/// Databases of a product, unless it is made with another number.
const DATABASES: u32 = 16;

/// Whether it names a database that the product does not have.
fn is_of_unknown_database(case: &Case) -> bool {
    let spec = case.resolved.ok().filter(|spec| spec.handling == Handling::Database);
    spec.is_some_and(|spec| spec.leaves_databases(&case.call[..], DATABASES))
}

/// What a node answers to EXEC if it cannot execute the transaction.
fn aborted(why: &str) -> Reply {
    Reply::error(&format!("EXECABORT Transaction discarded because of: {why}"))
}

/// The heading of the section in docs/commands.md.
pub const HEADING: &str = "## Where a node answers otherwise than one Redis";

/// The section of docs/commands.md, its heading included.
#[must_use]
pub fn section() -> String {
    let rows: String = DEVIATIONS
        .iter()
        .map(|row| format!("| {} | {} | {} | {} |\n", row.calls, row.redis, row.node, row.reason))
        .collect();
    format!(
        "{HEADING}\n\nA test sends the same generated calls to three groups and to one server, of Redis 7.0, Redis 8.2 and Valkey 8.1, and \
            compares\nevery reply and every key; `make differential` does it with other seeds. Nothing differs but this, and the name of Valkey in `HELLO`: `redis`, 7.2.4 (the table is\n\
            `cluster-tests/src/differential/deviations.rs`). Commands about the servers and their clients are not compared \
            (`LEFT_OUT`\nin `cluster-tests/src/differential/case.rs`).\n\n| calls | one Redis | a node | why |\n|---|---|---|---|\n{rows}"
    )
}
