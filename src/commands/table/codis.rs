//! Commands of Codis about slots.
//! Rows only; `spec` and `keys` interpret them.

use super::super::spec::flag::{FAST, LOADING, PRIMARY_ONLY, READONLY, STALE};
use super::super::spec::{AllGroups, Handling, Local, Spec, cmd};
use super::NONE;

pub(super) static CODIS: &[Spec] = &[
    cmd("slotshashkey", -2, LOADING | STALE | FAST, NONE, Handling::Local(Local::Slotshashkey)),
    cmd("slotsinfo", -1, READONLY | PRIMARY_ONLY, NONE, Handling::AllGroups(AllGroups::Slotsinfo)),
    cmd("slotsmapping", -1, LOADING | STALE | FAST, NONE, Handling::Local(Local::Slotsmapping)),
    cmd("slotsscan", -3, READONLY | PRIMARY_ONLY, NONE, Handling::AllGroups(AllGroups::Slotsscan)),
];
