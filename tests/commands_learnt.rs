//! Commands that are learnt from servers (`commands::learnt`): the positions of keys that servers describe equal those of the
//! table, and a real module's commands are known.
#![allow(clippy::unwrap_used)]

#[path = "support/calls.rs"]
mod calls;
#[path = "support/kinds.rs"]
mod kinds;
#[path = "api/server.rs"]
#[allow(dead_code)]
mod server;
#[path = "api/wait.rs"]
#[allow(dead_code)]
mod wait;

use std::{process::Command, sync::Arc};

use kinds::Kind;
use pontoon::{
    commands::{
        self, KeyCount, KeySearch, OfferedCommands, ReportedCommand, ReportedKeys, ServerCommands, Spec, allow_list,
    },
    control::servers::offered::{offered_commands, reported},
    redis::Reply,
};
use server::Redis;
use wait::soon;

/// Calls generated for each command.
const CALLS_EACH: usize = 40;

/// Commands that would not be served if the table did not have them: servers describe their keys incompletely, or they are
/// `@dangerous` (RESTORE).
const ONLY_OF_THE_TABLE: [&str; 5] = ["georadius", "georadiusbymember", "restore", "sort", "sort_ro"];

/// All commands of a server, with their subcommands.
async fn commands_of(redis: &Redis) -> Vec<ReportedCommand> {
    fn flatten(rows: &[Reply], out: &mut Vec<ReportedCommand>) {
        for row in rows {
            out.push(reported(row).unwrap());
            flatten(row.items().unwrap().get(9).and_then(Reply::items).unwrap_or_default(), out);
        }
    }
    let mut all = Vec::new();
    flatten(redis.run("COMMAND").await.items().unwrap(), &mut all);
    all
}

fn served(offered: OfferedCommands) -> ServerCommands {
    ServerCommands::of(&[(1, Arc::new(offered))])
}

fn find(name: &str) -> Option<&'static Spec> {
    match name.split_once('|') {
        Some((container, sub)) => commands::lookup(container.as_bytes())?.subcommand(sub.as_bytes()),
        None => commands::lookup(name.as_bytes()),
    }
}

/// The server's commands get other names, so that the table does not have them.
#[tokio::test]
async fn keys_that_servers_describe_are_those_of_the_table() {
    let mut rng = fastrand::Rng::with_seed(0x1ea7);
    for kind in Kind::ALL {
        let redis = Redis::start_program(|| Command::new(kind.program()), &[], None).await;
        let mut offered = OfferedCommands::default();
        let all = commands_of(&redis).await;
        offered.learn(
            all.iter().cloned().map(|command| ReportedCommand { name: format!("x.{}", command.name), ..command }),
        );
        let commands = served(offered);
        let (mut compared, mut refused) = (0, Vec::new());
        for name in all.iter().map(|command| command.name.to_ascii_lowercase()) {
            // Redis 6 does not report subcommands, and the keys of their containers are theirs.
            let Some(spec) = find(&name).filter(|spec| spec.subcommands.is_empty()) else { continue };
            let learnt = commands.served().find(|learnt| learnt.name() == format!("x.{name}"));
            let Some(learnt) = learnt.filter(|learnt| !learnt.is_container()) else {
                if spec.handling.is_by_keys() {
                    refused.push(name);
                }
                continue;
            };
            assert_eq!(learnt.is_write(), !spec.flags.contains(commands::Flags::READONLY), "{kind:?} {name}");
            for _ in 0..CALLS_EACH {
                let mut call = calls::generate(spec, &mut rng);
                let (mut theirs, mut ours) = (Vec::new(), Vec::new());
                if !learnt.arity_allows(call.len()) {
                    continue;
                }
                spec.keys(&call[..], &mut ours).unwrap();
                call[0].splice(0..0, *b"X.");
                let found = commands.resolve(&call[..], &mut theirs).unwrap();
                if ours.is_empty() {
                    assert!(found.unwrap_err().contains("without keys"), "{kind:?} {name}");
                    continue;
                }
                assert_eq!(found.unwrap().name(), learnt.name());
                theirs.sort_unstable();
                ours.sort_unstable();
                assert_eq!(theirs, ours, "{kind:?} {name}");
                compared += 1;
            }
        }
        // Before Redis 7, servers only say that positions vary.
        if kind != Kind::Redis6 {
            refused.retain(|name| !ONLY_OF_THE_TABLE.contains(&name.as_str()));
            assert!(refused.is_empty(), "{kind:?}: {refused:?}");
        }
        assert!(compared > 4000, "{kind:?}: only {compared} calls were compared");
    }
}

/// A module for graphs, whose commands the table does not have.
#[tokio::test]
async fn the_commands_of_a_module_are_learnt() {
    let module = kinds::graph_module();
    let options = ["--loadmodule", module.to_str().unwrap()];
    let redis = Redis::start_program(|| Command::new(Kind::Redis8.program()), &options, None).await;
    let offered = offered_commands(&mut redis.client().await, soon()).await.unwrap();
    let list = allow_list(&offered);
    for name in ["graph.query", "graph.ro_query", "graph.delete", "graph.copy", "vadd", "get"] {
        assert!(list.contains(&name), "{name}");
    }
    assert!(!list.contains(&"graph.list") && !list.contains(&"graph.config") && !list.contains(&"config|get"));
    let commands = served(offered);
    assert!(commands.has("graph.query") && commands.has("vadd") && !commands.has("ft.search"));
    let route = |line: &str| {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let mut keys = Vec::new();
        let found = commands.resolve(&words[..], &mut keys).map(|found| found.map(|command| command.may_block()));
        (found, keys)
    };
    assert_eq!(route("GRAPH.QUERY g MATCH"), (Some(Ok(true)), vec![1]));
    assert_eq!(route("graph.copy a b"), (Some(Ok(false)), vec![1, 2]));
    assert_eq!(route("graph.memory USAGE g"), (Some(Ok(false)), vec![2]));
    assert!(route("GRAPH.LIST").0.unwrap().unwrap_err().contains("no key"));
    assert_eq!(route("NONSENSE k").0, None);
    // The table has it.
    assert_eq!(route("GET k").0, None);
}

fn key_at(index: usize) -> ReportedKeys {
    let find = KeyCount::Range { last: 0, step: 1, limit: 0 };
    ReportedKeys { begin: KeySearch::Index(index), find, incomplete: false }
}

fn command(name: &str, flags: &[&str], categories: &[&str], keys: &[ReportedKeys]) -> ReportedCommand {
    ReportedCommand {
        name: name.into(),
        arity: -2,
        flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
        categories: categories.iter().map(|category| (*category).to_owned()).collect(),
        keys: Some(keys.to_vec()),
        ..ReportedCommand::default()
    }
}

fn offer(commands: &[ReportedCommand]) -> Arc<OfferedCommands> {
    let mut offered = OfferedCommands::new(commands.iter().map(|command| command.name.clone()));
    offered.learn(commands.iter().cloned());
    Arc::new(offered)
}

fn answer(commands: &ServerCommands, line: &str) -> Option<Result<String, String>> {
    let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
    commands.resolve(&words[..], &mut Vec::new()).map(|found| found.map(|command| command.name().to_owned()))
}

#[test]
fn what_cannot_be_routed_is_refused_with_the_reason() {
    let unknown = ReportedKeys { begin: KeySearch::Unknown, find: KeyCount::Unknown, incomplete: false };
    let commands = ServerCommands::of(&[(
        1,
        offer(&[
            command("m.get", &["readonly"], &[], &[key_at(1)]),
            command("m.two", &["write"], &[], &[key_at(1), key_at(2)]),
            command("m.admin", &["admin"], &[], &[key_at(1)]),
            command("m.sub", &["pubsub"], &[], &[key_at(1)]),
            command("m.session", &[], &["@connection"], &[key_at(1)]),
            command("m.danger", &["write"], &["@slow", "@dangerous"], &[key_at(1)]),
            command("m.block", &["write"], &["@blocking"], &[key_at(1)]),
            command("m.part", &["write"], &[], &[key_at(1), ReportedKeys { incomplete: true, ..key_at(2) }]),
            command("m.where", &["write"], &[], &[unknown]),
            command("m.own", &["write", "movablekeys"], &[], &[]),
            command("m.none", &["readonly"], &[], &[]),
        ]),
    )]);
    assert_eq!(answer(&commands, "m.get k"), Some(Ok("m.get".into())));
    assert_eq!(answer(&commands, "M.Block k"), Some(Ok("m.block".into())));
    for (line, why) in [
        ("m.get", "wrong number of arguments for 'm.get' command"),
        ("m.two a", "syntax error"),
        ("m.admin k", "@admin"),
        ("m.sub k", "@pubsub"),
        ("m.session k", "@connection"),
        ("m.danger k", "@dangerous"),
        ("m.part k", "where all of its keys are"),
        ("m.where k", "where all of its keys are"),
        ("m.own k", "where all of its keys are"),
        ("m.none k", "no key"),
    ] {
        let text = answer(&commands, line).unwrap().unwrap_err();
        assert!(text.contains(why), "{line}: {text}");
        assert!(text.contains("not executed") || text.contains("wrong number"), "{line}: {text}");
    }
    let names: Vec<_> = commands.served().map(|command| command.name()).collect();
    assert_eq!(names, ["m.block", "m.get", "m.two"]);
}

#[test]
fn every_group_must_have_it() {
    let get = command("m.get", &["readonly"], &[], &[key_at(1)]);
    let same = offer(std::slice::from_ref(&get));
    let with = offer(&[get.clone(), command("m.set", &["write"], &[], &[key_at(1)])]);
    let other = offer(&[command("m.get", &["readonly"], &[], &[key_at(2)])]);
    let newer = offer(&[ReportedCommand { arity: 2, flags: vec!["fast".into()], ..get }]);
    let none = offer(&[]);
    let commands = ServerCommands::of(&[(1, same.clone()), (2, same.clone()), (5, with.clone())]);
    assert_eq!(answer(&commands, "m.get k"), Some(Ok("m.get".into())));
    let text = answer(&commands, "m.set k").unwrap().unwrap_err();
    assert!(text.contains("groups 1, 2 lack it") && text.contains("not executed"), "{text}");
    assert!(commands.has("m.get") && !commands.has("m.set"));
    let commands = ServerCommands::of(&[(1, same.clone()), (3, none)]);
    let text = answer(&commands, "m.get k").unwrap().unwrap_err();
    assert!(text.contains("group 3 lack it"), "{text}");
    let commands = ServerCommands::of(&[(1, same.clone()), (4, other)]);
    let text = answer(&commands, "m.get k").unwrap().unwrap_err();
    assert!(text.contains("differently") && text.contains("group 4"), "{text}");
    // Versions of a module may differ in what does not route: it is a write unless all say that it only reads.
    let commands = ServerCommands::of(&[(1, same), (4, newer)]);
    let (words, mut keys) = ([b"m.get".as_slice(), b"k", b"more"], Vec::new());
    assert!(commands.resolve(&words[..], &mut keys).unwrap().unwrap().is_write());
    assert_eq!(keys, [1]);
}

/// Subcommands are found in containers of the table, and in those that are learnt.
#[test]
fn subcommands_are_learnt() {
    let mut container = command("m.box", &[], &[], &[]);
    container.is_container = true;
    let commands = ServerCommands::of(&[(
        1,
        offer(&[
            container,
            command("m.box|PUT", &["write"], &[], &[key_at(2)]),
            command("object|newer", &["readonly"], &[], &[key_at(2)]),
            command("object|encoding", &["readonly"], &[], &[key_at(2)]),
        ]),
    )]);
    assert_eq!(answer(&commands, "M.BOX put k"), Some(Ok("m.box|put".into())));
    assert_eq!(answer(&commands, "OBJECT newer k"), Some(Ok("object|newer".into())));
    assert_eq!(answer(&commands, "OBJECT encoding k"), None, "the table has it");
    assert_eq!(answer(&commands, "OBJECT other k"), None);
    assert!(answer(&commands, "m.box").unwrap().unwrap_err().contains("wrong number of arguments"));
    assert_eq!(answer(&commands, "m.box other k"), None);
}

/// A server may say whatever it wants.
#[test]
fn what_is_learnt_is_bounded() {
    let mut offered = OfferedCommands::new((0..100_000).map(|i| format!("m.{i}")));
    let many = |i| command(&format!("m.{i}"), &["write"], &[], &[key_at(1)]);
    offered.learn((0..100_000).map(many));
    assert_eq!(offered.learnt().count(), 512);
    assert!(offered.unknown().count() <= 512);
    let mut offered = OfferedCommands::default();
    let specs = vec![key_at(1); 1000];
    for name in ["", "with space", "with\r\nline", &"x".repeat(65), "get"] {
        offered.learn([command(name, &["write"], &[], &[key_at(1)])]);
    }
    assert_eq!(offered.learnt().count(), 0);
    offered.learn([command("m.specs", &["write"], &[], &specs)]);
    assert!(offered.learnt().next().unwrap().refusal().is_some());
}
