//! What this node has seen of each server, and which of it the leader has not heard yet.
//! Knows nothing of how one looks, nor of how a heartbeat travels; reads no clock.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;

use super::sight_wire;
use crate::{
    model::ids::{HostPort, Term},
    plan::observation::{Linked, Look, RoleSeen, Sight},
    wire::pb::node::ServerSight,
};

/// Bytes of sights in one heartbeat: a quarter of what gRPC takes, and several thousand servers.
const PAGE_BYTES_MAX: usize = 1 << 20;
/// A look that took longer than this was not ended by its deadline: this node did not run, and has not seen the server fail
/// meanwhile.
const STALLED_NS: u64 = 1_000_000_000;
/// Looks that lie further apart than this are not without a break: nobody looked in between.
const APART_NS: u64 = 2_000_000_000;
const NS_PER_MS: u64 = 1_000_000;

/// What came of a look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It was answered.
    Answered(Look),
    /// The server answers, and says nothing of use; why, for people.
    Unusable(String),
    /// It does not answer, or not as a Redis server; how, for people.
    Failed(String),
}

/// The book. A server that is not watched is not in it.
#[derive(Debug, Default)]
pub struct Sights {
    rows: BTreeMap<HostPort, Row>,
    /// Number of the last look.
    version: u64,
    /// The leader that has heard what is marked as kept.
    kept_in: Term,
}

/// A server's row. Times are nanoseconds on one clock.
#[derive(Debug, Default)]
struct Row {
    look: Option<(Look, u64)>,
    failing_since_ns: Option<u64>,
    error: String,
    linked: Option<InStep>,
    /// When the last look ended; 0: there was none.
    ended_ns: u64,
    /// Number of the last look.
    version: u64,
    /// Number of the last one that the leader has.
    kept: u64,
    /// Number of the last one that was news.
    news: u64,
}

#[derive(Debug)]
struct InStep {
    to: HostPort,
    replid: String,
    run_id: String,
    at_ns: u64,
}

/// What a heartbeat carries of the book.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// The sights.
    pub sights: Vec<ServerSight>,
    /// Which looks these are.
    marks: Vec<(HostPort, u64)>,
    /// Not all that the leader has not heard had room.
    more: bool,
}

impl Sights {
    /// Makes a row for each of these servers, and for no others. What is known of a server stays.
    pub fn watch_only(&mut self, servers: &BTreeSet<&HostPort>) {
        self.rows.retain(|server, _| servers.contains(server));
        for server in servers {
            if !self.rows.contains_key(server) {
                self.rows.insert((*server).clone(), Row::default());
            }
        }
    }

    /// Notes a look. True: it is news, worth a heartbeat at once.
    pub fn note(&mut self, server: &HostPort, seen: Seen, began_ns: u64, now_ns: u64) -> bool {
        let Some(row) = self.rows.get_mut(server) else { return false };
        self.version += 1;
        row.version = self.version;
        let first = row.ended_ns == 0;
        let (failed, usable) = (row.failing_since_ns.is_some(), row.error.is_empty());
        let news = match seen {
            Seen::Answered(look) => {
                let news = first || !usable || row.look.as_ref().is_none_or(|(before, _)| differ(before, &look));
                if let Some((to, replid)) = in_step(&look) {
                    row.linked = Some(InStep { to, replid, run_id: look.run_id.clone(), at_ns: now_ns });
                }
                (row.failing_since_ns, row.error) = (None, String::new());
                row.look = Some((look, now_ns));
                news
            }
            Seen::Unusable(why) => {
                (row.failing_since_ns, row.error) = (None, why);
                first || failed || usable
            }
            Seen::Failed(why) => {
                let began_ns = if now_ns.saturating_sub(began_ns) > STALLED_NS { now_ns } else { began_ns };
                let unbroken = row.failing_since_ns.filter(|_| began_ns.saturating_sub(row.ended_ns) <= APART_NS);
                row.failing_since_ns = Some(unbroken.unwrap_or(began_ns));
                row.error = why;
                !failed
            }
        };
        row.ended_ns = now_ns;
        if news {
            row.news = row.version;
        }
        news
    }

    /// What the leader has not heard, news first, then what it has not heard for longest.
    #[must_use]
    pub fn page(&self, now_ns: u64) -> Page {
        let mut unheard: Vec<_> = self.rows.iter().filter(|(_, row)| row.version > row.kept).collect();
        unheard.sort_by_key(|(_, row)| (row.news <= row.kept, row.kept));
        let (mut page, mut bytes) = (Page::default(), 0);
        for (server, row) in unheard {
            let sight = sight_wire::write(server, &row.sight(now_ns));
            bytes += sight.encoded_len();
            if bytes > PAGE_BYTES_MAX || page.sights.len() >= sight_wire::SIGHTS_MAX {
                page.more = true;
                break;
            }
            page.sights.push(sight);
            page.marks.push((server.clone(), row.version));
        }
        page
    }

    /// The leader of this term has kept a page. Another leader than before has nothing of the pages before. True: there is
    /// more that it should have now.
    pub fn kept(&mut self, page: &Page, term: Term) -> bool {
        let another = term != self.kept_in;
        if another {
            self.kept_in = term;
            self.rows.values_mut().for_each(|row| row.kept = 0);
        }
        for (server, version) in &page.marks {
            if let Some(row) = self.rows.get_mut(server) {
                row.kept = row.kept.max(*version);
            }
        }
        page.more || another && self.rows.values().any(|row| row.version > 0 && row.kept == 0)
    }

    /// What is known of a server; `None`: it is not watched.
    #[must_use]
    pub fn get(&self, server: &HostPort, now_ns: u64) -> Option<Sight> {
        self.rows.get(server).map(|row| row.sight(now_ns))
    }
}

impl Row {
    fn sight(&self, now_ns: u64) -> Sight {
        let age = |at_ns: u64| now_ns.saturating_sub(at_ns) / NS_PER_MS;
        Sight {
            look: self.look.as_ref().map(|(look, at_ns)| (look.clone(), age(*at_ns))),
            failing_ms: self.failing_since_ns.map(age),
            error: self.error.clone(),
            linked: self.linked.as_ref().map(|InStep { to, replid, run_id, at_ns }| Linked {
                to: to.clone(),
                replid: replid.clone(),
                run_id: run_id.clone(),
                ago_ms: age(*at_ns),
            }),
        }
    }
}

/// Whether two looks differ in what decisions rest on, other than by time going on.
fn differ(before: &Look, now: &Look) -> bool {
    let roles = match (&before.role, &now.role) {
        (RoleSeen::Primary { .. }, RoleSeen::Primary { .. }) => false,
        (
            RoleSeen::Replica { of, link_up, syncing, .. },
            RoleSeen::Replica { of: of_now, link_up: up_now, syncing: syncing_now, .. },
        ) => (of, link_up, syncing) != (of_now, up_now, syncing_now),
        (RoleSeen::Primary { .. }, RoleSeen::Replica { .. }) | (RoleSeen::Replica { .. }, RoleSeen::Primary { .. }) => {
            true
        }
    };
    roles || (&before.run_id, &before.replid, before.loading) != (&now.run_id, &now.replid, now.loading)
}

/// The primary and the replication id of a replica that is in step.
fn in_step(look: &Look) -> Option<(HostPort, String)> {
    match &look.role {
        RoleSeen::Replica { of, link_up: true, syncing: false, .. } if !look.loading => {
            Some((of.clone(), look.replid.clone()))
        }
        RoleSeen::Replica { .. } | RoleSeen::Primary { .. } => None,
    }
}
