//! Pontoon: a Redis proxy cluster that coordinates itself. See ARCHITECTURE.md.
//!
//! The layers. A module imports only from layers below its own, which `tests/layers.rs` checks:
//!
//! | module | what it is |
//! |---|---|
//! | [`clock`] | the clock that leases are counted on |
//! | [`counters`] | counters of the control plane |
//! | [`faults`] | faults that tests ask for in a debug build |
//! | [`files`] | the file descriptors of this process |
//! | [`logging`] | the log of this process: its levels, and its file |
//! | [`panics`] | the text of a panic, and how it reaches the tasks that depend on it |
//! | [`model`] | PURE. what exists, and how it may change |
//! | [`plan`] | PURE. what should happen next |
//! | [`resp`] | PURE. where a RESP message ends, and how one is written |
//! | [`commands`] | PURE. the Redis command table |
//! | [`resolver`] | resolves host names, with a limit on concurrent look-ups |
//! | [`wire`] | generated protobuf code, its conversions, and the channels to other nodes |
//! | [`proxy`] | the hot path |
//! | [`redis`] | cold-path client of Redis servers |
//! | [`mover`] | copies slots from server to server |
//! | [`consensus`] | the replicated log; the only module that names openraft or sled |
//! | [`control`] | leader-only loops and their handle |
//! | [`node`] | composition root |
//! | [`api`] | the admin service |
//! | [`cli`] | the command line |
//! | [`config`] | TOML < environment < flags |

pub mod api;
pub mod cli;
pub mod clock;
pub mod commands;
pub mod config;
pub mod consensus;
pub mod control;
pub mod counters;
pub mod faults;
pub mod files;
pub mod logging;
pub mod model;
pub mod mover;
pub mod node;
pub mod panics;
pub mod plan;
pub mod proxy;
pub mod redis;
pub mod resolver;
pub mod resp;
pub mod wire;
