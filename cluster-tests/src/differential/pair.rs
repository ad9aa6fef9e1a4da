//! A client of a node, and its twin at the reference: each sends the same. Knows nothing of which replies are right.

use std::collections::BTreeSet;

use super::{
    case::Case,
    connection::{Call, Connection, encode, show},
    reply::Reply,
};

/// What became of a call.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// The call.
    pub case: Case,
    /// The node's reply, unless the client has switched replies off.
    pub node: Option<Reply>,
    /// The reply of the reference, unless it was not asked or the client has switched replies off.
    pub redis: Option<Reply>,
}

/// A call, and whether both sides get it, or the node alone.
pub type Asked = (Case, bool);

/// Parts of an iteration, far more than any needs.
const PARTS_MAX: usize = 10_000;

/// Whether replies are sent, as `CLIENT REPLY` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Replies {
    #[default]
    On,
    Off,
    SkipNext,
}

impl Replies {
    /// Whether there is a reply to the call.
    fn expects(&mut self, case: &Case) -> bool {
        let mode = case.word(2).to_ascii_lowercase();
        match (case.name(), mode.as_str()) {
            ("reset", _) | ("client|reply", "on") => *self = Self::On,
            ("client|reply", "off") => {
                *self = Self::Off;
                return false;
            }
            ("client|reply", "skip") if *self != Self::Off => {
                *self = Self::SkipNext;
                return false;
            }
            _ => {}
        }
        match *self {
            Self::On => true,
            Self::Off => false,
            Self::SkipNext => {
                *self = Self::On;
                false
            }
        }
    }
}

/// The two connections of a client.
#[derive(Debug)]
pub struct Pair {
    ports: [u16; 2],
    node: Connection,
    redis: Connection,
    replies: Replies,
    /// The queued calls of a transaction that the reference has begun.
    queued: Option<Vec<Case>>,
}

impl Pair {
    /// Connects to a node and to the reference.
    #[must_use]
    pub fn open(node: u16, redis: u16) -> Self {
        Self {
            ports: [node, redis],
            node: Connection::open(node),
            redis: Connection::open(redis),
            replies: Replies::On,
            queued: None,
        }
    }

    /// Connects again, after a connection broke.
    pub fn reopen(&mut self) {
        *self = Self::open(self.ports[0], self.ports[1]);
    }

    /// Sends the calls at once and reads the replies. Returns what was received, and why it is not all.
    pub fn exchange(&mut self, calls: &[Asked]) -> (Vec<Exchange>, Result<(), String>) {
        match self.send(calls) {
            Ok(()) => self.receive(calls),
            Err(why) => (Vec::new(), Err(why)),
        }
    }

    /// Sends the calls and reads nothing.
    ///
    /// # Errors
    /// When a connection is broken, with the name of the side.
    pub fn send(&mut self, calls: &[Asked]) -> Result<(), String> {
        let [mut to_node, mut to_redis] = [Vec::new(), Vec::new()];
        for (case, of_both) in calls {
            encode(&case.call, &mut to_node);
            if *of_both {
                encode(&case.call, &mut to_redis);
            }
        }
        self.node.send(&to_node).map_err(|error| format!("the connection to the node is broken: {error}"))?;
        self.redis.send(&to_redis).map_err(|error| format!("the connection to Redis is broken: {error}"))
    }

    /// Reads the replies to calls that were sent. Returns what was received, and why it is not all.
    pub fn receive(&mut self, calls: &[Asked]) -> (Vec<Exchange>, Result<(), String>) {
        let mut all = Vec::new();
        for (case, of_both) in calls {
            match self.replies_to(case, *of_both) {
                Ok([node, redis]) => all.push(Exchange { case: case.clone(), node, redis }),
                Err(why) => return (all, Err(why)),
            }
        }
        (all, Ok(()))
    }

    fn replies_to(&mut self, case: &Case, of_both: bool) -> Result<[Option<Reply>; 2], String> {
        let is_expected = self.replies.expects(case);
        let missing = |side| move |error| format!("{side} has not answered {}: {error}", show(&case.call).trim_end());
        let node = is_expected.then(|| self.node.read()).transpose().map_err(missing("the node"))?;
        let redis = (is_expected && of_both).then(|| self.redis.read()).transpose().map_err(missing("Redis"))?;
        Ok([node, redis])
    }

    /// The elements of a whole iteration at each side, or its error; a cursor makes a call of it. An element consists of
    /// `size` replies.
    ///
    /// # Errors
    /// When a reply is missing, or there is no end.
    pub fn iterate(&mut self, call: impl Fn(&[u8]) -> Call, size: usize) -> Result<[BTreeSet<Vec<Reply>>; 2], String> {
        let whole = |connection: &mut Connection| {
            let (mut found, mut cursor) = (BTreeSet::new(), b"0".to_vec());
            for _ in 0..PARTS_MAX {
                let mut bytes = Vec::new();
                encode(&call(&cursor), &mut bytes);
                let part =
                    connection.send(&bytes).and_then(|()| connection.read()).map_err(|error| error.to_string())?;
                let [next, elements] = part.items() else {
                    return Ok(BTreeSet::from([vec![part]]));
                };
                found.extend(elements.items().chunks(size).map(<[Reply]>::to_vec));
                cursor = next.bytes().to_vec();
                if cursor == b"0" {
                    return Ok(found);
                }
            }
            Err(format!("no end after {PARTS_MAX} parts: {}", show(&call(&cursor))))
        };
        Ok([whole(&mut self.node)?, whole(&mut self.redis)?])
    }

    /// Follows the transaction of the reference. At the reply to EXEC, returns the calls that it executed.
    pub fn follow_transaction(&mut self, exchange: &Exchange) -> Vec<Case> {
        let Some(reply) = &exchange.redis else { return Vec::new() };
        match exchange.case.name() {
            "multi" if reply.is_status("OK") => self.queued = Some(Vec::new()),
            "exec" => return self.queued.take().unwrap_or_default(),
            "discard" | "reset" => self.queued = None,
            _ if reply.is_status("QUEUED") => {
                if let Some(queued) = &mut self.queued {
                    queued.push(exchange.case.clone());
                }
            }
            _ => {}
        }
        Vec::new()
    }
}
