//! The test harness for everything that involves several nodes: exhaustive models of the protocol, and clusters of real
//! processes (`pontoon serve`, `redis-server`) with faults, workloads and checkers.
//! Uses the product only through its command line, its ports and its fault points, not through its internal modules.
//! The exceptions are the slot of a key (`pontoon::model`), the messages of the admin API (`pontoon::wire`) and the log
//! that the program `log_writer` writes (`pontoon::consensus::crash_test`).

pub mod hostile;
pub mod migration_model;
pub mod role_model;
pub mod serving_model;

pub mod binary;
pub mod callers;
pub mod cli;
pub mod client;
pub mod cluster;
pub mod differential;
pub mod documented;
pub mod faults;
pub mod gate;
pub mod history;
#[path = "../../tests/support/kinds.rs"]
pub mod kinds;
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
