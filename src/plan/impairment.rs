//! Servers that answer and cannot serve: by how many nodes and for how long this is seen, and which primaries of groups
//! are replaced because of it. Knows nothing of servers that do not answer (`liveness`), nor of how one is replaced.

use super::{
    liveness::Watchers,
    observation::{Impairment, newest},
};
use crate::model::{
    ids::{GroupId, HostPort, ProductId},
    promotion::PromotionKind,
    state::{ClusterState, Group, Product},
};

/// A primary that answers and cannot serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImpairedPrimary<'a> {
    /// The group's product.
    pub product: &'a Product,
    /// The group.
    pub group: &'a Group,
    /// The primary.
    pub addr: HostPort,
    /// Why it cannot serve.
    pub impairment: Impairment,
    /// For how long a majority of the live voters have seen this, milliseconds.
    pub for_ms: u64,
    /// What is wrong with it, as a predicate: "refuses writes (MISCONF ..)".
    pub what: String,
}

/// For how long a majority of the live voters have seen `server` impaired in this way without a break, milliseconds;
/// `None`: they do not see that.
#[must_use]
pub fn majority_impaired_ms(watchers: &Watchers<'_>, server: &HostPort, impairment: Impairment) -> Option<u64> {
    let voters = watchers.reports(server).filter(|(node, _)| watchers.alive().contains(node));
    let mut seen_ms: Vec<u64> = voters
        .filter(|(_, reported)| reported.report.failing_ms.is_none())
        .filter_map(|(_, reported)| {
            let (seen, for_ms) = reported.report.impaired?;
            (seen == impairment).then(|| for_ms.saturating_add(reported.age_ms))
        })
        .collect();
    seen_ms.sort_unstable_by(|a, b| b.cmp(a));
    // The shortest time of a majority: each of them has seen it for at least that long.
    seen_ms.get(watchers.alive().len() / 2).copied()
}

/// The primaries that a majority of the live voters see impaired.
#[must_use]
pub fn impaired_primaries<'a>(state: &'a ClusterState, watchers: &Watchers<'_>) -> Vec<ImpairedPrimary<'a>> {
    let groups = state.products.values().flat_map(|p| p.groups.values().map(move |g| (p, g)));
    let impaired = |(product, group): (&'a Product, &'a Group)| {
        let addr = &group.servers.first()?.addr;
        let seen = |of: &Impairment| Some((*of, majority_impaired_ms(watchers, addr, *of)?));
        let (impairment, for_ms) = Impairment::ALL.iter().find_map(seen)?;
        let seconds = for_ms / 1000;
        let what = match impairment {
            Impairment::Busy => {
                format!("has been busy with a script for {seconds} s, and executes nothing else (-BUSY)")
            }
            Impairment::Loading => format!("has been loading its data for {seconds} s (-LOADING)"),
            Impairment::RefusesWrites => {
                let error = newest(watchers.observation(), addr).map_or("", |(probe, _)| probe.write_error.as_str());
                format!("has refused all writes for {seconds} s ({error})")
            }
            Impairment::RefusesLogin => format!("has refused the password of its group for {seconds} s"),
        };
        Some(ImpairedPrimary { product, group, addr: addr.clone(), impairment, for_ms, what })
    };
    groups.filter_map(impaired).collect()
}

impl ImpairedPrimary<'_> {
    /// How the primary is to be replaced; `None`: it is not, by the options of its group, or not yet. A primary that
    /// refuses writes still replicates and answers, so a switchover replaces it without loss.
    #[must_use]
    pub fn replaced_by(&self) -> Option<PromotionKind> {
        let options = &self.group.options.impaired;
        let (after_ms, kind) = match self.impairment {
            Impairment::Busy => (options.busy_failover_after_ms, PromotionKind::Failover),
            Impairment::Loading => (options.loading_failover_after_ms, PromotionKind::Failover),
            Impairment::RefusesWrites => (options.misconf_failover_after_ms, PromotionKind::Switchover),
            // It serves its replicas and whoever knows the password: a replica that knows the old one is no remedy.
            Impairment::RefusesLogin => return None,
        };
        (after_ms != 0 && self.for_ms >= u64::from(after_ms)).then_some(kind)
    }

    /// A sentence about it for the operator, with the remedy.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{}: {}", self.sentence(), self.remedy())
    }

    /// A sentence about it for the operator.
    #[must_use]
    pub fn sentence(&self) -> String {
        let Self { product, group, addr, what, .. } = self;
        let slots = product.owned(group.id).len();
        let unserved = match self.impairment {
            Impairment::Busy | Impairment::Loading | Impairment::RefusesLogin => "requests",
            Impairment::RefusesWrites => "writes",
        };
        format!(
            "{addr}, primary of group {} of product '{}', {what}; {unserved} of its {slots} slots are not served",
            group.id, product.name,
        )
    }

    /// What an operator can do.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self.impairment {
            Impairment::Busy => {
                "wait for the script, or end it (SCRIPT KILL, FUNCTION KILL), if it has written nothing"
            }
            Impairment::Loading => "wait until it has loaded",
            Impairment::RefusesWrites => "give its disk space, and look into its log for the error",
            Impairment::RefusesLogin => {
                "give it the password (and user) that its group has in Pontoon, or tell Pontoon the one of the servers (pontoon \
                 group set GID --password-file FILE)"
            }
        }
    }
}

/// The groups whose primary refuses writes, each with a text for the operator.
#[must_use]
pub fn writes_refused(state: &ClusterState, watchers: &Watchers<'_>) -> Vec<(ProductId, GroupId, String)> {
    let refuses = |p: &ImpairedPrimary<'_>| p.impairment == Impairment::RefusesWrites;
    let all = impaired_primaries(state, watchers).into_iter().filter(refuses);
    all.map(|p| (p.product.id, p.group.id, p.text())).collect()
}
