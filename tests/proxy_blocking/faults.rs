//! Servers that die, refuse or change their role, and limits.

use std::net::TcpListener;

use pontoon::model::ids::HostPort;

use super::*;
use common::{free_port, password};

fn with_errors(table: RouteTable) -> RouteTable {
    with_product(table, |p| p.rules.blocked_errors = true)
}

#[test]
fn a_pop_of_unknown_outcome_closes_its_client_or_is_an_error() {
    for errors in [false, true] {
        let mut redis = Redis::start();
        let bed =
            Bed::start_with(&[&redis.addr], patient(), 1, |table| if errors { with_errors(table) } else { table });
        let mut client = blocked(&bed, &redis, "BLPOP q 0");
        let mut consumer = bed.client();
        direct(&redis).call("XGROUP CREATE s g 0 MKSTREAM").expect("+OK\r\n");
        consumer.call("XREADGROUP GROUP g c BLOCK 0 STREAMS s >");
        wait_blocked(&redis, 2);
        redis.kill();
        for client in [&mut client, &mut consumer] {
            if errors {
                let line = client.line();
                assert!(line.starts_with("-ERR outcome unknown: "), "{line}");
                client.call("PING").expect("+PONG\r\n");
            } else {
                assert_eq!(client.rest(), "");
            }
        }
        bed.until("both are counted", |r| r.stats.blocked_lost == 2);
    }
}

/// It has taken nothing, so it is sent again, to the new primary.
#[test]
fn a_read_survives_its_server() {
    let (mut one, two) = (Redis::start(), Redis::start());
    let bed = Bed::start_with(&[&one.addr], patient(), 1, |table| table);
    direct(&one).call("XADD s 1-1 f v").line();
    let mut client = blocked(&bed, &one, "XREAD BLOCK 0 STREAMS s $");
    one.kill();
    bed.publish(with_product(bed.table(), |p| {
        p.groups[0].primary = HostPort::parse(&two.addr).unwrap();
        p.slots.iter_mut().for_each(|slot| slot.epoch = Epoch(9));
    }));
    wait_blocked(&two, 1);
    direct(&two).call("XADD s 1-2 f w").line();
    client.expect("*1\r\n*2\r\n$1\r\ns\r\n*1\r\n*2\r\n$3\r\n1-2\r\n*2\r\n$1\r\nf\r\n$1\r\nw\r\n");
}

#[test]
fn a_failover_closes_the_clients_of_the_former_primary() {
    let redis = Redis::start();
    let bed = Bed::start_with(&[&redis.addr], patient(), 1, |table| table);
    let mut client = blocked(&bed, &redis, "BLPOP q 0");
    bed.publish(held(bed.table(), 9, HoldKind::Abandon, "q"));
    assert_eq!(client.rest(), "");
    bed.until("the hold has drained", |r| r.holds.get(&HoldId(9)).is_some_and(|hold| hold.drained));
    wait_blocked(&redis, 0);
}

#[test]
fn a_call_waits_for_its_server_for_its_own_time() {
    let port = free_port();
    // Nobody else takes the port meanwhile.
    let guard = TcpListener::bind(("127.0.0.1", port)).unwrap();
    drop(guard);
    let bed = Bed::start(&[&format!("127.0.0.1:{port}")]);
    let mut short = bed.client();
    let began = Instant::now();
    let line = short.call("BLPOP q 0.3").line();
    assert_eq!(line, "-ERR its server is down, not executed");
    assert!(began.elapsed() >= Duration::from_millis(300));
    let mut long = bed.client();
    long.call("BLPOP q 0");
    bed.client().call("GET k").expect("-ERR its server is down");
    let redis = Redis::start_at(port, &[]);
    wait_blocked(&redis, 1);
    direct(&redis).call("RPUSH q a").expect(":1\r\n");
    long.expect(&texts(&["q", "a"]));
}

/// The server ends its blocked calls itself, and has executed nothing.
#[test]
fn a_call_goes_on_at_the_new_primary_when_its_server_becomes_a_replica() {
    let (one, two) = (Redis::start(), Redis::start());
    let bed = Bed::start_with(&[&one.addr], patient(), 1, |table| table);
    let mut client = blocked(&bed, &one, "BLPOP q 0");
    direct(&one).call(&format!("REPLICAOF 127.0.0.1 {}", two.port())).expect("+OK\r\n");
    bed.until("it is refused by the replica", |r| r.stats.misrouted > 0);
    bed.publish(with_product(bed.table(), |p| {
        p.groups[0].primary = HostPort::parse(&two.addr).unwrap();
        p.slots.iter_mut().for_each(|slot| slot.epoch = Epoch(9));
    }));
    wait_blocked(&two, 1);
    direct(&two).call("RPUSH q a").expect(":1\r\n");
    client.expect(&texts(&["q", "a"]));
}

#[test]
fn errors_of_the_server_are_delivered() {
    let redis = Redis::start();
    let bed = Bed::start_with(&[&redis.addr], patient(), 1, |table| table);
    direct(&redis).call("CONFIG SET min-replicas-to-write 1").expect("+OK\r\n");
    bed.client().call("BLPOP q 0").expect("-NOREPLICAS ");
    direct(&redis).call("CONFIG SET min-replicas-to-write 0").expect("+OK\r\n");
    // The group of a blocked consumer is deleted.
    direct(&redis).call("XGROUP CREATE s g 0 MKSTREAM").expect("+OK\r\n");
    let mut client = blocked(&bed, &redis, "XREADGROUP GROUP g c BLOCK 0 STREAMS s >");
    direct(&redis).call("XGROUP DESTROY s g").expect(":1\r\n");
    assert!(client.line().starts_with("-NOGROUP "));
}

#[test]
fn dedicated_connections_have_a_limit() {
    let redis = Redis::start();
    let limits = Limits { dedicated_max: 2, ..patient() };
    let bed = Bed::start_with(&[&redis.addr], limits, 1, |table| table);
    let first = blocked(&bed, &redis, "BLPOP q 0");
    let mut second = blocked(&bed, &redis, "BLPOP q 0");
    let line = bed.client().call("BLPOP q 0").line();
    assert!(line.starts_with("-ERR too many dedicated connections") && line.ends_with("not executed"), "{line}");
    bed.client().call("WAIT 1 0").expect("-ERR too many dedicated connections");
    bed.until("it is counted", |r| r.stats.dedicated_refused == 2);
    drop(first);
    wait_blocked(&redis, 1);
    wait_until("there is a place again", || bed.client().call("BLPOP none 0.001").line() == "*-1");
    // A hold does not cost the place of a call.
    hold(&bed, 9, "q");
    bed.publish(released(bed.table(), 9));
    wait_blocked(&redis, 1);
    direct(&redis).call("RPUSH q a").expect(":1\r\n");
    second.expect(&texts(&["q", "a"]));
}

/// Beyond its `maxclients` a server refuses everybody.
#[test]
fn dedicated_connections_leave_clients_of_a_server_to_others() {
    let redis = Redis::start();
    let bed = Bed::start_with(&[&redis.addr], patient(), 1, |table| table);
    bed.server_clients.set_nodes(2);
    bed.server_clients.publish(&HostPort::parse(&redis.addr).unwrap(), Some(8), None);
    // Half of the clients of so small a server, divided by the nodes.
    let _blocked = [blocked(&bed, &redis, "BLPOP q 0"), blocked(&bed, &redis, "BLPOP q 0")];
    let line = bed.client().call("BLPOP q 0").line();
    assert!(line.starts_with("-ERR too many dedicated connections"), "{line}");
}

/// Where the number of a server's clients is known, what is free is for whoever needs it.
#[test]
fn dedicated_connections_take_what_a_server_has_free() {
    let redis = Redis::start();
    let bed = Bed::start_with(&[&redis.addr], patient(), 1, |table| table);
    let server = HostPort::parse(&redis.addr).unwrap();
    let refused = |line: String| assert!(line.starts_with("-ERR too many dedicated connections"), "{line}");
    bed.server_clients.set_nodes(2);
    // Of 32 clients, 16 are for dedicated connections, half of them in parts of four: of the others, half can be taken.
    bed.server_clients.publish(&server, Some(32), Some(8));
    let mut clients: Vec<Client> = (0..8).map(|_| blocked(&bed, &redis, "BLPOP q 0")).collect();
    refused(bed.client().call("BLPOP q 0").line());
    // Other nodes have opened none meanwhile.
    bed.server_clients.publish(&server, None, Some(16));
    clients.push(blocked(&bed, &redis, "BLPOP q 0"));
    clients.push(blocked(&bed, &redis, "BLPOP q 0"));
    refused(bed.client().call("BLPOP q 0").line());
    // Others have taken the rest.
    bed.server_clients.publish(&server, None, Some(24));
    refused(bed.client().call("BLPOP q 0").line());
    // Connections that become free are used again.
    direct(&redis).call("RPUSH q a b c").expect(":3\r\n");
    for (client, element) in clients.iter_mut().zip(["a", "b", "c"]) {
        client.expect(&texts(&["q", element]));
        client.call("BLPOP other 0");
    }
    wait_blocked(&redis, 10);
}

/// The connections of blocked clients have a name of their own, by which the leader finds them.
#[test]
fn connections_of_blocked_clients_are_known_by_their_name() {
    let redis = Redis::start_with(&["--requirepass", "secret"]);
    let bed = Bed::start_with(&[&redis.addr], patient(), 1, |table| {
        with_product(table, |p| p.groups[0].login.control = Some(password("secret")))
    });
    let mut client = bed.client();
    client.call("BLPOP q 0");
    let mut admin = direct(&redis);
    admin.call("AUTH secret").expect("+OK\r\n");
    let names = |admin: &mut Client| -> Vec<String> {
        admin.call("CLIENT LIST");
        let len: usize = admin.line()[1..].parse().unwrap();
        let mut text = vec![0; len + 2];
        std::io::Read::read_exact(&mut admin.stream, &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        let of = |line: &str| line.split(' ').find_map(|part| part.strip_prefix("name=")).map(str::to_owned);
        text.lines().filter(|line| line.contains("cmd=blpop")).filter_map(of).collect()
    };
    wait_until("it is blocked", || names(&mut admin) == [format!("pt:{:032x}:blocked:1", 0)]);
    drop(client);
}

/// An element whose removal too few replicas have is not delivered; that nothing came is.
#[test]
fn a_pop_waits_for_replicas() {
    let redis = Redis::start();
    let bed = Bed::start_with(&[&redis.addr], patient(), 1, |table| {
        with_product(table, |p| (p.min_acks, p.min_acks_ms) = (1, 100))
    });
    bed.client().call("BLPOP q 0.01").expect(NIL);
    let mut client = blocked(&bed, &redis, "BLPOP q 0");
    hold(&bed, 9, "q");
    bed.publish(released(bed.table(), 9));
    wait_blocked(&redis, 1);
    direct(&redis).call("RPUSH q a").expect(":1\r\n");
    let line = client.line();
    assert!(line.starts_with("-NOREPLICAS executed, not confirmed on 1 replicas"), "{line}");
    let _replica = Redis::start_with(&["--replicaof", "127.0.0.1", &redis.port().to_string()]);
    wait_until("the replica is connected", || info(&redis, "connected_slaves") == 1);
    wait_until("an element is confirmed", || {
        direct(&redis).call("RPUSH q b").line();
        client.call("BLPOP q 0").line() == "*2"
            && client.line() == "$1"
            && client.line() == "q"
            && client.line() == "$1"
            && client.line() == "b"
    });
}
