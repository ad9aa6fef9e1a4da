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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const MS: u64 = NS_PER_MS;

    fn addr(n: u16) -> HostPort {
        HostPort::parse(&format!("127.0.0.1:{n}")).unwrap()
    }

    fn look(role: RoleSeen) -> Look {
        Look {
            run_id: "run".into(),
            role,
            replid: "id".into(),
            offset: 5,
            replid2: None,
            loading: false,
            used_memory: 1,
            keys: 2,
            ops_per_second: 3,
            ping_us: 4,
            persistent: Some(true),
            unnamed_replicas: 0,
        }
    }

    fn primary() -> Look {
        look(RoleSeen::Primary { replicas: Vec::new() })
    }

    fn replica(link_up: bool, syncing: bool) -> Look {
        look(RoleSeen::Replica { of: addr(1), link_up, link_down_ms: 0, syncing })
    }

    fn failed() -> Seen {
        Seen::Failed("it does not answer".into())
    }

    /// A book of one server, with looks at these milliseconds that took 1 ms each.
    fn book(looks: Vec<(u64, Seen)>) -> (Sights, Vec<bool>) {
        let mut sights = Sights::default();
        sights.watch_only(&BTreeSet::from([&addr(1)]));
        let news = looks.into_iter().map(|(at, seen)| sights.note(&addr(1), seen, at * MS, (at + 1) * MS)).collect();
        (sights, news)
    }

    #[test]
    fn failing_counts_from_the_first_look_that_failed() {
        let (sights, news) = book(vec![(100, Seen::Answered(primary())), (600, failed()), (1_100, failed())]);
        let sight = sights.get(&addr(1), 2_000 * MS).unwrap();
        assert_eq!((sight.failing_ms, sight.look.unwrap().1), (Some(1_400), 1_899));
        assert_eq!(sight.error, "it does not answer");
        assert_eq!(news, [true, true, false]);
        let (sights, news) = book(vec![(600, failed()), (1_100, Seen::Answered(primary()))]);
        let sight = sights.get(&addr(1), 2_000 * MS).unwrap();
        assert_eq!((sight.failing_ms, sight.error.as_str()), (None, ""));
        assert_eq!(news, [true, true]);
    }

    #[test]
    fn a_node_that_did_not_run_has_not_seen_a_failure() {
        // It was stopped between two looks: the failure after counts from itself on.
        let (sights, _) = book(vec![(600, failed()), (9_000, failed())]);
        assert_eq!(sights.get(&addr(1), 9_100 * MS).unwrap().failing_ms, Some(100));
        // It was stopped within a look: nobody knows what the server did meanwhile.
        let (mut sights, _) = book(vec![(600, Seen::Answered(primary()))]);
        sights.note(&addr(1), failed(), 1_100 * MS, 9_000 * MS);
        assert_eq!(sights.get(&addr(1), 9_100 * MS).unwrap().failing_ms, Some(100));
    }

    #[test]
    fn a_server_that_answers_and_cannot_be_asked_does_not_fail() {
        let refuses = || Seen::Unusable("it refuses the password".into());
        let (sights, news) = book(vec![(0, failed()), (500, refuses()), (1_000, refuses())]);
        let sight = sights.get(&addr(1), 2_000 * MS).unwrap();
        assert_eq!((sight.failing_ms, sight.error.as_str()), (None, "it refuses the password"));
        assert_eq!(news, [true, true, false]);
    }

    #[test]
    fn only_a_replica_in_step_is_noted_as_linked() {
        let loading = Look { loading: true, ..replica(true, false) };
        for look in [primary(), replica(false, false), replica(true, true), loading] {
            let (sights, _) = book(vec![(100, Seen::Answered(look.clone()))]);
            assert_eq!(sights.get(&addr(1), 0).unwrap().linked, None, "{look:?}");
        }
        let looks = vec![(100, Seen::Answered(replica(true, false))), (600, Seen::Answered(replica(false, false)))];
        let (sights, _) = book(looks);
        let linked = sights.get(&addr(1), 1_101 * MS).unwrap().linked.unwrap();
        assert_eq!(linked, Linked { to: addr(1), replid: "id".into(), run_id: "run".into(), ago_ms: 1_000 });
    }

    #[test]
    fn what_decisions_rest_on_is_news_and_time_is_not() {
        let later = Look { offset: 9, keys: 9, ping_us: 9, ..primary() };
        let restarted = Look { run_id: "other".into(), ..primary() };
        let other_data = Look { replid: "other".into(), ..primary() };
        let loading = Look { loading: true, ..primary() };
        let elsewhere = look(RoleSeen::Replica { of: addr(2), link_up: true, link_down_ms: 0, syncing: false });
        for (before, now, is_news) in [
            (primary(), later, false),
            (primary(), restarted, true),
            (primary(), other_data, true),
            (primary(), loading, true),
            (primary(), replica(true, false), true),
            (replica(true, false), replica(true, false), false),
            (replica(true, false), replica(false, false), true),
            (replica(false, false), replica(false, true), true),
            (replica(true, false), elsewhere, true),
        ] {
            let said = format!("{before:?} {now:?}");
            let (_, news) = book(vec![(0, Seen::Answered(before)), (500, Seen::Answered(now))]);
            assert_eq!(news, [true, is_news], "{said}");
        }
    }

    fn named(page: &Page) -> Vec<&str> {
        page.sights.iter().map(|s| s.server.as_str()).collect()
    }

    #[test]
    fn a_leader_hears_what_is_new_and_a_new_leader_everything() {
        let mut sights = Sights::default();
        let (one, two, three) = (addr(1), addr(2), addr(3));
        sights.watch_only(&BTreeSet::from([&one, &two, &three]));
        assert_eq!(sights.page(0), Page::default(), "nobody has looked yet");
        sights.note(&one, Seen::Answered(primary()), 0, MS);
        sights.note(&two, Seen::Answered(primary()), 0, MS);
        let page = sights.page(MS);
        assert_eq!(named(&page), ["127.0.0.1:1", "127.0.0.1:2"]);
        assert_eq!(named(&sights.page(MS)), named(&page), "nobody has answered");
        // While it travels, there is another look.
        sights.note(&two, Seen::Answered(primary()), 0, MS);
        assert!(!sights.kept(&page, Term(3)));
        assert_eq!(named(&sights.page(MS)), ["127.0.0.1:2"]);
        sights.note(&three, failed(), 0, MS);
        assert_eq!(named(&sights.page(MS)), ["127.0.0.1:3", "127.0.0.1:2"], "news come first");
        let page = sights.page(MS);
        assert!(sights.kept(&page, Term(4)), "it has not heard of the first");
        assert_eq!(named(&sights.page(MS)), ["127.0.0.1:1"]);
        // One that has left is told of no more.
        sights.watch_only(&BTreeSet::from([&three]));
        assert_eq!(sights.page(MS), Page::default());
        assert!(!sights.note(&one, failed(), 0, MS), "a look that ends after");
        assert_eq!(sights.get(&one, MS), None);
    }

    #[test]
    fn many_servers_are_told_in_pages() {
        let servers: Vec<HostPort> = (1..=9_000).map(addr).collect();
        let mut sights = Sights::default();
        sights.watch_only(&servers.iter().collect());
        let replicas = (1..=8).map(|n| (addr(n), 1 << 40)).collect();
        for server in &servers {
            let seen = Seen::Answered(look(RoleSeen::Primary { replicas: Vec::clone(&replicas) }));
            sights.note(server, seen, 0, MS);
        }
        let (mut told, mut pages) = (BTreeSet::new(), 0);
        loop {
            let page = sights.page(MS);
            assert!(page.sights.iter().map(Message::encoded_len).sum::<usize>() <= PAGE_BYTES_MAX);
            for sight in &page.sights {
                assert!(told.insert(sight.server.clone()), "{} is told twice", sight.server);
            }
            pages += 1;
            if !sights.kept(&page, Term(1)) {
                break;
            }
        }
        assert_eq!(told.len(), servers.len());
        assert!((2..20).contains(&pages), "{pages}");
    }
}
