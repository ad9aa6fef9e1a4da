//! Databases with no TTL: none of their keys has a time to live, so their expiry is not asked for.
//! Knows nothing of connections: it gets the replies to INFO keyspace and the commands of the feed.

use std::collections::{BTreeMap, BTreeSet};

use crate::{commands::Args, mover::feed::CommandWords};

/// Commands of a replication stream that give no key a time to live: the most frequent ones.
const HARMLESS: &[&[u8]] = &[
    b"incr",
    b"incrby",
    b"decr",
    b"decrby",
    b"append",
    b"setrange",
    b"del",
    b"unlink",
    b"hset",
    b"hincrby",
    b"hdel",
    b"lpush",
    b"rpush",
    b"lpop",
    b"rpop",
    b"sadd",
    b"srem",
    b"zadd",
    b"zrem",
    b"zincrby",
    b"xadd",
    b"xack",
    b"xclaim",
];

/// What is known about the databases.
#[derive(Debug, Default)]
pub(in crate::mover) struct NoTtl {
    known: BTreeSet<u32>,
    /// Databases in which a key may have got a time to live, with the number of the last poll at that time. Only a
    /// later poll counts.
    changed_since: BTreeMap<u32, u64>,
    all_changed_since: u64,
    polls: u64,
}

impl NoTtl {
    /// Registers a poll of the keyspace and returns its number.
    pub fn begin_poll(&mut self) -> u64 {
        self.polls += 1;
        self.polls
    }

    /// Poll number `poll` was answered: these databases have no TTL.
    pub fn answered(&mut self, poll: u64, none: impl Iterator<Item = u32>) {
        let (changed_since, all) = (&self.changed_since, self.all_changed_since);
        let since = |db: &u32| changed_since.get(db).copied().unwrap_or(0).max(all);
        self.known = none.filter(|db| poll > since(db)).collect();
        self.changed_since.retain(|_, since| *since >= poll);
    }

    /// Applies a change of a key. `None`: the database or the command is unknown.
    ///
    /// The key is dirty, so its time to live is requested. But SCAN may return it twice, and the second fetch finds no
    /// mark.
    pub fn changed(&mut self, db: Option<u32>, command: Option<&CommandWords>) {
        if command.is_some_and(is_harmless) {
            return;
        }
        match db {
            Some(db) => {
                self.known.remove(&db);
                self.changed_since.insert(db, self.polls);
            }
            None => {
                self.known.clear();
                self.all_changed_since = self.polls;
            }
        }
    }

    /// Whether no key of this database has a time to live, except keys that are dirty or will be marked.
    pub fn has(&self, db: u32) -> bool {
        self.known.contains(&db)
    }
}

fn is_harmless(command: &CommandWords) -> bool {
    let name = command.get(0);
    // With more arguments, SET may set a time to live.
    (command.len() == 3 && name.eq_ignore_ascii_case(b"set"))
        || HARMLESS.iter().any(|known| name.eq_ignore_ascii_case(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_counts_until_a_later_poll() {
        let mut no_ttl = NoTtl::default();
        let first = no_ttl.begin_poll();
        no_ttl.answered(first, [0, 3].into_iter());
        assert!(no_ttl.has(0) && no_ttl.has(3) && !no_ttl.has(1));
        // Requested before EXPIRE came, answered after it: the server may have answered before EXPIRE, too.
        let second = no_ttl.begin_poll();
        no_ttl.changed(Some(0), None);
        assert!(!no_ttl.has(0) && no_ttl.has(3));
        no_ttl.answered(second, [0, 3].into_iter());
        assert!(!no_ttl.has(0) && no_ttl.has(3));
        let third = no_ttl.begin_poll();
        no_ttl.answered(third, [0, 3].into_iter());
        assert!(no_ttl.has(0));
        let fourth = no_ttl.begin_poll();
        no_ttl.changed(None, None);
        no_ttl.answered(fourth, [0, 3].into_iter());
        assert!(!no_ttl.has(0) && !no_ttl.has(3));
        let fifth = no_ttl.begin_poll();
        no_ttl.answered(fifth, [3].into_iter());
        assert!(!no_ttl.has(0) && no_ttl.has(3));
    }
}
