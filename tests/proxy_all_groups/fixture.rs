//! Groups whose slots move, clients that read replies as values, and servers that answer when the test says so.

use std::{
    collections::BTreeSet,
    io::Read,
    net::TcpStream,
    sync::{Arc, Mutex, mpsc},
};

use pontoon::{
    model::{
        ids::{Epoch, GroupId, HoldId, SlotId},
        route::{HoldKind, HoldRoutes, RouteTable},
        scan_history::GroupChange,
        slot::Layout,
    },
    resp::{reply::ReplyScanner, write},
};

use crate::common::{Bed, Client, Conn, PATIENCE, fake, with_product};

pub fn slot(key: &str) -> SlotId {
    Layout::Codis.slot(key.as_bytes())
}

/// The index of the group that owns the slot of a key, of `groups` with equal shares.
pub fn owner(key: &str, groups: usize) -> usize {
    usize::from(slot(key).0) * groups / 1024
}

/// The first of the keys `k0`, `k1` and so on that this group of `groups` owns.
pub fn key_of(group: usize, groups: usize) -> String {
    (0..).map(|i| format!("k{i}")).find(|key| owner(key, groups) == group).unwrap()
}

/// The table in which the slots for which `moves` is true belong to the group with this index, as after a switch.
pub fn moved(mut table: RouteTable, to: u16, moves: impl Fn(SlotId) -> bool) -> RouteTable {
    table.epoch.0 += 1;
    let epoch = table.epoch;
    with_product(table, |p| {
        for (slot, route) in (0..).map(SlotId).zip(&mut p.slots).filter(|(slot, _)| moves(*slot)) {
            (route.group, route.epoch) = (Some(to), epoch);
            let _ = slot;
        }
        p.scans.record(GroupChange::Changed(p.groups[usize::from(to)].id));
    })
}

/// The table with another primary of a group.
pub fn promoted(mut table: RouteTable, group: u16, addr: &str) -> RouteTable {
    table.epoch.0 += 1;
    let epoch = table.epoch;
    with_product(table, |p| {
        p.groups[usize::from(group)].primary = pontoon::model::ids::HostPort::parse(addr).unwrap();
        p.slots.iter_mut().filter(|slot| slot.group == Some(group)).for_each(|slot| slot.epoch = epoch);
        p.scans.record(GroupChange::Changed(GroupId(u32::from(group) + 1)));
    })
}

/// The table with a hold of a slot.
pub fn held_slot(mut table: RouteTable, slot: SlotId) -> RouteTable {
    table.epoch.0 += 1;
    let id = HoldId(table.epoch.0);
    let mut table = with_product(table, |p| p.slots[usize::from(slot.0)].hold = id);
    let product = *table.products.keys().next().unwrap();
    table.holds.insert(id, HoldRoutes { product, kind: HoldKind::Wait, slots: Arc::new([slot]) });
    table
}

/// The table without holds.
pub fn released(mut table: RouteTable) -> RouteTable {
    table.epoch.0 += 1;
    table.holds.clear();
    with_product(table, |p| p.slots.iter_mut().for_each(|slot| slot.hold = HoldId(0)))
}

impl Bed {
    /// Publishes a table, and waits until the workers use it.
    pub fn follow(&self, table: RouteTable) {
        let epoch = table.epoch;
        self.publish(table);
        self.until("the new table is used", |r| r.route_epoch >= epoch);
    }

    /// Whether the hold that was opened with the table of this epoch has drained.
    pub fn is_drained(&self, hold: Epoch) -> bool {
        self.proxy.report().borrow().holds.get(&HoldId(hold.0)).is_some_and(|progress| progress.drained)
    }
}

/// A reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Text(String),
    Error(String),
    Int(i64),
    Null,
    Array(Vec<Value>),
}

impl Value {
    pub fn items(&self) -> &[Value] {
        match self {
            Self::Array(items) => items,
            other => panic!("not an array: {other:?}"),
        }
    }

    pub fn text(&self) -> &str {
        match self {
            Self::Text(text) | Self::Error(text) => text,
            other => panic!("not a text: {other:?}"),
        }
    }

    pub fn texts(&self) -> BTreeSet<String> {
        self.items().iter().map(|item| item.text().to_owned()).collect()
    }

    fn parse(bytes: &[u8], at: &mut usize) -> Self {
        let end = *at + bytes[*at..].windows(2).position(|w| w == b"\r\n").unwrap();
        let (kind, line) = (bytes[*at], String::from_utf8_lossy(&bytes[*at + 1..end]).into_owned());
        *at = end + 2;
        match kind {
            b'+' => Self::Text(line),
            b'-' => Self::Error(line),
            b':' => Self::Int(line.parse().unwrap()),
            b'_' => Self::Null,
            b'$' if line == "-1" => Self::Null,
            b'$' => {
                let from = *at;
                *at += line.parse::<usize>().unwrap() + 2;
                Self::Text(String::from_utf8_lossy(&bytes[from..*at - 2]).into_owned())
            }
            b'*' => Self::Array((0..line.parse::<usize>().unwrap()).map(|_| Self::parse(bytes, at)).collect()),
            other => panic!("a reply of kind {:?}", char::from(other)),
        }
    }
}

/// A client that reads replies as values.
pub struct Caller {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Caller {
    pub fn connect(port: u16) -> Self {
        Self { stream: Client::connect(port).stream, read: Vec::new() }
    }

    pub fn send(&mut self, words: &str) {
        let words: Vec<&[u8]> = words.split(' ').map(str::as_bytes).collect();
        let mut request = Vec::new();
        write::request(&mut request, &words);
        std::io::Write::write_all(&mut self.stream, &request).unwrap();
    }

    pub fn value(&mut self) -> Value {
        let mut scanner = ReplyScanner::default();
        loop {
            if let Some(len) = scanner.scan(&self.read).unwrap() {
                let reply: Vec<u8> = self.read.drain(..len).collect();
                return Value::parse(&reply, &mut 0);
            }
            let mut more = [0; 65536];
            let len = self.stream.read(&mut more).unwrap();
            assert!(len > 0, "the connection was closed");
            self.read.extend_from_slice(&more[..len]);
        }
    }

    pub fn call(&mut self, words: &str) -> Value {
        self.send(words);
        self.value()
    }

    /// One page of a scan: the cursor and the keys.
    pub fn page(&mut self, words: &str) -> (String, Vec<String>) {
        let reply = self.call(words);
        let [cursor, keys] = reply.items() else { panic!("{reply:?}") };
        (cursor.text().to_owned(), keys.items().iter().map(|key| key.text().to_owned()).collect())
    }

    /// Everything that a scan returns which goes on from `cursor`. `{}` in `words` is the cursor.
    pub fn scan_from(&mut self, mut cursor: String, words: &str) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        loop {
            let (next, keys) = self.page(&words.replace("{}", &cursor));
            found.extend(keys);
            if next == "0" {
                return found;
            }
            cursor = next;
        }
    }
}

/// A scripted server, of which each request waits until the test answers it.
pub struct Scripted {
    pub addr: String,
    requests: mpsc::Receiver<String>,
    replies: mpsc::SyncSender<String>,
}

impl Scripted {
    /// `alone`: requests that it answers itself, and the replies.
    pub fn start(alone: &'static [(&'static str, &'static str)]) -> Self {
        let (replies, to_send) = mpsc::sync_channel::<String>(64);
        let (seen, requests) = mpsc::sync_channel(64);
        let to_send = Arc::new(Mutex::new(to_send));
        let addr = fake(move |mut conn: Conn| {
            while let Some(args) = conn.request() {
                let words: Vec<_> = args.iter().map(|arg| String::from_utf8_lossy(arg)).collect();
                let request = words.join(" ");
                if let Some((_, reply)) = alone.iter().find(|(words, _)| request.starts_with(words)) {
                    conn.reply(reply.as_bytes());
                    continue;
                }
                seen.send(request).unwrap();
                let Ok(reply) = to_send.lock().unwrap().recv() else { return };
                conn.reply(reply.as_bytes());
            }
        });
        Self { addr, requests, replies }
    }

    /// Waits for the next request.
    pub fn request(&self) -> String {
        self.requests.recv_timeout(PATIENCE).unwrap()
    }

    /// Whether a request waits.
    pub fn is_asked(&self) -> bool {
        self.requests.try_recv().is_ok()
    }

    /// Answers the next request, perhaps before it comes.
    pub fn reply(&self, reply: &str) {
        self.replies.send(reply.to_owned()).unwrap();
    }
}

pub const PONG: (&str, &str) = ("PING", "+PONG\r\n");
