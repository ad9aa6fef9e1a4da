//! Another client ends a blocked call (CLIENT UNBLOCK).

use pontoon::proxy::Unblock;

use super::*;

fn id_of(client: &mut Client) -> u64 {
    client.call("CLIENT ID").line()[1..].parse().unwrap()
}

fn unblock(bed: &Bed, id: u64, how: Unblock) -> bool {
    bed.runtime.block_on(bed.proxy.unblock(id, how))
}

const ERROR: &str = "-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n";

#[test]
fn a_call_ends_as_at_a_server() {
    let redis = Redis::start();
    let bed = Bed::start_with(&[&redis.addr], patient(), 3, |table| table);
    for (hello, call, nil) in [
        ("HELLO 2", "BLPOP q 0", NIL),
        ("HELLO 2", "XREAD BLOCK 0 STREAMS s $", NIL),
        ("HELLO 3", "BLMOVE {q}1 {q}2 LEFT LEFT 60", "_\r\n"),
        ("HELLO 2", "WAIT 1 0", ":0\r\n"),
    ] {
        for how in [Unblock::Timeout, Unblock::Error] {
            let mut client = bed.client();
            let id = id_of(&mut client);
            client.call(hello).call("PING");
            while client.line() != "+PONG" {}
            assert!(!unblock(&bed, id, how), "it is not blocked");
            client.call(call);
            wait_blocked(&redis, 1);
            assert!(unblock(&bed, id, how), "{call}");
            client.expect(if how == Unblock::Timeout { nil } else { ERROR }).call("PING").expect("+PONG\r\n");
            assert!(!unblock(&bed, id, how), "it is not blocked any more");
        }
    }
    assert!(
        !unblock(&bed, 999_999, Unblock::Timeout) && !unblock(&bed, 0, Unblock::Error),
        "there are no such clients"
    );
}

#[test]
fn a_call_that_is_parked_ends_too() {
    let redis = Redis::start();
    let bed = Bed::start_with(&[&redis.addr], patient(), 1, |table| table);
    hold(&bed, 9, "q");
    for (how, version, want) in
        [(Unblock::Timeout, "2", NIL), (Unblock::Timeout, "3", "_\r\n"), (Unblock::Error, "3", ERROR)]
    {
        let mut client = bed.client();
        let id = id_of(&mut client);
        client.call(&format!("HELLO {version}")).call("PING");
        while client.line() != "+PONG" {}
        client.call("BLPOP q 0");
        wait_until("it is blocked", || unblock(&bed, id, how));
        client.expect(want).call("PING").expect("+PONG\r\n");
    }
}

/// The next call on the same connection is not ended by it.
#[test]
fn the_next_call_is_not_ended() {
    let redis = Redis::start();
    let bed = Bed::start_with(&[&redis.addr], patient(), 1, |table| table);
    for n in 0..100 {
        let mut client = blocked(&bed, &redis, "BLPOP q 0");
        let id = id_of_blocked(&bed, n);
        // An element comes at the same time.
        bed.runtime.block_on(async {
            let mut pusher = direct(&redis);
            pusher.call("RPUSH q a");
            bed.proxy.unblock(id, Unblock::Timeout).await;
        });
        match client.line().as_str() {
            "*-1" => direct(&redis).call("DEL q").expect(":1\r\n"),
            _ => client.expect("$1\r\nq\r\n$1\r\na\r\n"),
        };
        let mut next = blocked(&bed, &redis, "BLPOP other 0");
        direct(&redis).call("RPUSH other b").expect(":1\r\n");
        next.expect(&texts(&["other", "b"]));
    }
}

/// Clients are numbered from 1 on, with two clients in each round.
fn id_of_blocked(_bed: &Bed, round: u64) -> u64 {
    1 + 2 * round
}
