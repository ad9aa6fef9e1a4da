//! For every order of requests, replies, writes, events and expiries, both servers end with the same value.
//! Knows nothing of sockets.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use pontoon::mover::big_key::{BigId, BigKeys, Requests};
use proptest::{prelude::*, test_runner::TestRunner};

use super::fake::{Data, Fake};

const KEY: &[u8] = b"k";
/// Names of fields: few, so that writes hit fields that were read, and enough for several pages.
const NAMES: u64 = 60;

/// Two servers, and everything that is in flight between them and the copy.
struct World {
    source: Fake,
    target: Fake,
    big: BigKeys,
    now: Instant,
    to_source: VecDeque<(BigId, Vec<u8>)>,
    from_source: VecDeque<(BigId, Vec<u8>)>,
    /// No id: a request of the engine itself.
    to_target: VecDeque<(Option<BigId>, Vec<u8>)>,
    from_target: VecDeque<(Option<BigId>, Vec<u8>)>,
    feed: VecDeque<Vec<Vec<u8>>>,
    /// The engine's dirty set: keys that are fetched like small ones.
    dirty: bool,
    kind: u8,
}

fn words(line: &str) -> Vec<Vec<u8>> {
    line.split(' ').map(|word| word.as_bytes().to_vec()).collect()
}

impl World {
    fn new(kind: u8, new: bool) -> Self {
        let mut source = Fake { new, ..Fake::default() };
        for i in 0..NAMES / 2 {
            source.command(&words(&match kind {
                0 => format!("HSET k n{i} {i}"),
                1 => format!("SADD k n{i}"),
                _ => format!("ZADD k {} n{i}", i % 7),
            }));
        }
        let mut world = Self {
            source,
            target: Fake { new, ..Fake::default() },
            big: BigKeys::default(),
            now: Instant::now(),
            to_source: VecDeque::new(),
            from_source: VecDeque::new(),
            to_target: VecDeque::new(),
            from_target: VecDeque::new(),
            feed: VecDeque::new(),
            dirty: true,
            kind,
        };
        world.fetch();
        world
    }

    /// A client's command: the source executes it and the feed gets it.
    fn write(&mut self, a: u8, b: u8) {
        let (name, value) = (u64::from(a) % NAMES, b);
        let line = match (b % 32, self.kind) {
            (0, _) => "DEL k".to_owned(),
            (1 | 5, _) => format!("PEXPIRE k {}", 20 + 5 * u64::from(a)),
            (2, _) => "PERSIST k".to_owned(),
            // Another type than before.
            (3, 1) => "ZADD k 1 other".to_owned(),
            (3, _) => "SADD k other".to_owned(),
            (4, 0) if self.source.new => format!("HPEXPIRE k {} FIELDS 1 n{name}", 1000 + u64::from(a)),
            (b, 0) if b % 3 == 0 => format!("HDEL k n{name} n{}", (name + 1) % NAMES),
            (_, 0) => format!("HSET k n{name} {value}"),
            (b, 1) if b % 2 == 0 => format!("SREM k n{name}"),
            (_, 1) => format!("SADD k n{name} n{}", (name + 5) % NAMES),
            (b, _) if b % 3 == 0 => format!("ZREM k n{name}"),
            _ => format!("ZADD k {} n{name}", value % 11),
        };
        let args = words(&line);
        // A command that fails is not replicated.
        if !self.source.command(&args).starts_with(b"-") {
            self.feed.push_back(args);
        }
    }

    /// The engine's fetch of a small key: every value here is big or missing.
    fn fetch(&mut self) {
        if !std::mem::take(&mut self.dirty) {
            return;
        }
        if self.source.key.is_some() {
            self.big.begin(0, bytes::Bytes::from_static(KEY), false, self.now);
        } else {
            let mut out = Requests::default();
            out.push(&[b"UNLINK", KEY]);
            self.to_target.push_back((None, out.take().0));
        }
    }

    fn ask(&mut self) -> bool {
        let (mut source, mut target) = (Requests::default(), Requests::default());
        let round = self.big.next_round(self.now, &mut source, &mut target);
        let Some(round) = round else {
            assert_eq!(target.count(), 0);
            return false;
        };
        self.to_source.push_back((round.id, source.take().0));
        self.to_target.push_back((Some(round.id), target.take().0));
        true
    }

    fn source_runs(&mut self) -> bool {
        let Some((id, bytes)) = self.to_source.pop_front() else { return false };
        self.from_source.extend(self.source.run(&bytes).into_iter().map(|reply| (id, reply)));
        true
    }

    fn source_answers(&mut self) -> bool {
        let Some((id, reply)) = self.from_source.pop_front() else { return false };
        let mut out = Requests::default();
        self.big.source_reply(id, &reply, &mut out, self.now).unwrap();
        self.to_target.push_back((Some(id), out.take().0));
        self.take_returned();
        true
    }

    fn take_returned(&mut self) {
        while self.big.take_returned().is_some() {
            self.dirty = true;
        }
    }

    fn target_runs(&mut self) -> bool {
        let Some((id, bytes)) = self.to_target.pop_front() else { return false };
        self.from_target.extend(self.target.run(&bytes).into_iter().map(|reply| (id, reply)));
        true
    }

    fn target_answers(&mut self) -> bool {
        let Some((id, reply)) = self.from_target.pop_front() else { return false };
        if let Some(id) = id {
            self.big.target_reply(id, &reply, self.now).unwrap();
        }
        self.take_returned();
        true
    }

    fn event(&mut self) -> bool {
        let Some(args) = self.feed.pop_front() else { return false };
        if !self.big.event(0, KEY, &args[..], self.now) {
            self.dirty = true;
        }
        true
    }

    fn tick(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
        if self.source.tick(millis) {
            self.feed.push_back(words("DEL k"));
        }
        self.target.tick(millis);
    }

    fn act(&mut self, (what, a, b): (u8, u8, u8)) {
        match what % 20 {
            0..=2 => drop(self.ask()),
            3 | 4 => drop(self.source_runs()),
            5 | 6 => drop(self.source_answers()),
            7 | 8 => drop(self.target_runs()),
            9 | 10 => drop(self.target_answers()),
            11 | 12 => drop(self.event()),
            13 => self.fetch(),
            14 => self.write(a, b),
            // Times to live, short and long.
            18 | 19 => self.write(a, [1, 2, 5][usize::from(b) % 3]),
            // Mostly short steps, sometimes as long as many times to live.
            15 => self.tick(if b < 64 { 400 } else { u64::from(b % 8) }),
            // The copy advances, with all events or while they are late.
            more => {
                for _ in 0..usize::from(a) * 2 {
                    if more == 16 {
                        self.event();
                        self.fetch();
                    }
                    self.turn();
                }
            }
        }
    }

    /// Advances everything but events by one step; returns whether there was anything.
    fn turn(&mut self) -> bool {
        let busy = [self.ask(), self.source_runs(), self.source_answers(), self.target_runs(), self.target_answers()];
        busy != [false; 5]
    }

    /// The barrier has passed: nobody writes, and everything in flight arrives.
    fn settle(&mut self) {
        self.big.set_urgent(true);
        for _ in 0..10_000 {
            while self.event() {}
            self.fetch();
            if !self.turn() && !self.dirty && self.feed.is_empty() {
                assert!(self.big.is_clean(), "{:?} with nothing to do", self.big.remaining());
                return;
            }
        }
        panic!("it does not end: {:?}", self.big.remaining());
    }
}

/// The value without expiry times.
fn value(fake: &Fake) -> Option<Data> {
    let mut data = fake.key.clone()?.0;
    if let Data::Hash(fields) = &mut data {
        fields.values_mut().for_each(|(_, until)| *until = None);
    }
    Some(data)
}

/// The expiry times of the key and each field.
fn times(fake: &Fake) -> Vec<Option<u64>> {
    let Some((data, until)) = &fake.key else { return Vec::new() };
    let mut times = vec![*until];
    if let Data::Hash(fields) = data {
        times.extend(fields.values().map(|(_, until)| *until));
    }
    times
}

fn check(kind: u8, new: bool, actions: &[(u8, u8, u8)]) -> Result<(), TestCaseError> {
    let mut world = World::new(kind, new);
    for action in actions {
        world.act(*action);
    }
    world.settle();
    prop_assert_eq!(value(&world.source), value(&world.target));
    prop_assert_eq!(times(&world.source), times(&world.target));
    Ok(())
}

#[test]
fn any_interleaving_ends_with_equal_values() {
    let mut runner =
        TestRunner::new(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() });
    let strategy = (0..3u8, any::<bool>(), prop::collection::vec(any::<(u8, u8, u8)>(), 0..400));
    runner.run(&strategy, |(kind, new, actions)| check(kind, new, &actions)).unwrap();
}

/// Tests the property itself: if every tenth event is lost, the values must not always be equal.
#[test]
fn lost_events_are_noticed() {
    let mut runner =
        TestRunner::new(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() });
    let strategy = (0..3u8, prop::collection::vec(any::<(u8, u8, u8)>(), 300..400));
    let found = runner.run(&strategy, |(kind, actions)| {
        let mut world = World::new(kind, false);
        for (i, action) in actions.iter().enumerate() {
            world.act(*action);
            if i % 10 == 0 {
                world.feed.pop_front();
            }
        }
        world.settle();
        prop_assert_eq!(value(&world.source), value(&world.target));
        Ok(())
    });
    assert!(found.is_err(), "a feed that loses events was not noticed");
}
