//! Streams: entries, counters, groups, consumers, pending entries whose entry exists or was deleted.
//! Knows nothing of concurrent writes.

use super::pair::{Conn, Pair};

/// Everything that the server reports about a stream, without idle times.
fn report(conn: &mut Conn, key: &str, groups: &[&str]) -> String {
    let info = conn.run(&format!("XINFO STREAM {key}"));
    // The shape of the radix tree is not part of the stream.
    let start = info.find("last-generated-id").unwrap();
    let mut report = info[start..].to_owned();
    report.push_str(&conn.run(&format!("XLEN {key}")));
    report.push_str(&conn.run(&format!("XINFO GROUPS {key}")));
    for group in groups {
        // Name and number of pending entries; the idle time differs.
        let consumers = conn.run(&format!("XINFO CONSUMERS {key} {group}"));
        report.push_str(&consumers.split("idle\r\n:").map(|s| s.split_once("\r\n").unwrap().1).collect::<String>());
        report.push_str(&without_idle(&conn.run(&format!("XPENDING {key} {group} - + 100000"))));
    }
    report
}

/// Group, id and time of delivery of every pending entry.
fn deliveries(conn: &mut Conn, key: &str) -> Vec<String> {
    let full = conn.run(&format!("XINFO STREAM {key} FULL COUNT 0"));
    let lines: Vec<&str> = full.split("\r\n").collect();
    // Entries of a group's list have four parts: id, consumer, time and count.
    let is_entry = |four: &&[&str]| four[0] == "*4" && four[2].contains('-') && four[5].starts_with(':');
    lines.windows(6).filter(is_entry).map(|four| format!("{} {} {}", four[2], four[4], four[5])).collect()
}

/// The reply of XPENDING without the third of each four values.
fn without_idle(reply: &str) -> String {
    let mut numbers = 0;
    let keep = |line: &&str| {
        numbers += usize::from(line.starts_with(':'));
        !line.starts_with(':') || numbers % 2 == 0
    };
    reply.split("\r\n").filter(keep).collect::<Vec<_>>().join(" ")
}

fn fill(source: &mut Conn) {
    source.all((1..=12_000).map(|i| format!("XADD s {i}-1 field value:{i} other {}", i * 7)));
    source.run("XGROUP CREATE s all 0");
    source.run("XGROUP CREATE s late 11000-1");
    source.run("XGROUP CREATE s unknown 5000-0 ENTRIESREAD -1");
    source.run("XGROUP CREATECONSUMER s all idler");
    source.all((0..40).map(|i| format!("XREADGROUP GROUP all consumer:{} COUNT 100 STREAMS s >", i % 3)));
    source.run("XREADGROUP GROUP late x COUNT 700 STREAMS s >");
    source.all((1..200).map(|i| format!("XACK s all {}-1", i * 3)));
    // Delivered more than once.
    source.run("XCLAIM s all other 0 1000-1 1001-1 1002-1");
    source.run("XCLAIM s all other 0 1001-1");
    // Pending entries whose entry is deleted: one in the middle, several at the head, one at the end.
    source.all([1500, 1501, 1502, 3999, 11_700].iter().map(|i| format!("XDEL s {i}-1")));
    source.run("XADD s 12001-1 last one");
    source.run("XREADGROUP GROUP unknown y COUNT 1 STREAMS s >");
}

#[test]
fn groups_and_pending_entries_are_exact() {
    let mut pair = Pair::start();
    fill(&mut pair.source);
    pair.source.run("XTRIM s MINID 700-0");
    pair.source.run("XDEL s 12001-1");
    pair.source.run("PEXPIRE s 500000");
    pair.begin("s");
    pair.settle();
    pair.assert_equal("s");
    let groups = ["all", "late", "unknown"];
    let (source, target) = (report(&mut pair.source, "s", &groups), report(&mut pair.target, "s", &groups));
    assert_eq!(source, target);
    assert!(source.contains("1001-1 $5 other :3"), "the test has something to compare: {source:.3000}");
    let source = deliveries(&mut pair.source, "s");
    assert!(source.len() > 1000, "{}", source.len());
    assert_eq!(source, deliveries(&mut pair.target, "s"));
}

#[test]
fn a_stream_that_was_trimmed_to_nothing_keeps_its_pending_entries() {
    let mut pair = Pair::start();
    fill(&mut pair.source);
    // Now only its memory makes it big.
    pair.source.run("XTRIM s MAXLEN 0");
    pair.begin("s");
    while pair.round() {}
    if pair.returned.is_empty() {
        let groups = ["all", "late", "unknown"];
        assert_eq!(report(&mut pair.source, "s", &groups), report(&mut pair.target, "s", &groups));
    }
    assert_eq!(pair.returned, [], "its pending entries alone make it big");
}

#[test]
fn a_stream_without_groups() {
    let mut pair = Pair::start();
    pair.source.all((1..=9_000).map(|i| format!("XADD s {i}-1 field value:{i}")));
    pair.source.run("XDEL s 4000-1 9000-1");
    pair.begin("s");
    pair.settle();
    pair.assert_equal("s");
    assert_eq!(report(&mut pair.source, "s", &[]), report(&mut pair.target, "s", &[]));
}
