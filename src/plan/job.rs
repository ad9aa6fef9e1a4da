//! What the leader knows when it decides about a job (a migration or a sweep), and which steps there are. What it
//! remembers is in `job_memory`. Knows nothing of clocks, servers or calls: times are the leader's own, as they are
//! passed in.

use std::collections::BTreeMap;

use super::{lease::Barrier, mover::MoverView, timing::Timing, waiting::Wait};
use crate::model::{
    change::Change,
    ids::{Epoch, GroupId, HoldId, HostPort, Incarnation, NodeId, Term},
    state::ClusterState,
};

/// A node as its last heartbeat to the leader described it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeObservation {
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// When the heartbeat arrived, on the leader's clock.
    pub heartbeat_ns: u64,
    /// The last entry that it had applied then.
    pub applied: Epoch,
}

/// What the leader knows at one moment about a job.
#[derive(Clone, Copy, Debug)]
pub struct JobObservation<'a> {
    /// The newest applied state.
    pub state: &'a ClusterState,
    /// The term in which this node leads.
    pub term: Term,
    /// The leader itself.
    pub me: NodeId,
    /// Its clock.
    pub now_ns: u64,
    /// The nodes that sent a heartbeat in this term.
    pub nodes: &'a BTreeMap<NodeId, NodeObservation>,
    /// The last report about this job's runs.
    pub mover: Option<&'a MoverView>,
    /// The barrier of the hold that is open for this job.
    pub barrier: Option<&'a Barrier>,
    /// The lease's length and the pauses.
    pub timing: Timing,
}

/// What the leader does next for a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobStep {
    /// Nothing is left to do for this job.
    Over,
    /// Decide again with news, or at `until_ns`.
    Wait {
        /// What the job waits for.
        wait: Wait,
        /// Time on the leader's clock, nanoseconds.
        until_ns: u64,
    },
    /// Probe the servers of both groups, and choose which of them the copy uses.
    SelectEndpoints,
    /// Mark runs up to `runs` closed, then close their connections at `server`.
    Close {
        /// The server.
        server: HostPort,
        /// The group whose credentials are used.
        group: GroupId,
        /// The highest number of a run so far.
        runs: u32,
    },
    /// Check whether a hold would succeed: every possible server and the target answer, and the control connections are
    /// open.
    Preflight,
    /// Append this change.
    Propose(Change),
    /// The barrier has passed: order the node to copy what is left.
    Finish {
        /// The hold.
        hold: HoldId,
        /// The run.
        run: u32,
        /// Its node.
        node: NodeId,
        /// When it must be finished, on the leader's clock.
        by_ns: u64,
    },
}

/// The servers that a copy uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectedEndpoints {
    /// The server of the source group that serves the feed and from which keys are read.
    pub feed: HostPort,
    /// The primary of the target group.
    pub target: HostPort,
    /// Epochs of both groups when the servers were probed.
    pub group_epochs: BTreeMap<GroupId, Epoch>,
}
