//! Compares all keys of the reference with those of the groups' servers together. Knows nothing of calls.

use pontoon::model::slot::Layout;

use super::{
    comparison::{sorted, without_idle_times},
    connection::{Call, Connection, words},
    reply::Reply,
};

/// The databases that calls use.
pub const DATABASES: usize = 3;

/// The longest time that may pass between a call at one side and the same call at the other, in milliseconds.
const APART_MS: u64 = 60_000;

/// Direct connections to all servers.
#[derive(Debug)]
pub struct Keyspace {
    reference: Connection,
    /// The server of each group. Each has an equal range of the slots, in this order.
    servers: Vec<Connection>,
}

/// A command and a key.
fn about(command: &str, key: &[u8]) -> Call {
    let mut call = words(command);
    call.insert(1.min(call.len()), key.to_vec());
    call
}

/// The index of the group that owns the key's slot.
fn owner(key: &[u8], groups: usize) -> usize {
    let slots = usize::from(Layout::Codis.slots());
    let slot = usize::from(Layout::Codis.slot(key).0);
    (0..groups).rfind(|group| slots * group / groups <= slot).unwrap_or(0)
}

impl Keyspace {
    /// Connects to the reference and to the servers of the groups, in the order of their slots.
    #[must_use]
    pub fn new(reference: u16, servers: &[u16]) -> Self {
        Self {
            reference: Connection::open(reference),
            servers: servers.iter().map(|port| Connection::open(*port)).collect(),
        }
    }

    /// Compares everything, and returns what differs.
    pub fn differences(&mut self) -> Vec<String> {
        (0..DATABASES).flat_map(|db| self.differences_in(db)).collect()
    }

    /// Removes all keys at both sides.
    pub fn clear(&mut self) {
        for server in std::iter::once(&mut self.reference).chain(&mut self.servers) {
            assert!(server.call("FLUSHALL").is_status("OK"));
        }
    }

    /// Whether a client is blocked at the reference, and one at any server of a group.
    pub fn both_block(&mut self) -> bool {
        let blocks = |server: &mut Connection| !server.call("INFO clients").text().contains("blocked_clients:0");
        blocks(&mut self.reference) && self.servers.iter_mut().any(blocks)
    }

    fn differences_in(&mut self, db: usize) -> Vec<String> {
        let keys = |server: &mut Connection| -> Vec<Vec<u8>> {
            let replies = server.calls(&[words(&format!("SELECT {db}")), words("KEYS *")]);
            let mut keys: Vec<_> = replies[1].items().iter().map(|key| key.bytes().to_vec()).collect();
            keys.sort();
            keys
        };
        let mut wanted = vec![Vec::new(); self.servers.len()];
        for key in keys(&mut self.reference) {
            wanted[owner(&key, self.servers.len())].push(key);
        }
        let mut found = Vec::new();
        for (group, wanted) in wanted.iter().enumerate() {
            let present = keys(&mut self.servers[group]);
            let show = |key: &Vec<u8>| format!("database {db}, key {}", key.escape_ascii());
            let missing = wanted.iter().filter(|key| !present.contains(key));
            found.extend(missing.map(|key| format!("{} is missing in group {}", show(key), group + 1)));
            let unexpected = present.iter().filter(|key| !wanted.contains(key));
            found.extend(unexpected.map(|key| format!("{} is unexpected in group {}", show(key), group + 1)));
            let common: Vec<_> = wanted.iter().filter(|key| present.contains(key)).collect();
            let differ = different(&mut self.reference, &mut self.servers[group], &common);
            found.extend(differ.into_iter().map(|(key, how)| format!("{}: {how}", show(&key))));
        }
        found
    }
}

/// The keys whose values or times to live differ, and how.
fn different(reference: &mut Connection, server: &mut Connection, keys: &[&Vec<u8>]) -> Vec<(Vec<u8>, String)> {
    let read: Vec<Call> =
        keys.iter().flat_map(|key| [about("DUMP", key), about("PTTL", key), about("TYPE", key)]).collect();
    let (theirs, ours) = (reference.calls(&read), server.calls(&read));
    let mut found = Vec::new();
    // What DUMP shows depends on the order in a hash table, and on times.
    let mut unequal = Vec::new();
    for (at, key) in keys.iter().enumerate() {
        let (theirs, ours) = (&theirs[3 * at..3 * at + 3], &ours[3 * at..3 * at + 3]);
        let lives = [&ours[1], &theirs[1]].map(|reply| reply.integer().unwrap_or_default());
        let similar =
            lives[0] == lives[1] || (lives.iter().all(|life| *life >= 0) && lives[0].abs_diff(lives[1]) <= APART_MS);
        if !similar {
            found.push(((*key).clone(), format!("PTTL is {}, that of Redis {}", lives[0], lives[1])));
        }
        if theirs[2] != ours[2] {
            found.push(((*key).clone(), format!("it is a {:?}, in Redis a {:?}", ours[2], theirs[2])));
        } else if theirs[0] != ours[0] {
            unequal.push((*key, theirs[2].text()));
        }
    }
    let read: Vec<Call> = unequal.iter().map(|(key, kind)| show_value(key, kind)).collect();
    let (theirs, ours) = (reference.calls(&read), server.calls(&read));
    for (((key, kind), theirs), ours) in unequal.into_iter().zip(theirs).zip(ours) {
        if value(&kind, &theirs) != value(&kind, &ours) {
            found.push((key.clone(), format!("{ours:?}, in Redis {theirs:?}")));
        }
    }
    found
}

/// A call that shows a value.
fn show_value(key: &[u8], kind: &str) -> Call {
    match kind {
        "list" => about("LRANGE 0 -1", key),
        "set" => about("SMEMBERS", key),
        "hash" => about("HGETALL", key),
        "zset" => about("ZRANGE 0 -1 WITHSCORES", key),
        "stream" => {
            let mut call = words("XINFO STREAM FULL COUNT 0");
            call.insert(2, key.to_vec());
            call
        }
        // Its graph is random.
        "vectorset" => about("VCARD", key),
        _ => about("GET", key),
    }
}

/// A value without what is open.
fn value(kind: &str, shown: &Reply) -> Vec<Vec<Reply>> {
    match kind {
        "set" => sorted(shown, 1),
        "hash" => sorted(shown, 2),
        "stream" => vec![vec![without_idle_times(shown)]],
        _ => vec![vec![shown.clone()]],
    }
}
