//! Databases none of whose keys has a time to live: there PTTL need not be asked.
//! Knows nothing of servers: it is told what INFO keyspace answered, and which commands came.

use std::collections::{BTreeMap, BTreeSet};

use crate::{commands::Args, mover::feed::CommandWords};

/// Commands that give no key a time to live, as a replication stream names them: those that make most of it.
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

/// What is known of the databases.
#[derive(Debug, Default)]
pub(in crate::mover) struct NoTtl {
    known: BTreeSet<u32>,
    /// Of a database in which a key may have got a time to live since: how many polls had been asked for then. Only a later
    /// one counts.
    doubted: BTreeMap<u32, u64>,
    doubted_all: u64,
    asked: u64,
}

impl NoTtl {
    /// A poll at the keyspace is asked for; its number.
    pub fn ask(&mut self) -> u64 {
        self.asked += 1;
        self.asked
    }

    /// Look number `poll` was answered: these databases have no time to live.
    pub fn answered(&mut self, poll: u64, none: impl Iterator<Item = u32>) {
        let (doubted, all) = (&self.doubted, self.doubted_all);
        let since = |db: &u32| doubted.get(db).copied().unwrap_or(0).max(all);
        self.known = none.filter(|db| poll > since(db)).collect();
        self.doubted.retain(|_, asked| *asked >= poll);
    }

    /// A key of these slots has changed; `None`: the database, or the command, is not known.
    ///
    /// That key is dirty and its time is asked for. But SCAN may return it twice: its second fetch finds no mark any more.
    pub fn changed(&mut self, db: Option<u32>, command: Option<&CommandWords>) {
        if command.is_some_and(is_harmless) {
            return;
        }
        match db {
            Some(db) => {
                self.known.remove(&db);
                self.doubted.insert(db, self.asked);
            }
            None => {
                self.known.clear();
                self.doubted_all = self.asked;
            }
        }
    }

    /// Whether no key of this database has one, other than such as are marked dirty or will be.
    pub fn has(&self, db: u32) -> bool {
        self.known.contains(&db)
    }
}

fn is_harmless(command: &CommandWords) -> bool {
    let name = command.get(0);
    // With more arguments, SET may have a time.
    (command.len() == 3 && name.eq_ignore_ascii_case(b"set"))
        || HARMLESS.iter().any(|known| name.eq_ignore_ascii_case(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_counts_until_a_later_look() {
        let mut no_ttl = NoTtl::default();
        let first = no_ttl.ask();
        no_ttl.answered(first, [0, 3].into_iter());
        assert!(no_ttl.has(0) && no_ttl.has(3) && !no_ttl.has(1));
        // Asked before EXPIRE came, answered after: the server may have answered before it, too.
        let second = no_ttl.ask();
        no_ttl.changed(Some(0), None);
        assert!(!no_ttl.has(0) && no_ttl.has(3));
        no_ttl.answered(second, [0, 3].into_iter());
        assert!(!no_ttl.has(0) && no_ttl.has(3));
        let third = no_ttl.ask();
        no_ttl.answered(third, [0, 3].into_iter());
        assert!(no_ttl.has(0));
        let fourth = no_ttl.ask();
        no_ttl.changed(None, None);
        no_ttl.answered(fourth, [0, 3].into_iter());
        assert!(!no_ttl.has(0) && !no_ttl.has(3));
        let fifth = no_ttl.ask();
        no_ttl.answered(fifth, [3].into_iter());
        assert!(!no_ttl.has(0) && no_ttl.has(3));
    }
}
