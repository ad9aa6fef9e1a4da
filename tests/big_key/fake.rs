//! A simulated server without threads and sockets. It implements as much of Redis as copying big keys needs, and SCAN
//! with no more than its documented guarantee.
//! Knows nothing of its clients.

use std::{collections::BTreeMap, hash::Hasher};

use pontoon::resp::{
    request::{RequestScanner, Scanned},
    write,
};

/// Commands that Redis 6.0 does not have.
const NEW: [&str; 6] = ["PEXPIRETIME", "HPEXPIRETIME", "HPEXPIREAT", "HPEXPIRE", "SMISMEMBER", "ZMSCORE"];
/// Reported size of every element, so that pages are small and many.
const EACH: usize = 100 << 10;

#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// Fields with their values and expiry times.
    Hash(BTreeMap<Vec<u8>, (Vec<u8>, Option<u64>)>),
    Set(BTreeMap<Vec<u8>, ()>),
    Zset(BTreeMap<Vec<u8>, f64>),
}

/// The only key.
#[derive(Clone, Debug, Default)]
pub struct Fake {
    pub key: Option<(Data, Option<u64>)>,
    pub now: u64,
    /// Supports what Redis 7.4 supports; otherwise what 6.0 does.
    pub new: bool,
}

/// The position of an element in a SCAN. It depends only on the name, whatever else is added or removed.
fn place(name: &[u8]) -> u64 {
    let mut hasher = std::collections::hash_map::DefaultHasher::new();
    hasher.write(name);
    (hasher.finish() >> 1).max(1)
}

fn number(text: &[u8]) -> i64 {
    std::str::from_utf8(text).unwrap().parse().unwrap()
}

/// The remaining time to live at `now`.
fn left(until: Option<u64>, now: u64) -> i64 {
    until.map_or(-1, |until| until.saturating_sub(now) as i64)
}

impl Fake {
    /// Executes all requests in `bytes` and returns one reply each.
    pub fn run(&mut self, mut bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut replies = Vec::new();
        while !bytes.is_empty() {
            let mut scanner = RequestScanner::default();
            let Scanned::Request(len) = scanner.scan(bytes).unwrap() else { panic!("half a request") };
            let args: Vec<Vec<u8>> = scanner.args().iter().map(|a| a.of(bytes).to_vec()).collect();
            replies.push(self.command(&args));
            bytes = &bytes[len..];
        }
        replies
    }

    /// Advances the time; returns whether the key has expired.
    pub fn tick(&mut self, millis: u64) -> bool {
        self.now += millis;
        let expired = self.key.as_ref().is_some_and(|(_, until)| until.is_some_and(|until| until <= self.now));
        if expired {
            self.key = None;
        }
        expired
    }

    pub fn command(&mut self, args: &[Vec<u8>]) -> Vec<u8> {
        let mut out = Vec::new();
        let name = String::from_utf8(args[0].to_ascii_uppercase()).unwrap();
        let now = self.now;
        if !self.new && NEW.contains(&name.as_str()) {
            write::error(&mut out, &format!("ERR unknown command '{name}', with args beginning with: "));
            return out;
        }
        match name.as_str() {
            "TYPE" => write::simple(
                &mut out,
                match &self.key {
                    None => "none",
                    Some((Data::Hash(_), _)) => "hash",
                    Some((Data::Set(_), _)) => "set",
                    Some((Data::Zset(_), _)) => "zset",
                },
            ),
            "MEMORY" => write::int(&mut out, (300 << 10) + (self.len() * EACH) as i64),
            "HLEN" | "SCARD" | "ZCARD" => write::int(&mut out, self.len() as i64),
            "UNLINK" | "DEL" => write::int(&mut out, i64::from(self.key.take().is_some())),
            "EXISTS" => write::int(&mut out, i64::from(self.key.is_some())),
            "TIME" => {
                write::array(&mut out, 2);
                write::bulk(&mut out, (now / 1000).to_string().as_bytes());
                write::bulk(&mut out, (now % 1000 * 1000).to_string().as_bytes());
            }
            "PEXPIRETIME" => {
                write::int(&mut out, self.key.as_ref().map_or(-2, |(_, until)| until.map_or(-1, |at| at as i64)));
            }
            "PTTL" => write::int(&mut out, self.key.as_ref().map_or(-2, |(_, until)| left(*until, now))),
            "PERSIST" => {
                let had = self.key.as_mut().is_some_and(|(_, until)| until.take().is_some());
                write::int(&mut out, i64::from(had));
            }
            "PEXPIRE" => {
                if let Some((_, until)) = &mut self.key {
                    *until = Some(now + number(&args[2]) as u64);
                }
                write::int(&mut out, i64::from(self.key.is_some()));
            }
            "PEXPIREAT" => {
                write::int(&mut out, i64::from(self.key.is_some()));
                match &mut self.key {
                    Some((_, until)) if number(&args[2]) as u64 > now => *until = Some(number(&args[2]) as u64),
                    key => *key = None,
                }
            }
            _ => self.typed(&name, args, &mut out),
        }
        // Removing the last element removes the key.
        if self.key.is_some() && self.len() == 0 {
            self.key = None;
        }
        out
    }

    fn len(&self) -> usize {
        match &self.key {
            None => 0,
            Some((Data::Hash(fields), _)) => fields.len(),
            Some((Data::Set(members), _)) => members.len(),
            Some((Data::Zset(members), _)) => members.len(),
        }
    }

    fn typed(&mut self, name: &str, args: &[Vec<u8>], out: &mut Vec<u8>) {
        if self.key.is_none() && ["HSET", "SADD", "ZADD"].contains(&name) {
            let empty = match name {
                "HSET" => Data::Hash(BTreeMap::new()),
                "SADD" => Data::Set(BTreeMap::new()),
                _ => Data::Zset(BTreeMap::new()),
            };
            self.key = Some((empty, None));
        }
        let empty = match name.as_bytes()[0] {
            b'H' => Data::Hash(BTreeMap::new()),
            b'S' => Data::Set(BTreeMap::new()),
            _ => Data::Zset(BTreeMap::new()),
        };
        let mut none = empty;
        let data = self.key.as_mut().map_or(&mut none, |(data, _)| data);
        match data {
            Data::Hash(fields) => hash(fields, name, args, self.now, out),
            Data::Set(members) => set(members, name, args, out),
            Data::Zset(members) => zset(members, name, args, out),
        }
    }
}

/// The reply to a command that this type does not have.
fn wrong_type(name: &str, out: &mut Vec<u8>) {
    assert!(name.starts_with(['H', 'S', 'Z']), "{name} is not known here");
    write::error(out, "WRONGTYPE Operation against a key holding the wrong kind of value");
}

fn score_or_null(score: Option<&f64>, out: &mut Vec<u8>) {
    match score {
        Some(score) => write::bulk(out, score.to_string().as_bytes()),
        None => write::null(out, write::Version::Resp2),
    }
}

fn hash(
    fields: &mut BTreeMap<Vec<u8>, (Vec<u8>, Option<u64>)>,
    name: &str,
    args: &[Vec<u8>],
    now: u64,
    out: &mut Vec<u8>,
) {
    match name {
        "HSET" => {
            for pair in args[2..].chunks(2) {
                fields.insert(pair[0].clone(), (pair[1].clone(), None));
            }
            write::int(out, 0);
        }
        "HDEL" => {
            fields.retain(|name, _| !args[2..].contains(name));
            write::int(out, 0);
        }
        "HMGET" => {
            write::array(out, args.len() - 2);
            for name in &args[2..] {
                match fields.get(name) {
                    Some((value, _)) => write::bulk(out, value),
                    None => write::null(out, write::Version::Resp2),
                }
            }
        }
        "HPEXPIRETIME" => {
            write::array(out, args.len() - 4);
            let at = |name| fields.get(name).map_or(-2, |(_, until)| until.map_or(-1, |at| at as i64));
            args[4..].iter().for_each(|name| write::int(out, at(name)));
        }
        "HPEXPIRE" => {
            if let Some((_, until)) = fields.get_mut(&args[5]) {
                *until = Some(now + number(&args[2]) as u64);
            }
            out.extend_from_slice(b"*1\r\n:1\r\n");
        }
        // Fields do not expire here.
        "HPEXPIREAT" => {
            if let Some((_, until)) = fields.get_mut(&args[5]) {
                *until = Some(number(&args[2]) as u64);
            }
            out.extend_from_slice(b"*1\r\n:1\r\n");
        }
        "HSCAN" => {
            let rows = fields.iter().map(|(name, (value, _))| (name.clone(), Some(value.clone())));
            scan(rows.collect(), args, out);
        }
        _ => wrong_type(name, out),
    }
}

fn set(members: &mut BTreeMap<Vec<u8>, ()>, name: &str, args: &[Vec<u8>], out: &mut Vec<u8>) {
    match name {
        "SADD" => {
            members.extend(args[2..].iter().map(|name| (name.clone(), ())));
            write::int(out, 0);
        }
        "SREM" => {
            members.retain(|name, _| !args[2..].contains(name));
            write::int(out, 0);
        }
        "SISMEMBER" => write::int(out, i64::from(members.contains_key(&args[2]))),
        "SMISMEMBER" => {
            write::array(out, args.len() - 2);
            args[2..].iter().for_each(|name| write::int(out, i64::from(members.contains_key(name))));
        }
        "SSCAN" => scan(members.keys().map(|m| (m.clone(), None)).collect(), args, out),
        _ => wrong_type(name, out),
    }
}

fn zset(members: &mut BTreeMap<Vec<u8>, f64>, name: &str, args: &[Vec<u8>], out: &mut Vec<u8>) {
    match name {
        "ZMSCORE" => {
            write::array(out, args.len() - 2);
            for name in &args[2..] {
                score_or_null(members.get(name), out)
            }
        }
        "ZADD" => {
            for pair in args[2..].chunks(2) {
                members.insert(pair[1].clone(), std::str::from_utf8(&pair[0]).unwrap().parse().unwrap());
            }
            write::int(out, 0);
        }
        "ZREM" => {
            members.retain(|name, _| !args[2..].contains(name));
            write::int(out, 0);
        }
        "ZSCORE" => score_or_null(members.get(&args[2]), out),
        "ZSCAN" => {
            scan(members.iter().map(|(m, s)| (m.clone(), Some(s.to_string().into_bytes()))).collect(), args, out);
        }
        "ZRANGEBYSCORE" => {
            let min: f64 = std::str::from_utf8(&args[2]).unwrap().parse().unwrap();
            let mut rows: Vec<_> = members.iter().filter(|(_, score)| **score >= min).collect();
            rows.sort_by(|a, b| a.1.total_cmp(b.1).then(a.0.cmp(b.0)));
            rows.truncate(number(&args[7]) as usize);
            write::array(out, rows.len() * 2);
            for (member, score) in rows {
                write::bulk(out, member);
                write::bulk(out, score.to_string().as_bytes());
            }
        }
        _ => wrong_type(name, out),
    }
}

/// A page of HSCAN, SSCAN or ZSCAN: the cursor is a position.
fn scan(rows: Vec<(Vec<u8>, Option<Vec<u8>>)>, args: &[Vec<u8>], out: &mut Vec<u8>) {
    let (cursor, count) = (number(&args[2]) as u64, number(&args[4]) as usize);
    let mut rows: Vec<_> = rows.into_iter().map(|row| (place(&row.0), row)).filter(|(at, _)| *at >= cursor).collect();
    rows.sort();
    let next = rows.get(count).map_or(0, |(at, _)| *at);
    rows.truncate(count);
    write::array(out, 2);
    write::bulk(out, next.to_string().as_bytes());
    write::array(out, rows.iter().map(|(_, (_, value))| 1 + usize::from(value.is_some())).sum());
    for (_, (name, value)) in rows {
        write::bulk(out, &name);
        value.iter().for_each(|value| write::bulk(out, value));
    }
}
