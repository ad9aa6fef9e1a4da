//! Answers with groups and what nodes observe of their servers. The leader has the reports of all nodes, so other nodes
//! ask it; if it cannot be asked, the answer has only what the log has.

use std::collections::BTreeSet;

use tonic::{Request, Response, Status};

use super::{Api, change, error::CallFailure, forward, group_view, show::present, validate};
use crate::{
    clock::boottime_ns,
    model::{
        ids::{GroupId, HostPort, NodeId},
        reject::Reject,
        state::{ClusterState, Group, Product},
    },
    plan::{
        acks::may_leave,
        candidates::GroupHistory,
        failover::{FollowingPrimaries, held_back},
        impairment::{ImpairedPrimary, impaired_primaries},
        liveness::{Liveness, Watchers, liveness},
        observation::{Observation, ReportedRole},
        restart::confirmations,
    },
    wire::pb::admin::{self, ListGroupsReply, ListGroupsRequest, ServerState, ShowGroupReply, ShowGroupRequest},
};

/// Servers that are down and named in the status: about as many as fit on a screen. The rest is only counted.
const DOWN_SHOWN_MAX: usize = 20;

impl Api {
    /// The groups of a product.
    ///
    /// # Errors
    /// NOT_FOUND if there is no such product, INVALID_ARGUMENT if none is named.
    pub async fn groups(&self, request: Request<ListGroupsRequest>) -> Result<Response<ListGroupsReply>, Status> {
        let forwarded = forward::was_forwarded(&request);
        let wanted = request.into_inner();
        change::product(&self.state(), &wanted.product)?;
        let ask = |mut client: forward::Client, asked| async move { client.list_groups(asked).await };
        let not_asked = match self.answer_of_leader(forwarded, wanted.clone(), ask).await {
            Ok(reply) => return Ok(reply),
            Err(why) => why,
        };
        let (state, seen) = (self.state(), self.reports());
        let reports = seen.as_ref().map(|seen| ProbeReports::new(seen, self.control.me));
        let product = change::product(&state, &wanted.product)?;
        let shown = |group| {
            let mut shown = group_view::group(&state, product, group);
            if let Some(reports) = &reports {
                reports.fill_observed(&mut shown, product, group);
            }
            shown
        };
        let groups = product.groups.values().map(shown).collect();
        Ok(Response::new(ListGroupsReply {
            groups,
            not_observed_because: missing_because(not_asked, reports.is_some()),
        }))
    }

    /// Everything about one group.
    ///
    /// # Errors
    /// NOT_FOUND if there is no such product or group, INVALID_ARGUMENT if one of them is not named.
    pub async fn group(&self, request: Request<ShowGroupRequest>) -> Result<Response<ShowGroupReply>, Status> {
        let forwarded = forward::was_forwarded(&request);
        let wanted = request.into_inner();
        let id = validate::group(wanted.id)?;
        let missing = |product: &str| {
            CallFailure::NotFound(Reject::UnknownGroup { product: product.into(), group: id }.to_string())
        };
        let ask = |mut client: forward::Client, asked| async move { client.show_group(asked).await };
        let not_asked = match self.answer_of_leader(forwarded, wanted.clone(), ask).await {
            Ok(reply) => return Ok(reply),
            Err(why) => why,
        };
        let (state, seen) = (self.state(), self.reports());
        let reports = seen.as_ref().map(|seen| ProbeReports::new(seen, self.control.me));
        let product = change::product(&state, &wanted.product)?;
        let group = product.groups.get(&id).ok_or_else(|| missing(&product.name))?;
        let mut shown = group_view::group(&state, product, group);
        let nothing = Observation::new();
        let observation = seen.as_ref().map_or(&nothing, |seen| &seen.observation);
        let mut warnings = group_view::warnings(&state, product, group, observation);
        let mut waiting_on = Vec::new();
        if let Some(reports) = &reports {
            reports.fill_observed(&mut shown, product, group);
            warnings.extend(reports.warnings(&state, product, group));
            waiting_on = reports.waits_for(&product.name, group);
        }
        Ok(Response::new(ShowGroupReply {
            group: Some(shown),
            not_observed_because: missing_because(not_asked, reports.is_some()),
            waiting_on,
            warnings,
            ended_promotions: group_view::ended_of(&state, product, id),
        }))
    }

    /// Servers that are down, one sentence each; empty if this node does not lead.
    #[must_use]
    pub fn servers_down(&self) -> Vec<String> {
        let (state, Some(seen)) = (self.state(), self.reports()) else { return Vec::new() };
        let reports = ProbeReports::new(&seen, self.control.me);
        let mut down = Vec::new();
        for product in state.products.values() {
            for group in product.groups.values() {
                for (place, server) in group.servers.iter().enumerate() {
                    let Liveness::Down { by, for_ms } = reports.liveness(&server.addr, group) else { continue };
                    let role = if place == 0 { "primary" } else { "replica" };
                    let by: Vec<_> = by.iter().map(ToString::to_string).collect();
                    down.push(format!(
                        "{} ({role} in group {} of product '{}') has been down for {} s (nodes {}): pontoon group show {} \
                         --product {}",
                        server.addr,
                        group.id,
                        product.name,
                        for_ms / 1000,
                        by.join(", "),
                        group.id,
                        product.name
                    ));
                }
            }
        }
        let more = down.len().saturating_sub(DOWN_SHOWN_MAX);
        if more > 0 {
            down.truncate(DOWN_SHOWN_MAX);
            down.push(format!("{more} more servers are down: pontoon group ls"));
        }
        down
    }

    /// Primaries that answer and cannot serve, one sentence each; empty if this node does not lead.
    #[must_use]
    pub fn primaries_impaired(&self) -> Vec<String> {
        let (state, Some(seen)) = (self.state(), self.reports()) else { return Vec::new() };
        let watchers = Watchers::new(&seen.observation, seen.alive.clone());
        impaired_primaries(&state, &watchers).iter().take(DOWN_SHOWN_MAX).map(ImpairedPrimary::text).collect()
    }

    /// Whether a replica may be removed from a group whose writes wait for replicas.
    ///
    /// # Errors
    /// Returns why the replica must stay, as text for the operator.
    pub fn may_leave(&self, product: &Product, group: &Group, addr: &HostPort) -> Result<(), String> {
        let (Some(seen), Some(primary)) = (self.reports(), group.servers.first()) else { return Ok(()) };
        let history = GroupHistory::of(confirmations(product), group, &seen.observation).replid;
        let in_sync = |addr: &HostPort| {
            let probe = group_view::answered_now(&seen.observation, addr).filter(|probe| probe.replid == history);
            probe.is_some_and(|probe| match &probe.role {
                ReportedRole::Replica { of, link_up, syncing, .. } => *of == primary.addr && *link_up && !syncing,
                ReportedRole::Primary { .. } => false,
            })
        };
        may_leave(group, product.min_acks, addr, in_sync)
    }

    /// What nodes have reported to this node, if it leads.
    fn reports(&self) -> Option<LeaderReports> {
        let view = self.control.view.borrow().clone();
        view.term?;
        let now = boottime_ns();
        let voters = self.control.log.leadership().borrow().voters.clone();
        let alive = view.alive(voters, self.control.lease, now);
        Some(LeaderReports { observation: view.observation(now), alive, waiting_on: view.waiting_on.clone() })
    }
}

/// Why observations are missing. `not_asked`: why the leader did not answer; empty if this node is the one to ask.
fn missing_because(not_asked: String, known: bool) -> Option<String> {
    if not_asked.is_empty() && !known {
        return Some("this node does not lead, and no other node was asked".into());
    }
    present(&not_asked)
}

/// What nodes have reported to the leader.
struct LeaderReports {
    observation: Observation,
    alive: BTreeSet<NodeId>,
    waiting_on: Vec<String>,
}

/// What follows from the reports.
struct ProbeReports<'a> {
    seen: &'a LeaderReports,
    watchers: Watchers<'a>,
    me: NodeId,
}

impl<'a> ProbeReports<'a> {
    fn new(seen: &'a LeaderReports, me: NodeId) -> Self {
        Self { seen, watchers: Watchers::new(&seen.observation, seen.alive.clone()), me }
    }

    fn fill_observed(&self, shown: &mut admin::Group, product: &Product, group: &Group) {
        let state = |addr: &HostPort| match self.liveness(addr, group) {
            Liveness::Up => ServerState::Up,
            Liveness::Loading => ServerState::Loading,
            Liveness::Suspect { .. } => ServerState::Suspect,
            Liveness::Down { .. } => ServerState::Down,
            Liveness::Unknown => ServerState::Unknown,
        };
        group_view::fill_observed(shown, (confirmations(product), group), &self.seen.observation, self.me, state);
    }

    fn liveness(&self, addr: &HostPort, group: &Group) -> Liveness {
        liveness(&self.watchers, addr, group.options.down_after_ms)
    }

    fn primary_down(&self, group: &Group) -> bool {
        group
            .servers
            .first()
            .is_some_and(|primary| matches!(self.liveness(&primary.addr, group), Liveness::Down { .. }))
    }

    /// Why a primary that is down is not failed over, and nodes whose probes do not count.
    fn warnings(&self, state: &ClusterState, product: &Product, group: &Group) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.primary_down(group) {
            let following = FollowingPrimaries::new();
            let held = held_back(state, &self.seen.observation, &self.watchers, &following).into_iter();
            let this = held.filter(|(of, id, _)| (*of, *id) == (product.id, group.id));
            warnings.extend(this.map(|(_, _, why)| why));
        }
        for node in self.watchers.blind() {
            warnings.push(format!(
                "no server answers node {node}, but servers answer other nodes: what node {node} reports does not count"
            ));
        }
        warnings
    }

    /// The leader's sentences that name the group or one of its servers.
    fn waits_for(&self, product: &str, group: &Group) -> Vec<String> {
        let concerns = |sentence: &&String| {
            names_group(sentence, product, group.id)
                || group.servers.iter().any(|server| names(sentence, server.addr.as_str()).next().is_some())
        };
        self.seen.waiting_on.iter().filter(concerns).cloned().collect()
    }
}

/// For each place of a sentence where `word` is a whole word: the rest of the sentence after it.
fn names<'a>(sentence: &'a str, word: &'a str) -> impl Iterator<Item = &'a str> {
    let ends = |rest: &str| !rest.starts_with(|c: char| c.is_ascii_alphanumeric());
    let begins = |before: &str| !before.ends_with(|c: char| c.is_ascii_alphanumeric());
    sentence.match_indices(word).filter_map(move |(at, word)| {
        let rest = &sentence[at + word.len()..];
        (begins(&sentence[..at]) && ends(rest)).then_some(rest)
    })
}

/// Whether a sentence names a group. If it names the product of such a group, that product must be this one.
fn names_group(sentence: &str, product: &str, group: GroupId) -> bool {
    let group = format!("group {group}");
    let mut products = names(sentence, &group).filter_map(|rest| rest.strip_prefix(" of product '")).peekable();
    match products.peek() {
        Some(_) => products.any(|rest| rest.starts_with(&format!("{product}'"))),
        None => names(sentence, &group).next().is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_is_about_the_group_that_it_names() {
        for (sentence, about) in [
            ("group 3 of product 'shop' has no candidate", true),
            ("group 3 of product 'shopping' has no candidate", false),
            ("failover of group 3 to a:1: the barrier", true),
            ("failover of group 33 to a:1: the barrier", false),
            ("group 33 of product 'shop' and then group 3", true),
            ("the sweep of group 3 of product 'default': group 3 is swept later", false),
            ("subgroup 3", false),
        ] {
            assert_eq!(names_group(sentence, "shop", GroupId(3)), about, "{sentence}");
        }
        assert!(names("10.0.0.1:7000 is to follow", "10.0.0.1:700").next().is_none());
        assert!(names("110.0.0.1:700 is to follow", "10.0.0.1:700").next().is_none());
        assert!(names("x; 10.0.0.1:700, and", "10.0.0.1:700").next().is_some());
    }
}
