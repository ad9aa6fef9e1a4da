//! Clients whose mistakes, retries and demands must harm neither data nor other clients, the node's memory or the
//! groups. The long run, which also compares latencies, is `make hostile`.

#![allow(clippy::unwrap_used)]

mod closings;
mod passwords;
mod storm;
mod transactions;
