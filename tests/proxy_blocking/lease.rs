//! The end of a lease: a node without one takes no element that it may not deliver.

use pontoon::{clock::boottime_ns, model::route::Isolated, proxy::permit::Permit};

use super::*;

/// A bed whose node has a lease of this length from now on.
fn leased(redis: &Redis, isolated: Isolated, length: Duration, change: impl FnOnce(RouteTable) -> RouteTable) -> Bed {
    let bed =
        Bed::start_with(&[&redis.addr], patient(), 1, |table| change(with_product(table, |p| p.isolated = isolated)));
    bed.permit.revoke();
    renew(&bed.permit, length);
    bed
}

fn renew(permit: &Permit, length: Duration) {
    permit.renew(boottime_ns() + u64::try_from(length.as_nanos()).unwrap(), Epoch(1));
}

#[test]
fn blocked_calls_end_before_the_lease_does() {
    let redis = Redis::start();
    let bed = leased(&redis, Isolated::Refuse, Duration::from_secs(2), |table| table);
    let mut client = blocked(&bed, &redis, "BLPOP q 0");
    let mut reader = blocked(&bed, &redis, "XREAD BLOCK 0 STREAMS {q}s $");
    wait_blocked(&redis, 0);
    assert_eq!((client.rest(), reader.rest()), (String::new(), String::new()));
    // Nobody eats it.
    direct(&redis).call("RPUSH q a").expect(":1\r\n").call("LLEN q").expect(":1\r\n");
    let stats = bed.until("both are counted", |r| r.stats.blocked_lost == 2).stats;
    assert_eq!(stats.unknown, 0, "no outcome is unknown");
}

#[test]
fn the_error_says_that_nothing_was_executed() {
    let redis = Redis::start();
    let bed = leased(&redis, Isolated::Refuse, Duration::from_secs(1), |table| {
        with_product(table, |p| p.rules.blocked_errors = true)
    });
    let mut client = blocked(&bed, &redis, "BLPOP q 0");
    client.expect("-CLUSTERDOWN this node lost contact with its peers, not executed\r\n");
    let mut other = bed.client();
    wait_until("the lease is over", || other.call("GET k").line().starts_with("-CLUSTERDOWN"));
    other.call("BLPOP q 0").expect("-CLUSTERDOWN this node lost contact with its peers, not executed\r\n");
}

/// The tick that would have ended them did not come: the worker was stopped, or the server did not answer.
#[test]
fn connections_are_closed_when_the_lease_is_over() {
    let redis = Redis::start();
    let bed = leased(&redis, Isolated::Refuse, Duration::from_secs(3600), |table| table);
    let mut client = blocked(&bed, &redis, "BLPOP q 0");
    redis.signal("STOP");
    bed.permit.revoke();
    assert_eq!(client.rest(), "");
    redis.signal("CONT");
    wait_blocked(&redis, 0);
    direct(&redis).call("RPUSH q a").expect(":1\r\n").call("LLEN q").expect(":1\r\n");
}

#[test]
fn a_product_that_serves_alone_goes_on() {
    let redis = Redis::start();
    let bed = leased(&redis, Isolated::Serve, Duration::from_millis(300), |table| table);
    let mut client = blocked(&bed, &redis, "BLPOP q 0");
    wait_until("the lease is over", || boottime_ns() > bed.permit.lease_until_ns() + 500_000_000);
    direct(&redis).call("RPUSH q a").expect(":1\r\n");
    client.expect(&texts(&["q", "a"]));
}

#[test]
fn a_lease_that_is_renewed_changes_nothing() {
    let redis = Redis::start();
    let bed = leased(&redis, Isolated::Refuse, Duration::from_secs(2), |table| table);
    let mut client = blocked(&bed, &redis, "BLPOP q 0");
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        renew(&bed.permit, Duration::from_secs(2));
        std::thread::sleep(Duration::from_millis(20));
    }
    renew(&bed.permit, Duration::from_secs(3600));
    direct(&redis).call("RPUSH q a").expect(":1\r\n");
    client.expect(&texts(&["q", "a"]));
}

#[test]
fn a_parked_call_ends_with_the_lease() {
    let redis = Redis::start();
    let bed = leased(&redis, Isolated::Refuse, Duration::from_secs(2), |table| table);
    hold(&bed, 9, "q");
    let mut client = bed.client();
    client.call("BLPOP q 0").expect("-CLUSTERDOWN this node lost contact with its peers, not executed\r\n");
}
