//! Commands that the table does not have and servers do: where the proxy sends them, and over which connection. The servers
//! are scripted, so that they have made-up commands.
#![allow(clippy::unwrap_used)]

mod common;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, mpsc},
};

use common::{Bed, Conn, PATIENCE, fake, held, with_product};
use pontoon::{
    commands::{KeyCount, KeySearch, OfferedCommands, ReportedCommand, ReportedKeys, ServerCommands},
    model::{
        ids::{GroupId, HoldId, ProductId},
        route::HoldKind,
    },
    proxy::Limits,
};

/// `{foo}` and `{hello}` are in slots of the first and of the second of two groups.
const FIRST: &str = "{foo}";
const SECOND: &str = "{hello}";

fn command(name: &str, flags: &[&str], keys: &[usize]) -> ReportedCommand {
    let find = KeyCount::Range { last: 0, step: 1, limit: 0 };
    let keys =
        keys.iter().map(|at| ReportedKeys { begin: KeySearch::Index(*at), find: find.clone(), incomplete: false });
    ReportedCommand {
        name: name.into(),
        arity: -2,
        flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
        keys: Some(keys.collect()),
        ..ReportedCommand::default()
    }
}

fn offer(commands: &[ReportedCommand]) -> Arc<OfferedCommands> {
    let mut offered = OfferedCommands::new(commands.iter().map(|command| command.name.clone()));
    offered.learn(commands.iter().cloned());
    Arc::new(offered)
}

fn publish(bed: &Bed, groups: &[(u32, Arc<OfferedCommands>)]) {
    let commands = BTreeMap::from([(ProductId(1), Arc::new(ServerCommands::of(groups)))]);
    bed.commands.send_replace(Arc::new(commands));
}

/// A server that answers every request with its name and the request.
fn echo(name: &'static str) -> String {
    fake(move |mut conn: Conn| {
        while let Some(request) = conn.request() {
            let words: Vec<_> = request.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect();
            conn.reply(format!("+{name} {}\r\n", words.join(" ")).as_bytes());
        }
    })
}

#[test]
fn a_command_that_all_groups_have_goes_to_the_owner_of_its_key() {
    let (a, b) = (echo("a"), echo("b"));
    let bed = Bed::start(&[&a, &b]);
    let mut client = bed.client();
    // Nothing is known of the servers yet.
    client.call("M.SET {foo} 1").expect("-ERR unknown command 'M.SET', with args beginning with: '{foo}' '1' \r\n");
    let offered = offer(&[
        command("M.Set", &["write"], &[1]),
        command("m.two", &["readonly"], &[1, 2]),
        command("m.admin", &["admin"], &[1]),
        command("m.list", &["readonly"], &[]),
        command("object|newer", &["readonly"], &[2]),
    ]);
    publish(&bed, &[(1, offered.clone()), (2, offered.clone())]);
    client.call(&format!("M.SET {FIRST} 1")).expect("+a M.SET {foo} 1\r\n");
    client.call(&format!("m.set {SECOND} 1")).expect("+b m.set {hello} 1\r\n");
    client.call(&format!("m.two {SECOND}1 {SECOND}2")).expect("+b m.two {hello}1 {hello}2\r\n");
    client.call(&format!("OBJECT NEWER {SECOND}")).expect("+b OBJECT NEWER {hello}\r\n");
    // In a pipeline, with commands of the table around it.
    let pipeline = ["GET {foo}", "m.set {foo} 1", "GET {foo}"].map(common::request).concat();
    client.send(pipeline).expect("+a GET {foo}\r\n+a m.set {foo} 1\r\n+a GET {foo}\r\n");
    client.call("CLIENT REPLY SKIP").call("m.set {foo} 1").call("m.set {foo} 2").expect("+a m.set {foo} 2\r\n");
    for (call, error) in [
        ("m.two {foo} {hello}", "-CROSSSLOT Keys in request don't hash to the same slot, not executed"),
        ("m.two {foo}", "-ERR syntax error"),
        ("m.set", "-ERR wrong number of arguments for 'm.set' command"),
        ("m.admin {foo}", "-ERR 'm.admin': it belongs to the category @admin"),
        ("m.list x", "-ERR 'm.list': it has no key"),
        ("m.other {foo}", "-ERR unknown command 'm.other'"),
        ("OBJECT OTHER {foo}", "-ERR unknown subcommand 'OTHER'. Try OBJECT HELP."),
    ] {
        let line = client.call(call).line();
        assert!(line.starts_with(error), "{call}: {line}");
    }
    // A server that comes without it.
    publish(&bed, &[(1, offered), (2, offer(&[]))]);
    let line = client.call("m.set {foo} 1").line();
    assert!(line.contains("only some of the product's servers") && line.contains("group 2 lack it"), "{line}");
    client.call("GET {foo}").expect("+a GET {foo}\r\n");
}

#[test]
fn clients_that_have_not_logged_in_learn_nothing() {
    let server = echo("a");
    let change = |table| with_product(table, |product| product.auth = common::logins("secret", 1));
    let bed = Bed::start_with(&[&server], Limits::default(), 1, change);
    publish(&bed, &[(1, offer(&[command("m.set", &["write"], &[1])]))]);
    let mut client = bed.client();
    client.call("m.set k 1").expect("-NOAUTH Authentication required.\r\n");
    client.call("AUTH secret").expect("+OK\r\n").call("m.set k 1").expect("+a m.set k 1\r\n");
}

/// A command that may block must not make other clients wait.
#[test]
fn a_command_that_may_block_has_a_connection_of_its_own() {
    let (release, released) = mpsc::sync_channel::<()>(1);
    let released = Mutex::new(released);
    let server = fake(move |mut conn: Conn| {
        while let Some(request) = conn.request() {
            if request[0] == b"m.wait" {
                released.lock().unwrap().recv_timeout(PATIENCE).unwrap();
            }
            conn.reply(b"+done\r\n");
        }
    });
    let bed = Bed::start(&[&server]);
    publish(
        &bed,
        &[(1, offer(&[command("m.wait", &["write", "blocking"], &[1]), command("m.set", &["write"], &[1])]))],
    );
    let mut blocked = bed.client();
    blocked.call("m.wait k");
    bed.until("sent", |report| report.stats.forwarded == 1);
    let mut other = bed.client();
    for _ in 0..10 {
        other.call("GET k").expect("+done\r\n").call("m.set k 1").expect("+done\r\n");
    }
    // The order of the blocked session's own requests is kept.
    blocked.call("GET k");
    release.send(()).unwrap();
    blocked.expect("+done\r\n+done\r\n");
    blocked.call("m.set k 1").expect("+done\r\n");
}

#[test]
fn without_a_dedicated_connection_it_is_refused() {
    // It never answers the command that may block, so that its connection is not returned.
    let server = fake(|mut conn: Conn| {
        while let Some(request) = conn.request() {
            if request[0] != b"m.wait" {
                conn.reply(b"+a\r\n");
            }
        }
    });
    let limits = Limits { dedicated_total_max: 1, dedicated_max: 1, ..Limits::default() };
    let bed = Bed::start_with(&[&server], limits, 1, |table| table);
    publish(&bed, &[(1, offer(&[command("m.wait", &["write", "blocking"], &[1])]))]);
    let (mut one, mut two) = (bed.client(), bed.client());
    one.call("m.wait k");
    bed.until("it is sent", |r| r.stats.forwarded == 1);
    let line = two.call("m.wait k").line();
    assert!(line.starts_with("-ERR too many dedicated connections") && line.ends_with("not executed"), "{line}");
    two.call("GET k").expect("+a\r\n");
}

/// A hold parks it, and it goes to the new owner.
#[test]
fn it_waits_for_the_end_of_a_hold() {
    let (a, b) = (echo("a"), echo("b"));
    let bed = Bed::start(&[&a, &b]);
    let offered = offer(&[command("m.set", &["write"], &[1]), command("m.wait", &["write", "blocking"], &[1])]);
    publish(&bed, &[(1, offered.clone()), (2, offered)]);
    let before = bed.table();
    bed.publish(held(bed.table(), 5, HoldKind::Wait, FIRST));
    bed.until("held", |report| report.holds.contains_key(&HoldId(5)));
    let (mut one, mut two) = (bed.client(), bed.client());
    one.call("m.set {foo} 1");
    two.call("m.wait {foo}");
    bed.until("parked", |report| report.stats.parked == 2);
    let mut after = with_product(before, |product| {
        let slot = product.layout.slot(FIRST.as_bytes());
        product.slots[usize::from(slot.0)].group = Some(1);
        assert_eq!(product.groups[1].id, GroupId(2));
    });
    after.epoch = pontoon::model::ids::Epoch(6);
    bed.publish(after);
    one.expect("+b m.set {foo} 1\r\n");
    two.expect("+b m.wait {foo}\r\n");
}
