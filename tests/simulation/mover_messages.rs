//! What happens to a run from outside, and its messages to and from servers.

use pontoon::model::ids::HoldId;

use super::{invariants::Version, network::Ns};

/// What happens to a run from outside.
#[derive(Clone, Debug)]
pub enum News {
    /// It connects.
    Begin,
    Opened(u64),
    Lost(String),
    Authorized(Result<(), Option<String>>),
    AskAgain {
        asking: u32,
    },
    FromTarget,
    FromSource,
    /// The feed may have something to read.
    Feed,
    /// It has come to another point, at which the state may concern it.
    Moved,
    /// The second pass is due.
    Pass,
    Finish {
        serial: u64,
        leader: usize,
        hold: HoldId,
        within: Ns,
    },
    Deadline(HoldId),
}

/// Answers of the server that the run changes; they keep their order.
pub enum FromTarget {
    Keys(Vec<u16>),
    Done,
    Waited,
}

/// Requests to the source; they keep their order too.
#[derive(Clone, Copy)]
pub enum ToSource {
    Feed,
    Scan,
    Fetch(u16),
    /// The primary's offset.
    Probe,
}

pub enum FromSource {
    Feed(usize),
    Keys(Vec<u16>),
    Fetched(u16, Version),
    Probe(usize),
}
