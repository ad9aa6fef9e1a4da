//! `pontoon version`: of this program, and of the nodes if one can be reached.

use std::time::Duration;

use serde::Serialize;

use super::{Common, client::Remote, error::CliError, output};
use crate::wire::pb::admin::ListNodesRequest;

/// How long nodes are asked without `--timeout`: the version of this program is known without them.
const ASK_MAX: Duration = Duration::from_secs(2);

/// The versions.
#[derive(Debug, Serialize)]
pub(super) struct Versions {
    /// Of this program.
    pub(super) version: &'static str,
    /// Of the nodes, as they last told the leader.
    pub(super) nodes: Vec<NodeVersion>,
    /// Why those of the nodes are missing.
    pub(super) nodes_missing_because: Option<String>,
}

/// The version of a node's program.
#[derive(Debug, Serialize)]
pub(super) struct NodeVersion {
    pub(super) id: u64,
    pub(super) version: String,
}

pub(super) async fn run(common: Common) -> Result<(), CliError> {
    let timeout = common.timeout.or(Some(ASK_MAX));
    let remote = Remote::new(Common { timeout, ..common })?;
    let asked = remote.read(|mut c| async move { c.list_nodes(ListNodesRequest {}).await }).await;
    let version = env!("CARGO_PKG_VERSION");
    let found = match asked {
        Ok(reply) => {
            let nodes = reply.nodes.into_iter().map(|n| NodeVersion { id: n.id, version: n.version }).collect();
            Versions { version, nodes, nodes_missing_because: None }
        }
        Err(why) => Versions { version, nodes: Vec::new(), nodes_missing_because: Some(why.to_string()) },
    };
    if remote.json() {
        return output::print_json(&found);
    }
    output::print_text(&to_text(&found));
    Ok(())
}

fn to_text(found: &Versions) -> String {
    let mut out = format!("pontoon {}\n", found.version);
    for NodeVersion { id, version } in &found.nodes {
        let version = if version.is_empty() { "unknown" } else { version };
        out += &format!("node {id}  {version}\n");
    }
    if let Some(why) = &found.nodes_missing_because {
        out += &format!("nodes: {why}\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_or_why_they_are_missing() {
        let nodes = vec![NodeVersion { id: 1, version: "0.1.0".into() }, NodeVersion { id: 2, version: String::new() }];
        let found = Versions { version: "0.2.0", nodes, nodes_missing_because: None };
        assert_eq!(to_text(&found), "pontoon 0.2.0\nnode 1  0.1.0\nnode 2  unknown\n");
        let alone = Versions { nodes: Vec::new(), nodes_missing_because: Some("no node".into()), ..found };
        assert_eq!(to_text(&alone), "pontoon 0.2.0\nnodes: no node\n");
    }
}
