//! A run: sends units to both sides, compares replies and keys, and remembers what differs, with what was sent before.

use std::collections::{BTreeMap, VecDeque};

use pontoon::commands::Handling;

use super::{
    case::Case,
    comparison::same,
    connection::{Call, Connection, show, words},
    deviations::{DEVIATIONS, Wanted},
    generator::{Step, Unit},
    keyspace::Keyspace,
    pair::{Asked, Exchange, Pair},
    reply::Reply,
    transaction::follow,
};
use crate::wait::{GENEROUS, wait_until};

/// Calls that a message can show.
const REMEMBERED: usize = 20_000;

/// Calls of each kind that a message shows.
const SHOWN: usize = 15;

/// Characters of an earlier reply that a message shows.
const BRIEF: usize = 120;

/// Differences of one command that are shown.
const SHOWN_EACH: usize = 5;

/// More differences than this end a run: one of them is the cause.
pub const DIFFERENCES_MAX: usize = 300;

/// What Redis answers to EXEC when a call was refused instead of queued.
const ABORTED: &str = "EXECABORT Transaction discarded because of previous errors.";

/// Numbers of calls, so that a run that compares nothing is noticed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Replies that were compared.
    pub compared: usize,
    /// Of these, errors.
    pub errors: usize,
    /// Calls that were sent to the node alone.
    pub alone: usize,
    /// Calls that were left out because the product does not offer them yet.
    pub pending: usize,
    /// Transactions that were executed or discarded.
    pub transactions: usize,
    /// Iterations, blocked calls, random keys and raw connections.
    pub others: usize,
}

/// What the first side is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A cluster.
    Cluster,
    /// A plain Redis: nothing is pending and nothing deviates.
    Plain,
}

/// A run.
#[derive(Debug)]
pub struct Run {
    subject: Subject,
    pairs: Vec<Pair>,
    /// Ports of the nodes and of the reference.
    ports: (Vec<u16>, u16),
    keyspace: Keyspace,
    log: VecDeque<(usize, Exchange)>,
    /// By command: what differs.
    differences: BTreeMap<String, Vec<String>>,
    /// See [`Run::refuses_nesting`].
    nesting_aborts: bool,
    /// How often each deviation was met.
    pub met: Vec<usize>,
    /// What was done.
    pub tally: Tally,
}

impl Run {
    /// Connects `connections` clients to the nodes in turn, and as many to the reference.
    #[must_use]
    pub fn new(subject: Subject, nodes: &[u16], reference: u16, servers: &[u16], connections: usize) -> Self {
        let described = Connection::open(reference).call("COMMAND INFO multi");
        Self {
            subject,
            nesting_aborts: format!("{described:?}").contains("no_multi"),
            pairs: (0..connections).map(|at| Pair::open(nodes[at % nodes.len()], reference)).collect(),
            ports: (nodes.to_vec(), reference),
            keyspace: Keyspace::new(reference, servers),
            log: VecDeque::new(),
            differences: BTreeMap::new(),
            met: vec![0; DEVIATIONS.len()],
            tally: Tally::default(),
        }
    }

    /// Number of differences.
    #[must_use]
    pub fn differences(&self) -> usize {
        self.differences.values().map(Vec::len).sum()
    }

    /// All differences as text; empty if there are none.
    #[must_use]
    pub fn report(&self) -> String {
        let mut out = String::new();
        for (name, found) in &self.differences {
            out += &format!("== {name}: {} differences\n", found.len());
            // The same replies to other calls have the same cause.
            let replies =
                |text: &&String| text.lines().filter(|line| line.starts_with("  ")).take(2).collect::<String>();
            let mut distinct: BTreeMap<String, &String> = BTreeMap::new();
            for text in found.iter() {
                distinct.entry(replies(&text)).or_insert(text);
            }
            distinct.values().take(SHOWN_EACH).for_each(|text| out += text);
        }
        out
    }

    /// Sends a unit to both sides.
    pub fn unit(&mut self, unit: &Unit) {
        match unit {
            Unit::Singles(step) => {
                let (cases, pending): (Vec<_>, Vec<_>) =
                    step.calls.iter().cloned().map(Case::new).partition(|case| !self.is_pending(case));
                self.tally.pending += pending.len();
                self.cases(step.connection, &cases, step.is_pipeline);
            }
            Unit::Sequence(steps) => self.sequence(steps),
            Unit::Blocked { before, blocked, then } => self.blocked(before, blocked, then),
            Unit::Iteration { connection, before, after } => self.iteration(*connection, before, after),
            Unit::RandomKey { connection } => self.random_key(*connection),
            Unit::Raw(bytes) => self.raw(bytes),
        }
    }

    /// Compares all keys. If they differ, both sides are cleared, so that later differences are others.
    pub fn compare_keys(&mut self) {
        let found = self.keyspace.differences();
        if !found.is_empty() {
            let about = |word: &Vec<u8>| {
                word.len() > 1 && found.iter().any(|text| text.contains(&word.escape_ascii().to_string()))
            };
            let history = self.history(|_, case| case.call[1..].iter().any(about));
            self.note("the keys", format!("{}\nafter:\n{history}", found.join("\n")));
            self.keyspace.clear();
        }
    }

    /// Whether the reference refuses what would begin a transaction, or a watch, in a transaction, and EXEC then. (Valkey;
    /// with Redis they are errors without consequences.)
    fn refuses_nesting(&self, case: &Case) -> bool {
        self.nesting_aborts && case.is_queued() && ["multi", "watch"].contains(&case.name())
    }

    /// Whether the call is left out. A plain Redis would execute what the table refuses.
    fn is_pending(&self, case: &Case) -> bool {
        match self.subject {
            Subject::Cluster => case.is_pending(),
            Subject::Plain => {
                case.is_left_out() || matches!(case.resolved.map(|spec| spec.handling), Ok(Handling::Refused(_)))
            }
        }
    }

    /// The deviation and the reply that the node must give, where the reference is not asked.
    fn alone(&self, case: &Case) -> Option<(usize, Reply)> {
        if self.subject == Subject::Plain {
            return None;
        }
        DEVIATIONS.iter().enumerate().find_map(|(at, deviation)| match deviation.wanted {
            Wanted::Alone(wanted) => wanted(case).map(|reply| (at, reply)),
            Wanted::Beside(_) => None,
        })
    }

    fn sequence(&mut self, steps: &[Step]) {
        let mut steps = steps.to_vec();
        for step in &mut steps {
            let before = step.calls.len();
            step.calls.retain(|call| !self.is_pending(&Case::new(call.clone())));
            self.tally.pending += before - step.calls.len();
        }
        let cases = follow(&steps, |case| self.refuses_nesting(case) || self.alone(case).is_some());
        let all = || cases.iter().flatten();
        self.tally.transactions += usize::from(all().any(|case| case.name() == "multi"));
        let is_transaction = |case: &Case| case.is_queued() || (case.transaction.is_some() && case.name() == "watch");
        if all().any(|case| is_transaction(case) && self.alone(case).is_some()) {
            return self.refused_transaction(&steps, &cases);
        }
        for (step, cases) in steps.iter().zip(&cases) {
            self.cases(step.connection, cases, step.is_pipeline);
        }
    }

    /// Sends the calls and compares the replies.
    fn cases(&mut self, connection: usize, cases: &[Case], is_pipeline: bool) {
        let calls: Vec<Asked> = cases.iter().map(|case| (case.clone(), self.alone(case).is_none())).collect();
        for calls in calls.chunks(if is_pipeline { calls.len().max(1) } else { 1 }) {
            let received = self.pairs[connection].exchange(calls);
            if !self.judge_all(connection, received) {
                return;
            }
        }
    }

    /// Compares what was received. Returns whether it is all; otherwise the connections are new ones.
    fn judge_all(&mut self, connection: usize, (exchanges, end): (Vec<Exchange>, Result<(), String>)) -> bool {
        exchanges.into_iter().for_each(|exchange| self.judge(connection, exchange));
        if let Err(why) = &end {
            self.broken(connection, why);
        }
        end.is_ok()
    }

    fn broken(&mut self, connection: usize, why: &str) {
        let history = self.history(|at, _| at == connection);
        self.note("a connection", format!("connection {connection}: {why}\nafter:\n{history}"));
        self.pairs[connection].reopen();
    }

    /// Compares the replies to a call.
    fn judge(&mut self, connection: usize, exchange: Exchange) {
        let executed = self.pairs[connection].follow_transaction(&exchange);
        let alone = self.alone(&exchange.case);
        let why = match (&exchange.node, &exchange.redis) {
            (Some(node), Some(redis)) => {
                self.tally.compared += 1;
                self.tally.errors += usize::from(redis.is_error());
                self.compare(&exchange.case, node, redis, &executed)
            }
            (Some(node), None) => {
                self.tally.alone += 1;
                alone.and_then(|(at, wanted)| {
                    self.met[at] += 1;
                    (*node != wanted).then(|| format!("  node:   {node:?}\n  wanted: {wanted:?}\n"))
                })
            }
            _ => None,
        };
        let case = exchange.case.clone();
        if let Some(why) = why {
            self.differs(connection, &case, &why);
        }
        self.log.push_back((connection, exchange));
        if self.log.len() > REMEMBERED {
            self.log.pop_front();
        }
    }

    /// What differs, if anything does. `executed`: the calls of a transaction to whose EXEC these are the replies.
    fn compare(&mut self, case: &Case, node: &Reply, redis: &Reply, executed: &[Case]) -> Option<String> {
        if let (Reply::Items(_, ours), Reply::Items(_, theirs)) = (node, redis)
            && !executed.is_empty()
            && ours.len() == theirs.len()
            && ours.len() == executed.len()
        {
            return ours
                .iter()
                .zip(theirs)
                .zip(executed)
                .find_map(|((node, redis), case)| self.compare(case, node, redis, &[]));
        }
        if same(case, node, redis) {
            return None;
        }
        for (at, deviation) in DEVIATIONS.iter().enumerate() {
            if let Wanted::Beside(wanted) = deviation.wanted
                && self.subject == Subject::Cluster
                && wanted(case, redis).is_some_and(|wanted| wanted == *node)
            {
                self.met[at] += 1;
                return None;
            }
        }
        Some(format!("  node:  {node:?}\n  Redis: {redis:?}\n"))
    }

    /// A transaction with a call that the node refuses, so that Redis must not execute it: the node must not either. If
    /// the call is WATCH, nothing behind it is sent.
    fn refused_transaction(&mut self, steps: &[Step], cases: &[Vec<Case>]) {
        let is_refused = cases.iter().flatten().any(|case| case.is_queued() && self.alone(case).is_some());
        for (step, cases) in steps.iter().zip(cases) {
            let inside = cases.iter().filter(|case| match case.name() {
                "watch" => true,
                "select" if !case.is_queued() => true,
                "multi" => is_refused,
                _ => is_refused && case.is_queued(),
            });
            // Both sides keep the same database and settings.
            let is_of_both = |case: &Case| case.name() == "reset" || (case.name() == "select" && !case.is_queued());
            let mut inside: Vec<Asked> = inside.map(|case| (case.clone(), is_of_both(case))).collect();
            // Of two WATCHes, one may have been refused.
            if !is_refused && inside.iter().any(|(case, _)| case.name() == "watch") {
                inside.push((Case::new(words("UNWATCH")), false));
            }
            let (exchanges, end) = self.pairs[step.connection].exchange(&inside);
            if let Err(why) = end {
                return self.broken(step.connection, &why);
            }
            for exchange in exchanges {
                self.tally.alone += 1;
                let refused = exchange.case.transaction.as_ref().is_some_and(|transaction| transaction.is_refused);
                let wanted = match self.alone(&exchange.case) {
                    _ if refused && exchange.case.name() == "exec" => Some(Reply::error(ABORTED)),
                    Some((at, wanted)) => {
                        self.met[at] += 1;
                        Some(wanted)
                    }
                    None => None,
                };
                if let (Some(node), Some(wanted)) = (&exchange.node, wanted)
                    && *node != wanted
                {
                    let text = format!("  node:   {node:?}\n  wanted: {wanted:?}\n");
                    self.differs(step.connection, &exchange.case, &text);
                }
                self.log.push_back((step.connection, exchange));
            }
        }
    }

    fn blocked(&mut self, before: &Step, blocked: &Call, then: &Step) {
        let blocked = Case::new(blocked.clone());
        let cases = follow(&[before.clone(), then.clone()], |_| false);
        if self.is_pending(&blocked) || cases.iter().flatten().any(|case| self.is_pending(case)) {
            self.tally.pending += 1;
            return;
        }
        self.tally.others += 1;
        self.cases(before.connection, &cases[0], before.is_pipeline);
        let calls = [(blocked, true)];
        if let Err(why) = self.pairs[before.connection].send(&calls) {
            return self.broken(before.connection, &why);
        }
        let keyspace = &mut self.keyspace;
        wait_until("both sides to block", GENEROUS, || keyspace.both_block());
        self.cases(then.connection, &cases[1], then.is_pipeline);
        let received = self.pairs[before.connection].receive(&calls);
        self.judge_all(before.connection, received);
    }

    /// Compares the elements of whole iterations, in any order.
    fn iteration(&mut self, connection: usize, before: &Call, after: &Call) {
        let call = |cursor: &[u8]| Case::new([before.clone(), vec![cursor.to_vec()], after.clone()].concat());
        let first = call(b"0");
        if self.is_pending(&first) {
            self.tally.pending += 1;
            return;
        }
        self.tally.others += 1;
        let is_pairs = ["hscan", "zscan"].contains(&first.name());
        match self.pairs[connection].iterate(|cursor| call(cursor).call, if is_pairs { 2 } else { 1 }) {
            Ok([node, redis]) if node == redis => self.tally.compared += 1,
            Ok([node, redis]) => {
                let less: Vec<_> = redis.iter().filter(|element| !node.contains(*element)).collect();
                let more: Vec<_> = node.iter().filter(|element| !redis.contains(*element)).collect();
                self.differs(connection, &first, &format!("  only Redis has {less:?}\n  only the node has {more:?}\n"));
            }
            Err(why) => self.broken(connection, &why),
        }
    }

    fn random_key(&mut self, connection: usize) {
        let calls = ["KEYS *", "RANDOMKEY"].map(|call| (Case::new(words(call)), true));
        if calls.iter().any(|(case, _)| self.is_pending(case)) {
            self.tally.pending += 1;
            return;
        }
        self.tally.others += 1;
        let received = self.pairs[connection].exchange(&calls);
        if let [Exchange { node: Some(keys), .. }, Exchange { node: Some(key), .. }] = &received.0[..]
            && !keys.items().is_empty()
            && !keys.items().contains(key)
        {
            self.differs(connection, &calls[1].0, &format!("  {key:?} is none of the keys {keys:?}\n"));
        }
        self.judge_all(connection, received);
    }

    /// Sends bytes on a connection of its own, and compares all bytes up to its end.
    fn raw(&mut self, bytes: &[u8]) {
        self.tally.others += 1;
        let node = self.ports.0[self.tally.others % self.ports.0.len()];
        let [node, redis] = [node, self.ports.1].map(|port| {
            let mut connection = Connection::open(port);
            connection.send(bytes).and_then(|()| connection.rest()).map_err(|error| error.to_string())
        });
        if node != redis || node.is_err() {
            let show = |side: Result<Vec<u8>, String>| side.map(|bytes| bytes.escape_ascii().to_string());
            let text = format!("{}\n  node:  {:?}\n  Redis: {:?}\n", bytes.escape_ascii(), show(node), show(redis));
            self.note("raw bytes", text);
        }
    }

    fn differs(&mut self, connection: usize, case: &Case, why: &str) {
        let own = self.history(|at, _| at == connection);
        let keys = |other: &Case| other.call[1..].iter().any(|word| word.len() > 1 && case.call[1..].contains(word));
        let related = self.history(|_, other| keys(other));
        let name = if case.name().is_empty() { "no command" } else { case.name() };
        let call = show(&case.call);
        self.note(
            name,
            format!("connection {connection}: {call}{why}before on this connection:\n{own}before with its words:\n{related}\n"),
        );
    }

    fn note(&mut self, about: &str, text: String) {
        self.differences.entry(about.to_owned()).or_default().push(text);
    }

    /// The last calls of those that are chosen, with their replies.
    fn history(&self, chosen: impl Fn(usize, &Case) -> bool) -> String {
        let mut lines: Vec<String> = self
            .log
            .iter()
            .rev()
            .filter(|(connection, exchange)| chosen(*connection, &exchange.case))
            .take(SHOWN)
            .map(|(connection, exchange)| {
                let Exchange { case, node, redis, .. } = exchange;
                let brief = |reply: &Option<Reply>| match reply {
                    Some(reply) => format!("{reply:?}").chars().take(BRIEF).collect(),
                    None => "no reply".to_owned(),
                };
                let replies =
                    if node == redis { brief(node) } else { format!("{}, Redis {}", brief(node), brief(redis)) };
                format!("    {connection}: {} -> {replies}\n", show(&case.call).trim_end())
            })
            .collect();
        lines.reverse();
        lines.concat()
    }
}
