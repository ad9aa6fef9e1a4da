//! The cold path against real redis-servers, and the admin API over gRPC with a log that has no disk.
#![allow(clippy::unwrap_used)]

mod admin;
mod admission;
mod audit;
mod client;
mod connections;
mod fake;
mod fence;
mod given_up;
mod log;
mod migrations;
mod promotions;
mod rebalance;
mod scan;
mod server;
mod single;
mod wait;
mod waiting;
mod watching;
