//! A process that speaks the calls between nodes and is no node of the cluster, with and without the cluster secret.
//! After each call: the node serves, a refused call has changed nothing in its data directory, and it restarts cleanly.

#![allow(clippy::unwrap_used)]

mod former;
mod node_calls;
mod peer;
mod raft_calls;
mod strangers;
mod victim;
