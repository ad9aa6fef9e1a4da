//! Generated protobuf code, and its conversions to and from the model, one file per kind.

pub mod auth;
pub mod convert;
mod ejection;
pub mod entry;
pub mod json;
mod migration;
mod promotion;
mod reads;
mod redacted;
pub mod snapshot;

/// Metadata of a status: what became of the change. `none`: surely not executed. `made`: it was made, what failed came after.
pub const OUTCOME: &str = "x-pontoon-outcome";

#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod pb {
    //! What build.rs generates from proto/.

    /// Operators' API.
    pub mod admin {
        tonic::include_proto!("pontoon.admin.v1");
    }
    /// Between nodes.
    pub mod node {
        tonic::include_proto!("pontoon.node.v1");
    }
    /// Raft messages.
    pub mod raft {
        tonic::include_proto!("pontoon.raft.v1");
    }
    /// Log and snapshot format.
    pub mod state {
        tonic::include_proto!("pontoon.state.v1");
    }

    /// Descriptors of all of them, for server reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pontoon.fds"));
}
