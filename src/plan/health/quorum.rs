//! Whether the cluster can be changed: a leader with a majority behind it.

use std::collections::BTreeSet;

use super::{HealthFacts, Warning, WarningKind, listed};
use crate::{
    model::{ids::NodeId, route::Isolated},
    plan::membership::{LostQuorum, majority},
};

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
    let majority = majority(total);
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
            format!("NO QUORUM: {counted}; changes are impossible{unserved}{}", removals(facts)),
            format!(
                "start voters until {majority} of {total} answer (missing: {}); if they are lost for good: pontoon recover",
                silent.join(", ")
            ),
        ));
    }
    if let Some(warning) = removal_waits(facts, answering, &unserved) {
        return Some(warning);
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

/// The warning that a removal of voters has begun which the voters that stay cannot end.
fn removal_waits(facts: &HealthFacts<'_>, answering: &BTreeSet<NodeId>, unserved: &str) -> Option<Warning> {
    let staying: BTreeSet<NodeId> = facts.voters.keys().copied().filter(|id| !is_leaving(facts, id)).collect();
    if staying.len() == facts.voters.len() {
        return None;
    }
    let lost = LostQuorum::of(&staying, answering)?;
    let silent: Vec<String> = lost.dead().iter().map(|id| format!("node {id} at {}", facts.voters[id])).collect();
    Some(Warning::new(
        WarningKind::NoQuorum,
        format!(
            "NO QUORUM: {} of the {} voters that stay answer{}; changes are impossible{unserved}{}",
            lost.alive.len(),
            staying.len(),
            if lost.alive.len() == 1 { "s" } else { "" },
            removals(facts)
        ),
        format!(
            "start voters that stay until {} answer (missing: {}); if they are lost for good: pontoon recover",
            majority(staying.len()),
            silent.join(", ")
        ),
    ))
}

/// The removals of voters that wait for a quorum.
fn removals(facts: &HealthFacts<'_>) -> String {
    let leaving: BTreeSet<NodeId> = facts.voters.keys().copied().filter(|id| is_leaving(facts, id)).collect();
    if leaving.is_empty() {
        String::new()
    } else {
        format!("; the removal of node {} waits for that", listed(&leaving))
    }
}

fn is_leaving(facts: &HealthFacts<'_>, id: &NodeId) -> bool {
    facts.state.members.get(id).is_some_and(|member| member.leaving.is_some())
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
