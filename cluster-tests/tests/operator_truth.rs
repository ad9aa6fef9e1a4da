//! What an operator is told: disasters in the headline of `status` on every node that lives, exit codes for monitoring, and
//! warnings that end when their cause has ended.

#![allow(clippy::unwrap_used)]

use cluster_tests::{
    cli::Cli,
    client::Reply,
    cluster::Cluster,
    redis::RedisOptions,
    wait::{GENEROUS, wait_for},
};
use serde_json::Value;

/// Waits until a node's headline has these parts, and checks that the words, the exit code and the JSON agree.
#[track_caller]
fn wait_headline(cli: &Cli, health: &str, parts: &[&str]) -> Value {
    let status = wait_for(&format!("the headline to be {health} with {parts:?}"), GENEROUS, || {
        let status = cli.try_json(&["status"])?;
        let headline = status["headline"].as_str().unwrap_or_default();
        let fits = status["health"] == health && parts.iter().all(|part| headline.contains(part));
        if fits { Ok(status) } else { Err(format!("{status:#}")) }
    });
    let code = ["ok", "warning", "critical", "unknown"].iter().position(|name| *name == health).unwrap();
    let check = cli.run(&["status", "--check"]);
    assert_eq!(check.code, i32::try_from(code).unwrap(), "{check:#?}");
    let first = format!("{}: ", health.to_uppercase());
    assert!(check.out.starts_with(&first) && check.out.lines().count() == 1 && check.err.is_empty(), "{check:#?}");
    assert!(parts.iter().all(|part| check.out.contains(part)), "{check:#?}");
    let json = cli.run(&["status", "--check", "--output", "json"]);
    assert_eq!((json.code, &json.json()["health"]), (check.code, &status["health"]), "{json:#?}");
    let text = cli.ok(&["status"]).out;
    assert!(text.starts_with(&first), "{text}");
    status
}

/// The warnings of a status with this code.
fn coded(status: &Value, code: &str) -> Vec<Value> {
    status["warnings"].as_array().unwrap().iter().filter(|warning| warning["code"] == code).cloned().collect()
}

#[test]
fn without_a_quorum_the_survivor_says_so_whether_it_led_or_followed() {
    let mut cluster = Cluster::serving(1);
    wait_headline(&cluster.cli(), "ok", &["a majority of 3 voters; all 1024 assigned slots of 1 product are served"]);
    for survivor_led in [true, false] {
        let leader = cluster.leader();
        let survivor = if survivor_led { leader } else { cluster.follower() };
        for id in (1..=3).filter(|id| *id != survivor) {
            cluster.node_mut(id).kill9();
        }
        let cli = cluster.node(survivor).cli();
        let said = "NO QUORUM: 1 of 3 voters answers; changes are impossible, and product 'default' is not served";
        let status = wait_headline(&cli, "critical", &[said]);
        let warning = &coded(&status, "no-quorum")[0];
        let missing: Vec<String> =
            (1..=3).filter(|id| *id != survivor).map(|id| format!("node {id} at 127.0.0.1:")).collect();
        let to_clear = warning["to_clear"].as_str().unwrap();
        assert!(missing.iter().all(|part| to_clear.contains(part)) && to_clear.contains("recover"), "{warning:#}");
        assert!(!cli.ok(&["status"]).out.contains(&format!("leader       node {survivor} in term")), "it leads nobody");
        assert!(!cli.ok(&["node", "ls"]).out.contains("leader"), "it leads nobody");

        // What it says clears it.
        for id in (1..=3).filter(|id| *id != survivor) {
            cluster.node_mut(id).start();
        }
        cluster.wait_serving(&[1, 2, 3]);
        (1..=3).for_each(|id| drop(wait_headline(&cluster.node(id).cli(), "ok", &[])));
    }
}

/// Neither of the others is dead: their processes are stopped, so that connections to them open and nobody answers.
#[test]
fn voters_that_hang_do_not_count_and_do_not_delay_the_answer() {
    let cluster = Cluster::serving(1);
    let survivor = cluster.follower();
    (1..=3).filter(|id| *id != survivor).for_each(|id| cluster.node(id).pause());
    wait_headline(&cluster.node(survivor).cli(), "critical", &["NO QUORUM: 1 of 3 voters answers"]);
    (1..=3).filter(|id| *id != survivor).for_each(|id| cluster.node(id).resume());
    wait_headline(&cluster.node(survivor).cli(), "ok", &[]);
}

#[test]
fn a_silent_node_is_a_warning_and_an_unreachable_cluster_is_unknown() {
    let mut cluster = Cluster::serving(1);
    let silent = cluster.follower();
    cluster.node_mut(silent).kill9();
    let other = if silent == 1 { 2 } else { 1 };
    let part = format!("node {silent} (127.0.0.1:");
    wait_headline(&cluster.node(other).cli(), "warning", &[&part, "is not alive"]);
    let gone = cluster.node(silent).cli().run(&["status", "--check"]);
    assert!(gone.code == 3 && gone.out.starts_with("UNKNOWN: no node at ") && gone.err.is_empty(), "{gone:#?}");
    let json = cluster.node(silent).cli().run(&["status", "--check", "--output", "json"]);
    assert_eq!((json.code, &json.json()["health"]), (3, &"unknown".into()), "{json:#?}");
    assert_eq!(cluster.node(silent).cli().run(&["status"]).code, 1, "without --check as every command");
}

#[test]
fn a_dead_primary_without_a_replica_is_the_headline_on_every_node() {
    let mut cluster = Cluster::serving(2);
    cluster.servers[1].kill9();
    let addr = cluster.servers[1].addr();
    let parts = ["512 slots of product 'default' are not served: group 2 has no primary: ", &addr, "has been down for"];
    (1..=3).for_each(|id| drop(wait_headline(&cluster.node(id).cli(), "critical", &parts)));
    let list = cluster.cli().ok(&["group", "ls"]).out;
    assert!(list.contains("primary-down") && list.contains("512 slots of product 'default' are not served"), "{list}");
    let status = cluster.cli().json(&["status"]);
    let to_clear = coded(&status, "primary-down")[0]["to_clear"].as_str().unwrap().to_owned();
    assert!(to_clear.contains(&format!("make {addr} a primary that answers")), "{to_clear}");
    cluster.servers[1].restart();
    // Its restart without data is worth a warning for a day.
    wait_headline(&cluster.cli(), "warning", &["restarted empty"]);
}

#[test]
fn a_refused_password_is_no_loading() {
    let mut cluster = Cluster::start(3);
    let options = RedisOptions { password: Some("first".into()), ..RedisOptions::default() };
    let server = cluster.add_server(&options);
    let (addr, file) = (cluster.servers[server].addr(), cluster.secret_file("password", "first"));
    let cli = cluster.cli();
    cli.ok(&["group", "create", "1", "--primary", &addr, "--password-file", file.to_str().unwrap()]);
    cli.ok(&["slot", "assign", "0-1023", "1", "--wait", "--timeout", "40s"]);
    wait_headline(&cli, "ok", &[]);
    // An operator who is already logged in sets another password; everybody else has to log in again.
    let mut operator = cluster.servers[server].client();
    let mut say = |words: &[&str]| operator.call(words).unwrap();
    assert_eq!(say(&["AUTH", "first"]), Reply::ok());
    assert_eq!(say(&["CONFIG", "SET", "requirepass", "second"]), Reply::ok());
    let killed = say(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    assert!(matches!(killed, Reply::Integer(n) if n > 0), "{killed:?}");
    let parts = [
        &format!("{addr}, primary of group 1 of product 'default', has refused the password of its group"),
        "requests of its 1024 slots are not served",
    ];
    wait_headline(&cli, "critical", &parts);
    let groups = cli.json(&["group", "ls"]);
    assert_eq!(groups[0]["servers"][0]["observed"]["state"], "not-probed", "{groups:#}");
    assert_eq!(groups[0]["warnings"][0]["code"], "primary-refuses-login", "{groups:#}");
    let list = cli.ok(&["group", "ls"]).out;
    assert!(list.contains("not-probed") && !list.contains("loading"), "{list}");
    assert_eq!(say(&["CONFIG", "SET", "requirepass", "first"]), Reply::ok());
    wait_headline(&cli, "ok", &[]);
}

/// Drains group 2, and returns how many keys it had.
fn drained(cluster: &mut Cluster) -> u64 {
    let mut client = cluster.node(1).client();
    for n in 0..300 {
        assert_eq!(client.call(&["SET", &format!("k{n}"), "v"]).unwrap(), Reply::ok());
    }
    let Reply::Integer(keys) = cluster.servers[1].call(&["DBSIZE"]) else { panic!("no number") };
    cluster.cli().ok(&["group", "drain", "2", "--wait", "--timeout", "60s"]);
    assert_eq!(cluster.servers[1].call(&["DBSIZE"]), Reply::Integer(0));
    u64::try_from(keys).unwrap()
}

#[test]
fn what_a_drain_leaves_to_do_has_a_time_and_an_empty_server_causes_no_warning() {
    let mut cluster = Cluster::serving(2);
    let keys = drained(&mut cluster);
    let cli = cluster.cli();
    // The counters add up: what the source had was sent, and deleted there.
    let migrations = cli.json(&["migrate", "ls"]);
    let sum = |field: &str| migrations.as_array().unwrap().iter().map(|m| m[field].as_u64().unwrap()).sum::<u64>();
    assert_eq!((sum("keys_cleaned"), sum("keys_deleted")), (keys, 0), "{migrations:#}");
    assert!(sum("keys_copied") >= keys, "{migrations:#}");
    let status = wait_for("the sweep to be announced", GENEROUS, || {
        let status = cli.try_json(&["status"])?;
        let said = |line: &Value| line.as_str().is_some_and(|line| line.contains("the sweep of group 2"));
        let found = status["waiting_on"].as_array().unwrap().iter().any(said);
        if found { Ok(status) } else { Err(format!("{status:#}")) }
    });
    let waiting = status["waiting_on"][0].as_str().unwrap();
    assert!(waiting.contains("it begins in 10 min") && waiting.contains("there is nothing to do"), "{waiting}");
    assert!(
        waiting.contains("; has lasted a few seconds; ends when no slot has come to the group or left it"),
        "{waiting}"
    );
    let removed = cli.json(&["group", "remove", "2"]);
    assert_eq!(removed["warnings"], serde_json::json!([]), "{removed:#}");
    let status = wait_headline(&cli, "ok", &[]);
    assert_eq!(status["warnings"], serde_json::json!([]), "{status:#}");
}

/// Keys that stay at a removed group's server are told once and kept as an event; nothing could clear a warning.
#[test]
fn keys_that_a_removed_group_keeps_are_an_event_and_no_warning_for_ever() {
    let mut cluster = Cluster::serving(2);
    drained(&mut cluster);
    let addr = cluster.servers[1].addr();
    assert_eq!(cluster.servers[1].call(&["SET", "late", "write"]), Reply::ok());
    let cli = cluster.cli();
    let removed = cli.json(&["group", "remove", "2"]);
    let told = removed["warnings"][0].as_str().unwrap();
    assert!(told.contains(&format!("1 key(s) are left on {addr}")) && told.contains("FLUSHALL"), "{removed:#}");
    let events = cli.json(&["events"]);
    let event = events.as_array().unwrap().iter().find(|event| event["kind"] == "group-removed").unwrap();
    let text = event["text"].as_str().unwrap();
    assert!(text.contains(&addr) && text.contains("the primary had 1 key(s)"), "{event:#}");
    wait_headline(&cli, "ok", &[]);
}

/// Changes that would break every write or hide keys need --force, and advice names the command that loses nothing.
#[test]
fn what_would_break_or_hide_is_refused_and_advice_loses_nothing() {
    let mut cluster = Cluster::serving(2);
    let (primary, cli) = (cluster.servers[0].addr(), cluster.cli());
    let set = |what: &'static str| ["product", "set", "default", what];
    cli.refused(&set("min-acks=1"), &["group(s) 1, 2", "every write there would be answered -NOREPLICAS", "--force"]);
    cli.ok(&[&set("min-acks=1")[..], &["--force"]].concat());
    let parts =
        ["min-acks is 1, and there are 0 replica(s): every write to the 512 slots of group 1 of product 'default'"];
    wait_headline(&cli, "critical", &parts);
    cli.ok(&set("min-acks=0"));
    wait_headline(&cli, "ok", &[]);

    let mut direct = cluster.servers[0].client();
    assert_eq!(direct.call(&["SELECT", "2"]).unwrap(), Reply::ok());
    assert_eq!(direct.call(&["SET", "k", "v"]).unwrap(), Reply::ok());
    let hidden = format!("database 2 at {primary} (group 1) has 1 key(s)");
    cli.refused(&set("databases=1"), &[&hidden, "--force"]);
    cli.ok(&set("databases=3"));
    assert_eq!(direct.call(&["DEL", "k"]).unwrap(), Reply::Integer(1));
    cli.ok(&set("databases=1"));
    // Regression: more than the servers have was accepted; in those, every request failed as if its server were down.
    cli.refused(&set("databases=17"), &["has 16 databases", "every request in database 16", "redis.conf", "--force"]);
    cli.ok(&[&set("databases=17")[..], &["--force"]].concat());
    cli.ok(&set("databases=16"));

    // Regression: a plan that was only shown said in JSON that it was done.
    let planned = cli.json(&["rebalance", "--weights", "g1=1,g2=3"]);
    assert!(planned["dry_run"] == true && planned["moves"][0]["to"] == 2, "{planned:#}");

    cli.refused(&["group", "remove", "1"], &["still owns", "pontoon group drain 1"]);
    cli.refused(&["group", "remove-server", "1", &primary], &["pontoon group promote 1 HOST:PORT"]);
    for nowhere in ["0.0.0.0:6379", "[::]:6379", "[::ffff:0.0.0.0]:6379", "0x0:6379"] {
        cli.refused(&["group", "add-server", "1", nowhere], &["is no address of a server"]);
    }
    let options =
        RedisOptions { more: ["--rename-command", "REPLICAOF", ""].map(str::to_owned).to_vec(), ..Default::default() };
    let fixed = cluster.add_server(&options);
    cli.refused(&["group", "add-server", "1", &cluster.servers[fixed].addr()], &["could never follow"]);

    // Another cluster that lives.
    let other = Cluster::start(1);
    other.cli().refused(&["group", "create", "1", "--primary", &primary], &["is used by another Pontoon cluster"]);
}

/// Regression: only `product set` knew what min-acks demands, and read-from=replica without replicas was a warning that `status`
/// did not have.
#[test]
fn what_takes_replicas_from_clients_needs_force() {
    let mut cluster = Cluster::start(1);
    let cli = cluster.cli();
    let servers: Vec<String> = (0..3)
        .map(|_| {
            let server = cluster.add_server(&RedisOptions::default());
            cluster.servers[server].addr()
        })
        .collect();
    let [primary, replica, alone] = [0, 1, 2].map(|n: usize| servers[n].as_str());
    cli.ok(&["group", "create", "1", "--primary", primary, "--replica", replica]);
    cli.ok(&["slot", "assign", "0-1022", "1", "--wait", "--timeout", "40s"]);
    cli.ok(&["group", "create", "2", "--primary", alone]);
    cluster.wait_replicated(&[0, 1]);
    cli.ok(&["product", "set", "default", "min-acks=1", "--wait", "--timeout", "40s"]);
    let refused = |command: &[&str], group: &str, answered: &str| {
        cli.refused(command, &[&format!("group(s) {group} of product 'default' would have"), answered, "--force"]);
    };
    for (setting, answered) in [("min-acks=1", "-NOREPLICAS"), ("read-from=replica", "-TRYAGAIN")] {
        // Until a node has found the replica in sync, this is refused, too.
        wait_for("the setting to be made", GENEROUS, || {
            cluster.cli().try_json(&["product", "set", "default", setting, "--timeout", "40s"])
        });
        refused(&["group", "remove-server", "1", replica], "1", answered);
        refused(&["slot", "assign", "1023", "2"], "2", answered);
        refused(&["slot", "assign", "0-3", "2", "--abandon-data"], "2", answered);
        refused(&["migrate", "start", "0-3", "--to", "2"], "2", answered);
        let planned = cli.ok(&["rebalance"]);
        assert!(planned.err.contains("group(s) 2 have fewer replicas than the product demands"), "{planned:#?}");
        assert!(!planned.out.contains("to group 2"), "{planned:#?}");
        cli.refused(&["group", "drain", "1"], &["no other group", "group(s) 2 have fewer replicas"]);
        cli.ok(&["product", "set", "default", "min-acks=0", "read-from=primary", "--wait", "--timeout", "40s"]);
    }
    // Without replicas, the setting itself is refused; forced, the status says what it does, and ends when it is undone.
    cli.ok(&["group", "remove-server", "1", replica]);
    let set = ["product", "set", "default", "read-from=replica"];
    refused(&set, "1", "-TRYAGAIN");
    cli.ok(&[&set[..], &["--force"]].concat());
    let said = "read-from is replica, and 0 of 0 replica(s) are in sync: every read of the 1023 slots of group 1";
    wait_headline(&cli, "critical", &[said]);
    cli.ok(&["slot", "assign", "1023", "2", "--force", "--wait", "--timeout", "40s"]);
    cli.ok(&["product", "set", "default", "read-from=prefer-replica"]);
    wait_headline(&cli, "ok", &[]);
}
