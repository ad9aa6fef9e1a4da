//! Arrays of Redis 8.8.
//! Rows only; `spec` and `keys` interpret them.

use super::super::spec::flag::{DENYOOM, FAST, READONLY, WRITE};
use super::super::spec::{Spec, cmd};
use super::{KEY, SLOT};

pub(super) static ARRAYS: &[Spec] = &[
    cmd("arcount", 2, READONLY | FAST, KEY, SLOT),
    cmd("ardel", -3, WRITE | FAST, KEY, SLOT),
    cmd("ardelrange", -4, WRITE, KEY, SLOT),
    cmd("arget", 3, READONLY | FAST, KEY, SLOT),
    cmd("argetrange", 4, READONLY, KEY, SLOT),
    cmd("argrep", -6, READONLY, KEY, SLOT),
    cmd("arinfo", -2, READONLY, KEY, SLOT),
    cmd("arinsert", -3, WRITE | DENYOOM | FAST, KEY, SLOT),
    cmd("arlastitems", -3, READONLY, KEY, SLOT),
    cmd("arlen", 2, READONLY | FAST, KEY, SLOT),
    cmd("armget", -3, READONLY | FAST, KEY, SLOT),
    cmd("armset", -4, WRITE | DENYOOM | FAST, KEY, SLOT),
    cmd("arnext", 2, READONLY | FAST, KEY, SLOT),
    cmd("arop", -5, READONLY, KEY, SLOT),
    cmd("arring", -4, WRITE | DENYOOM, KEY, SLOT),
    cmd("arscan", -4, READONLY, KEY, SLOT),
    cmd("arseek", 3, WRITE | FAST, KEY, SLOT),
    cmd("arset", -4, WRITE | DENYOOM | FAST, KEY, SLOT),
];
