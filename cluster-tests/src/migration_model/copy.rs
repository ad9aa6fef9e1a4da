//! A model of the copy: one attempt, none of whose connections fails, from the opening of the feed to the switch. The
//! mover copies keys while clients change them, and tracks which keys are dirty.
//! Knows nothing of which run may act (`runs`) nor of failovers (`failover`).
//!
//! The violation is a switch to a target whose keys are in a state in which the source never was since the barrier.
//!
//! The model abstracts from the following. For each abstraction, the reason says why it hides no violation:
//! - A server is a prefix of the primary's replication stream, and an offset is the number of events in this prefix.
//!   The value of a key is the result of these events. The primary, its replica and the feed are therefore three
//!   numbers.
//! - The barrier is one step (proven in `serving_model::lease`): every reply to a command that the source executed
//!   before it may have passed, and no reply to a command that the source executes after it passes. The hold only
//!   permits the barrier, so it is no step of this model.
//! - A change before the barrier counts as acknowledged. A change after it is late and unacknowledged: the target may
//!   have it or not, but only completely or not at all. The switch is therefore correct if the content of the target is
//!   the result of the stream up to some offset at or after the barrier. Then no acknowledged change is lost, no read
//!   is stale, and no change is torn. (With two late changes, this would require more than clients can observe. The
//!   model has one.)
//! - A RESTORE is executed and answered in one step. Until then it is on its way. Its TTL is absolute: a relative TTL
//!   grows by the time on the way, but this is a matter of milliseconds, not of order.
//! - Time is one tick, at which every key that has a TTL expires, on each server independently.

use crate::serving_model::checker::Model;

/// A rule that can be left out of the model, to show why it is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The mover opens the feed before the first SCAN.
    FeedFirst,
    /// The mover fetches values from the server that serves the feed.
    FetchWhereFeed,
    /// The mover clears a key's dirty mark before it sends the DUMP, not after.
    MarkBeforeDump,
    /// The mover removes a key at the target if it no longer exists at the source.
    UnlinkGone,
    /// The mover sends all commands for one key over one connection to the target.
    OneConnection,
    /// The mover fetches a changed key again. Without the rule, it replays the change at the target.
    Refetch,
    /// The mover asks after the barrier for the offset up to which it reads the feed.
    OffsetAfterBarrier,
    /// This offset is the primary's, also if a replica serves the feed.
    PrimaryOffset,
    /// The mover asks for the offset again if it has fetched a value since. A late change in the middle of a fetch
    /// tears the fetched value, and only the event of this change shows it.
    OffsetAfterFetch,
    /// The mover reads the feed up to that offset before it reports that it is done.
    ConsumeFeed,
    /// No key is dirty when the mover reports that it is done.
    Drain,
    /// The target has answered every command when the mover reports that it is done.
    TargetReplies,
}

/// What may happen in an exploration, and how often.
#[derive(Clone, Copy, Debug)]
pub struct Copy {
    /// The rule that is left out, if any.
    pub without: Option<Rule>,
    /// Whether a replica serves feed, SCAN and fetches; otherwise the primary does.
    pub replica: bool,
    /// Maximum number of changes by clients before the barrier.
    pub writes: u8,
    /// Whether one change may execute late, after the barrier.
    pub late: bool,
    /// Maximum number of releases.
    pub releases: u8,
    /// Whether the first key has a TTL, which clients may refresh. PEXPIRETIME and DUMP are then two steps.
    pub ttl: bool,
}

impl Copy {
    /// The smallest useful exploration.
    pub const SMALL: Self = Self { without: None, replica: false, writes: 2, late: true, releases: 0, ttl: false };
}

const KEYS: usize = 2;
/// Room for the changes before and after the barrier, and for an expiry.
const STREAM_MAX: usize = 5;

/// The value of a key. 0: the key does not exist. The bit `TTL` is set if the key expires at the tick.
type Value = u8;
const NIL: Value = 0;
const TTL: Value = 0x40;
/// The initial value of the first key.
const FIRST: Value = 1;

/// How a key is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// The key gets a value that no other change produces.
    Set,
    /// The key is removed, by a client or because it expired.
    Del,
    /// The new value depends on the old one.
    Incr,
    /// The TTL is extended: the key no longer expires in this model.
    Refresh,
}

/// The keys that an event changes (one bit each), and the kind of change.
type Event = (u8, Change);
const BOTH: u8 = 3;

fn changed(old: Value, change: Change, index: usize) -> Value {
    match change {
        // Values are four apart, so that the few INCRs of an exploration do not reach the value of another SET.
        Change::Set => 4 * (index as u8 + 1),
        Change::Del => NIL,
        Change::Incr => old + 1,
        Change::Refresh => old & !TTL,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Fetch {
    Idle,
    /// PEXPIRETIME and DUMP are on their way.
    Asked,
    /// PEXPIRETIME was executed and returned this TTL bit. `None`: the key does not exist.
    Timed(Option<Value>),
    /// DUMP was executed, and its reply is on its way.
    Executed(Value),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    scanned: bool,
    dirty: bool,
    fetch: Fetch,
    /// RESTOREs (or UNLINKs) on their way. The second one exists only without `OneConnection`.
    sent: [Option<Value>; 2],
    /// The value at the target.
    staged: Value,
}

/// The state of the whole system at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    stream: [Option<Event>; STREAM_MAX],
    /// The primary's offset.
    len: u8,
    /// The replica's offset.
    replica: u8,
    /// The offset up to which the mover has read the feed. `None`: the feed is not open.
    fed: Option<u8>,
    /// The tick has happened.
    expired: bool,
    keys: [Key; KEYS],
    /// The primary's offset when the barrier passed.
    barrier: Option<u8>,
    /// The offset up to which the mover reads the feed.
    upto: Option<u8>,
    done: bool,
    switched: bool,
    late: bool,
    releases: u8,
}

/// A step of one party. `key` is the number of a key.
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
    /// Returns the value of `key` on a server that has applied the stream up to `offset`.
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

    /// Returns a value as a read sees it: an expired key does not exist, even if it has not been removed yet.
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
            // The replay waits for all other commands: even a replay that keeps the order is wrong.
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

    /// The mover receives the reply to a fetch and sends the value to the target.
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
        // A mover that replays fetches whole values in one step.
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
                // A late write has executed by now: clients read the content of the source.
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
        // A fetch has two more steps, so clients change only one key, to limit the number of states.
        for keys in 1..=if self.ttl { 1 } else { BOTH } {
            out.extend([Change::Set, Change::Del].map(|change| Changed { keys, change }));
        }
        if self.lacks(Rule::Refetch) && !self.ttl {
            // To a refetch, all changes are the same. With a TTL, the refresh is enough to show the difference.
            out.push(Changed { keys: 1, change: Change::Incr });
        }
        if self.ttl {
            out.push(Changed { keys: 1, change: Change::Refresh });
        }
        for key in 0..KEYS {
            if !s.done {
                // A mover that has reported that it is done does nothing until the hold is released.
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
            .then(|| format!("the slot's new server holds {staged:?}, which the source has not held since the barrier"))
    }
}
