//! Commands of Pontoon itself.
//! Rows only; `spec` and `keys` interpret them.

use super::super::spec::flag::{ADMIN, LOADING, NOSCRIPT, STALE};
use super::super::spec::{Handling, Local, Spec, cmd, container};
use super::NONE;

pub(super) static PONTOON: &[Spec] = &[container(
    "pontoon",
    -2,
    0,
    Handling::Container,
    &[
        cmd("pontoon|help", 2, LOADING | STALE, NONE, Handling::Local(Local::PontoonHelp)),
        cmd("pontoon|on", -4, ADMIN | NOSCRIPT | LOADING | STALE, NONE, Handling::Local(Local::PontoonOn)),
    ],
)];
