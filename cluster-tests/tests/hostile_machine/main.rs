//! Nodes on machines that run out of something or are harmed.

#![allow(clippy::unwrap_used)]

mod damage;
mod files;
mod privacy;
