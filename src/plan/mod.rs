//! What should happen next: pure decisions from state and observation, or the reason why nothing is done.
//! Knows no clock: `now` is an argument, in nanoseconds of `CLOCK_BOOTTIME`.
#![deny(clippy::wildcard_enum_match_arm)]

pub mod acks;
pub mod assignment;
pub mod authorization;
pub mod blocked;
pub mod candidates;
pub mod closings;
pub mod ejection;
pub mod failover;
pub mod guard;
pub mod health;
pub mod impairment;
pub mod job;
pub mod job_memory;
pub mod leadership_transfer;
pub mod lease;
pub mod libraries;
pub mod liveness;
pub mod membership;
pub mod migration;
pub mod mover;
pub mod observation;
pub mod promotion;
pub mod reads;
pub mod rebalance;
pub mod replication;
pub mod restart;
pub mod scripts;
pub mod secret_rotation;
pub mod shortage;
pub mod sweep;
pub mod timing;
pub mod waiting;
