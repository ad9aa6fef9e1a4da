//! Which commands the data user may run: those of the command table that clients may send, and those of modules that name their
//! keys; no others that the server has.

use std::collections::BTreeSet;

use pontoon::{
    commands::{self, Spec},
    redis::{Client, Reply},
};

use super::{
    Served, in_script,
    kinds::{self, Kind},
    may_run,
    wait::soon,
};

/// Commands that need no rights: a connection may always log in, and leave. No script may run them.
const ALWAYS: [&str; 4] = ["auth", "hello", "quit", "reset"];

/// What scripts may run besides (docs/commands.md).
const IN_SCRIPTS: [&str; 5] = ["echo", "ping", "publish", "spublish", "time"];

/// What would reach the data of other products, show other clients' data, or harm the server.
const FORBIDDEN: &[&str] = &[
    "MIGRATE 127.0.0.1 1 mine 0 1 COPY REPLACE",
    "FLUSHALL",
    "FLUSHDB",
    "SWAPDB 0 1",
    "SELECT 1",
    "KEYS *",
    "SCAN 0",
    "RANDOMKEY",
    "DBSIZE",
    "INFO",
    "SLOWLOG GET",
    "SLOWLOG RESET",
    "LATENCY LATEST",
    "CONFIG GET requirepass",
    "CONFIG SET maxmemory 1",
    "CONFIG REWRITE",
    "DEBUG SLEEP 0",
    "SCRIPT FLUSH",
    "SCRIPT KILL",
    "ACL WHOAMI",
    "ACL LIST",
    "ACL SETUSER pontoon-data +@all",
    "CLIENT LIST",
    "CLIENT KILL ID 0",
    "CLIENT PAUSE 1",
    "CLUSTER NODES",
    "REPLICAOF NO ONE",
    "SLAVEOF NO ONE",
    "PSYNC ? -1",
    "SYNC",
    "REPLCONF GETACK *",
    "MONITOR",
    "SUBSCRIBE channel",
    "PSUBSCRIBE *",
    "MODULE LIST",
    "MODULE LOAD /tmp/x.so",
    "SAVE",
    "BGSAVE",
    "BGREWRITEAOF",
    "LASTSAVE",
    "ROLE",
    "MEMORY PURGE",
    "SHUTDOWN NOSAVE",
];

/// What nodes send on the connections of clients' requests, and scripts may not run.
const ONLY_FOR_NODES: [&str; 4] = ["SCRIPT LOAD x", "MULTI", "EXEC", "WATCH mine"];

/// Further ones, which came with Redis 7.
const FORBIDDEN_FROM_7: &[&str] =
    &["FUNCTION FLUSH", "FUNCTION DELETE x", "FUNCTION KILL", "FAILOVER ABORT", "COMMAND LIST"];

/// A command or subcommand of a server: its name, and how many words a call has at least.
type Command = (String, usize);

/// What the server has, with the subcommands that it names.
fn flatten(rows: &Reply, out: &mut Vec<Command>) {
    for row in rows.items().unwrap_or_default() {
        let row = row.items().unwrap();
        let name = row[0].text().unwrap().to_ascii_lowercase();
        let subcommands = row.get(9).filter(|more| more.items().is_some_and(|more| !more.is_empty()));
        match subcommands {
            Some(more) => flatten(more, out),
            None => out.push((name, row[1].integer().unwrap().unsigned_abs() as usize)),
        }
    }
}

/// All commands and subcommands of a server. Where it names no subcommands (before Redis 7), those of the table.
async fn commands_of(client: &mut Client) -> Vec<Command> {
    let mut all = Vec::new();
    flatten(&client.ask(&[b"COMMAND"], soon()).await.unwrap(), &mut all);
    if all.iter().any(|(name, _)| name.contains('|')) {
        return all;
    }
    let with_subcommands = |(name, words): Command| match commands::lookup(name.as_bytes()).map(|spec| spec.subcommands)
    {
        None | Some([]) => vec![(name, words)],
        Some(more) => more.iter().map(|spec| (spec.name.to_owned(), words_min(spec))).collect(),
    };
    all.into_iter().flat_map(with_subcommands).collect()
}

fn words_min(spec: &Spec) -> usize {
    usize::from(spec.arity.unsigned_abs())
}

/// Whether clients may send it, or scripts run it.
fn is_offered(name: &str) -> bool {
    let (container, sub) = name.split_once('|').map_or((name, None), |(container, sub)| (container, Some(sub)));
    let spec = commands::lookup(container.as_bytes())
        .and_then(|spec| sub.map_or(Some(spec), |sub| spec.subcommand(sub.as_bytes())));
    let sent = |spec: &Spec| spec.handling.is_sent();
    // A node loads a script in front of an EVALSHA.
    spec.is_some_and(sent) || IN_SCRIPTS.contains(&name) || OF_MODULE.contains(&name) || name == "script|load"
}

/// Commands of the graph module that name their keys: they are learnt from the server.
const OF_MODULE: &[&str] = &[
    "graph.bulk",
    "graph.constraint",
    "graph.copy",
    "graph.delete",
    "graph.effect",
    "graph.explain",
    "graph.info",
    "graph.memory",
    "graph.profile",
    "graph.query",
    "graph.restore",
    "graph.ro_query",
    "graph.slowlog",
];

pub async fn assert_rights(kind: Kind, served: &mut Served) -> BTreeSet<String> {
    let mut allowed = BTreeSet::new();
    let all = commands_of(&mut served.control).await;
    assert!(all.len() > 200, "{kind:?}: {}", all.len());
    for (name, least) in all {
        if ALWAYS.contains(&name.as_str()) {
            continue;
        }
        let mut words: Vec<&str> = name.split('|').collect();
        words.resize(least.max(words.len()), "1");
        let may = may_run(&mut served.data, &words).await;
        assert_eq!(may, is_offered(&name), "{kind:?}: {words:?}");
        if name == "multi" {
            // In a transaction, other errors come before that about rights.
            assert!(may_run(&mut served.data, &["DISCARD"]).await);
        }
        if may {
            allowed.insert(name);
        }
    }
    allowed
}

#[tokio::test]
async fn it_may_run_what_clients_may_and_nothing_else() {
    for kind in Kind::ALL {
        let mut served = Served::start(kind, &[]).await;
        let allowed = assert_rights(kind, &mut served).await;
        for name in ["get", "set", "eval", "object|encoding", "xinfo|stream", "memory|usage", "restore", "publish"] {
            assert!(allowed.contains(name), "{kind:?}: {name}");
        }
        let newer = ["getex", "lmpop", "fcall", "hpexpire", "vadd", "hgetex"].map(|name| allowed.contains(name));
        let expected = match kind {
            Kind::Redis6 => [true, false, false, false, false, false],
            Kind::Redis8 => [true; 6],
            Kind::Machine | Kind::Valkey8 => [true, true, true, false, false, false],
        };
        assert_eq!(newer, expected, "{kind:?}");
    }
}

#[tokio::test]
async fn what_reaches_beyond_a_product_is_refused() {
    for kind in Kind::ALL {
        let mut served = Served::start(kind, &[]).await;
        let more = if kind == Kind::Redis6 { &[][..] } else { FORBIDDEN_FROM_7 };
        for command in FORBIDDEN.iter().chain(more) {
            let words: Vec<&str> = command.split(' ').collect();
            assert!(!may_run(&mut served.data, &words).await, "{kind:?}: {command}");
            let reply = in_script(&mut served.data, &words).await;
            let Reply::Error(text) = reply else { panic!("{kind:?}: {command} from a script: {reply:?}") };
            let forbidden = ["ACL failure in script", "can't run this command", "not allowed from script"];
            assert!(forbidden.iter().any(|why| text.contains(why)), "{kind:?}: {command} from a script: {text}");
        }
        for command in ONLY_FOR_NODES {
            let words: Vec<&str> = command.split(' ').collect();
            let reply = in_script(&mut served.data, &words).await;
            assert!(matches!(&reply, Reply::Error(text) if text.contains("script")), "{kind:?}: {command}: {reply:?}");
        }
        for command in
            ["SET mine 1", "INCR mine", "OBJECT ENCODING mine", "PUBLISH channel x", "PING", "ECHO x", "TIME"]
        {
            let words: Vec<&str> = command.split(' ').collect();
            let reply = in_script(&mut served.data, &words).await;
            assert!(!matches!(reply, Reply::Error(_)), "{kind:?}: {command} from a script: {reply:?}");
        }
    }
}

#[tokio::test]
async fn of_a_modules_commands_those_with_keys_are_allowed() {
    let module = kinds::graph_module();
    let mut served = Served::start(Kind::Redis8, &["--loadmodule", module.to_str().unwrap()]).await;
    let allowed = assert_rights(Kind::Redis8, &mut served).await;
    assert!(OF_MODULE.iter().all(|name| allowed.contains(*name)) && allowed.contains("vsim"), "{allowed:?}");
    assert!(may_run(&mut served.data, &["graph.QUERY", "mine", "RETURN 1"]).await);
    for command in [&["graph.LIST"][..], &["GRAPH.CONFIG", "GET", "*"], &["graph.DEBUG", "AUX", "START"]] {
        assert!(may_run(&mut served.control, command).await, "{command:?}");
        assert!(!may_run(&mut served.data, command).await, "{command:?}");
        let reply = in_script(&mut served.data, command).await;
        assert!(matches!(&reply, Reply::Error(text) if text.contains("script")), "{command:?}: {reply:?}");
    }
}
