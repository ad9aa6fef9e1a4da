//! Queues whose workers wait with blocking commands: every element is taken once, moved once, or still there. A worker that
//! does not learn the outcome of a pop may have lost one element of that queue; a move loses none.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::Ordering,
    thread::JoinHandle,
};

use super::{CallResult, Caller, Reader, Shared, StopOnDrop};
use crate::{
    client::Reply,
    wait::{GENEROUS, wait_until},
};

/// Queues of each kind: few, so that a worker waits at each of them most of the time.
const QUEUES: usize = 3;
/// How long a worker waits, seconds: longer than a hold, so that calls are sent again behind it.
const WAITS: &str = "2";

/// How elements are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// BLPOP of a list.
    Pop,
    /// BZPOPMIN of a sorted set.
    PopMin,
    /// BLMOVE to a list of the worker.
    Move,
}

const KINDS: [Kind; 3] = [Kind::Pop, Kind::PopMin, Kind::Move];

impl Kind {
    fn key(self, n: usize) -> String {
        format!("{{{self:?}{}}}", n % QUEUES)
    }

    /// The list to which the worker with this number moves elements.
    fn moved(self, n: usize, worker: usize) -> String {
        format!("{}moved-by-{worker}", self.key(n))
    }
}

/// What producers pushed to one queue.
#[derive(Clone, Debug, Default)]
struct Pushed {
    acknowledged: BTreeSet<String>,
    unknown: BTreeSet<String>,
}

/// What workers took from one queue.
#[derive(Clone, Debug, Default)]
struct Taken {
    elements: Vec<String>,
    /// Calls of unknown outcome.
    unknown: usize,
}

type Producer = JoinHandle<(BTreeMap<(usize, usize), Pushed>, Caller)>;
type Worker = JoinHandle<(Kind, BTreeMap<usize, Taken>, Caller)>;

/// Producers and workers on every node.
#[derive(Debug)]
pub struct Queues {
    producers: Vec<Producer>,
    workers: Vec<Worker>,
    shared: Shared,
    ports: Vec<u16>,
    _stop: StopOnDrop,
}

/// What the workload found, if there is no violation.
#[derive(Clone, Debug, Default)]
pub struct QueuesNoticed {
    /// Elements that were taken or moved.
    pub taken: usize,
    /// Calls of unknown outcome.
    pub unknown: usize,
    /// Acknowledged elements that are gone. Each of them is explained by a call of unknown outcome.
    pub lost: usize,
    /// The errors that producers received.
    pub errors: Vec<String>,
}

impl Queues {
    /// Starts a producer, and a worker of each kind, on each of `ports`.
    #[must_use]
    pub fn start(ports: &[u16]) -> Self {
        let shared = Shared::default();
        let numbered = || ports.iter().copied().enumerate();
        Self {
            producers: numbered().map(|(n, port)| producer(Caller::new(port), shared.clone(), n)).collect(),
            workers: numbered()
                .flat_map(|(n, port)| KINDS.map(|kind| worker(Caller::new(port), shared.clone(), kind, n)))
                .collect(),
            _stop: StopOnDrop(shared.clone()),
            shared,
            ports: ports.to_vec(),
        }
    }

    /// Waits until `more` further elements have been taken.
    #[track_caller]
    pub fn wait_more(&self, more: u64) {
        let from = self.shared.done.load(Ordering::Relaxed);
        wait_until("elements to be taken", GENEROUS, || self.shared.done.load(Ordering::Relaxed) >= from + more);
    }

    /// Stops all clients, and checks every queue.
    ///
    /// # Panics
    /// When an element is lost that must not be, or is there twice.
    #[track_caller]
    pub fn finish(self) -> QueuesNoticed {
        match self.verdict() {
            Ok(noticed) => noticed,
            Err(wrong) => panic!("violations:\n{}", wrong.join("\n")),
        }
    }

    /// As [`Queues::finish`], but returns the violations.
    ///
    /// # Errors
    /// Returns the violations, as texts.
    ///
    /// # Panics
    /// When a client has panicked, or the cluster does not answer.
    #[track_caller]
    pub fn verdict(self) -> Result<QueuesNoticed, Vec<String>> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut pushed: BTreeMap<(usize, usize), Pushed> = BTreeMap::new();
        let mut noticed = QueuesNoticed::default();
        for (own, caller) in self.producers.into_iter().map(|t| t.join().expect("a producer has not panicked")) {
            noticed.errors.extend(caller.errors);
            for (queue, more) in own {
                let of_queue = pushed.entry(queue).or_default();
                of_queue.acknowledged.extend(more.acknowledged);
                of_queue.unknown.extend(more.unknown);
            }
        }
        let mut taken: BTreeMap<(usize, usize), Taken> = BTreeMap::new();
        for (kind, own, _) in self.workers.into_iter().map(|t| t.join().expect("a worker has not panicked")) {
            for (queue, more) in own {
                let of_queue = taken.entry((kind as usize, queue)).or_default();
                of_queue.elements.extend(more.elements);
                of_queue.unknown += more.unknown;
            }
        }
        let mut wrong: Vec<String> = self
            .shared
            .wrong
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .iter()
            .map(|w| w.what.clone())
            .collect();
        let mut reader = Reader(self.ports[0]);
        for ((kind, queue), pushed) in pushed {
            let of_queue = taken.remove(&(kind, queue)).unwrap_or_default();
            check(KINDS[kind], queue, self.ports.len(), (pushed, of_queue), &mut reader, (&mut noticed, &mut wrong));
        }
        if wrong.is_empty() { Ok(noticed) } else { Err(wrong) }
    }
}

fn producer(mut caller: Caller, shared: Shared, n: usize) -> Producer {
    std::thread::spawn(move || {
        let mut all: BTreeMap<(usize, usize), Pushed> = BTreeMap::new();
        let mut turn = 0;
        while !shared.stopped() {
            let (kind, queue) = (turn % KINDS.len(), turn / KINDS.len() % QUEUES);
            let (key, element) = (KINDS[kind].key(queue), format!("{n}:{turn}"));
            turn += 1;
            let result = match KINDS[kind] {
                Kind::Pop | Kind::Move => caller.call(&["RPUSH", &key, &element]),
                Kind::PopMin => caller.call(&["ZADD", &key, &turn.to_string(), &element]),
            };
            let pushed = all.entry((kind, queue)).or_default();
            match result {
                CallResult::Reply(Reply::Integer(_)) => _ = pushed.acknowledged.insert(element),
                CallResult::Reply(other) => shared.wrong(format!("a push to {key} was answered {other:?}")),
                CallResult::Unknown(_) => _ = pushed.unknown.insert(element),
                CallResult::NotExecuted(_) => {}
            }
            crate::wait::let_pass(super::BETWEEN);
        }
        (all, caller)
    })
}

fn worker(mut caller: Caller, shared: Shared, kind: Kind, n: usize) -> Worker {
    std::thread::spawn(move || {
        let mut all: BTreeMap<usize, Taken> = BTreeMap::new();
        let mut turn = n;
        while !shared.stopped() {
            let queue = turn % QUEUES;
            turn += 1;
            let key = kind.key(queue);
            let result = match kind {
                Kind::Pop => caller.call(&["BLPOP", &key, WAITS]),
                Kind::PopMin => caller.call(&["BZPOPMIN", &key, WAITS]),
                Kind::Move => caller.call(&["BLMOVE", &key, &kind.moved(queue, n), "LEFT", "RIGHT", WAITS]),
            };
            let taken = all.entry(queue).or_default();
            let element = match result {
                CallResult::Reply(Reply::Array(items)) if items.len() > 1 => items[1].text(),
                CallResult::Reply(element @ Reply::Bulk(_)) => element.text(),
                CallResult::Reply(Reply::Null) | CallResult::NotExecuted(_) => continue,
                CallResult::Reply(other) => {
                    shared.wrong(format!("a pop of {key} was answered {other:?}"));
                    continue;
                }
                CallResult::Unknown(_) => {
                    taken.unknown += 1;
                    continue;
                }
            };
            taken.elements.push(element);
            shared.answered();
        }
        (kind, all, caller)
    })
}

/// Checks one queue.
fn check(
    kind: Kind,
    queue: usize,
    workers: usize,
    (pushed, taken): (Pushed, Taken),
    reader: &mut Reader,
    (noticed, wrong): (&mut QueuesNoticed, &mut Vec<String>),
) {
    let key = kind.key(queue);
    let mut list = |key: &str| match reader.read(&["LRANGE", key, "0", "-1"]) {
        Reply::Array(items) => items.iter().map(Reply::text).collect::<Vec<String>>(),
        other => vec![format!("{key} is not a list: {other:?}")],
    };
    let moved: Vec<String> =
        if kind == Kind::Move { (0..workers).flat_map(|n| list(&kind.moved(queue, n))).collect() } else { Vec::new() };
    let left = match kind {
        Kind::Pop | Kind::Move => list(&key),
        Kind::PopMin => match reader.read(&["ZRANGE", &key, "0", "-1"]) {
            Reply::Array(items) => items.iter().map(Reply::text).collect(),
            other => vec![format!("{key} is no sorted set: {other:?}")],
        },
    };
    // What was moved is in the lists of the workers; the replies only repeat it.
    let gone = if kind == Kind::Move { &moved } else { &taken.elements };
    let mut seen = BTreeSet::new();
    for element in gone.iter().chain(&left) {
        if !seen.insert(element.clone()) {
            wrong.push(format!("{key}: {element} is there twice"));
        }
        if !pushed.acknowledged.contains(element) && !pushed.unknown.contains(element) {
            wrong.push(format!("{key}: {element} is there, although no push of it was executed"));
        }
    }
    let missing: Vec<&String> = pushed.acknowledged.iter().filter(|element| !seen.contains(*element)).collect();
    let explained = if kind == Kind::Move { 0 } else { taken.unknown };
    if missing.len() > explained {
        wrong.push(format!("{key}: lost {missing:?}, with {explained} pops of unknown outcome"));
    }
    if kind == Kind::Move
        && let Some(element) = taken.elements.iter().find(|element| !moved.contains(element))
    {
        wrong.push(format!("{key}: the move of {element} was answered, and it is in no list of a worker"));
    }
    noticed.taken += taken.elements.len();
    noticed.unknown += taken.unknown;
    noticed.lost += missing.len();
}
