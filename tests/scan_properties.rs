//! A scan over all groups returns every key that is there all the time, whatever groups, slots, primaries and processes do
//! meanwhile, and whichever node answers. The servers, their hash tables and the log are imitated.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use pontoon::model::{
    ids::GroupId,
    limits::GROUP_CHANGES_MAX,
    scan_cursor::{CursorError, ScanPlace, key_cursor_at_server, key_cursor_for_client},
    scan_history::{GroupChange, ScanHistory},
};
use proptest::prelude::*;

/// Buckets of a server's hash table, slots of the product, and keys, of which each belongs to the slot with its number
/// modulo `SLOTS`.
const BUCKETS: u64 = 16;
const SLOTS: u32 = 12;
const KEYS: u32 = 60;

/// What happens between two calls of the client.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// The client asks for a page of this many buckets at this node.
    Page(u64, usize),
    /// A slot moves, with its keys, to another group.
    Move(u32, u32),
    /// A group gets another primary, which is another process with the same keys.
    Promote(u32),
    /// The primary of a group is restarted.
    Restart(u32),
    /// A group is made, or removed if it has no slots.
    Create(u32),
    Remove(u32),
}

fn step() -> impl Strategy<Value = Step> {
    let group = || 1..8_u32;
    prop_oneof![
        6 => (1..6_u64, 0..3_usize).prop_map(|(count, node)| Step::Page(count, node)),
        3 => (0..SLOTS, group()).prop_map(|(slot, to)| Step::Move(slot, to)),
        1 => group().prop_map(Step::Promote),
        1 => group().prop_map(Step::Restart),
        1 => group().prop_map(Step::Create),
        1 => group().prop_map(Step::Remove),
    ]
}

/// What a node knows.
#[derive(Clone, Debug, Default)]
struct Routes {
    history: ScanHistory,
    groups: BTreeSet<GroupId>,
    owners: BTreeMap<u32, GroupId>,
}

impl Routes {
    fn groups(&self) -> impl Iterator<Item = GroupId> {
        self.groups.iter().copied()
    }

    fn owns(&self, group: GroupId) -> bool {
        self.owners.values().any(|owner| *owner == group)
    }
}

#[derive(Debug)]
struct Server {
    keys: BTreeSet<u32>,
    run_id: String,
}

impl Server {
    /// A page of `count` buckets from the cursor on, in the order of this process.
    fn scan(&self, cursor: u64, count: u64) -> (u64, Vec<u32>) {
        let bucket = |key: &u32| u64::from(crc32fast::hash(format!("{}:{key}", self.run_id).as_bytes())) % BUCKETS;
        let to = (cursor + count).min(BUCKETS);
        let found = self.keys.iter().copied().filter(|key| (cursor..to).contains(&bucket(key))).collect();
        (if to == BUCKETS { 0 } else { to }, found)
    }
}

/// A cluster, and a client that scans it.
struct World {
    now: Routes,
    /// Nodes learn changes that no hold protects (a new group) at some time, and all earlier ones with the next hold.
    nodes: [Routes; 3],
    servers: BTreeMap<GroupId, Server>,
    processes: u32,
    cursor: u64,
    found: BTreeSet<u32>,
    started: bool,
}

/// How a page ended.
#[derive(Debug, PartialEq, Eq)]
enum Paged {
    More,
    End,
    Error,
}

impl World {
    fn new(groups: u32) -> Self {
        let mut world = Self {
            now: Routes::default(),
            nodes: Default::default(),
            servers: BTreeMap::new(),
            processes: 0,
            cursor: 0,
            found: BTreeSet::new(),
            started: false,
        };
        (1..=groups).for_each(|group| world.create(GroupId(group)));
        for slot in 0..SLOTS {
            let owner = GroupId(slot % groups + 1);
            world.now.owners.insert(slot, owner);
            let keys = (0..KEYS).filter(|key| key % SLOTS == slot);
            world.servers.get_mut(&owner).unwrap().keys.extend(keys);
        }
        world.all_know();
        world
    }

    fn process(&mut self) -> String {
        self.processes += 1;
        format!("process-{}", self.processes)
    }

    fn create(&mut self, group: GroupId) {
        let run_id = self.process();
        if self.now.groups.insert(group) {
            self.servers.insert(group, Server { keys: BTreeSet::new(), run_id });
            self.now.history.record(GroupChange::Created(group));
        }
    }

    fn all_know(&mut self) {
        self.nodes = [(); 3].map(|()| self.now.clone());
    }

    fn step(&mut self, step: Step) -> Option<Paged> {
        match step {
            Step::Page(count, node) => return Some(self.page(count, node)),
            Step::Move(slot, to) => {
                let (from, to) = (self.now.owners[&slot], GroupId(to));
                if from == to || !self.now.groups.contains(&to) {
                    return None;
                }
                let moving: Vec<u32> = (0..KEYS).filter(|key| key % SLOTS == slot).collect();
                self.servers.get_mut(&to).unwrap().keys.extend(&moving);
                // The source is cleaned at once, although some nodes may not know of the switch: they still hold the slot.
                self.servers.get_mut(&from).unwrap().keys.retain(|key| !moving.contains(key));
                self.now.owners.insert(slot, to);
                self.now.history.record(GroupChange::Changed(to));
                self.all_know();
            }
            Step::Promote(group) | Step::Restart(group) => {
                let group = GroupId(group);
                if !self.now.groups.contains(&group) {
                    return None;
                }
                self.servers.get_mut(&group).unwrap().run_id = self.process();
                if matches!(step, Step::Promote(_)) {
                    self.now.history.record(GroupChange::Changed(group));
                    self.all_know();
                }
            }
            Step::Create(group) => self.create(GroupId(group)),
            Step::Remove(group) => {
                let group = GroupId(group);
                if !self.now.owns(group) && self.now.groups.remove(&group) {
                    self.now.history.record(GroupChange::Removed(group));
                    // (Its server is gone, but a node that does not know it asks no group without slots.)
                }
            }
        }
        None
    }

    /// What a node does with the client's cursor; see `Walk` in `src/proxy/operation/all_groups/walk.rs`.
    fn page(&mut self, count: u64, node: usize) -> Paged {
        let place = loop {
            let routes = &self.nodes[node];
            match ScanPlace::of(self.cursor, &routes.history, routes.groups()) {
                Ok(place) => break place,
                // It waits for the routes.
                Err(CursorError::Ahead) if routes.history != self.now.history => self.nodes[node] = self.now.clone(),
                Err(_) => return Paged::Error,
            }
        };
        self.started = true;
        let routes = self.nodes[node].clone();
        let positions = routes.history.positions(place.start, routes.groups()).unwrap();
        let next = |from| positions.next(from, |group| routes.owns(group));
        let Some((position, group)) = next(place.position) else { return Paged::End };
        let server = &self.servers[&group];
        let from = if position == place.position { place.server(&server.run_id) } else { 0 };
        let (cursor, keys) = server.scan(from, count);
        self.found.extend(keys.into_iter().filter(|key| routes.owners[&(key % SLOTS)] == group));
        let (position, cursor) = match cursor {
            0 => match next(position + 1) {
                None => return Paged::End,
                Some((position, _)) => (position, 0),
            },
            cursor => (position, cursor),
        };
        self.cursor = ScanPlace::cursor(&positions, position, cursor, &server.run_id).unwrap();
        assert_ne!(self.cursor, 0, "it would end the client's scan");
        Paged::More
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn every_key_is_returned(groups in 1..5_u32, steps in prop::collection::vec(step(), 0..150)) {
        let mut world = World::new(groups);
        // At the latest when nothing happens any more.
        let rest = std::iter::repeat_n(Step::Page(2, 0), 8 * (10 + GROUP_CHANGES_MAX));
        for step in steps.into_iter().chain(rest) {
            match world.step(step) {
                Some(Paged::End) => {
                    prop_assert_eq!(world.found.len() as u32, KEYS, "missing keys: {:?}", world.found);
                    return Ok(());
                }
                Some(Paged::Error) => {
                    let known = world.now.history.last.len();
                    prop_assert!(known == GROUP_CHANGES_MAX && world.started, "an error after {} changes", known);
                    return Ok(());
                }
                Some(Paged::More) | None => {}
            }
        }
        prop_assert!(false, "the scan does not end");
    }

    /// The cursor of a key: every other process begins anew, also in the middle of its own scan.
    #[test]
    fn every_element_of_a_key_is_returned(pages in prop::collection::vec((1..6_u64, 0..4_u32), 0..40)) {
        let servers: Vec<Server> = (0..4).map(|i| Server { keys: (0..KEYS).collect(), run_id: format!("process-{i}") }).collect();
        let (mut cursor, mut found) = (0, BTreeSet::new());
        for (count, at) in pages.into_iter().chain(std::iter::repeat_n((3, 0), 20)) {
            let server = &servers[at as usize];
            let (next, keys) = server.scan(key_cursor_at_server(cursor, &server.run_id), count);
            found.extend(keys);
            cursor = key_cursor_for_client(next, &server.run_id).unwrap();
            if cursor == 0 {
                prop_assert_eq!(found.len() as u32, KEYS);
                return Ok(());
            }
        }
        prop_assert!(false, "the scan does not end");
    }

    #[test]
    fn any_number_is_a_cursor_or_an_error(cursor: u64, groups in 1..1024_u32, changes in 0..300_usize) {
        let mut history = ScanHistory::default();
        (0..changes).for_each(|i| history.record(GroupChange::Changed(GroupId(i as u32 % groups + 1))));
        if let Ok(place) = ScanPlace::of(cursor, &history, (1..=groups).map(GroupId)) {
            let positions = history.positions(place.start, (1..=groups).map(GroupId)).unwrap();
            prop_assert!(positions.has(place.position));
            let _ = place.server("any");
        }
        let _ = key_cursor_at_server(cursor, "any");
    }
}
