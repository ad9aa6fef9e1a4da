//! `pontoon node`: the nodes of the cluster.

use clap::{Subcommand, ValueEnum};

use super::{
    Remote, change,
    error::{CliError, ErrorCode},
    output, product, product_show, quorum, setting,
};
use crate::wire::pb::admin::{
    ListNodesRequest, Node, NodeRole, Product, RemoveNodeRequest, SetNodeLogReply, SetNodeLogRequest,
    SetNodeRoleRequest, StatusRequest,
};

/// `pontoon node ...`
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// List the nodes
    Ls,
    /// Show everything about one node
    Show {
        /// Its id
        id: u64,
    },
    /// Remove a node; returns when it has provably stopped serving
    Remove {
        /// Its id
        id: u64,
        /// You guarantee that it is dead and stays dead; then the command does not wait for it
        #[arg(long)]
        assume_dead: bool,
        /// Remove it also if fewer than a majority of the voters that stay is alive: then nothing can be changed
        #[arg(long)]
        force: bool,
    },
    /// Set what a node logs until it is restarted: log=debug (its own lines), log=pontoon::consensus=trace (those of a
    /// module), log=default (what its configuration says); without it, show the levels in effect
    Set {
        /// Its id
        id: u64,
        /// What to change
        #[arg(value_name = "KEY=VALUE")]
        settings: Vec<String>,
    },
    /// Choose whether a node votes
    SetRole {
        /// Its id
        id: u64,
        /// auto: the cluster chooses
        role: RoleArg,
        /// Also if fewer than a majority of the voters would be alive: then nothing can be changed
        #[arg(long)]
        force: bool,
    },
}

/// The role of a node that an operator can choose.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum RoleArg {
    /// Votes.
    Voter,
    /// Follows and serves.
    Learner,
    /// The cluster chooses.
    Auto,
}

impl NodeCommand {
    pub(super) const fn reads(&self) -> bool {
        matches!(self, Self::Ls | Self::Show { .. })
    }
}

pub(super) async fn run(command: NodeCommand, remote: &Remote) -> Result<(), CliError> {
    let check = "pontoon node ls";
    let made = match command {
        NodeCommand::Ls => return list(remote).await,
        NodeCommand::Show { id } => return show(remote, id).await,
        NodeCommand::Set { id, settings } => return set(id, &settings, remote).await,
        NodeCommand::Remove { id, assume_dead, force } => {
            let call = |mut c: super::client::Client, options| async move {
                c.remove_node(RemoveNodeRequest { id, assume_dead, force, options: Some(options) }).await
            };
            change::run(remote, check, call).await
        }
        NodeCommand::SetRole { id, role, force } => {
            let role = match role {
                RoleArg::Voter => NodeRole::Voter,
                RoleArg::Learner => NodeRole::Learner,
                RoleArg::Auto => NodeRole::Auto,
            };
            let call = |mut c: super::client::Client, options| async move {
                c.set_node_role(SetNodeRoleRequest { id, role: role.into(), force, options: Some(options) }).await
            };
            change::run(remote, check, call).await
        }
    };
    made.map(drop)
}

async fn set(id: u64, settings: &[String], remote: &Remote) -> Result<(), CliError> {
    let request = log_request(id, settings, remote.common.dry_run).map_err(CliError::Usage)?;
    let request = SetNodeLogRequest { declared: remote.declared().to_owned(), ..request };
    let reply = remote
        .read(|mut c| {
            let request = request.clone();
            async move { c.set_node_log(request).await }
        })
        .await?;
    if remote.json() {
        return output::print_json(&reply);
    }
    let wanted = request.levels.filter(|_| request.dry_run);
    let would = wanted.map_or_else(String::new, |levels| format!("would: node {id} logs by {levels}\n"));
    output::print_text(&format!("{would}{}", to_log_line(&reply)));
    Ok(())
}

fn log_request(id: u64, settings: &[String], dry_run: bool) -> Result<SetNodeLogRequest, String> {
    let mut request = SetNodeLogRequest { id, levels: None, dry_run, declared: String::new() };
    for setting in settings {
        match setting::split(setting)? {
            ("log", levels) => request.levels = Some(levels.to_owned()),
            (key, _) => return Err(format!("'{key}' is not a setting of a node that runs; the only one is log")),
        }
    }
    Ok(request)
}

fn to_log_line(reply: &SetNodeLogReply) -> String {
    let until = if reply.chosen { ", until it is restarted or log=default" } else { ", as configured" };
    format!("node {} logs {}{until}\n", reply.id, reply.levels)
}

async fn list(remote: &Remote) -> Result<(), CliError> {
    let nodes = remote.read(|mut c| async move { c.list_nodes(ListNodesRequest {}).await }).await?.nodes;
    if remote.json() {
        return output::print_json(&nodes);
    }
    output::print_text(&to_table(&nodes, leader(remote).await?));
    Ok(())
}

/// A node that only led last has no majority, and is not shown as the leader.
async fn leader(remote: &Remote) -> Result<Option<u64>, CliError> {
    let status = remote.read(|mut c| async move { c.status(StatusRequest {}).await }).await?;
    Ok(quorum::leading(&status))
}

async fn show(remote: &Remote, id: u64) -> Result<(), CliError> {
    let nodes = remote.read(|mut c| async move { c.list_nodes(ListNodesRequest {}).await }).await?.nodes;
    let missing = || {
        CliError::Refused(ErrorCode::NotFound, format!("there is no node {id}; `pontoon node ls` shows the members"))
    };
    let found = nodes.into_iter().find(|n| n.id == id).ok_or_else(missing)?;
    if remote.json() {
        return output::print_json(&found);
    }
    let (leader, products) = (leader(remote).await?, product::fetch(remote).await?);
    output::print_text(&to_text(&found, leader, &products));
    Ok(())
}

fn to_text(n: &Node, leader: Option<u64>, products: &[Product]) -> String {
    let heartbeat = n.heartbeat_age_ms.map_or_else(|| "none in this term".to_owned(), |ms| format!("{ms} ms ago"));
    let admitted = n.incarnation.map_or_else(|| "never".to_owned(), |index| format!("by log entry {index}"));
    let lines = [
        ("node", n.id.to_string()),
        ("uuid", n.uuid.clone()),
        ("admin", n.admin.clone()),
        ("advertise", format!("{}, ports +{}", n.advertise, n.port_offset)),
        ("role", format!("{} (wanted: {})", role(n, leader), output::name(n.desired_role()))),
        ("state", state(n)),
        ("last heartbeat", heartbeat),
        ("admitted", admitted),
        ("route epoch", n.route_epoch.to_string()),
        ("applied", format!("entry {}", n.applied)),
        ("version", n.version.clone()),
        ("cluster secrets", secrets(n)),
    ];
    let mut out: String = lines.into_iter().map(|(name, value)| format!("{name:15} {value}\n")).collect();
    for p in products {
        for listener in p.listeners.iter().filter(|l| l.node == n.id) {
            out += &format!("product         {}: {}\n", p.name, product_show::listening(listener));
        }
    }
    out
}

fn role(n: &Node, leader: Option<u64>) -> String {
    if Some(n.id) == leader { "leader".to_owned() } else { output::name(n.role()) }
}

fn state(n: &Node) -> String {
    if n.leaving { "being removed".into() } else { output::name(n.state()) }
}

fn secrets(n: &Node) -> String {
    let accepted = match n.secrets_accepted {
        None => return "not known".into(),
        Some(0) => return "none".into(),
        Some(1) => "accepts one".to_owned(),
        Some(accepted) => format!("accepts {accepted}, sends the first"),
    };
    let since = n.secrets_age_ms.map_or_else(String::new, |ms| format!(", for {} s", ms / 1000));
    format!("{accepted}{since}")
}

/// Nodes as a table.
pub(super) fn to_table(nodes: &[Node], leader: Option<u64>) -> String {
    let row = |n: &Node| {
        let role = role(n, leader);
        let differs = n.desired_role() != NodeRole::Auto && n.desired_role() != n.role();
        let role = if differs { format!("{role}, wanted: {}", output::name(n.desired_role())) } else { role };
        let heartbeat = n.heartbeat_age_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms} ms ago"));
        vec![
            n.id.to_string(),
            n.admin.clone(),
            n.advertise.clone(),
            format!("+{}", n.port_offset),
            role,
            state(n),
            heartbeat,
            n.route_epoch.to_string(),
            n.version.clone(),
            n.secrets_accepted.map_or_else(|| "-".to_owned(), |accepted| accepted.to_string()),
        ]
    };
    let headings =
        ["node", "admin", "advertise", "ports", "role", "state", "last heartbeat", "route epoch", "version", "secrets"];
    output::table(&headings, &nodes.iter().map(row).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::pb::admin::{Listener, NodeState};

    #[test]
    fn the_setting_of_a_node_is_log() {
        let parse = |settings: &[&str]| {
            log_request(3, &settings.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>(), false).map(|r| r.levels)
        };
        assert_eq!(parse(&[]), Ok(None));
        assert_eq!(parse(&["log=pontoon::node=debug"]), Ok(Some("pontoon::node=debug".into())));
        assert!(parse(&["log"]).is_err_and(|e| e.contains("KEY=VALUE")));
        assert!(parse(&["zone=a"]).is_err_and(|e| e.contains("the only one is log")));
    }

    #[test]
    fn the_table_has_role_and_state() {
        let (voter, learner) = (NodeRole::Voter.into(), NodeRole::Learner.into());
        let first = Node {
            id: 1,
            desired_role: NodeRole::Auto.into(),
            role: voter,
            state: NodeState::Alive.into(),
            heartbeat_age_ms: Some(120),
            ..Node::default()
        };
        let second = Node { id: 2, role: learner, desired_role: voter, leaving: true, ..Node::default() };
        let table = to_table(&[first, second], Some(1));
        let lines: Vec<_> = table.lines().collect();
        assert!(
            lines[1].contains("leader") && lines[1].contains("alive") && lines[1].contains("120 ms ago"),
            "{table}"
        );
        assert!(lines[2].contains("learner, wanted: voter") && lines[2].contains("being removed"), "{table}");
    }

    #[test]
    fn one_node_is_shown_with_its_listeners() {
        let here = Listener { node: 3, address: "a:19013".into(), ..Listener::default() };
        let elsewhere = Listener { node: 4, address: "b:19014".into(), ..Listener::default() };
        let product = Product { name: "shop".into(), listeners: vec![here, elsewhere], ..Product::default() };
        let node =
            Node { id: 3, uuid: "0011".into(), version: "0.1.0".into(), incarnation: Some(9), ..Node::default() };
        let node = Node { secrets_accepted: Some(2), secrets_age_ms: Some(12_345), ..node };
        let text = to_text(&node, Some(3), &[product]);
        for part in [
            "uuid            0011",
            "role            leader",
            "by log entry 9",
            "shop: node 3 on a:19013: listens",
            "cluster secrets accepts 2, sends the first, for 12 s",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        assert!(!text.contains("node 4"), "{text}");
    }
}
