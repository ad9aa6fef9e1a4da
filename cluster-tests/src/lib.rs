//! What is checked with more than one part of Pontoon at work: models of the protocol, and clusters of real processes.
//! Knows nothing of how a node does what it does.

pub mod migration_model;
pub mod serving_model;

pub mod binary;
pub mod callers;
pub mod cli;
pub mod client;
pub mod cluster;
pub mod faults;
pub mod gate;
pub mod history;
pub mod linear;
pub mod link;
pub mod load;
pub mod loss;
pub mod matrix;
pub mod mesh;
pub mod node;
pub mod ports;
pub mod process;
pub mod promotions;
pub mod redis;
pub mod stock;
pub mod wait;
pub mod workload;
