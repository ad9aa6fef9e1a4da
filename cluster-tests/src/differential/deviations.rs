//! Where a node answers otherwise than one Redis, and why: the only differences that the comparison accepts.
//! docs/commands.md has this table; a test holds the two equal.

use pontoon::commands::{Handling, KeysError};

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
        calls: "commands with keys of several slots, other than `MGET` `MSET` `DEL` `UNLINK` `EXISTS` `TOUCH`",
        redis: "executes them",
        node: "`CROSSSLOT Keys in request don't hash to the same slot, not executed. Use a hash tag: of {a}b only a is hashed`",
        reason: "the keys may belong to different servers, now or after a migration",
        wanted: Wanted::Alone(|case| {
            let slots = case.slots.as_ref().ok()?;
            let is_whole = case.resolved.ok()?.handling == Handling::Slot;
            (is_whole && slots.len() > 1).then(|| {
                Reply::error(
                    "CROSSSLOT Keys in request don't hash to the same slot, not executed. Use a hash tag: of {a}b only a is \
                        hashed",
                )
            })
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
        calls: "the commands in [Refused](#refused)",
        redis: "executes them",
        node: "`ERR 'NAME': ` and the reason",
        reason: "they concern one server, or bypass the cluster",
        wanted: Wanted::Alone(|case| match case.resolved.ok()?.handling {
            Handling::Refused(why) => Some(Reply::error(&format!("ERR '{}': {why}", case.name()))),
            _ => None,
        }),
    },
];

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
        "{HEADING}\n\nIn `make test` the same generated calls go to three groups and to one Redis, and every reply is compared. \
            These are the only\ndifferences; the table is `cluster-tests/src/differential/deviations.rs`. Commands that are not \
            supported yet are not compared.\n\n| calls | one Redis | a node | why |\n|---|---|---|---|\n{rows}"
    )
}
