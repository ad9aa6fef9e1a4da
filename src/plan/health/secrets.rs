//! Warnings about cluster secrets: files that were refused, and a secret that is being replaced. They tell an operator when
//! to go on with the next step.

use super::{ObservedNode, Warning, WarningKind, listed};
use crate::model::{
    cluster_secret::{SecretReport, SecretTag, SecretTags},
    ids::NodeId,
};

/// About the nodes that are alive and have reported.
pub(super) fn warnings(nodes: &[ObservedNode]) -> Vec<Warning> {
    let alive = nodes.iter().filter(|node| node.silent.is_none());
    let reports: Vec<_> = alive.filter_map(|node| Some((node.id, node.secrets.as_ref()?))).collect();
    let mut warnings: Vec<Warning> = reports.iter().filter_map(|(id, report)| refused(*id, report)).collect();
    // In the order of the nodes, so that the text stays the same.
    let mut same: Vec<(Option<SecretTags>, Vec<NodeId>)> = Vec::new();
    for (id, report) in reports {
        match same.iter_mut().find(|(tags, _)| *tags == report.tags) {
            Some((_, ids)) => ids.push(id),
            None => same.push((report.tags, vec![id])),
        }
    }
    match same.as_slice() {
        [(Some(tags), _)] if tags.accepted() == 2 => warnings.push(Warning::new(
            WarningKind::TwoSecrets,
            "two cluster secrets are valid: every node that is alive sends the same one, and accepts the same other one",
            "go on with the replacement: let the first line of every node's secret file be the new secret, and when nobody \
             uses the other one any more, the only line (docs/operations.md, 'Change the cluster secret')",
        )),
        [] | [_] => {}
        differ => warnings.push(Warning::new(
            WarningKind::SecretsDiffer,
            format!("the nodes differ in their cluster secrets: {}", described(differ)),
            "give every node the same secret file and reload it (systemctl reload pontoon), before the next step of a \
             replacement",
        )),
    }
    warnings
}

fn refused(id: NodeId, report: &SecretReport) -> Option<Warning> {
    let why = report.refused.as_ref()?;
    Some(Warning::new(
        WarningKind::SecretFileRefused,
        format!("node {id} keeps the cluster secrets that it had: {why}"),
        format!("correct that file, and reload node {id} (systemctl reload pontoon)"),
    ))
}

/// `node 1 sends A and accepts B; nodes 2, 3 send B`. Letters stand for secrets, in the order of the nodes.
fn described(differ: &[(Option<SecretTags>, Vec<NodeId>)]) -> String {
    let mut seen: Vec<SecretTag> = Vec::new();
    let mut letter = |tag: SecretTag| {
        let place = seen.iter().position(|known| *known == tag).unwrap_or_else(|| {
            seen.push(tag);
            seen.len() - 1
        });
        // More than 26 cannot be told apart by letters, nor by people.
        u8::try_from(place).ok().filter(|n| *n < 26).map_or('?', |n| char::from(b'A' + n))
    };
    let one = |(tags, ids): &(Option<SecretTags>, Vec<NodeId>)| {
        let nodes = listed(&ids.iter().copied().collect());
        let (nodes, send, accept, have) = match ids.len() {
            1 => (format!("node {nodes}"), "sends", "accepts", "has"),
            _ => (format!("nodes {nodes}"), "send", "accept", "have"),
        };
        match tags {
            None => format!("{nodes} {have} none"),
            Some(SecretTags { sent, other: None }) => format!("{nodes} {send} {}", letter(*sent)),
            Some(SecretTags { sent, other: Some(other) }) => {
                format!("{nodes} {send} {} and {accept} {}", letter(*sent), letter(*other))
            }
        }
    };
    let parts: Vec<String> = differ.iter().map(one).collect();
    parts.join("; ")
}
