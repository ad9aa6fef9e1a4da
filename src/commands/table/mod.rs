//! The rows of the command table, one file per family. `tests/commands_differential.rs` compares the commands of Redis
//! 7.0.15 with a real server; rows with a later version follow the documentation of Redis 8 and Valkey 8 and 9. Knows
//! nothing of how rows are found (`lookup`) and read (`keys`).

use super::keys::KeySpec;
use super::spec::{Handling, Spec};

mod arrays;
mod bits;
mod codis;
mod connection;
mod generic;
mod geo;
mod hashes;
mod json;
mod lists;
mod pontoon;
mod probabilistic;
mod scripting;
mod search;
mod server;
mod sets;
mod sorted_sets;
mod streams;
mod strings;
mod time_series;
mod vectors;
mod why;

pub use why::CLUSTER as NO_CLUSTER;

/// All rows.
pub(super) static FAMILIES: [&[Spec]; 20] = [
    strings::STRINGS,
    hashes::HASHES,
    lists::LISTS,
    sets::SETS,
    sorted_sets::SORTED_SETS,
    streams::STREAMS,
    geo::GEO,
    bits::BITS,
    generic::GENERIC,
    scripting::SCRIPTING,
    connection::CONNECTION,
    server::SERVER,
    arrays::ARRAYS,
    json::JSON,
    vectors::VECTORS,
    probabilistic::PROBABILISTIC,
    time_series::TIME_SERIES,
    search::SEARCH,
    codis::CODIS,
    pontoon::PONTOON,
];

// Short names that most rows use.
const NONE: KeySpec = KeySpec::None;
const KEY: KeySpec = KeySpec::One(1);
const KEYS: KeySpec = KeySpec::Range { first: 1, last: -1, step: 1 };
const PAIR: KeySpec = KeySpec::Range { first: 1, last: 2, step: 1 };
const SLOT: Handling = Handling::Slot;
