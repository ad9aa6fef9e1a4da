//! `pontoon status`: the cluster as a node sees it, the worst first.

use clap::Args;

use super::{Output, Remote, error::CliError, node, output, quorum};
use crate::wire::pb::admin::{Severity, StatusReply, StatusRequest, Warning};

/// `pontoon status ...`
#[derive(Args, Debug)]
pub struct StatusArgs {
    /// For monitoring: print one line and exit with 0 (ok), 1 (warning), 2 (critical) or 3 (unknown, or no node answers)
    #[arg(long)]
    pub check: bool,
}

pub(super) async fn run(args: &StatusArgs, remote: &Remote) -> Result<(), CliError> {
    let status = remote.read(|mut c| async move { c.status(StatusRequest {}).await }).await?;
    match (remote.json(), args.check) {
        (true, _) => output::print_json(&status)?,
        (false, true) => output::print_text(&headline(&status)),
        (false, false) => output::print_text(&to_text(&status)),
    }
    match exit_code(status.health()) {
        code @ 1.. if args.check => Err(CliError::Checked(code)),
        _ => Ok(()),
    }
}

/// The end of `status --check` that failed: a cluster of which nothing is known is not well either.
pub(super) fn checked(error: CliError, output: Output) -> CliError {
    if let CliError::Checked(_) = error {
        return error;
    }
    let unknown =
        StatusReply { health: Severity::Unknown.into(), headline: error.to_string(), ..StatusReply::default() };
    match output {
        Output::Table => output::print_text(&headline(&unknown)),
        // A reply is always JSON; if not, the exit code still is right.
        Output::Json => output::print_json(&unknown).unwrap_or_default(),
    }
    CliError::Checked(exit_code(Severity::Unknown))
}

/// The exit codes of monitoring plugins.
const fn exit_code(health: Severity) -> u8 {
    match health {
        Severity::Ok | Severity::Advice => 0,
        Severity::Warning => 1,
        Severity::Critical => 2,
        Severity::Unknown | Severity::Unspecified => 3,
    }
}

/// `CRITICAL: NO QUORUM: ..`
fn headline(s: &StatusReply) -> String {
    format!("{}: {}\n", output::name(s.health()).to_uppercase(), s.headline)
}

fn to_text(s: &StatusReply) -> String {
    let alone = quorum::is_lost(s);
    let leader = match s.leader {
        None => "none is known".to_owned(),
        Some(id) if alone => format!("node {id} led last, in term {}", s.term),
        Some(id) => format!("node {id} in term {}", s.term),
    };
    let cluster = s.cluster_id.as_deref().unwrap_or("has not formed yet");
    let mut out = headline(s);
    out += &format!(
        "\ncluster      {cluster}\nleader       {leader}\nanswered by  node {}, which has applied entry {}\nroute epoch  {}\nproducts     {}\n\n",
        s.answered_by, s.applied, s.route_epoch, s.product_count
    );
    out += &node::to_table(&s.nodes, quorum::leading(s));
    for waiting in &s.waiting_on {
        out += &format!("\nwaiting on: {waiting}");
    }
    if !s.waiting_on.is_empty() {
        out += "\n";
    }
    out += &warnings(&s.warnings);
    out
}

/// Warnings, each with what clears it.
pub(super) fn warnings(warnings: &[Warning]) -> String {
    let line = |w: &Warning| format!("\n{}: {}\n  to clear: {}", output::name(w.severity()), w.text, w.to_clear);
    let lines: String = warnings.iter().map(line).collect();
    if lines.is_empty() { lines } else { lines + "\n" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::pb::admin::{Node, NodeState};

    #[test]
    fn the_worst_comes_first_and_a_leader_without_a_majority_is_none() {
        let no_quorum = Warning {
            code: "no-quorum".into(),
            severity: Severity::Critical.into(),
            text: "NO QUORUM: 1 of 3 voters answers".into(),
            to_clear: "start voters".into(),
        };
        let mut status = StatusReply {
            nodes: vec![Node { id: 2, state: NodeState::Unknown.into(), ..Node::default() }],
            health: Severity::Critical.into(),
            headline: no_quorum.text.clone(),
            warnings: vec![no_quorum],
            ..StatusReply::default()
        };
        let text = to_text(&status);
        assert!(text.starts_with("CRITICAL: NO QUORUM: 1 of 3 voters answers\n"), "{text}");
        assert!(text.contains("unknown") && text.contains("none is known"), "{text}");
        assert!(text.contains("critical: NO QUORUM: 1 of 3 voters answers\n  to clear: start voters\n"), "{text}");
        assert!(serde_json::json!(status)["leader"].is_null());
        status.leader = Some(2);
        assert_eq!(serde_json::json!(status)["leader"], 2);
        let text = to_text(&status);
        assert!(text.contains("node 2 led last, in term 0") && !text.contains("leader  unknown"), "{text}");
        status.warnings.clear();
        assert!(to_text(&status).contains("node 2 in term 0"));
    }

    #[test]
    fn exit_codes_are_those_of_monitoring_plugins() {
        let all = [Severity::Ok, Severity::Warning, Severity::Critical, Severity::Unknown].map(exit_code);
        assert_eq!(all, [0, 1, 2, 3]);
        let unreachable = checked(CliError::Failed("no node".into()), Output::Table);
        assert_eq!(unreachable, CliError::Checked(3));
        assert_eq!(checked(CliError::Checked(1), Output::Table), CliError::Checked(1));
    }
}
