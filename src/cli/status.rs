//! `pontoon status`: the cluster as a node sees it.
//! Knows nothing of how it got so.

use serde_json::{Value, json};

use super::{Remote, error::CliError, node, output};
use crate::wire::pb::admin::{StatusReply, StatusRequest};

pub(super) async fn run(remote: &Remote) -> Result<(), CliError> {
    let status = remote.read(|mut c| async move { c.status(StatusRequest {}).await }).await?;
    if remote.json() {
        output::print_json(&to_json(&status));
    } else {
        output::print_text(&to_text(&status));
    }
    Ok(())
}

fn to_json(s: &StatusReply) -> Value {
    json!({
        "cluster_id": s.cluster_id,
        "leader": (s.leader != 0).then_some(s.leader),
        "term": s.term,
        "answered_by": s.answered_by,
        "applied": s.applied,
        "route_epoch": s.route_epoch,
        "products": s.products,
        "nodes": s.nodes.iter().map(node::to_json).collect::<Vec<_>>(),
        "waiting_on": s.waiting_on,
        "warnings": s.warnings,
    })
}

fn to_text(s: &StatusReply) -> String {
    let leader = match s.leader {
        0 => "none is known; nothing can be changed until most of the voters reach each other".to_owned(),
        id => format!("node {id} in term {}", s.term),
    };
    let cluster = if s.cluster_id.is_empty() { "has not formed yet" } else { &s.cluster_id };
    let mut out = format!(
        "cluster      {cluster}\nleader       {leader}\nanswered by  node {}, which has applied entry {}\nroute epoch  {}\nproducts     {}\n\n",
        s.answered_by, s.applied, s.route_epoch, s.products
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
    use crate::wire::pb::admin::Node;

    #[test]
    fn no_leader_is_null_and_said() {
        let mut status = StatusReply {
            nodes: vec![Node { id: 2, heard_ms: -1, unknown: true, ..Node::default() }],
            ..StatusReply::default()
        };
        assert!(to_text(&status).contains("unknown") && to_json(&status)["nodes"][0]["state"] == "unknown");
        assert_eq!(to_json(&status)["nodes"][0]["alive"], false);
        assert!(to_json(&status)["leader"].is_null());
        assert_eq!(to_json(&status)["nodes"][0]["id"], 2);
        assert!(to_text(&status).contains("none is known"));
        status.leader = 2;
        assert_eq!(to_json(&status)["leader"], 2);
    }
}
