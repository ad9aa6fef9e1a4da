//! `pontoon node`: the members of the cluster.
//! Knows nothing of elections.

use clap::{Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::{Remote, error::CliError, output};
use crate::wire::pb::admin::{ListNodesRequest, Node, RemoveNodeRequest, SetNodeRoleRequest, StatusRequest};

/// `pontoon node ...`
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// List the nodes
    Ls,
    /// Take a node out; returns when it surely serves no more
    Remove {
        /// Its id
        id: u64,
        /// You vouch that it is dead and stays so; then it is not waited for
        #[arg(long)]
        assume_dead: bool,
    },
    /// Choose whether a node votes
    SetRole {
        /// Its id
        id: u64,
        /// auto leaves the choice to the cluster
        role: RoleArg,
    },
}

/// What an operator can want of a node.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum RoleArg {
    /// Votes.
    Voter,
    /// Follows and serves.
    Learner,
    /// As the cluster needs it.
    Auto,
}

pub(super) async fn run(command: NodeCommand, remote: &Remote) -> Result<(), CliError> {
    let look = "pontoon node ls";
    let reply = match command {
        NodeCommand::Ls => return list(remote).await,
        NodeCommand::Remove { id, assume_dead } => {
            let call = |mut c: super::client::Client, options| async move {
                c.remove_node(RemoveNodeRequest { id, assume_dead, options: Some(options) }).await
            };
            remote.change(look, call).await?
        }
        NodeCommand::SetRole { id, role } => {
            let role = match role {
                RoleArg::Voter => "voter",
                RoleArg::Learner => "learner",
                RoleArg::Auto => "auto",
            };
            let call = |mut c: super::client::Client, options| async move {
                c.set_node_role(SetNodeRoleRequest { id, role: role.into(), options: Some(options) }).await
            };
            remote.change(look, call).await?
        }
    };
    output::changed(remote, &reply)
}

async fn list(remote: &Remote) -> Result<(), CliError> {
    let nodes = remote.read(|mut c| async move { c.list_nodes(ListNodesRequest {}).await }).await?.nodes;
    if remote.json() {
        output::print_json(&Value::Array(nodes.iter().map(to_json).collect()));
    } else {
        let leader = remote.read(|mut c| async move { c.status(StatusRequest {}).await }).await?.leader;
        output::print_text(&to_table(&nodes, leader));
    }
    Ok(())
}

/// A node as JSON.
pub(super) fn to_json(n: &Node) -> Value {
    json!({
        "id": n.id,
        "uuid": n.uuid,
        "admin": n.admin,
        "advertise": n.advertise,
        "port_offset": n.port_offset,
        "role_wanted": n.role_wanted,
        "role": n.role,
        "incarnation": n.incarnation,
        "leaving": n.leaving,
        "alive": n.alive,
        "state": state(n),
        "heard_ms": (n.heard_ms >= 0).then_some(n.heard_ms),
        "route_epoch": n.route_epoch,
        "applied": n.applied,
        "version": n.version,
    })
}

/// A node's state in a word.
fn state(n: &Node) -> &'static str {
    match (n.leaving, n.alive, n.unknown) {
        (true, ..) => "being removed",
        (false, true, _) => "alive",
        (false, false, true) => "unknown",
        (false, false, false) => "silent",
    }
}

/// Nodes as a table.
pub(super) fn to_table(nodes: &[Node], leader: u64) -> String {
    let rows: Vec<_> = nodes
        .iter()
        .map(|n| {
            let role = match n.role.as_str() {
                _ if n.id == leader => "leader".to_owned(),
                "" => n.role_wanted.clone(),
                role if n.role_wanted == "auto" || n.role_wanted == role => role.to_owned(),
                role => format!("{role}, wanted: {}", n.role_wanted),
            };
            let heard = if n.heard_ms < 0 { "-".to_owned() } else { format!("{} ms ago", n.heard_ms) };
            vec![
                n.id.to_string(),
                n.admin.clone(),
                n.advertise.clone(),
                format!("+{}", n.port_offset),
                role,
                state(n).to_owned(),
                heard,
                n.route_epoch.to_string(),
                n.version.clone(),
            ]
        })
        .collect();
    output::table(&["node", "admin", "advertise", "ports", "role", "state", "heard", "route epoch", "version"], &rows)
}
