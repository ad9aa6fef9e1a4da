//! Pontoon: a Redis proxy cluster that coordinates itself. See ARCHITECTURE.md.
//!
//! The layers, upper ones import lower ones only (`tests/layers.rs` holds this):
//!
//! | module | what it is |
//! |---|---|
//! | [`clock`] | the clock leases are counted on |
//! | [`faults`] | where tests stop a debug build, and what they leave out |
//! | [`model`] | PURE. what exists and how it may change |
//! | [`plan`] | PURE. what should happen next |
//! | [`resp`] | PURE. where a message ends and how one is written |
//! | [`commands`] | PURE. the Redis command table |
//! | [`resolver`] | names of hosts to addresses, by few look-ups at a time |
//! | [`wire`] | generated protobuf code and its conversions |
//! | [`proxy`] | the hot path |
//! | [`redis`] | cold-path client of the backend servers |
//! | [`mover`] | copies slots from server to server |
//! | [`consensus`] | the only place that names openraft or sled |
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
pub mod faults;
pub mod model;
pub mod mover;
pub mod node;
pub mod plan;
pub mod proxy;
pub mod redis;
pub mod resolver;
pub mod resp;
pub mod wire;
