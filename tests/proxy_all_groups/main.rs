//! Commands over all groups, with real and scripted servers.
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;
mod fixture;
mod flush;
mod key_scan;
mod scan;
mod size;
mod slots;
