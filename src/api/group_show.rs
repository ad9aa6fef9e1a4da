//! Answers with groups and what nodes observe of their servers. The leader has the reports of all nodes, so other nodes
//! ask it; if it cannot be asked, the answer has only what the log has.

use std::collections::BTreeSet;

use tonic::{Request, Response, Status};

use super::{
    Api, change,
    error::CallFailure,
    forward, group_view,
    show::{self, present},
    validate,
};
use crate::{
    clock::{boottime_ns, wall_ms},
    model::{
        ids::{GroupId, HostPort, NodeId},
        reads::{ReadFrom, ReadPolicy},
        reject::Reject,
        state::{Group, Product},
    },
    plan::{
        acks::{may_leave, replicas_in_sync},
        candidates::GroupHistory,
        health::{GroupFacts, about_all_groups},
        liveness::{Liveness, Watchers, liveness},
        observation::{Observation, ReportedRole, answered_now},
        restart::confirmations,
    },
    wire::pb::admin::{self, ListGroupsReply, ListGroupsRequest, ServerState, ShowGroupReply, ShowGroupRequest},
};

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
        let facts = GroupFacts::new(&state, reports.as_ref().map(|reports| &reports.watchers), wall_ms());
        let shown = |group| {
            let mut shown = group_view::group(&state, product, group);
            shown.warnings = facts.warnings(product, group).iter().map(show::warning).collect();
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
        let watchers = reports.as_ref().map(|reports| &reports.watchers);
        let facts = GroupFacts::new(&state, watchers, wall_ms());
        let warnings = facts.warnings(product, group).into_iter().chain(about_all_groups(&state, watchers));
        shown.warnings = warnings.map(|warning| show::warning(&warning)).collect();
        let mut waiting_on = Vec::new();
        if let Some(reports) = &reports {
            reports.fill_observed(&mut shown, product, group);
            waiting_on = reports.waits_for(&product.name, group);
        }
        Ok(Response::new(ShowGroupReply {
            group: Some(shown),
            not_observed_because: missing_because(not_asked, reports.is_some()),
            waiting_on,
            ended_promotions: group_view::ended_of(&state, product, id),
        }))
    }

    /// Whether a replica may be removed from a group whose writes wait for replicas.
    ///
    /// # Errors
    /// Returns why the replica must stay, as text for the operator.
    pub fn may_leave(&self, product: &Product, group: &Group, addr: &HostPort) -> Result<(), String> {
        let (Some(seen), Some(primary)) = (self.reports(), group.servers.first()) else { return Ok(()) };
        let history = GroupHistory::of(confirmations(product), group, &seen.observation).replid;
        let in_sync = |addr: &HostPort| {
            let probe = answered_now(&seen.observation, addr).filter(|probe| probe.replid == history);
            probe.is_some_and(|probe| match &probe.role {
                ReportedRole::Replica { of, link_up, syncing, .. } => *of == primary.addr && *link_up && !syncing,
                ReportedRole::Primary { .. } => false,
            })
        };
        may_leave(group, product.min_acks, addr, in_sync)
    }

    /// Refuses reads from replicas only while a group with slots has none in sync, as far as that is known.
    ///
    /// # Errors
    /// Returns which groups, and what the operator can do, as text.
    pub(super) fn keeps_reads(&self, product: &Product, wanted: ReadPolicy) -> Result<(), String> {
        let newly = wanted.from == ReadFrom::Replica && product.reads.from != ReadFrom::Replica;
        let Some(seen) = self.reports().filter(|_| newly) else { return Ok(()) };
        let serves = |group: &&Group| product.slots.iter().any(|slot| slot.owner == Some(group.id));
        let unread = |group: &&Group| replicas_in_sync(group, &seen.observation) == Some(0);
        let unread: Vec<String> =
            product.groups.values().filter(serves).filter(unread).map(|group| group.id.to_string()).collect();
        if unread.is_empty() {
            return Ok(());
        }
        Err(format!(
            "no replica of group(s) {} of product '{}' is in sync: all reads there would be answered -TRYAGAIN; bring the \
             replicas back (pontoon group show GID), or use read-from=prefer-replica, or --force",
            unread.join(", "),
            product.name
        ))
    }

    /// What nodes have reported to this node, if it leads.
    pub(super) fn reports(&self) -> Option<LeaderReports> {
        let view = self.control.view.borrow().clone();
        view.term?;
        let now = boottime_ns();
        let voters = self.control.log.leadership().borrow().voters.clone();
        let alive = view.alive(voters, self.control.lease, now);
        let waiting_on = view.waiting_on.iter().map(|wait| wait.text(now)).collect();
        Some(LeaderReports { observation: view.observation(now), alive, waiting_on })
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
pub(super) struct LeaderReports {
    observation: Observation,
    alive: BTreeSet<NodeId>,
    waiting_on: Vec<String>,
}

impl LeaderReports {
    /// What follows from them for servers.
    pub(super) fn watchers(&self) -> Watchers<'_> {
        Watchers::new(&self.observation, self.alive.clone())
    }
}

/// What follows from the reports.
struct ProbeReports<'a> {
    seen: &'a LeaderReports,
    watchers: Watchers<'a>,
    me: NodeId,
}

impl<'a> ProbeReports<'a> {
    fn new(seen: &'a LeaderReports, me: NodeId) -> Self {
        Self { seen, watchers: seen.watchers(), me }
    }

    fn fill_observed(&self, shown: &mut admin::Group, product: &Product, group: &Group) {
        let state = |addr: &HostPort| match self.liveness(addr, group) {
            Liveness::Up => ServerState::Up,
            Liveness::Loading => ServerState::Loading,
            Liveness::NotProbed => ServerState::NotProbed,
            Liveness::Suspect { .. } => ServerState::Suspect,
            Liveness::Down { .. } => ServerState::Down,
            Liveness::Unknown => ServerState::Unknown,
        };
        group_view::fill_observed(shown, (confirmations(product), group), &self.seen.observation, self.me, state);
    }

    fn liveness(&self, addr: &HostPort, group: &Group) -> Liveness {
        liveness(&self.watchers, addr, group.options.down_after_ms)
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
