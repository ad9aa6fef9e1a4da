//! Whether the cluster is well: everything that an operator should know now, each with what clears it, and a headline.
//! A warning lasts exactly as long as its condition. Knows nothing of who asks, nor of how a node learns the facts.

mod advice;
mod group;
mod quorum;
mod secrets;
mod warning;

use std::collections::{BTreeMap, BTreeSet};

pub use self::{
    advice::not_persistent,
    group::GroupFacts,
    quorum::Quorum,
    warning::{Severity, Warning, WarningKind},
};
use super::liveness::Watchers;
use crate::model::{
    cluster_secret::SecretReport,
    ids::NodeId,
    state::{ClusterState, Product},
};

/// Warnings of one kind that are shown: about as many as fit on a screen. The rest is only counted.
const SHOWN_MAX: usize = 20;
/// Texts in the headline, which is one line.
const HEADLINE_MAX: usize = 3;

/// Everything that the judgement depends on.
#[derive(Clone, Debug)]
pub struct HealthFacts<'a> {
    /// The state, as the node has applied it.
    pub state: &'a ClusterState,
    /// The voters and their admin addresses.
    pub voters: &'a BTreeMap<NodeId, String>,
    /// Whether a leader has a majority behind it.
    pub quorum: Quorum,
    /// What nodes reported to the leader; or why it is not known, for people.
    pub observed: Result<Observed<'a>, String>,
    /// The time, milliseconds since the epoch.
    pub now_ms: u64,
}

/// What nodes reported to the leader.
#[derive(Clone, Debug)]
pub struct Observed<'a> {
    /// About servers.
    pub watchers: &'a Watchers<'a>,
    /// About themselves.
    pub nodes: Vec<ObservedNode>,
}

/// A node as the leader knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObservedNode {
    /// Its id.
    pub id: NodeId,
    /// Its admin address.
    pub admin: String,
    /// It is not alive. The age of its last heartbeat, milliseconds; inner `None`: there was none.
    pub silent: Option<Option<u64>>,
    /// Products whose port it cannot listen on: name, address, error.
    pub failed_listeners: Vec<(String, String, String)>,
    /// Its cluster secrets; `None`: it has not reported them.
    pub secrets: Option<SecretReport>,
}

/// All warnings about the cluster, the worst first; without advice.
#[must_use]
pub fn judge(facts: &HealthFacts<'_>) -> Vec<Warning> {
    let mut all: Vec<Warning> = quorum::warning(facts).into_iter().collect();
    let watchers = facts.observed.as_ref().ok().map(|observed| observed.watchers);
    for product in facts.state.products.values() {
        all.extend(slots_without_owner(product));
    }
    let groups = GroupFacts::new(facts.state, watchers, facts.now_ms);
    for product in facts.state.products.values() {
        for group in product.groups.values() {
            all.extend(groups.warnings(product, group).into_iter().filter(|w| w.severity() > Severity::Advice));
        }
    }
    match &facts.observed {
        Ok(observed) => {
            all.extend(observed.nodes.iter().flat_map(node_warnings));
            all.extend(secrets::warnings(&observed.nodes));
        }
        Err(why) => all.push(Warning::new(
            WarningKind::NotObserved,
            format!("what nodes observe of each other and of the servers is not known: {why}"),
            "ask again when a leader answers",
        )),
    }
    all.extend(about_all_groups(facts.state, watchers));
    if facts.voters.len() == 2 {
        all.push(Warning::new(
            WarningKind::TwoVoters,
            "a cluster of two voters survives no failure; a cluster of three survives one",
            "start a third node (pontoon serve --join)",
        ));
    }
    // Stable, so that warnings about one thing stay together.
    all.sort_by_key(|warning| std::cmp::Reverse(warning.severity()));
    shorten(all)
}

/// Warnings that concern all groups. `watchers`: what nodes observe, if it is known.
#[must_use]
pub fn about_all_groups(state: &ClusterState, watchers: Option<&Watchers<'_>>) -> Vec<Warning> {
    let blind = watchers.into_iter().flat_map(Watchers::blind);
    let mut all: Vec<Warning> = blind.map(|node| node_blind(*node)).collect();
    if state.settings.maintenance {
        all.push(Warning::new(
            WarningKind::Maintenance,
            "maintenance is on in the whole cluster: no automatic failover and no replication reconciliation",
            "pontoon maintenance off",
        ));
    }
    all
}

/// How bad it is altogether.
#[must_use]
pub fn worst(warnings: &[Warning]) -> Severity {
    warnings.iter().map(Warning::severity).max().unwrap_or(Severity::Ok)
}

/// One line that says how the cluster is: the worst warnings, or what is well.
#[must_use]
pub fn headline(facts: &HealthFacts<'_>, warnings: &[Warning]) -> String {
    let worst = worst(warnings);
    if worst == Severity::Ok {
        let slots: usize = facts.state.products.values().map(|p| p.slots.len()).sum();
        let free = facts.state.products.values().flat_map(|p| &p.slots).filter(|slot| slot.owner.is_none()).count();
        let voters = facts.voters.len();
        return format!(
            "a majority of {voters} voter{}; all {} assigned slots of {} product{} are served",
            if voters == 1 { "" } else { "s" },
            slots - free,
            facts.state.products.len(),
            if facts.state.products.len() == 1 { "" } else { "s" },
        );
    }
    let texts: Vec<&str> = warnings.iter().filter(|w| w.severity() == worst).map(|w| w.text.as_str()).collect();
    let more = texts.len().saturating_sub(HEADLINE_MAX);
    let shown = texts[..texts.len() - more].join("; ");
    if more == 0 { shown } else { format!("{shown}; and {more} more") }
}

fn slots_without_owner(product: &Product) -> Option<Warning> {
    let free = product.slots.iter().filter(|slot| slot.owner.is_none()).count();
    // A product without a group has just been created.
    (free > 0 && !product.groups.is_empty()).then(|| {
        Warning::new(
            WarningKind::SlotsWithoutOwner,
            format!("{}: no owner", unserved(free, product)),
            format!(
                "pontoon slot assign SLOTS GID --product {0} (pontoon slot ls --product {0} shows which)",
                product.name
            ),
        )
    })
}

fn node_warnings(node: &ObservedNode) -> Vec<Warning> {
    let ObservedNode { id, admin, silent, failed_listeners, secrets: _ } = node;
    let mut warnings = Vec::new();
    if let Some(age_ms) = silent {
        let heartbeat = match age_ms {
            Some(ms) => format!("its last heartbeat was {} s ago", ms / 1000),
            None => "this leader has had no heartbeat from it".into(),
        };
        warnings.push(Warning::new(
            WarningKind::NodeSilent,
            format!("node {id} ({admin}) is not alive: {heartbeat}"),
            format!("start it again, or remove it: pontoon node remove {id}"),
        ));
        // What it last reported of its listeners is out of date.
        return warnings;
    }
    warnings.extend(failed_listeners.iter().map(|(product, address, error)| {
        Warning::new(
            WarningKind::ListenerFailed,
            format!("node {id} does not listen on {address} for product '{product}': {error}"),
            format!("free the address on that machine, or pontoon product set {product} port=..; the node tries again every second"),
        )
    }));
    warnings
}

fn node_blind(node: NodeId) -> Warning {
    Warning::new(
        WarningKind::NodeBlind,
        format!(
            "no server answers node {node}, but servers answer other nodes: what node {node} reports does not count"
        ),
        format!("repair the network between node {node} and the servers"),
    )
}

/// At most [`SHOWN_MAX`] warnings of each kind; the last one says how many more there are.
fn shorten(all: Vec<Warning>) -> Vec<Warning> {
    let mut counts: BTreeMap<WarningKind, usize> = BTreeMap::new();
    all.iter().for_each(|warning| *counts.entry(warning.kind).or_default() += 1);
    let mut seen: BTreeMap<WarningKind, usize> = BTreeMap::new();
    let shown = |mut warning: Warning| {
        let (n, total) = (seen.entry(warning.kind).or_default(), counts[&warning.kind]);
        *n += 1;
        if *n == SHOWN_MAX && total > SHOWN_MAX {
            warning.text += &format!(" (and {} more like this: pontoon group ls, pontoon node ls)", total - SHOWN_MAX);
        }
        (*n <= SHOWN_MAX).then_some(warning)
    };
    all.into_iter().filter_map(shown).collect()
}

/// `512 slots of product 'shop' are not served`.
fn unserved(slots: usize, product: &Product) -> String {
    let (s, are) = if slots == 1 { ("", "is") } else { ("s", "are") };
    format!("{slots} slot{s} of product '{}' {are} not served", product.name)
}

/// Ids, for people: `1, 2, 3`.
fn listed(nodes: &BTreeSet<NodeId>) -> String {
    nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
