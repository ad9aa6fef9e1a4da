//! What a node answers in the words of its servers, whose versions differ: invalid calls, and what they accept between MULTI
//! and EXEC.
#![allow(clippy::unwrap_used)]

mod common;

use std::{collections::BTreeMap, sync::Arc};

use common::{Bed, Conn, Redis, fake};
use pontoon::{
    commands::{DifferingCommands, OfferedCommands, ReportedCommand, ServerCommands},
    model::ids::ProductId,
};

/// A server that refuses every request, and repeats it.
fn refusing() -> String {
    fake(|mut conn: Conn| {
        while let Some(request) = conn.request() {
            let words: Vec<_> = request.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect();
            conn.reply(format!("-ERR own words: {}\r\n", words.join(" ")).as_bytes());
        }
    })
}

/// Lets all servers of the bed have commands with these names, arities and flags.
fn offer(bed: &Bed, commands: &[(&str, i64, &[&str])]) {
    let reported: Vec<ReportedCommand> = commands
        .iter()
        .map(|(name, arity, flags)| ReportedCommand {
            name: (*name).to_owned(),
            arity: *arity,
            flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
            ..ReportedCommand::default()
        })
        .collect();
    let mut offered = OfferedCommands::new(reported.iter().map(|command| command.name.clone()));
    offered.differing = DifferingCommands::of(&reported);
    let commands = ServerCommands::of(&[(1, Arc::new(offered))]);
    bed.commands.send_replace(Arc::new(BTreeMap::from([(ProductId(1), Arc::new(commands))])));
}

#[test]
fn a_server_refuses_what_every_version_refuses_in_other_words() {
    let bed = Bed::start(&[&refusing()]);
    let mut client = bed.client();
    client.call("XREAD STREAMS a b 0").expect("-ERR own words: XREAD STREAMS a b 0\r\n");
    client.call("xreadgroup GROUP g c STREAMS a b >").expect("-ERR own words: xreadgroup GROUP g c STREAMS a b >\r\n");
    client.call("EVALSHA abc x").expect("-ERR own words: EVALSHA abc x\r\n");
    // What another version might accept never gets to a server by chance.
    client.call("XREAD nosuch STREAMS a b 0").expect("-ERR syntax error\r\n");
}

#[test]
fn a_module_counts_its_arguments_itself() {
    let bed = Bed::start(&[&refusing()]);
    let mut client = bed.client();
    client.call("VINFO").expect("-ERR wrong number of arguments for 'vinfo' command\r\n");
    offer(&bed, &[("VINFO", -1, &[]), ("VSIM", -1, &[]), ("GET", 2, &[])]);
    client.call("VINFO").expect("-ERR own words: VINFO\r\n");
    client.call("vsim {a}1").expect("-ERR own words: vsim {a}1\r\n");
    client.call("GET a b").expect("-ERR wrong number of arguments for 'get' command\r\n");
}

#[test]
fn what_servers_accept_in_transactions_counts() {
    let redis = Redis::start();
    let bed = Bed::start(&[&redis.addr]);
    let mut client = bed.client();
    client.call("MULTI").expect("+OK\r\n").call("MULTI").expect("-ERR MULTI calls can not be nested\r\n");
    client.call("EXEC").expect("*0\r\n");
    // Valkey, and a version whose ZRANK has no option.
    offer(&bed, &[("multi", 1, &["no_multi"]), ("watch", -2, &["no_multi"]), ("zrank", 3, &[]), ("vinfo", -1, &[])]);
    for (call, reply) in [
        ("MULTI", "-ERR Command not allowed inside a transaction\r\n"),
        ("WATCH a", "-ERR Command not allowed inside a transaction\r\n"),
        ("ZRANK a b WITHSCORE", "-ERR wrong number of arguments for 'zrank' command\r\n"),
        ("GET", "-ERR wrong number of arguments for 'get' command\r\n"),
    ] {
        client.call("MULTI").expect("+OK\r\n").call(call).expect(reply);
        client.call("EXEC").expect("-EXECABORT Transaction discarded because of previous errors.\r\n");
    }
    client.call("MULTI").expect("+OK\r\n").call("VINFO").expect("+QUEUED\r\n").call("DISCARD").expect("+OK\r\n");
    client.call("MULTI").expect("+OK\r\n").call("ZRANK a b").expect("+QUEUED\r\n");
    client.call("EXEC").expect("*1\r\n$-1\r\n");
}

#[test]
fn a_command_that_servers_lack_is_unknown() {
    let redis = Redis::start();
    let bed = Bed::start(&[&redis.addr]);
    let mut client = bed.client();
    offer(&bed, &[("get", 2, &[])]);
    let unknown = "-ERR unknown command 'WAITAOF', with args beginning with: '0' '0' '10' \r\n";
    client.call("WAITAOF 0 0 10").expect(unknown);
}

#[test]
fn cursors_that_no_server_returned_are_judged_by_the_servers() {
    let redis = Redis::start();
    let bed = Bed::start(&[&redis.addr]);
    let mut client = bed.client();
    client.call("SADD t 1").expect(":1\r\n");
    for cursor in ["abc", "1x", "99999999999999999999"] {
        client.call(&format!("SCAN {cursor}")).expect("-ERR invalid cursor\r\n");
        client.call(&format!("SSCAN t {cursor}")).expect("-ERR invalid cursor\r\n");
        client.call("MULTI").expect("+OK\r\n").call(&format!("SSCAN t {cursor}")).expect("+QUEUED\r\n");
        client.call("EXEC").expect("*1\r\n-ERR invalid cursor\r\n");
    }
    // Redis 7 reads it as `strtoul` does.
    client.call("SSCAN t -1").expect("*2\r\n$1\r\n0\r\n*1\r\n$1\r\n1\r\n");
    client.call("SCAN 0 COUNT x").expect("-ERR value is not an integer or out of range\r\n");
    client.call("SCAN 0 nosuch").expect("-ERR syntax error\r\n");
}

#[test]
fn errors_repeat_the_words_of_the_client() {
    let redis = Redis::start();
    let bed = Bed::start(&[&redis.addr]);
    let mut client = bed.client();
    client.call("CLIENT SETINFO Nosuch x").expect("-ERR Unrecognized option 'Nosuch'\r\n");
    let text = "-ERR lib-Name cannot contain spaces, newlines or special characters.\r\n";
    client.send("*4\r\n$6\r\nCLIENT\r\n$7\r\nSETINFO\r\n$8\r\nlib-Name\r\n$3\r\na b\r\n").expect(text);
    let text = "-ERR unknown subcommand or wrong number of arguments for 'Flush'. Try FUNCTION HELP.\r\n";
    client.call("FUNCTION Flush SYNC x").expect(text);
    let text = "-ERR unknown subcommand or wrong number of arguments for 'RESTORE'. Try FUNCTION HELP.\r\n";
    client.call("FUNCTION RESTORE a b c").expect(text);
}

/// An EVALSHA works at every group from then on, since the node knows the body.
#[test]
fn a_script_exists_after_its_eval() {
    let servers = [Redis::start(), Redis::start()];
    let bed = Bed::start(&[&servers[0].addr, &servers[1].addr]);
    let mut client = bed.client();
    let digest = "e0e1f9fabfc9d4800c877a703b823ac0578ff8db";
    client.call(&format!("SCRIPT EXISTS {digest}")).expect("*1\r\n:0\r\n");
    client.send("*4\r\n$4\r\nEVAL\r\n$8\r\nreturn 1\r\n$1\r\n1\r\n$5\r\n{foo}\r\n").expect(":1\r\n");
    client.call(&format!("SCRIPT EXISTS {digest} abc")).expect("*2\r\n:1\r\n:0\r\n");
    client.call(&format!("EVALSHA {digest} 1 {{foo}}")).expect(":1\r\n");
    client.call(&format!("EVALSHA {digest} 1 {{hello}}")).expect(":1\r\n");
    // No server has accepted this one.
    client.call("EVAL return( 1 {foo}");
    assert!(client.line().starts_with("-ERR Error compiling script"));
    client.call("SCRIPT EXISTS a33f1d65a8f3995e86b6bee044233440ce1d37b4").expect("*1\r\n:0\r\n");
}
