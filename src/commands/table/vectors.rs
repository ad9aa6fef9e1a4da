//! Vector sets of Redis 8.
//! Rows only; `spec` and `keys` interpret them.

use super::super::spec::flag::{DENYOOM, FAST, MODULE, READONLY, WRITE};
use super::super::spec::{Spec, cmd};
use super::{KEY, SLOT};

pub(super) static VECTORS: &[Spec] = &[
    cmd("vadd", -5, WRITE | MODULE | DENYOOM, KEY, SLOT),
    cmd("vrem", 3, WRITE | MODULE, KEY, SLOT),
    cmd("vsetattr", 4, WRITE | MODULE | FAST, KEY, SLOT),
    cmd("vcard", 2, READONLY | MODULE | FAST, KEY, SLOT),
    cmd("vdim", 2, READONLY | MODULE | FAST, KEY, SLOT),
    cmd("vgetattr", 3, READONLY | MODULE | FAST, KEY, SLOT),
    cmd("vismember", 3, READONLY | MODULE, KEY, SLOT),
    cmd("vemb", -3, READONLY | MODULE | FAST, KEY, SLOT),
    cmd("vinfo", 2, READONLY | MODULE | FAST, KEY, SLOT),
    cmd("vlinks", -3, READONLY | MODULE | FAST, KEY, SLOT),
    cmd("vrandmember", -2, READONLY | MODULE, KEY, SLOT),
    cmd("vrange", -4, READONLY | MODULE, KEY, SLOT),
    cmd("vsim", -4, READONLY | MODULE, KEY, SLOT),
];
