//! What a node says about itself and its servers: INFO, ROLE, CONFIG, ACL, COMMAND and the like, with real servers.
#![allow(clippy::unwrap_used)]

mod common;

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::TcpStream,
    sync::Arc,
    time::{Duration, Instant},
};

use common::{Bed, Client, PATIENCE, Redis, logins, with_product};
use pontoon::{
    commands::{OfferedCommands, ServerCommands, ServerIdentity},
    model::ids::ProductId,
    proxy::Limits,
};

/// The bulk string that answers a call.
fn bulk(client: &mut Client, words: &str) -> String {
    client.call(words);
    let line = client.line();
    let len: usize = line.strip_prefix('$').unwrap_or_else(|| panic!("{words}: {line}")).parse().unwrap();
    let mut text = vec![0; len + 2];
    client.stream.read_exact(&mut text).unwrap();
    String::from_utf8(text[..len].to_vec()).unwrap()
}

fn field<'a>(text: &'a str, name: &str) -> &'a str {
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    lines.find(|(other, _)| *other == name).unwrap_or_else(|| panic!("no {name} in {text}")).1
}

fn number(text: &str, name: &str) -> u64 {
    field(text, name).parse().unwrap_or_else(|_| panic!("{name} in {text}"))
}

/// The simple strings or bulk strings of an array that answers a call.
fn array(client: &mut Client, words: &str) -> Vec<String> {
    client.call(words);
    let line = client.line();
    let len: usize = line.strip_prefix('*').unwrap_or_else(|| panic!("{words}: {line}")).parse().unwrap();
    (0..len)
        .map(|_| match client.line() {
            line if line.starts_with('$') => client.line(),
            line => line.trim_start_matches('+').to_owned(),
        })
        .collect()
}

#[test]
fn info_has_the_sections_and_fields_that_clients_read() {
    let (a, b) = (Redis::start(), Redis::start());
    let bed = Bed::start_with(&[&a.addr, &b.addr], Limits::default(), 2, |t| t);
    let mut client = bed.client();
    let text = bulk(&mut client, "INFO");
    let titles: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# ")).collect();
    let default = [
        "Server",
        "Clients",
        "Memory",
        "Persistence",
        "Stats",
        "Replication",
        "CPU",
        "Modules",
        "Errorstats",
        "Cluster",
        "Keyspace",
        "Pontoon",
    ];
    assert_eq!(titles, default);
    let mut all = default.to_vec();
    all.insert(8, "Commandstats");
    all.insert(10, "Latencystats");
    for words in ["INFO all", "INFO everything"] {
        let text = bulk(&mut client, words);
        assert_eq!(text.lines().filter_map(|line| line.strip_prefix("# ")).collect::<Vec<_>>(), all);
    }
    for (name, want) in [
        ("redis_version", "7.0.15"),
        ("redis_mode", "standalone"),
        ("arch_bits", "64"),
        ("multiplexing_api", "epoll"),
        ("config_file", ""),
        ("loading", "0"),
        ("role", "master"),
        ("connected_slaves", "0"),
        ("master_repl_offset", "0"),
        ("cluster_enabled", "0"),
        ("maxmemory", "0"),
        ("maxmemory_policy", "noeviction"),
        ("aof_enabled", "0"),
        ("rdb_last_bgsave_status", "ok"),
        ("rejected_connections", "0"),
        ("evicted_keys", "0"),
        ("connected_clients", "1"),
        ("blocked_clients", "0"),
        ("groups", "2"),
        ("groups_unanswered", ""),
    ] {
        assert_eq!(field(&text, name), want, "{name}");
    }
    assert_eq!(number(&text, "process_id"), u64::from(std::process::id()));
    assert_eq!(number(&text, "tcp_port"), u64::from(bed.port));
    assert!(field(&text, "os").starts_with("Linux "));
    let run_id = field(&text, "run_id");
    assert!(run_id.len() == 40 && run_id.bytes().all(|c| c.is_ascii_hexdigit()), "{run_id}");
    assert_eq!(field(&bulk(&mut bed.client(), "INFO server"), "run_id"), run_id);
    for name in
        ["uptime_in_seconds", "uptime_in_days", "hz", "lru_clock", "io_threads_active", "instantaneous_ops_per_sec"]
    {
        number(&text, name);
    }
    for name in ["used_cpu_sys", "used_cpu_user", "mem_fragmentation_ratio"] {
        assert!(field(&text, name).parse::<f64>().unwrap() >= 0.0);
    }
    for name in ["used_memory_human", "used_memory_rss_human", "used_memory_peak_human", "executable"] {
        assert!(!field(&text, name).is_empty(), "{name}");
    }
    assert_eq!(bulk(&mut client, "INFO nonsense"), "");
    // In RESP3 it is a verbatim string.
    client.call("HELLO 3");
    while client.line() != "modules" {}
    client.expect("*0\r\n");
    client.call("INFO cluster").expect("=34\r\ntxt:# Cluster\r\ncluster_enabled:0\r\n\r\n");
}

#[test]
fn numbers_of_servers_are_sums() {
    let (a, b) = (Redis::start(), Redis::start());
    let bed = Bed::start(&[&a.addr, &b.addr]);
    let mut client = bed.client();
    for i in 0..50 {
        client.call(&format!("SET k{i} v")).expect("+OK\r\n");
        client.call(&format!("GET k{i}")).expect("$1\r\nv\r\n");
    }
    client.call("GET none").expect("$-1\r\n");
    client.call("EXPIRE k0 1000").expect(":1\r\n");
    client.call("SELECT 3").expect("+OK\r\n");
    client.call("SET other v").expect("+OK\r\n");
    let text = bulk(&mut client, "INFO");
    let own = |redis: &Redis| {
        let mut server = Client::connect(redis.port());
        number(&bulk(&mut server, "INFO"), "used_memory")
    };
    let sum = own(&a) + own(&b);
    let shown = number(&text, "used_memory");
    assert!(shown > sum / 2 && shown < sum * 2, "{shown} {sum}");
    assert_eq!(number(&text, "keyspace_hits"), 50);
    assert_eq!(number(&text, "keyspace_misses"), 1);
    assert_eq!(field(&text, "db3"), "keys=1,expires=0,avg_ttl=0");
    assert!(field(&text, "db0").starts_with("keys=50,expires=1,avg_ttl="), "{text}");
}

#[test]
fn keys_that_the_product_does_not_own_are_not_counted() {
    let (a, b) = (Redis::start(), Redis::start());
    let bed = Bed::start(&[&a.addr, &b.addr]);
    let mut client = bed.client();
    for i in 0..100 {
        client.call(&format!("SET k{i} v")).expect("+OK\r\n");
    }
    // Leftovers: keys whose slots belong to the other group.
    for redis in [&a, &b] {
        let mut server = Client::connect(redis.port());
        for i in 0..100 {
            server.call(&format!("SET k{i} leftover"));
            server.line();
        }
    }
    assert!(field(&bulk(&mut client, "INFO keyspace"), "db0").starts_with("keys=100,"));
    client.call("DBSIZE").expect(":100\r\n");
}

#[test]
fn a_group_that_does_not_answer_is_named_and_delays_little() {
    let (a, mut b, c) = (Redis::start(), Redis::start(), Redis::start());
    let bed = Bed::start(&[&a.addr, &b.addr, &c.addr]);
    let mut client = bed.client();
    assert_eq!(field(&bulk(&mut client, "INFO"), "groups_unanswered"), "");
    b.kill();
    c.signal("STOP");
    let began = Instant::now();
    let text = bulk(&mut client, "INFO");
    c.signal("CONT");
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert_eq!(field(&text, "groups_unanswered"), "2,3");
    // What the others say, and what the node knows.
    assert!(number(&text, "used_memory") > 0);
    assert_eq!(field(&text, "role"), "master");
    // Also where only sums are asked for.
    for section in ["memory", "stats", "keyspace", "commandstats"] {
        let text = bulk(&mut client, &format!("INFO {section}"));
        assert!(field(&text, "groups_unanswered").starts_with('2'), "{section}: {text}");
    }
    let text = bulk(&mut client, "INFO server");
    assert!(!text.contains("groups_unanswered"), "no server is asked: {text}");
}

#[test]
fn what_needs_no_server_asks_none() {
    let mut redis = Redis::start();
    let bed = Bed::start(&[&redis.addr]);
    let mut client = bed.client();
    redis.signal("STOP");
    let began = Instant::now();
    for words in
        ["INFO server", "INFO server clients replication cpu modules errorstats cluster pontoon", "INFO nonsense"]
    {
        bulk(&mut client, words);
    }
    array(&mut client, "CONFIG GET databases");
    client.call("ROLE").expect("*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n");
    assert!(began.elapsed() < Duration::from_millis(400), "{:?}", began.elapsed());
    redis.signal("CONT");
    redis.kill();
    // A server that is down does not keep the node from answering.
    assert_eq!(field(&bulk(&mut client, "INFO"), "groups_unanswered"), "1");
}

#[test]
fn info_in_a_transaction_says_what_the_node_knows() {
    let redis = Redis::start();
    let bed = Bed::start(&[&redis.addr]);
    let mut client = bed.client();
    client.call("MULTI").expect("+OK\r\n");
    client.call("INFO").expect("+QUEUED\r\n");
    client.call("EXEC").expect("*1\r\n");
    let len = client.line()[1..].parse().unwrap();
    let mut text = vec![0; len];
    client.stream.read_exact(&mut text).unwrap();
    assert_eq!(field(std::str::from_utf8(&text).unwrap(), "loading"), "0");
}

#[test]
fn calls_and_errors_are_counted_and_reset() {
    let (a, b) = (Redis::start(), Redis::start());
    let bed = Bed::start_with(&[&a.addr, &b.addr], Limits::default(), 2, |t| t);
    let (mut client, mut other) = (bed.client(), bed.client());
    let run = |client: &mut Client| {
        client.call("SET k v").expect("+OK\r\n");
        client.call("GET k").expect("$1\r\nv\r\n");
        client.call("LPUSH k x").expect("-WRONGTYPE Operation against a key holding the wrong kind of value\r\n");
        client.call("GET");
        client.line();
        client.call("CONFIG GET databases").expect("*2\r\n$9\r\ndatabases\r\n$2\r\n16\r\n");
        client.call("NONSENSE");
        client.line();
        client.call("MGET k l").expect("*2\r\n$1\r\nv\r\n$-1\r\n");
    };
    // Both workers.
    run(&mut client);
    run(&mut other);
    let text = bulk(&mut client, "INFO commandstats errorstats stats");
    let calls = |text: &str, name: &str| {
        let value = field(text, &format!("cmdstat_{name}")).to_owned();
        let part = |name: &str| {
            let pair = value.split(',').find_map(|pair| pair.strip_prefix(&format!("{name}=")).map(str::to_owned));
            pair.unwrap_or_else(|| panic!("{value}"))
        };
        part("usec_per_call").parse::<f64>().unwrap();
        part("usec").parse::<u64>().unwrap();
        ["calls", "rejected_calls", "failed_calls"].map(|name| part(name).parse::<u64>().unwrap())
    };
    assert_eq!(calls(&text, "set"), [2, 0, 0]);
    assert_eq!(calls(&text, "get"), [2, 2, 0]);
    assert_eq!(calls(&text, "lpush"), [2, 0, 2]);
    assert_eq!(calls(&text, "config|get"), [2, 0, 0]);
    assert_eq!(calls(&text, "mget"), [2, 0, 0]);
    assert_eq!(field(&text, "errorstat_WRONGTYPE"), "count=2");
    assert_eq!(field(&text, "errorstat_ERR"), "count=4");
    assert_eq!(number(&text, "total_error_replies"), 6);
    assert!(number(&text, "total_commands_processed") >= 10);
    assert!(number(&text, "total_net_input_bytes") > 100);
    assert!(number(&text, "total_net_output_bytes") > 100);
    assert_eq!(number(&text, "total_connections_received"), 2);
    client.call("CONFIG RESETSTAT").expect("+OK\r\n");
    let text = bulk(&mut client, "INFO commandstats errorstats");
    assert!(!text.contains("cmdstat_get:") && !text.contains("errorstat_"), "{text}");
    other.call("GET k").expect("$1\r\nv\r\n");
    // At once, although another worker has counted it.
    assert_eq!(calls(&bulk(&mut client, "INFO commandstats"), "get"), [1, 0, 0]);
    // Latencies are those of the slowest server.
    let text = bulk(&mut client, "INFO latencystats");
    assert!(field(&text, "latency_percentiles_usec_get").starts_with("p50="), "{text}");
}

/// The lines of a reply.
fn lines_of(client: &mut Client, words: &str) -> Vec<String> {
    client.call(words).call("ECHO end-of-reply");
    let mut lines = Vec::new();
    while lines.last().is_none_or(|line| line != "end-of-reply") {
        lines.push(client.line());
    }
    lines.truncate(lines.len() - 2);
    lines
}

#[test]
fn histograms_of_one_group_are_those_of_its_server() {
    let redis = Redis::start();
    let bed = Bed::start(&[&redis.addr]);
    let (mut client, mut server) = (bed.client(), Client::connect(redis.port()));
    for i in 0..20 {
        client.call(&format!("SET k{i} v")).expect("+OK\r\n");
        client.call(&format!("GET k{i}")).expect("$1\r\nv\r\n");
    }
    for words in ["LATENCY HISTOGRAM set", "LATENCY HISTOGRAM nonsense GET"] {
        let lines = lines_of(&mut client, words);
        assert_eq!(lines, lines_of(&mut server, words));
        assert_eq!(lines[..2], ["*2", "$3"]);
    }
    // Others have sent this one.
    server.call("HSET h f v").expect(":1\r\n");
    assert!(lines_of(&mut server, "LATENCY HISTOGRAM").contains(&"hset".to_owned()));
    assert!(!lines_of(&mut client, "LATENCY HISTOGRAM").contains(&"hset".to_owned()));
    client.call("HELLO 3");
    while client.line() != "modules" {}
    client.line();
    let lines = lines_of(&mut client, "LATENCY HISTOGRAM set");
    assert_eq!(lines[..4], ["%1", "$3", "set", "%2"]);
}

#[test]
fn histograms_are_added_over_the_groups() {
    let (a, b) = (Redis::start(), Redis::start());
    let bed = Bed::start(&[&a.addr, &b.addr]);
    let mut client = bed.client();
    for i in 0..50 {
        client.call(&format!("SET k{i} v")).expect("+OK\r\n");
    }
    let lines = lines_of(&mut client, "LATENCY HISTOGRAM set");
    assert_eq!(lines[..6], ["*2", "$3", "set", "*4", "$5", "calls"]);
    assert_eq!((lines[6].as_str(), lines.last().map(String::as_str)), (":50", Some(":50")));
    let mut server = Client::connect(a.port());
    let of_one = lines_of(&mut server, "LATENCY HISTOGRAM set");
    assert_ne!(of_one[6], ":50", "both have some");
    assert_eq!(lines_of(&mut client, "LATENCY HISTOGRAM get"), ["*0"]);
}

#[test]
fn blocked_clients_are_counted() {
    let redis = Redis::start();
    let bed = Bed::start(&[&redis.addr]);
    let (mut client, mut blocked) = (bed.client(), bed.client());
    blocked.call("BLPOP queue 0");
    let end = Instant::now() + common::PATIENCE;
    while number(&bulk(&mut client, "INFO clients"), "blocked_clients") != 1 {
        assert!(Instant::now() < end);
    }
    client.call("RPUSH queue x").expect(":1\r\n");
    blocked.expect("*2\r\n$5\r\nqueue\r\n$1\r\nx\r\n");
    assert_eq!(number(&bulk(&mut client, "INFO clients"), "blocked_clients"), 0);
}

/// Who sees it counted may rely on what it waits for: an element that comes then is taken by it.
#[test]
fn a_client_is_not_counted_as_blocked_before_a_server_has_its_call() {
    let redis = Redis::start();
    let bed = Bed::start(&[&redis.addr]);
    let (mut client, mut blocked) = (bed.client(), bed.client());
    redis.signal("STOP");
    blocked.call("BLPOP queue 0");
    let end = Instant::now() + common::PATIENCE;
    while !bulk(&mut client, "CLIENT LIST").contains("cmd=blpop") {
        assert!(Instant::now() < end);
    }
    assert_eq!(number(&bulk(&mut client, "INFO clients"), "blocked_clients"), 0);
    redis.signal("CONT");
    while number(&bulk(&mut client, "INFO clients"), "blocked_clients") != 1 {
        assert!(Instant::now() < end);
    }
}

fn publish(bed: &Bed, identities: &[ServerIdentity]) {
    let offered = |identity: &ServerIdentity| {
        let mut offered = OfferedCommands::new(["get", "set", "command|list", "command", "m.get"].map(str::to_owned));
        offered.identify(identity.clone());
        Arc::new(offered)
    };
    let groups: Vec<_> = (1..).zip(identities.iter().map(offered)).collect();
    let commands = BTreeMap::from([(ProductId(1), Arc::new(ServerCommands::of(&groups)))]);
    bed.commands.send_replace(Arc::new(commands));
}

#[test]
fn version_and_modules_are_those_of_the_servers() {
    let redis = Redis::start();
    let bed = Bed::start(&[&redis.addr]);
    let mut client = bed.client();
    let identity = |version: &str, modules: &[(&str, i64)]| {
        let modules = modules.iter().map(|(name, version)| ((*name).to_owned(), *version));
        ServerIdentity::new(&format!("redis_version:{version}\r\n"), modules)
    };
    publish(&bed, &[identity("8.2.3", &[("ReJSON", 80_200), ("bf", 1)]), identity("7.2.4", &[("ReJSON", 20_607)])]);
    assert_eq!(field(&bulk(&mut client, "INFO server"), "redis_version"), "7.2.4");
    assert!(bulk(&mut client, "INFO modules").contains("module:name=ReJSON,ver=20607,"));
    client.call("MODULE LIST").expect(
        "*1\r\n*8\r\n$4\r\nname\r\n$6\r\nReJSON\r\n$3\r\nver\r\n:20607\r\n$4\r\npath\r\n$0\r\n\r\n$4\r\nargs\r\n*0\r\n",
    );
    client.call("HELLO").expect("*14\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$5\r\n7.2.4\r\n");
}

#[test]
fn commands_are_those_of_the_servers() {
    let redis = Redis::start();
    let bed = Bed::start(&[&redis.addr]);
    let mut client = bed.client();
    let everything = array(&mut client, "COMMAND LIST");
    // Subcommands are in it, and do not count.
    assert!(everything.contains(&"client|list".to_owned()) && everything.contains(&"client".to_owned()));
    let top = |names: &[String]| names.iter().filter(|name| !name.contains('|')).count();
    client.call("COMMAND COUNT").expect(&format!(":{}\r\n", top(&everything)));
    publish(&bed, &[ServerIdentity::default()]);
    let all = array(&mut client, "COMMAND LIST");
    let mut names: Vec<&String> = all.iter().filter(|name| !name.starts_with("slots") && !name.contains('|')).collect();
    names.retain(|name| *name != "pontoon");
    names.sort_unstable();
    assert_eq!(names, ["command", "get", "set"]);
    let count = top(&all);
    assert!(count < top(&everything));
    client.call("COMMAND COUNT").expect(&format!(":{count}\r\n"));
    client.call("COMMAND INFO hset nonsense").expect("*2\r\n$-1\r\n$-1\r\n");
    assert_eq!(array(&mut client, "COMMAND LIST FILTERBY PATTERN ge*"), ["get"]);
    assert_eq!(array(&mut client, "COMMAND LIST FILTERBY MODULE none").len(), 0);
    let strings = array(&mut client, "COMMAND LIST FILTERBY ACLCAT string");
    assert!(strings.contains(&"get".to_owned()) && !strings.contains(&"append".to_owned()), "{strings:?}");
    client.call("COMMAND LIST FILTERBY NONSENSE x").expect("-ERR syntax error\r\n");
    let category = array(&mut client, "ACL CAT string");
    assert!(category.contains(&"set".to_owned()) && !category.contains(&"append".to_owned()), "{category:?}");
    client.call("ACL CAT nonsense").expect("-ERR Unknown category 'nonsense'\r\n");
    client
        .call("COMMAND GETKEYSANDFLAGS LMOVE a b left right")
        .expect("*2\r\n*2\r\n$1\r\na\r\n*3\r\n+RW\r\n+access\r\n+delete\r\n*2\r\n$1\r\nb\r\n*2\r\n+RW\r\n+insert\r\n");
    // As in Redis, what needs no keys may have none.
    client.call("COMMAND GETKEYS EVAL script 0").expect("*0\r\n");
    client.call("COMMAND GETKEYS EVAL script 1 k a").expect("*1\r\n$1\r\nk\r\n");
    client.call("COMMAND GETKEYS ECHO a").expect("-ERR The command has no key arguments\r\n");
    client.call("COMMAND GETKEYSANDFLAGS GET a b").expect("-ERR Invalid number of arguments specified for command\r\n");
}

/// Sends a request in front of a PING, and returns its reply.
fn reply_before_ping(port: u16, version: u8, request: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(format!("HELLO {version}\r\n{request}\r\nPING\r\n").as_bytes()).unwrap();
    let (mut reply, mut chunk) = (Vec::new(), [0; 65536]);
    while !reply.ends_with(b"\r\n+PONG\r\n") {
        let len = stream.read(&mut chunk).unwrap();
        assert!(len > 0, "{}", String::from_utf8_lossy(&reply));
        reply.extend_from_slice(&chunk[..len]);
    }
    let text = String::from_utf8(reply).unwrap();
    let behind_hello = text.find("modules\r\n*0\r\n").unwrap() + "modules\r\n*0\r\n".len();
    text[behind_hello..].trim_end_matches("+PONG\r\n").to_owned()
}

/// With categories, tips, key specifications and subcommands, which only a server has in full.
#[test]
fn servers_describe_their_commands() {
    let mut redis = Redis::start();
    let bed = Bed::start(&[&redis.addr]);
    publish(&bed, &[ServerIdentity::default()]);
    for version in [2, 3] {
        for request in ["COMMAND INFO get", "COMMAND INFO SET Get command", "COMMAND INFO set"] {
            let want = reply_before_ping(redis.port(), version, request);
            assert!(want.contains("@fast") || want.contains("@slow"), "{want}");
            assert_eq!(reply_before_ping(bed.port, version, request), want, "{request}");
        }
        // What the product does not offer is nothing; what only the node has is described by it.
        let null = if version == 2 { "$-1\r\n" } else { "_\r\n" };
        let request = "COMMAND INFO nosuch hset SLOTSMAPPING";
        let own = reply_before_ping(bed.port, version, request);
        assert!(own.starts_with(&format!("*3\r\n{null}{null}*10\r\n$12\r\nslotsmapping\r\n")), "{own}");
        let all = reply_before_ping(bed.port, version, "COMMAND");
        let count = reply_before_ping(bed.port, version, "COMMAND COUNT");
        assert!(all.starts_with(&format!("*{}\r\n", &count[1..count.len() - 2])), "{count}");
        let get = reply_before_ping(redis.port(), version, "COMMAND INFO get");
        assert!(all.contains(get.trim_start_matches("*1\r\n")) && !all.contains("\r\nhset\r\n"));
    }
    // Without a server, in fewer words.
    redis.kill();
    let reply = reply_before_ping(bed.port, 2, "COMMAND INFO get nosuch");
    assert!(reply.starts_with("*2\r\n*10\r\n$3\r\nget\r\n:2\r\n") && reply.ends_with("$-1\r\n"), "{reply}");
}

#[test]
fn config_shows_settings_and_changes_none() {
    let (a, b) = (
        Redis::start_with(&["--maxmemory", "100mb", "--requirepass", "server-secret"]),
        Redis::start_with(&["--maxmemory", "50mb", "--requirepass", "server-secret"]),
    );
    let bed = Bed::start_with(&[&a.addr, &b.addr], Limits::default(), 1, |table| {
        with_product(table, |p| {
            p.groups.iter_mut().for_each(|group| group.login.control = Some(common::password("server-secret")));
        })
    });
    let mut client = bed.client();
    let all = array(&mut client, "CONFIG GET *");
    assert!(all.len() > 60, "{all:?}");
    assert!(!all.iter().any(|text| text.contains("secret") || text.contains("pass")), "{all:?}");
    assert_eq!(array(&mut client, "CONFIG GET requirepass masterauth dir").len(), 0);
    assert_eq!(array(&mut client, "CONFIG GET maxmemory"), ["maxmemory", "157286400"]);
    assert_eq!(array(&mut client, "CONFIG GET Data* list-max-l*"), ["databases", "16", "list-max-listpack-size", "-2"]);
    assert_eq!(array(&mut client, "CONFIG GET nonsense").len(), 0);
    // What was read may be set.
    for pair in all.chunks(2).filter(|pair| !pair[1].is_empty() && !pair[1].contains(' ')) {
        client.call(&format!("CONFIG SET {} {}", pair[0], pair[1])).expect("+OK\r\n");
    }
    client.call("CONFIG SET maxmemory 150mb databases 16").expect("+OK\r\n");
    for (words, want) in [
        ("CONFIG SET maxmemory 1", "-ERR CONFIG SET 'maxmemory': clients do not change the servers"),
        ("CONFIG SET databases 1", "-ERR CONFIG SET 'databases': clients do not change the servers"),
        ("CONFIG SET requirepass x", "-ERR Unknown option or number of arguments for CONFIG SET - 'requirepass'"),
        ("CONFIG SET maxmemory 0 hz", "-ERR syntax error"),
        ("CONFIG REWRITE", "-ERR 'config|rewrite': what clients set lasts until the node is started again"),
    ] {
        client.call(words);
        let line = client.line();
        assert!(line.starts_with(want), "{line}");
    }
    assert_eq!(array(&mut client, "CONFIG GET maxmemory"), ["maxmemory", "157286400"]);
}

#[test]
fn what_clients_ask_of_users_and_clusters_is_answered() {
    let redis = Redis::start();
    let bed = Bed::start(&[&redis.addr]);
    let mut client = bed.client();
    assert!(array(&mut client, "COMMAND LIST").contains(&"client|list".to_owned()));
    let passwords: Vec<_> = ["ACL GENPASS", "ACL GENPASS", "ACL GENPASS 5"].map(|call| bulk(&mut client, call)).into();
    assert!(
        passwords[0] != passwords[1] && passwords.iter().flat_map(|text| text.chars()).all(|c| c.is_ascii_hexdigit())
    );
    assert_eq!(passwords.iter().map(String::len).collect::<Vec<_>>(), [64, 64, 2]);
    for (call, want) in [
        (
            "ACL GENPASS 0",
            "-ERR ACL GENPASS argument must be the number of bits for the output password, a positive number up \
            to 4096\r\n",
        ),
        ("ACL GENPASS x", "-ERR value is not an integer or out of range\r\n"),
        ("ACL LOG", "*0\r\n"),
        ("ACL LOG RESET", "+OK\r\n"),
        ("ACL LOG x", "-ERR value is not an integer or out of range\r\n"),
        ("ACL LOG 1 2", "-ERR unknown subcommand or wrong number of arguments for 'LOG'. Try ACL HELP.\r\n"),
        ("ACL DRYRUN default SET k v", "+OK\r\n"),
        ("ACL DRYRUN default SET k", "-ERR wrong number of arguments for 'set' command\r\n"),
        ("ACL DRYRUN default nonsense", "-ERR Command 'nonsense' not found\r\n"),
        ("ACL DRYRUN default SHUTDOWN", "$61\r\nUser default has no permissions to run the 'SHUTDOWN' command\r\n"),
        ("ACL DRYRUN joe GET k", "-ERR User 'joe' not found\r\n"),
        ("LATENCY GRAPH command", "-ERR No samples available for event 'command'\r\n"),
        ("CLUSTER INFO", "-ERR This instance has cluster support disabled\r\n"),
        ("READONLY", "-ERR This instance has cluster support disabled\r\n"),
    ] {
        client.call(call).expect(want);
    }
}

#[test]
fn small_commands_about_the_node_are_answered() {
    let redis = Redis::start();
    let bed = Bed::start_with(&[&redis.addr], Limits::default(), 1, |table| {
        with_product(table, |p| p.auth = logins("client-secret", 1))
    });
    let mut client = bed.client();
    client.call("AUTH client-secret").expect("+OK\r\n");
    client.call("ACL WHOAMI").expect("$7\r\ndefault\r\n");
    client.call("ACL USERS").expect("*1\r\n$7\r\ndefault\r\n");
    assert_eq!(array(&mut client, "ACL LIST"), ["user default on sanitize-payload ~* &* +@all"]);
    assert_eq!(array(&mut client, "ACL CAT").len(), 21);
    client.call("ACL GETUSER nobody").expect("$-1\r\n");
    client.call("ACL GETUSER default").expect(
        "*12\r\n$5\r\nflags\r\n*2\r\n+on\r\n+sanitize-payload\r\n$9\r\npasswords\r\n*0\r\n$8\r\ncommands\r\n$5\r\n+@all\r\n\
         $4\r\nkeys\r\n$2\r\n~*\r\n$8\r\nchannels\r\n$2\r\n&*\r\n$9\r\nselectors\r\n*0\r\n",
    );
    client.call("LATENCY LATEST").expect("*0\r\n");
    client.call("LATENCY HISTORY command").expect("*0\r\n");
    client.call("LATENCY RESET").expect(":0\r\n");
    assert!(bulk(&mut client, "LATENCY DOCTOR").starts_with("I'm sorry, Dave"));
    assert!(bulk(&mut client, "MEMORY DOCTOR").starts_with("Hi Sam"));
    client.call("MEMORY PURGE").expect("+OK\r\n");
    assert!(bulk(&mut client, "MEMORY MALLOC-STATS").contains("not supported"));
    client.call("MEMORY STATS").expect("*18\r\n$14\r\npeak.allocated\r\n:");
    while client.line() != "overhead.total" {}
    client.line();
    client.call("MODULE LIST").expect("*0\r\n");
    for container in ["COMMAND", "CONFIG", "ACL", "LATENCY", "MODULE"] {
        let lines = array(&mut client, &format!("{container} HELP"));
        assert_eq!(lines[0], format!("{container} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"));
        assert_eq!(lines[lines.len() - 2..], ["HELP", "    Print this help."]);
    }
}

#[test]
fn one_server_is_asked_only_where_the_operator_allows_it() {
    let server = || Redis::start_with(&["--requirepass", "server-secret", "--masterauth", "server-secret"]);
    let (a, b, replica) = (server(), server(), server());
    let change = |table| {
        with_product(table, |p| {
            p.groups.iter_mut().for_each(|group| group.login.control = Some(common::password("server-secret")));
            p.groups[1].replicas = vec![pontoon::model::ids::HostPort::parse(&replica.addr).unwrap()];
        })
    };
    let bed = Bed::start_with(&[&a.addr, &b.addr], Limits::default(), 1, change);
    let mut client = bed.client();
    client.call("PONTOON ON 1 INFO");
    assert!(client.line().starts_with("-NOPERM 'pontoon|on' is not executed"));
    bed.publish(with_product(bed.table(), |p| p.rules.server_commands = true));
    let end = Instant::now() + common::PATIENCE;
    loop {
        client.call("PONTOON ON 1 DBSIZE");
        let line = client.line();
        if line == ":0" {
            break;
        }
        assert!(line.starts_with("-NOPERM") && Instant::now() < end, "{line}");
    }
    for (name, redis) in [("1", &a), ("2", &b), (b.addr.as_str(), &b), (replica.addr.as_str(), &replica)] {
        let text = bulk(&mut client, &format!("PONTOON ON {name} INFO server"));
        assert_eq!(number(&text, "tcp_port"), u64::from(redis.port()), "{name}");
    }
    let settings = array(&mut client, "PONTOON ON 1 CONFIG GET *");
    assert!(
        settings.len() > 100 && !settings.iter().any(|text| text.contains("secret") || text.contains("requirepass"))
    );
    assert!(bulk(&mut client, "PONTOON ON 2 CLIENT LIST").contains("cmd=client|list"));
    client.call("PONTOON ON 1 ROLE").expect("*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n");
    for (words, want) in [
        ("PONTOON ON 1 FLUSHALL", "-ERR PONTOON ON sends only commands that read"),
        ("PONTOON ON 1 CONFIG SET maxmemory 1", "-ERR PONTOON ON sends only commands that read"),
        ("PONTOON ON 1 CLIENT KILL 1", "-ERR PONTOON ON sends only commands that read"),
        ("PONTOON ON 3 INFO", "-ERR no group or server of this product has this name"),
        ("PONTOON ON 127.0.0.1:1 INFO", "-ERR no group or server of this product has this name"),
        ("PONTOON NONSENSE", "-ERR unknown subcommand 'NONSENSE'. Try PONTOON HELP."),
    ] {
        client.call(words);
        let line = client.line();
        assert!(line.starts_with(want), "{line}");
    }
    let help = array(&mut client, "PONTOON HELP");
    assert!(help.iter().any(|line| line.contains("SLOWLOG GET [<count>]")), "{help:?}");
}

#[test]
fn the_operator_can_set_the_version_that_clients_are_told() {
    let redis = Redis::start();
    let told = pontoon::model::redis_version::ToldVersion::parse("7.2.4").unwrap();
    let bed = Bed::start_with(&[&redis.addr], Limits::default(), 1, |table| {
        with_product(table, |p| p.rules.redis_version = told)
    });
    let mut client = bed.client();
    publish(&bed, &[ServerIdentity::new("redis_version:8.2.3", [])]);
    assert_eq!(field(&bulk(&mut client, "INFO server"), "redis_version"), "7.2.4");
    client.call("HELLO").expect("*14\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$5\r\n7.2.4\r\n");
}
