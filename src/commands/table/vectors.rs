//! Vector sets of Redis 8.
//! Rows only; `spec` and `keys` interpret them.

use super::super::spec::flag::{DENYOOM, FAST, READONLY, WRITE};
use super::super::spec::{Spec, cmd};
use super::{KEY, SLOT};

pub(super) static VECTORS: &[Spec] = &[
    cmd("vadd", -5, WRITE | DENYOOM, KEY, SLOT),
    cmd("vrem", 3, WRITE, KEY, SLOT),
    cmd("vsetattr", 4, WRITE | FAST, KEY, SLOT),
    cmd("vcard", 2, READONLY | FAST, KEY, SLOT),
    cmd("vdim", 2, READONLY | FAST, KEY, SLOT),
    cmd("vgetattr", 3, READONLY | FAST, KEY, SLOT),
    cmd("vismember", 3, READONLY | FAST, KEY, SLOT),
    cmd("vemb", -3, READONLY, KEY, SLOT),
    cmd("vinfo", 2, READONLY, KEY, SLOT),
    cmd("vlinks", -3, READONLY, KEY, SLOT),
    cmd("vrandmember", -2, READONLY, KEY, SLOT),
    cmd("vrange", -4, READONLY, KEY, SLOT),
    cmd("vsim", -4, READONLY, KEY, SLOT),
];
