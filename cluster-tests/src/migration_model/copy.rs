//! The pre-copy with dirty tracking of migration.md: one attempt whose connections all live, from the feed to the switch.
//! Knows nothing of who may act (`runs`) nor of failovers (`failover`).
//!
//! What is abstracted, and why nothing is lost by it:
//! - A server is a prefix of the primary's replication stream, and an offset is the number of events in it. What a key
//!   holds is what the events of that prefix make of it; so the primary, its replica and the feed are three numbers.
//! - The barrier is a step (serving_model::lease proves it): of what executes at the source before it every reply may
//!   have passed, of what executes after it none does. Hold itself only lets the barrier come, so it is no step here.
//! - A change before the barrier counts as acknowledged. One after it is late and unacknowledged: the target may have it or
//!   not, but has it wholly or not at all. So the switch is right if the target holds what the stream says at some offset
//!   from the barrier on: nothing acknowledged is lost, no read is stale, nothing is torn. (With two late changes this
//!   would demand more than clients can see, so there is one.)
//! - A RESTORE is executed and answered in one step; until then it is on its way. Its TTL is absolute: that a relative one
//!   grows by the time on the way is a matter of milliseconds, not of order.
//! - Time is one tick, at which every key that has a TTL expires, on each server independently.

use crate::serving_model::checker::Model;

/// A rule of migration.md that can be left out, to see what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The feed is open before the first SCAN.
    FeedFirst,
    /// Values are fetched from the server that serves the feed.
    FetchWhereFeed,
    /// A key's mark is cleared before its DUMP is sent.
    MarkBeforeDump,
    /// A key that is gone at the source is removed at the target.
    UnlinkGone,
    /// All that is sent to the target for one key goes over one connection.
    OneConnection,
    /// A changed key is fetched again; without: the change is replayed at the target.
    Refetch,
    /// The offset to read up to is asked after the barrier.
    OffsetAfterBarrier,
    /// It is the primary's, also when a replica feeds.
    PrimaryOffset,
    /// It is asked again if anything was fetched since: a late change in the middle of a fetch tears what is fetched, and only
    /// its event says so.
    OffsetAfterFetch,
    /// The feed is consumed to that offset before the worker says done.
    ConsumeFeed,
    /// No key is dirty then.
    Drain,
    /// The target has answered everything then.
    TargetReplies,
}

/// What may happen in an exploration, and how often.
#[derive(Clone, Copy, Debug)]
pub struct Copy {
    /// The rule that is left out, if any.
    pub without: Option<Rule>,
    /// Feed, SCAN and fetches are a replica's; otherwise the primary's.
    pub replica: bool,
    /// Changes by clients before the barrier, at most.
    pub writes: u8,
    /// Whether a change executes late, after the barrier.
    pub late: bool,
    /// Releases at most.
    pub releases: u8,
    /// The first key has a TTL, which clients may refresh; PTTL and DUMP are then two steps.
    pub ttl: bool,
}

impl Copy {
    /// The smallest exploration that shows something.
    pub const SMALL: Self = Self { without: None, replica: false, writes: 2, late: true, releases: 0, ttl: false };
}

const KEYS: usize = 2;
/// Changes before and after the barrier, and an expiry.
const STREAM_MAX: usize = 5;

/// What a key holds: 0 is nothing; `TTL` is set while it is to expire at the tick.
type Value = u8;
const NIL: Value = 0;
const TTL: Value = 0x40;
/// What the first key holds when everything begins.
const FIRST: Value = 1;

/// How a key is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// To a value that no other change makes.
    Set,
    /// Removed, by a client or because it expired.
    Del,
    /// Relative to what it was.
    Incr,
    /// It no longer expires within the horizon of this model.
    Refresh,
}

/// The keys it changes, a bit each, and how.
type Event = (u8, Change);
const BOTH: u8 = 3;

fn changed(old: Value, change: Change, index: usize) -> Value {
    match change {
        // Four apart, so that the few INCRs of a run lead to no other's value.
        Change::Set => 4 * (index as u8 + 1),
        Change::Del => NIL,
        Change::Incr => old + 1,
        Change::Refresh => old & !TTL,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Fetch {
    Idle,
    /// PTTL and DUMP are on their way.
    Asked,
    /// PTTL was executed and found this of the TTL; `None`: no such key.
    Timed(Option<Value>),
    /// DUMP was executed; its answer is on its way.
    Executed(Value),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    scanned: bool,
    dirty: bool,
    fetch: Fetch,
    /// RESTORE (or UNLINK) on its way; the second only without `OneConnection`.
    sent: [Option<Value>; 2],
    /// At the target.
    staged: Value,
}

/// All that there is at a moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    stream: [Option<Event>; STREAM_MAX],
    /// The primary's offset.
    len: u8,
    /// The replica's.
    replica: u8,
    /// How far the feed is read, once it is open.
    fed: Option<u8>,
    /// The tick has come.
    expired: bool,
    keys: [Key; KEYS],
    /// The primary's offset when the barrier passed.
    barrier: Option<u8>,
    /// The offset to read up to.
    upto: Option<u8>,
    done: bool,
    switched: bool,
    late: bool,
    releases: u8,
}

/// A step. Numbers are a key's.
#[derive(Clone, Copy, Debug)]
pub enum Action {
    Changed { keys: u8, change: Change },
    Tick,
    Replicated,
    FeedOpened,
    Scanned { key: usize },
    EventRead,
    DumpSent { key: usize },
    PttlExecuted { key: usize },
    DumpExecuted { key: usize },
    RestoreSent { key: usize },
    RestoreExecuted { key: usize, connection: usize },
    BarrierPassed,
    OffsetAsked,
    Done,
    Released,
    Switched,
}

impl State {
    /// What `key` holds on a server that has applied the stream up to `offset`.
    fn content(&self, key: usize, offset: u8, ttl: bool) -> Value {
        let mut value = if key == 0 { FIRST | if ttl { TTL } else { 0 } } else { NIL };
        for (i, event) in self.stream[..usize::from(offset)].iter().enumerate() {
            if let Some((keys, change)) = event
                && keys >> key & 1 == 1
            {
                value = changed(value, *change, i);
            }
        }
        self.now(value)
    }

    /// A value as a read sees it: a key that expired is not there, even where nobody has removed it yet.
    fn now(&self, value: Value) -> Value {
        if self.expired && value & TTL != 0 { NIL } else { value }
    }

    fn push(&mut self, event: Event) -> Option<()> {
        *self.stream.get_mut(usize::from(self.len))? = Some(event);
        self.len += 1;
        Some(())
    }
}

impl Copy {
    fn lacks(&self, rule: Rule) -> bool {
        self.without == Some(rule)
    }

    fn feed_offset(&self, s: &State) -> u8 {
        if self.replica { s.replica } else { s.len }
    }

    fn fetch_offset(&self, s: &State) -> u8 {
        if self.replica != self.lacks(Rule::FetchWhereFeed) { s.replica } else { s.len }
    }

    fn fetched(&self, s: &State, key: usize) -> Value {
        s.content(key, self.fetch_offset(s), self.ttl)
    }

    fn change(&self, s: &mut State, keys: u8, change: Change) -> Option<()> {
        let late = s.barrier.is_some();
        if late && (s.late || !self.late) || !late && s.len >= self.writes + u8::from(s.expired) {
            return None;
        }
        s.late |= late;
        let old = s.content(usize::from(keys >> 1), s.len, self.ttl);
        let idle = match change {
            Change::Set => false,
            Change::Incr => keys == BOTH,
            Change::Del => keys == BOTH || old == NIL,
            Change::Refresh => keys == BOTH || old & TTL == 0,
        };
        if idle { None } else { s.push((keys, change)) }
    }

    fn tick(&self, s: &mut State) -> Option<()> {
        if s.expired || !self.ttl {
            return None;
        }
        let expires = s.content(0, s.len, true) & TTL != 0;
        s.expired = true;
        for key in &mut s.keys {
            if key.staged & TTL != 0 {
                key.staged = NIL;
            }
        }
        if expires { s.push((1, Change::Del)) } else { Some(()) }
    }

    fn read_event(&self, s: &mut State) -> Option<()> {
        let fed = s.fed.filter(|fed| *fed < self.feed_offset(s))?;
        let (keys, change) = s.stream[usize::from(fed)]?;
        s.fed = Some(fed + 1);
        let busy = |k: &Key| k.dirty || k.fetch != Fetch::Idle || k.sent != [None; 2];
        if self.lacks(Rule::Refetch) && s.keys.iter().any(busy) {
            // Even a replay that keeps the order is wrong.
            return None;
        }
        for (_, key) in s.keys.iter_mut().enumerate().filter(|(k, _)| keys >> k & 1 == 1) {
            if !self.lacks(Rule::Refetch) {
                key.dirty = true;
            } else if change != Change::Refresh || key.staged != NIL {
                key.staged = changed(key.staged, change, usize::from(fed));
            }
        }
        Some(())
    }

    /// The worker gets a fetch's answer and sends it on to the target.
    fn answered(&self, s: &mut State, key: usize) -> Option<()> {
        let k = &mut s.keys[key];
        let Fetch::Executed(value) = k.fetch else { return None };
        let gone = value == NIL && self.lacks(Rule::UnlinkGone);
        let second = k.sent[0].is_some();
        if second && (!self.lacks(Rule::OneConnection) || k.sent[1].is_some()) {
            return None;
        }
        k.sent[usize::from(second)] = Some(value).filter(|_| !gone);
        k.fetch = Fetch::Idle;
        k.dirty &= !self.lacks(Rule::MarkBeforeDump);
        s.upto = s.upto.filter(|_| self.lacks(Rule::OffsetAfterFetch));
        Some(())
    }

    fn finished(&self, s: &State) -> bool {
        let fed = s.fed.zip(s.upto).is_some_and(|(fed, upto)| fed >= upto || self.lacks(Rule::ConsumeFeed));
        let keys = s.keys.iter().all(|k| {
            k.scanned
                && (!k.dirty && k.fetch == Fetch::Idle || self.lacks(Rule::Drain))
                && (k.sent == [None; 2] || self.lacks(Rule::TargetReplies))
        });
        s.barrier.is_some() && fed && keys
    }

    fn apply(&self, s: &mut State, action: Action) -> Option<()> {
        // One who replays takes whole snapshots.
        let torn = self.ttl && !self.lacks(Rule::Refetch);
        let possible = match action {
            Action::Changed { keys, change } => return self.change(s, keys, change),
            Action::Tick => return self.tick(s),
            Action::EventRead => return self.read_event(s),
            Action::RestoreSent { key } => return self.answered(s, key),
            Action::Replicated => {
                s.replica += 1;
                s.replica <= s.len
            }
            Action::FeedOpened => {
                let first = s.fed.is_none();
                s.fed = Some(self.feed_offset(s));
                first
            }
            Action::Scanned { key } => {
                let there = s.content(key, self.feed_offset(s), self.ttl) != NIL;
                let k = &mut s.keys[key];
                let first = !k.scanned;
                k.scanned = true;
                k.dirty |= there;
                first && (s.fed.is_some() || self.lacks(Rule::FeedFirst))
            }
            Action::DumpSent { key } => {
                let k = &mut s.keys[key];
                let due = k.dirty && k.fetch == Fetch::Idle;
                k.fetch = Fetch::Asked;
                k.dirty = self.lacks(Rule::MarkBeforeDump);
                due
            }
            Action::PttlExecuted { key } => {
                let value = self.fetched(s, key);
                let asked = s.keys[key].fetch == Fetch::Asked;
                s.keys[key].fetch = Fetch::Timed((value != NIL).then_some(value & TTL));
                asked && torn
            }
            Action::DumpExecuted { key } => {
                let value = self.fetched(s, key);
                let k = &mut s.keys[key];
                k.fetch = match k.fetch {
                    Fetch::Asked if !torn => Fetch::Executed(value),
                    Fetch::Timed(Some(ttl)) if value != NIL => Fetch::Executed(value & !TTL | ttl),
                    Fetch::Timed(_) => Fetch::Executed(NIL),
                    _ => return None,
                };
                true
            }
            Action::RestoreExecuted { key, connection } => {
                let value = s.keys[key].sent[connection].take()?;
                s.keys[key].staged = s.now(value);
                true
            }
            Action::BarrierPassed => {
                let open = s.barrier.is_none();
                s.barrier = Some(s.len);
                open
            }
            Action::OffsetAsked => {
                let first = s.upto.is_none();
                s.upto = Some(if self.replica && self.lacks(Rule::PrimaryOffset) { s.replica } else { s.len });
                first && (s.barrier.is_some() || self.lacks(Rule::OffsetAfterBarrier))
            }
            Action::Done => {
                s.done = true;
                self.finished(s)
            }
            Action::Released => {
                let may = s.barrier.is_some() && s.releases < self.releases;
                // A late write has happened by now: what the source holds is what clients read.
                (s.barrier, s.upto, s.done, s.releases) = (None, None, false, s.releases + 1);
                may
            }
            Action::Switched => {
                s.switched = true;
                s.done
            }
        };
        possible.then_some(())
    }
}

impl Model for Copy {
    type State = State;
    type Action = Action;

    fn initial(&self) -> State {
        let key = Key { scanned: false, dirty: false, fetch: Fetch::Idle, sent: [None; 2], staged: NIL };
        State {
            stream: [None; STREAM_MAX],
            len: 0,
            replica: 0,
            fed: None,
            expired: false,
            keys: [key; KEYS],
            barrier: None,
            upto: None,
            done: false,
            switched: false,
            late: false,
            releases: 0,
        }
    }

    fn actions(&self, s: &State, out: &mut Vec<Action>) {
        use Action::*;
        if s.switched {
            return;
        }
        // With two steps more per fetch, one key is enough to explore.
        for keys in 1..=if self.ttl { 1 } else { BOTH } {
            out.extend([Change::Set, Change::Del].map(|change| Changed { keys, change }));
        }
        if self.lacks(Rule::Refetch) && !self.ttl {
            // To a refetch one change is like another; with a TTL the refresh of it shows enough.
            out.push(Changed { keys: 1, change: Change::Incr });
        }
        if self.ttl {
            out.push(Changed { keys: 1, change: Change::Refresh });
        }
        for key in 0..KEYS {
            if !s.done {
                // A worker that said done rests until it is released.
                out.extend([Scanned { key }, DumpSent { key }, RestoreSent { key }]);
            }
            out.extend([PttlExecuted { key }, DumpExecuted { key }]);
            out.extend([0, 1].map(|connection| RestoreExecuted { key, connection }));
        }
        out.extend([Tick, BarrierPassed, OffsetAsked, Released, Switched]);
        if self.replica || self.lacks(Rule::FetchWhereFeed) {
            out.push(Replicated);
        }
        if !s.done {
            out.extend([FeedOpened, EventRead, Done]);
        }
    }

    fn step(&self, state: &State, action: Action) -> Option<State> {
        let mut after = state.clone();
        self.apply(&mut after, action)?;
        Some(after)
    }

    fn violation(&self, s: &State) -> Option<String> {
        let barrier = s.barrier.filter(|_| s.switched)?;
        let same = |offset| (0..KEYS).all(|k| s.keys[k].staged == s.content(k, offset, self.ttl));
        let staged = s.keys.map(|k| k.staged);
        (!(barrier..=s.len).any(same))
            .then(|| format!("the slot's new server holds {staged:?}, as the source never did since the barrier"))
    }
}
