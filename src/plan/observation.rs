//! What nodes have seen of servers: values with their ages. Knows nothing of who probes, how, or what follows from it.

use std::collections::BTreeMap;

use crate::model::ids::{HostPort, NodeId};

/// What one node has seen of one server. Ages count back from the moment at which the node reported it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProbeReport {
    /// The last probe that was answered, and its age in milliseconds; `None`: none since this node started.
    pub probe: Option<(Probe, u64)>,
    /// Looks have failed without a break for so many milliseconds; `None`: the last one was answered.
    pub failing_ms: Option<u64>,
    /// Why the last probe failed, for people; empty: it did not. With `failing_ms: None` the server answers, and cannot be
    /// asked: it refuses the password or a command, or says to everything that it loads. Then `probe` is of before, if any.
    pub error: String,
    /// The last time it was seen as a replica whose link was up and that was neither loading nor syncing.
    pub in_sync: Option<InSync>,
}

/// An answered probe at a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Of the process; empty: it does not tell.
    pub run_id: String,
    /// Its role.
    pub role: ReportedRole,
    /// Replication id under which `offset` counts.
    pub replid: String,
    /// Replication offset, bytes: a primary's own, or how far a replica has executed its primary's stream.
    pub offset: u64,
    /// The replication id of before it was promoted, and the first offset that is not of it any more.
    pub replid2: Option<(String, u64)>,
    /// It loads its data: alive, and not ready.
    pub loading: bool,
    /// Bytes in use.
    pub used_memory: u64,
    /// Keys of all databases.
    pub keys: u64,
    /// Commands a second, by its own counting.
    pub ops_per_second: u64,
    /// How long a PING took, microseconds.
    pub ping_us: u64,
    /// Whether it writes its data to disk by itself (save points or append-only file); `None`: it does not tell.
    pub persistent: Option<bool>,
    /// Of a primary: replicas that told it no port, so that they are servers of no group, and have acknowledged something: it
    /// counts them in WAIT as any other.
    pub unnamed_replicas: u32,
}

/// A server's role as it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReportedRole {
    /// It takes writes.
    Primary {
        /// Replicas that are connected and on line, as it sees them, with the offset each has acknowledged.
        replicas: Vec<(HostPort, u64)>,
    },
    /// It follows another server.
    Replica {
        /// Which, as configured there.
        of: HostPort,
        /// The link is up and the first copy is through.
        link_up: bool,
        /// For how long it has not been, milliseconds; 0: it is up; `u64::MAX`: it never was, since that server started.
        link_down_ms: u64,
        /// A full copy is being received.
        syncing: bool,
    },
}

/// A replica that was in step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InSync {
    /// Its primary, as configured there.
    pub to: HostPort,
    /// Under which replication id.
    pub replid: String,
    /// Of its process then: after a restart it has what it last saved, and that may be old.
    pub run_id: String,
    /// How long ago, milliseconds.
    pub ago_ms: u64,
}

/// What a node has reported, and the age of its report in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgedReport {
    /// What.
    pub report: ProbeReport,
    /// How long ago the report was made, milliseconds: to be added to the ages in it.
    pub age_ms: u64,
}

/// What all nodes have reported, by server and node. A server is known by the address that its group gives it.
pub type Observation = BTreeMap<HostPort, BTreeMap<NodeId, AgedReport>>;
