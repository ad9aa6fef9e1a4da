//! The kinds that run one at a time, because each alone can occupy a server or the memory of a node: values of hundreds
//! of megabytes, gigabytes of replies that are not read, scripts, slow commands. Each attacks group 1 of the attacked
//! product; group 2 and product `honest` must not notice.

use std::time::Duration;

use super::{
    arena::{Arena, LARGE, LARGE_KEYS, group_of},
    honest::{Honest, HonestOptions},
    verdict::{Criterion, RESIDENT_MAX_MB, print_errors},
    watch::Watch,
};
use crate::{
    client::{Client, Reply, request},
    wait::let_pass,
};

const MB: usize = 1 << 20;

/// The time for a reply to a huge request.
const LONG: Duration = Duration::from_secs(120);

/// How long replies are not read: longer than the time after which a node closes such a client (30 s).
const UNREAD: Duration = Duration::from_secs(40);

/// How long clients are observed after an attack: longer than `down-after` (3 s) and a failover.
const AFTERWARDS: Duration = Duration::from_secs(8);

/// Honest clients of each product.
const HONEST: usize = 20;

/// Time between two requests of an honest client.
const EVERY: Duration = Duration::from_millis(20);

/// Elements of a list whose SORT takes one or two seconds, which is less than `down-after`.
const SORTED_IN_TIME: usize = 1_500_000;
/// Elements of a list whose SORT takes longer than `down-after`, also on a fast machine.
const SORTED_TOO_LATE: usize = 6_000_000;

/// An attack.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Its name in the table and for `--only`.
    pub name: &'static str,
    /// MB of the largest message that the node may hold as a whole.
    message_mb: u64,
    /// Most failovers that may happen.
    failovers: usize,
    /// Prepares the servers. Not observed.
    prepare: fn(&Arena),
    /// Returns what the attacker saw.
    attack: fn(&Arena) -> std::io::Result<String>,
}

impl Case {
    /// An attack that does nothing yet, needs no preparation and may cause no failover.
    const fn new(name: &'static str, message_mb: u64) -> Self {
        Self { name, message_mb, failovers: 0, prepare: |_| (), attack: |_| Ok(String::new()) }
    }
}

/// All attacks that run one at a time.
pub const CASES: &[Case] = &[
    Case { attack: |arena| set(arena, 100 * MB), ..Case::new("a SET of 100 MB", 100) },
    Case { attack: |arena| set(arena, 256 * MB), ..Case::new("a SET of 256 MB", 256) },
    Case { prepare: create_huge, attack: get_unread, ..Case::new("a GET of 500 MB that is not read", 0) },
    Case { attack: replies_unread, ..Case::new("3 GB of replies that are not read", 0) },
    Case { attack: script, ..Case::new("a script of six seconds", 0) },
    Case { prepare: |arena| create_list(arena, SORTED_IN_TIME), attack: sort, ..Case::new("a slow SORT", 0) },
    // A server that sends nothing looks like one that hangs (docs/failure-modes.md). Others are unaffected all the same.
    Case {
        prepare: |arena| create_list(arena, SORTED_TOO_LATE),
        attack: sort,
        failovers: 1,
        ..Case::new("a SORT longer than down-after", 0)
    },
];

/// Runs a case in a cluster of its own, so that no case begins with what another one has left. Prints what was measured,
/// and returns the criteria. `budget_mb`: see [`Arena::start`].
#[must_use]
pub fn run(budget_mb: Option<usize>, case: &Case) -> Vec<Criterion> {
    let arena = &Arena::start(budget_mb);
    (case.prepare)(arena);
    let other = Honest::start(HonestOptions::new(arena.honest_port(), HONEST, EVERY, |_| true));
    let same = Honest::start(HonestOptions::new(arena.attacked_port(), HONEST, EVERY, |key| group_of(key) == 2));
    let watch = Watch::start(arena.node_pid(), arena.attacked_servers());
    let saw = (case.attack)(arena);
    let_pass(AFTERWARDS);
    let (usage, other, same) = (watch.finish(), other.finish(), same.finish());
    let promotions = arena.new_promotions();
    println!("{}: {}", case.name, saw.unwrap_or_else(|error| format!("connection: {error}")));
    for (of, figures) in [("product 'honest'", &other), ("group 2", &same)] {
        let [p50, p99, longest] = [0.5, 0.99, 1.0].map(|share| figures.quantile(share));
        println!("      {of}: p50 {p50:.2?}, p99 {p99:.2?}, longest {longest:.2?}");
        print_errors(of, figures);
    }
    if let Some(usage) = &usage {
        println!("      attacked servers together: at most {} MB", usage.others_mb);
    }
    promotions.iter().for_each(|promotion| println!("      {promotion}"));
    let all = vec![
        Criterion::no_errors("product 'honest'", &other),
        Criterion::no_errors("group 2 of the attacked product", &same),
        Criterion::memory(usage.as_ref(), RESIDENT_MAX_MB + case.message_mb),
        Criterion::failovers(&promotions, case.failovers),
    ];
    all.into_iter().map(|c| Criterion { what: format!("{}: {}", case.name, c.what), ..c }).collect()
}

/// A key of group 1.
fn key(name: &str) -> String {
    (0..).map(|n| format!("{name}:{n}")).find(|key| group_of(key) == 1).expect("half of all keys are in group 1")
}

fn client(arena: &Arena) -> std::io::Result<Client> {
    Client::connect_within(arena.attacked_port(), LONG)
}

fn text(reply: &Reply) -> String {
    reply.text().chars().take(200).collect()
}

/// Executes a command directly at the primary of group 1.
fn at_primary(arena: &Arena, args: &[&str]) {
    let reply = arena.cluster.servers[0].call(args);
    assert!(!reply.is_error(""), "the primary of group 1 answers {args:?} with {reply:?}");
}

/// In pieces, so that the value is on its way for about ten seconds.
fn set(arena: &Arena, bytes: usize) -> std::io::Result<String> {
    let (key, mut client) = (key("huge"), client(arena)?);
    if let Err(error) = send_value(&mut client, &key, bytes) {
        // A node that refuses the value says so before it closes the connection.
        return Ok(format!("{error}; before that: {}", text(&client.read()?)));
    }
    let reply = client.read()?;
    client.call(&["DEL", &key])?;
    Ok(text(&reply))
}

fn send_value(client: &mut Client, key: &str, bytes: usize) -> std::io::Result<()> {
    const PIECES: usize = 100;
    client.send(format!("*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${bytes}\r\n", key.len()).as_bytes())?;
    let piece = vec![b'h'; bytes / PIECES];
    for _ in 0..PIECES {
        client.send(&piece)?;
        let_pass(Duration::from_millis(100));
    }
    client.send(&vec![b'h'; bytes % PIECES])?;
    client.send(b"\r\n")
}

fn create_huge(arena: &Arena) {
    at_primary(arena, &["SETRANGE", &key("huge"), &(500 * MB - 1).to_string(), "x"]);
}

fn get_unread(arena: &Arena) -> std::io::Result<String> {
    let (key, mut client) = (key("huge"), client(arena)?);
    client.send(&request(&["GET", &key]))?;
    let_pass(UNREAD);
    drop(client);
    at_primary(arena, &["UNLINK", &key]);
    Ok("read nothing".into())
}

fn replies_unread(arena: &Arena) -> std::io::Result<String> {
    let keys: Vec<String> = (0..LARGE_KEYS).map(|n| LARGE.key(n)).filter(|key| group_of(key) == 1).collect();
    let mut client = client(arena)?;
    let requests: Vec<u8> = keys.iter().cycle().take(3000).flat_map(|key| request(&["GET", key])).collect();
    client.send(&requests)?;
    let_pass(UNREAD);
    Ok("read nothing".into())
}

fn script(arena: &Arena) -> std::io::Result<String> {
    let script = "local t = redis.call('TIME'); local e = t[1] * 1000000 + t[2] + 6000000 \
                  repeat t = redis.call('TIME') until t[1] * 1000000 + t[2] > e; return 'the script has ended'";
    Ok(text(&client(arena)?.call(&["EVAL", script, "1", &key("script")])?))
}

fn create_list(arena: &Arena, elements: usize) {
    // More in one script would itself be a slow command.
    const AT_ONCE: usize = 20_000;
    let script = "for i = 1, ARGV[1] do redis.call('RPUSH', KEYS[1], tostring(math.random())) end return 1";
    for _ in 0..elements / AT_ONCE {
        at_primary(arena, &["EVAL", script, "1", &key("list"), &AT_ONCE.to_string()]);
    }
}

fn sort(arena: &Arena) -> std::io::Result<String> {
    let key = key("list");
    let reply = client(arena)?.call(&["SORT", &key, "ALPHA", "LIMIT", "0", "1"])?;
    at_primary(arena, &["UNLINK", &key]);
    Ok(text(&reply))
}
