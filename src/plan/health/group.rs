//! What an operator should know of a group: whether its slots are served, and what threatens them.
//! Knows nothing of nodes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{Warning, WarningKind, listed, unserved};
use crate::{
    model::{
        event::{Event, EventKind},
        ids::{GroupId, HostPort, ProductId},
        reads::ReadFrom,
        state::{ClusterState, Group, Product, Server},
    },
    plan::{
        acks::replicas_in_sync,
        failover::{FollowingPrimaries, following_primaries, held_back},
        impairment::{ImpairedPrimary, impaired_primaries},
        liveness::{Liveness, Watchers, liveness},
        observation::{AgedReport, Impairment, Observation, newest},
    },
};

/// For how long a restart of a primary is a warning, milliseconds: a day, so that whoever comes in the morning sees it.
/// Nothing else could clear it, since what was lost stays lost.
const RESTART_SHOWN_MS: u64 = 24 * 3600 * 1000;

/// What all groups have in common, found out once.
#[derive(Debug)]
pub struct GroupFacts<'a> {
    state: &'a ClusterState,
    /// `None`: what nodes observe is not known.
    seen: Option<Seen<'a>>,
    slots: BTreeMap<(ProductId, GroupId), usize>,
    now_ms: u64,
}

/// What nodes observe.
#[derive(Debug)]
struct Seen<'a> {
    watchers: &'a Watchers<'a>,
    impaired: Vec<ImpairedPrimary<'a>>,
    following: BTreeSet<HostPort>,
    held_back: Vec<(ProductId, GroupId, String)>,
}

impl<'a> GroupFacts<'a> {
    /// `watchers`: what nodes observe; `None`: it is not known. `now_ms`: milliseconds since the epoch.
    #[must_use]
    pub fn new(state: &'a ClusterState, watchers: Option<&'a Watchers<'a>>, now_ms: u64) -> Self {
        let mut slots = BTreeMap::new();
        for product in state.products.values() {
            for owner in product.slots.iter().filter_map(|slot| slot.owner) {
                *slots.entry((product.id, owner)).or_default() += 1;
            }
        }
        let seen = watchers.map(|watchers| Seen {
            watchers,
            impaired: impaired_primaries(state, watchers),
            following: following_primaries(state, watchers),
            held_back: held_back(state, watchers.observation(), watchers, &FollowingPrimaries::new()),
        });
        Self { state, seen, slots, now_ms }
    }

    /// All warnings about a group, with advice.
    #[must_use]
    pub fn warnings(&self, product: &Product, group: &Group) -> Vec<Warning> {
        let Some(primary) = group.servers.first() else { return Vec::new() };
        let of = GroupJudgement { facts: self, product, group, primary, slots: self.slots_of(product, group) };
        let mut warnings: Vec<Warning> = of.maintenance().into_iter().collect();
        if let Some(seen) = &self.seen {
            warnings.extend(of.primary(seen));
            warnings.extend(of.other_servers(seen));
            warnings.extend(of.held_back(seen));
            warnings.extend(of.restarted(seen));
        }
        warnings.extend(of.min_acks());
        warnings.extend(of.reads());
        let nothing = Observation::new();
        let seen = self.seen.as_ref().map_or(&nothing, |seen| seen.watchers.observation());
        warnings.extend(of.advice(seen));
        warnings
    }

    fn slots_of(&self, product: &Product, group: &Group) -> usize {
        self.slots.get(&(product.id, group.id)).copied().unwrap_or(0)
    }
}

/// One group.
pub(super) struct GroupJudgement<'a> {
    facts: &'a GroupFacts<'a>,
    pub(super) product: &'a Product,
    pub(super) group: &'a Group,
    pub(super) primary: &'a Server,
    slots: usize,
}

impl GroupJudgement<'_> {
    /// `group 2 of product 'shop'`.
    fn name(&self) -> String {
        format!("group {} of product '{}'", self.group.id, self.product.name)
    }

    /// A command of `pontoon group` about this group, for example `show 3 --product shop`.
    pub(super) fn command(&self, verb: &str, rest: &str) -> String {
        let space = if rest.is_empty() { "" } else { " " };
        format!("pontoon group {verb} {}{space}{rest} --product {}", self.group.id, self.product.name)
    }

    /// Whether the slots of the group are served, as far as that depends on its primary.
    fn primary(&self, seen: &Seen<'_>) -> Option<Warning> {
        let Self { slots, group, primary, .. } = self;
        let addr = &primary.addr;
        let unserved = unserved(*slots, self.product);
        let judged = liveness(seen.watchers, addr, group.options.down_after_ms);
        if let Liveness::Down { by, for_ms } = &judged {
            let down = format!("{addr} has been down for {} s (nodes {})", for_ms / 1000, listed(by));
            return Some(if *slots == 0 {
                let to_clear = format!("start it again, or remove the group: {}", self.command("remove", ""));
                let text = format!("{down}; it is the primary of {}", self.name());
                Warning::new(WarningKind::ServerDown, text, to_clear)
            } else {
                let text = format!("{unserved}: group {} has no primary: {down}", group.id);
                Warning::new(WarningKind::PrimaryDown, text, self.replacement())
            });
        }
        if *slots > 0 && seen.following.contains(addr) {
            let text = format!(
                "{unserved}: {addr}, the primary of group {}, follows another server and accepts no writes",
                group.id
            );
            return Some(Warning::new(WarningKind::PrimaryFollows, text, self.replacement()));
        }
        if let Some(impaired) = seen.impaired.iter().find(|impaired| *slots > 0 && impaired.addr == *addr) {
            let kind = match impaired.impairment {
                Impairment::Busy => WarningKind::PrimaryBusy,
                Impairment::Loading => WarningKind::PrimaryLoading,
                Impairment::RefusesWrites => WarningKind::PrimaryRefusesWrites,
                Impairment::RefusesLogin => WarningKind::PrimaryRefusesLogin,
            };
            return Some(Warning::new(kind, impaired.sentence(), impaired.remedy()));
        }
        if judged == Liveness::NotProbed { self.not_probed(seen, addr) } else { None }
    }

    /// How a group gets a primary that serves.
    fn replacement(&self) -> String {
        let addr = &self.primary.addr;
        if let Some(promotion) = self.facts.state.promotion_of(self.product.id, self.group.id) {
            return format!("{} {} to {}, which is in progress", promotion.kind.name(), promotion.id, promotion.to);
        }
        if self.group.servers.len() < 2 {
            return format!("make {addr} a primary that answers (the group has no replica that could replace it)");
        }
        format!(
            "an automatic failover, unless 'waiting on' says why there is none; or make {addr} a primary that answers; or accept \
             the loss: {}",
            self.command("promote", "HOST:PORT --force")
        )
    }

    /// Replicas that are down or refuse to be probed.
    fn other_servers(&self, seen: &Seen<'_>) -> Vec<Warning> {
        let judged = |server: &Server| {
            let addr = &server.addr;
            match liveness(seen.watchers, addr, self.group.options.down_after_ms) {
                Liveness::Down { by, for_ms } => Some(Warning::new(
                    WarningKind::ServerDown,
                    format!(
                        "{addr} (replica in {}) has been down for {} s (nodes {})",
                        self.name(),
                        for_ms / 1000,
                        listed(&by)
                    ),
                    format!("start it again, or remove it: {}", self.command("remove-server", addr.as_str())),
                )),
                Liveness::NotProbed => self.not_probed(seen, addr),
                Liveness::Up | Liveness::Loading | Liveness::Suspect { .. } | Liveness::Unknown => None,
            }
        };
        self.group.servers.iter().skip(1).filter_map(judged).collect()
    }

    /// A server that answers and refuses to be probed, with its reason.
    fn not_probed(&self, seen: &Seen<'_>, addr: &HostPort) -> Option<Warning> {
        let error =
            |(_, reported): (_, &AgedReport)| Some(&reported.report.error).filter(|error| !error.is_empty()).cloned();
        let error = seen.watchers.reports(addr).find_map(error)?;
        Some(Warning::new(
            WarningKind::ServerNotProbed,
            format!("{} cannot be watched: {error}", self.name()),
            format!("let the server answer the group's login and INFO; details: {}", self.command("show", "")),
        ))
    }

    fn held_back(&self, seen: &Seen<'_>) -> Option<Warning> {
        let this = |(product, group, _): &&(ProductId, GroupId, String)| {
            (*product, *group) == (self.product.id, self.group.id)
        };
        let (_, _, why) = seen.held_back.iter().find(this)?;
        let to_clear = format!(
            "repair what the primaries have in common; or pontoon cluster set failover-share-max=..; or promote by hand: {}",
            self.command("promote", "HOST:PORT --force")
        );
        Some(Warning::new(
            WarningKind::FailoverHeldBack,
            format!("{} is not failed over: {why}", self.name()),
            to_clear,
        ))
    }

    fn maintenance(&self) -> Option<Warning> {
        self.group.options.maintenance.then(|| {
            Warning::new(
                WarningKind::GroupMaintenance,
                format!(
                    "{} is in maintenance: no automatic failover and no replication reconciliation there",
                    self.name()
                ),
                format!("pontoon maintenance off {} --product {}", self.group.id, self.product.name),
            )
        })
    }

    /// Whether the primary has restarted or was replaced by hand within the last day, since the group has it.
    fn restarted(&self, seen: &Seen<'_>) -> Option<Warning> {
        let Self { group, primary, .. } = self;
        let (probe, _) = newest(seen.watchers.observation(), &primary.addr).unzip();
        // A primary also begins a new history for its first replica. It has not restarted if it still is the process that
        // was added, or the process that the log recorded, unless the log recorded a restart.
        let same = probe.is_some_and(|probe| {
            let first = group.restarted_with.is_none() && probe.run_id == group.run_id;
            !probe.run_id.is_empty() && (first || probe.run_id == primary.run_id)
        });
        let ago_ms = self.facts.now_ms.saturating_sub(self.new_history_at_ms().filter(|_| !same)?);
        if ago_ms >= RESTART_SHOWN_MS {
            return None;
        }
        let empty = probe.is_some_and(|probe| probe.keys == 0 && !probe.loading);
        let (addr, ago) = (&primary.addr, ago(ago_ms));
        let lost = "is lost, also on its replicas, which copy it";
        let text = match if empty { Some(0) } else { group.restarted_with } {
            Some(0) => format!(
                "the primary {addr} restarted empty {ago} ago: if it had keys, they are lost, also on its replicas, which copy it"
            ),
            Some(keys) => {
                format!("the primary {addr} restarted {ago} ago, with {keys} keys: what it had not saved {lost}")
            }
            None => format!("the primary {addr} restarted, or was replaced by hand, {ago} ago"),
        };
        let to_clear =
            "the warning ends a day after the restart; restore a backup if keys are missing, and turn persistence on";
        Some(Warning::new(WarningKind::PrimaryRestarted, text, to_clear))
    }

    /// When the present primary last began another history.
    fn new_history_at_ms(&self) -> Option<u64> {
        let subject = format!("group {}", self.group.id);
        let of = |e: &&Arc<Event>| {
            e.kind == EventKind::PrimaryNoted && e.product == Some(self.product.id) && e.subject == subject
        };
        // Events before the group epoch are about an earlier primary.
        self.facts.state.events.iter().rev().find(of).filter(|e| e.index > self.group.epoch).map(|e| e.at_ms)
    }

    /// Whether writes can have the acknowledgements that the product demands.
    fn min_acks(&self) -> Option<Warning> {
        let (min_acks, replicas) = (usize::from(self.product.min_acks), self.group.servers.len().saturating_sub(1));
        if self.slots == 0 || min_acks == 0 {
            return None;
        }
        let slots = format!("every write to the {} slots of {} is answered -NOREPLICAS", self.slots, self.name());
        let fewer = format!("pontoon product set {} min-acks={{}}", self.product.name);
        if replicas < min_acks {
            let to_clear = format!(
                "{}, or {}",
                self.command("add-server", "HOST:PORT"),
                fewer.replace("{}", &replicas.to_string())
            );
            let text = format!("min-acks is {min_acks}, and there are {replicas} replica(s): {slots}");
            return Some(Warning::new(WarningKind::MinAcksUnmet, text, to_clear));
        }
        // While the primary does not answer, another warning says so.
        let in_sync = replicas_in_sync(self.group, self.facts.seen.as_ref()?.watchers.observation())?;
        (in_sync < min_acks).then(|| {
            let text = format!("min-acks is {min_acks}, and {in_sync} of {replicas} replica(s) are in sync: {slots}");
            let show = self.command("show", "");
            let to_clear = format!(
                "bring the replicas back ({show} says what is wrong), or {}",
                fewer.replace("{}", &in_sync.to_string())
            );
            Warning::new(WarningKind::MinAcksUnmet, text, to_clear)
        })
    }

    /// Whether reads that never go to the primary find a replica.
    fn reads(&self) -> Option<Warning> {
        let replicas = self.group.servers.len().saturating_sub(1);
        if self.slots == 0 || self.product.reads.from != ReadFrom::Replica {
            return None;
        }
        let in_sync = match replicas {
            0 => 0,
            // While the primary does not answer, another warning says so.
            _ => replicas_in_sync(self.group, self.facts.seen.as_ref()?.watchers.observation())?,
        };
        (in_sync == 0).then(|| {
            let add = match replicas {
                0 => self.command("add-server", "HOST:PORT"),
                _ => format!("bring the replicas back ({} says what is wrong)", self.command("show", "")),
            };
            Warning::new(
                WarningKind::ReadsUnserved,
                format!(
                    "read-from is replica, and {in_sync} of {replicas} replica(s) are in sync: every read of the {} slots of {} is \
                     answered -TRYAGAIN",
                    self.slots,
                    self.name()
                ),
                format!("{add}, or pontoon product set {} read-from=prefer-replica", self.product.name),
            )
        })
    }
}

/// A time span, for people: `40 s`, `5 min`, `3 h`.
fn ago(ms: u64) -> String {
    match ms / 1000 {
        seconds @ 0..=119 => format!("{seconds} s"),
        seconds @ 120..=7199 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}
