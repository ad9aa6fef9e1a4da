//! An operator in a hurry: nodes that do not answer, waits that are left, lists that are too long.

#![allow(clippy::unwrap_used)]

use std::{
    io::{BufRead, BufReader, Read},
    process::Stdio,
    time::Instant,
};

use cluster_tests::{
    binary,
    cli::Cli,
    cluster::Cluster,
    wait::{GENEROUS, wait_for},
};
use rustix::process::{Pid, Signal, kill_process};

#[test]
fn the_next_node_answers_and_everything_is_shown() {
    let mut cluster = Cluster::serving(1);
    let (dead, stopped) = (cluster.follower(), cluster.leader());
    let other = (1..=3).find(|id| ![dead, stopped].contains(id)).unwrap();
    let server = cluster.servers[0].addr();
    let nodes = [dead, stopped, other].map(|id| cluster.node(id).admin()).join(",");
    let cli = Cli::new(nodes, None);
    let versions = cli.json(&["version"]);
    assert_eq!(
        (versions["nodes"].as_array().unwrap().len(), &versions["version"]),
        (3, &versions["nodes"][0]["version"])
    );
    let listed = cli.json(&["server", "ls"]);
    assert_eq!((&listed[0]["address"], &listed[0]["product"]), (&server.clone().into(), &"default".into()));
    assert!(cli.ok(&["server", "ls"]).out.contains(&server));
    let port = cluster.ports.product(0).to_string();
    assert!(cli.ok(&["product", "show", "default"]).out.contains(&format!("{port} plus the port offset")));
    cli.refused(&["product", "show", "none"], &["no product 'none'"]);
    let shown = cli.ok(&["node", "show", "2"]).out;
    assert!(shown.contains(&cluster.node(2).admin()) && shown.contains("default: node 2 on"), "{shown}");
    cli.ok(&["maintenance", "on", "1"]);
    assert_eq!(cli.json(&["maintenance", "status"])["groups"][0]["group"], 1);
    assert!(cli.ok(&["maintenance", "on", "1"]).out.contains("nothing had to change"));
    cli.ok(&["maintenance", "off", "1"]);
    let events = cli.json(&["events", "--group", "1", "--since", "1h", "-n", "2"]);
    let kinds: Vec<_> = events.as_array().unwrap().iter().map(|e| e["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["maintenance-on", "maintenance-off"]);
    assert_eq!(cli.run(&["status", "--dry-run"]).code, 2);

    // A node that is dead, and then also one that accepts connections and does not answer.
    cluster.node_mut(dead).kill9();
    cli.ok(&["status"]);
    cluster.node(stopped).pause();
    let began = Instant::now();
    cli.ok(&["node", "ls"]);
    assert!(began.elapsed() < GENEROUS, "{:?}", began.elapsed());
    cluster.node(stopped).resume();
}

#[test]
fn a_wait_shows_ids_first_and_can_be_left() {
    let cluster = Cluster::serving(2);
    let mut client = cluster.node(1).client();
    for n in 0..2_000 {
        client.call(&["SET", &format!("key:{n}"), "value"]).unwrap();
    }
    let mut command = binary::command(binary::pontoon());
    command.args(["--node", &cluster.node(1).admin(), "migrate", "start", "0-511", "--to", "2", "--wait"]);
    command.args(["--keys-per-second", "5"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert!(line.starts_with("migration ") && line.contains("slots 0-511 from group 1 to group 2"), "{line}");
    let id = line.split([' ', ':']).nth(1).unwrap().to_owned();
    // Then the progress.
    line.clear();
    out.read_line(&mut line).unwrap();
    assert!(line.contains(&format!("migration {id}  1 -> 2")), "{line}");
    kill_process(Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap(), Signal::INT).unwrap();
    let code = child.wait().unwrap().code();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(code, Some(4), "{said}");
    for part in ["goes on", &format!("pontoon migrate watch {id}"), &format!("pontoon migrate cancel {id}")] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    let cli = cluster.cli();
    assert_ne!(cli.json(&["migrate", "show", &id])["state"], "cancelled");
    cli.ok(&["migrate", "cancel", &id, "--wait", "--timeout", "60s"]);
    wait_for("the migration to be cancelled", GENEROUS, || {
        let seen = cli.try_json(&["migrate", "show", &id])?;
        if seen["state"] == "cancelled" { Ok(()) } else { Err(seen.to_string()) }
    });
    // Already so.
    let again = cli.json(&["migrate", "cancel", &id]);
    assert_eq!(again["unchanged"], true, "{again}");
}

#[test]
fn scattered_slots_are_summarised_and_events_end_without_a_reader() {
    let cluster = Cluster::serving(2);
    let cli = cluster.cli();
    cli.ok(&["maintenance", "on", "--wait"]);
    cli.ok(&["maintenance", "off", "--wait"]);
    let mut command = binary::command(binary::pontoon());
    command.args(["--node", &cluster.node(1).admin(), "events", "--follow"]).stdout(Stdio::piped());
    let mut follows = command.spawn().unwrap();
    // `head` has what it wants, and nothing more may happen for long.
    BufReader::new(follows.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
    let ended = wait_for("the command to end", GENEROUS, || follows.try_wait().unwrap().ok_or("it runs"));
    assert_eq!(ended.code(), Some(141));
    let scattered: Vec<String> = (0..512).step_by(2).map(|slot| slot.to_string()).collect();
    let scattered = scattered.join(",");
    cli.ok(&["slot", "assign", &scattered, "2", "--abandon-data", "--wait", "--timeout", "60s"]);
    let listed = cli.ok(&["slot", "ls"]).out;
    assert!(listed.lines().count() < 10 && listed.contains("--all lists them"), "{listed}");
    assert!(cli.ok(&["slot", "ls", "--all"]).out.lines().count() > 500);
    assert!(cli.json(&["slot", "ls"]).as_array().unwrap().len() > 500);
    let moved = cli.ok(&["migrate", "start", &scattered, "--to", "1", "--dry-run"]).out;
    assert!(moved.len() < 500 && moved.contains("and 248 more ranges (256 slots in all)"), "{moved}");
    let id = cli.json(&["migrate", "start", &scattered, "--to", "1", "--wait", "--timeout", "60s"])["migrations"][0]
        .to_string();
    assert!(cli.ok(&["migrate", "show", &id]).out.contains("and 248 more ranges"));
    assert!(cli.ok(&["migrate", "show", &id, "--all"]).out.contains("508, 510"));
}

#[test]
fn slots_are_released_and_a_product_is_removed_with_its_data() {
    let cluster = Cluster::serving(2);
    let cli = cluster.cli();
    let mut client = cluster.node(1).client();
    client.call(&["SET", "key", "value"]).unwrap();
    let slot = cluster.locate("key")["slot"].to_string();
    cli.refused(&["slot", "release", &slot], &["is not empty", "--abandon-data"]);
    let would = cli.ok(&["slot", "release", &slot, "--abandon-data", "--dry-run"]).out;
    assert!(would.contains("would: ") && would.contains("are released"), "{would}");
    cli.ok(&["slot", "release", &slot, "--abandon-data", "--wait", "--timeout", "60s"]);
    let refused = client.call(&["GET", "key"]).unwrap();
    assert!(refused.is_error("CLUSTERDOWN"), "{refused:?}");
    assert!(cluster.locate("key")["group"].is_null());
    assert_eq!(cli.json(&["slot", "release", &slot, "--abandon-data"])["unchanged"], true);
    // The key is where it was.
    cli.ok(&["slot", "assign", &slot, "1", "--wait", "--timeout", "60s"]);

    cli.refused(&["product", "remove", "default"], &["2 group(s)", "--abandon-data"]);
    let would = cli.ok(&["product", "remove", "default", "--abandon-data", "--dry-run"]);
    assert!(would.out.contains("1024 slots") && would.err.contains("the keys stay on"), "{would:?}");
    assert_eq!(cli.json(&["product", "ls"]).as_array().unwrap().len(), 1);
    cli.ok(&["product", "remove", "default", "--abandon-data", "--wait", "--timeout", "60s"]);
    assert_eq!(cli.json(&["product", "ls"]), serde_json::json!([]));
    wait_for("the client to be closed", GENEROUS, || {
        if client.call(&["PING"]).is_err() { Ok(()) } else { Err("it is open") }
    });
    assert!(cluster.servers.iter().any(|server| server.call(&["DBSIZE"]).text() != "0"), "keys were deleted");
    // Their servers are free for another product.
    let port = cluster.ports.product(1).to_string();
    cli.ok(&["product", "create", "next", "--port", &port]);
    cli.ok(&["group", "create", "1", "--product", "next", "--primary", &cluster.servers[0].addr()]);
}
