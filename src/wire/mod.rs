//! The generated protobuf code, and the conversions between its messages and the model.

pub mod auth;
pub mod caller;
mod change;
pub mod channels;
mod client_auth;
pub mod connection;
pub mod convert;
mod ejection;
pub mod entry;
pub mod hash;
pub mod json;
mod migration;
mod promotion;
mod reads;
mod redacted;
pub mod refused;
mod scan_history;
mod script;
pub mod secret_report;
pub mod secrets;
pub mod snapshot;

/// Name of the metadata of a status that says what became of the change. `none`: not executed. `made`: the change was
/// made, and something after it failed.
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
