//! `pontoon status`: the cluster as a node sees it.

use super::{Remote, error::CliError, node, output};
use crate::wire::pb::admin::{StatusReply, StatusRequest};

pub(super) async fn run(remote: &Remote) -> Result<(), CliError> {
    let status = remote.read(|mut c| async move { c.status(StatusRequest {}).await }).await?;
    if remote.json() {
        return output::print_json(&status);
    }
    output::print_text(&to_text(&status));
    Ok(())
}

fn to_text(s: &StatusReply) -> String {
    let leader = match s.leader {
        None => "none is known; nothing can be changed until a majority of the voters can reach each other".to_owned(),
        Some(id) => format!("node {id} in term {}", s.term),
    };
    let cluster = s.cluster_id.as_deref().unwrap_or("has not formed yet");
    let mut out = format!(
        "cluster      {cluster}\nleader       {leader}\nanswered by  node {}, which has applied entry {}\nroute epoch  {}\nproducts     {}\n\n",
        s.answered_by, s.applied, s.route_epoch, s.product_count
    );
    out += &node::to_table(&s.nodes, s.leader);
    for waiting in &s.waiting_on {
        out += &format!("\nwaiting on: {waiting}");
    }
    for warning in &s.warnings {
        out += &format!("\nwarning: {warning}");
    }
    if !s.waiting_on.is_empty() || !s.warnings.is_empty() {
        out += "\n";
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::pb::admin::{Node, NodeState};

    #[test]
    fn a_missing_leader_is_reported() {
        let mut status = StatusReply {
            nodes: vec![Node { id: 2, state: NodeState::Unknown.into(), ..Node::default() }],
            ..StatusReply::default()
        };
        assert!(to_text(&status).contains("unknown") && to_text(&status).contains("none is known"));
        assert!(serde_json::json!(status)["leader"].is_null());
        status.leader = Some(2);
        assert_eq!(serde_json::json!(status)["leader"], 2);
        assert!(to_text(&status).contains("node 2 in term 0"));
    }
}
