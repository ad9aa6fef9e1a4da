//! The query engine of Redis 8 (RediSearch): its indexes span all keys of a server, so only suggestions have a slot.
//! Rows only; `spec` and `keys` interpret them.

use super::super::spec::flag::{MODULE, READONLY, WRITE};
use super::super::spec::{Handling, Spec, cmd};
use super::{KEY, NONE, SLOT, why};

pub(super) static SEARCH: &[Spec] = &[
    cmd("ft.sugadd", -4, WRITE | MODULE, KEY, SLOT),
    cmd("ft.sugdel", 3, WRITE | MODULE, KEY, SLOT),
    cmd("ft.sugget", -3, READONLY | MODULE, KEY, SLOT),
    cmd("ft.suglen", 2, READONLY | MODULE, KEY, SLOT),
    cmd("ft._list", 1, READONLY | MODULE, NONE, Handling::Refused(why::INDEX)),
    cmd("ft.aggregate", -3, READONLY | MODULE, NONE, Handling::Refused(why::INDEX)),
    cmd("ft.explain", -3, READONLY | MODULE, NONE, Handling::Refused(why::INDEX)),
    cmd("ft.explaincli", -3, READONLY | MODULE, NONE, Handling::Refused(why::INDEX)),
    cmd("ft.hybrid", -3, READONLY | MODULE, NONE, Handling::Refused(why::INDEX)),
    cmd("ft.info", 2, READONLY | MODULE, NONE, Handling::Refused(why::INDEX)),
    cmd("ft.profile", -5, READONLY | MODULE, NONE, Handling::Refused(why::INDEX)),
    cmd("ft.search", -3, READONLY | MODULE, NONE, Handling::Refused(why::INDEX)),
    cmd("ft.spellcheck", -3, READONLY | MODULE, NONE, Handling::Refused(why::INDEX)),
    cmd("ft.syndump", 2, READONLY | MODULE, NONE, Handling::Refused(why::INDEX)),
    cmd("ft.tagvals", 3, READONLY | MODULE, NONE, Handling::Refused(why::INDEX)),
    cmd("ft.cursor", -3, READONLY | MODULE, NONE, Handling::Refused(why::INDEX)),
    cmd("ft.dictdump", 2, READONLY | MODULE, NONE, Handling::Refused(why::INDEX)),
    cmd("ft.config", -2, READONLY | MODULE, NONE, Handling::Refused(why::INDEX)),
    cmd("ft.aliasadd", 3, WRITE | MODULE, NONE, Handling::Refused(why::INDEX)),
    cmd("ft.aliasdel", 2, WRITE | MODULE, NONE, Handling::Refused(why::INDEX)),
    cmd("ft.aliasupdate", 3, WRITE | MODULE, NONE, Handling::Refused(why::INDEX)),
    cmd("ft.alter", -6, WRITE | MODULE, NONE, Handling::Refused(why::INDEX)),
    cmd("ft.create", -5, WRITE | MODULE, NONE, Handling::Refused(why::INDEX)),
    cmd("ft.dictadd", -3, WRITE | MODULE, NONE, Handling::Refused(why::INDEX)),
    cmd("ft.dictdel", -3, WRITE | MODULE, NONE, Handling::Refused(why::INDEX)),
    cmd("ft.dropindex", -2, WRITE | MODULE, NONE, Handling::Refused(why::INDEX)),
    cmd("ft.synupdate", -4, WRITE | MODULE, NONE, Handling::Refused(why::INDEX)),
];
