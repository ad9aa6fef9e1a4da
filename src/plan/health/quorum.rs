//! Whether the cluster can be changed: a leader with a majority behind it.

use std::collections::BTreeSet;

use super::{HealthFacts, Warning, WarningKind};
use crate::model::{ids::NodeId, route::Isolated};

/// Products that are named in a sentence. The rest is only counted.
const NAMED_MAX: usize = 3;

/// What is known of the leader and its majority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Quorum {
    /// A majority of the voters has just confirmed that a node leads.
    Confirmed,
    /// Nobody confirmed it.
    Missing {
        /// The voters that answer at their admin ports.
        answering: BTreeSet<NodeId>,
        /// The node that leads as far as is known, though without a majority or without an answer.
        leader: Option<NodeId>,
    },
    /// It was not found out: another node asks, and it judges.
    NotAsked,
}

/// The warning that nothing can be changed, if that is so.
pub fn warning(facts: &HealthFacts<'_>) -> Option<Warning> {
    let Quorum::Missing { answering, leader } = &facts.quorum else { return None };
    let total = facts.voters.len();
    if total == 0 {
        return Some(Warning::new(
            WarningKind::NotFormed,
            "NOT FORMED: this node belongs to no cluster yet; it serves nobody",
            "start the other nodes that its --peers names, or the one that its --join names",
        ));
    }
    let majority = total / 2 + 1;
    let answers = facts.voters.keys().filter(|id| answering.contains(id)).count();
    let counted = format!("{answers} of {total} voters answer{}", if answers == 1 { "s" } else { "" });
    let unserved = unserved(facts);
    if answers < majority {
        let silent: Vec<String> = facts
            .voters
            .iter()
            .filter(|(id, _)| !answering.contains(id))
            .map(|(id, admin)| format!("node {id} at {admin}"))
            .collect();
        return Some(Warning::new(
            WarningKind::NoQuorum,
            format!("NO QUORUM: {counted}; changes are impossible{unserved}"),
            format!(
                "start voters until {majority} of {total} answer (missing: {}); if they are lost for good: pontoon recover",
                silent.join(", ")
            ),
        ));
    }
    let who = match leader {
        Some(id) => format!("but node {id}, which led last, has no majority behind it"),
        None => "but none leads".into(),
    };
    Some(Warning::new(
        WarningKind::NoLeader,
        format!("NO LEADER: {counted}, {who}; changes are impossible until one is elected{unserved}"),
        "an election, within a few seconds; if it lasts, check the network between the nodes and their logs",
    ))
}

/// What clients of products notice when leases end.
fn unserved(facts: &HealthFacts<'_>) -> String {
    let used = facts.state.products.values().filter(|product| !product.groups.is_empty());
    let refusing = used.filter(|product| product.isolated == Isolated::Refuse);
    let names: Vec<String> = refusing.map(|product| format!("'{}'", product.name)).collect();
    let more = names.len().saturating_sub(NAMED_MAX);
    let shown = names[..names.len() - more].join(", ");
    let rest = if more == 0 { String::new() } else { format!(" and {more} more") };
    match names.len() {
        0 => String::new(),
        1 => format!(", and product {shown} is not served when leases have ended (isolated=refuse)"),
        _ => format!(", and products {shown}{rest} are not served when leases have ended (isolated=refuse)"),
    }
}
