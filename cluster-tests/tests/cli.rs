//! What the command line prints and does: dry runs, refusals with their reason, exit codes, JSON that is equal on every node.

#![allow(clippy::unwrap_used)]

use cluster_tests::{
    client::{Client, Reply},
    cluster::Cluster,
    ports::Ports,
    redis::{RedisOptions, RedisServer},
    wait::{GENEROUS, wait_for},
};

#[test]
fn json_is_equal_on_every_node_and_after_a_restart() {
    let mut cluster = Cluster::serving(2);
    let port = cluster.ports.product(1).to_string();
    cluster.cli().ok(&["product", "create", "aaa", "--port", &port, "--layout", "redis", "--mode", "cache", "--wait"]);
    let all = |cluster: &Cluster| -> Vec<Vec<String>> {
        let of = |id| {
            [vec!["slot", "ls"], vec!["group", "ls"], vec!["product", "ls"], vec!["slot", "ls", "--product", "aaa"]]
                .map(|args| replicated(&cluster.node(id).cli().ok(&[args, vec!["--output", "json"]].concat()).out))
                .to_vec()
        };
        (1..=3).map(of).collect()
    };
    // The log notes the process of each primary shortly after its group was made.
    wait_for("the primaries to be noted", GENEROUS, || {
        let groups = cluster.cli().json(&["group", "ls"]);
        let noted = groups.as_array().unwrap().iter().all(|group| group["replid"].is_string());
        if noted { Ok(()) } else { Err(groups.to_string()) }
    });
    let before = wait_for("all nodes to show the same", GENEROUS, || {
        let shown = all(&cluster);
        if shown.iter().all(|said| *said == shown[0]) { Ok(shown) } else { Err(format!("{shown:#?}")) }
    });
    assert!(before[0][2].find("aaa") < before[0][2].find("default"), "sorted by name");
    for id in 1..=3 {
        cluster.node_mut(id).kill9();
    }
    cluster.start_all();
    // A node that has just started shows the log as far as it has applied it.
    wait_for("all nodes to show the same as before", GENEROUS, || {
        let shown = all(&cluster);
        if shown == before { Ok(()) } else { Err(format!("{shown:#?}")) }
    });
    let slots = cluster.cli().json(&["slot", "ls"]);
    assert_eq!((&slots[0]["last"], &slots[1]["first"], &slots[1]["last"]), (&511.into(), &512.into(), &1023.into()));
}

/// Without what nodes observe of servers, which differs each time.
fn replicated(json: &str) -> String {
    let mut list: serde_json::Value = serde_json::from_str(json).unwrap();
    for item in list.as_array_mut().unwrap() {
        if item.get("warnings").is_some() {
            item["warnings"].take();
        }
        for server in item.get_mut("servers").and_then(|servers| servers.as_array_mut()).into_iter().flatten() {
            server["observed"].take();
        }
    }
    format!("{list:#}")
}

#[test]
fn a_dry_run_does_nothing_and_a_change_happens_at_any_node() {
    let mut cluster = Cluster::start(3);
    let follower = cluster.follower();
    let server = cluster.add_server(&RedisOptions::default());
    let addr = cluster.servers[server].addr();
    let cli = cluster.node(follower).cli();
    let before = cli.json(&["status"])["applied"].as_u64().unwrap();
    let ran = cli.ok(&["group", "create", "1", "--primary", &addr, "--dry-run"]);
    assert!(ran.out.contains("would"), "{ran:?}");
    assert_eq!(cli.json(&["group", "ls"]).as_array().unwrap().len(), 0);
    let done = cli.json(&["group", "create", "1", "--primary", &addr]);
    assert!(done["index"].as_u64().unwrap() > before);
    cli.ok(&["slot", "assign", "0-1023", "1", "--dry-run"]);
    assert_eq!(cli.json(&["slot", "ls"])[0]["group"], serde_json::Value::Null);
    cli.ok(&["slot", "assign", "0-1023", "1", "--wait", "--timeout", "40s"]);
    // After --wait every node serves by the change.
    for node in &cluster.nodes {
        assert_eq!(node.client().call(&["SET", "k", "v"]).unwrap(), Reply::ok());
    }
    cli.refused(&["group", "remove", "1"], &["still owns", "1024"]);
    cli.refused(&["product", "remove", "default"], &["group"]);
}

#[test]
fn what_cannot_be_done_is_refused_with_the_reason() {
    let mut cluster = Cluster::serving(1);
    let second = cluster.add_server(&RedisOptions::default());
    assert_eq!(cluster.servers[second].call(&["SET", "k", "v"]), Reply::ok());
    let (first, second) = (cluster.servers[0].addr(), cluster.servers[second].addr());
    let other_port = cluster.ports.product(1);
    let cli = cluster.cli();

    cli.refused(&["slot", "assign", "0-10", "7"], &["no group 7"]);
    cli.refused(&["slot", "assign", "1000-1024", "1"], &["1024"]);
    cli.refused(&["group", "create", "1", "--primary", &second], &["has a group 1 already"]);
    cli.refused(&["group", "create", "2", "--primary", &first], &[&first, "already"]);
    let alias = first.replace("127.0.0.1", "localhost");
    cli.refused(&["group", "create", "2", "--primary", &alias], &["another address"]);
    cli.refused(&["group", "create", "2", "--primary", &second, "--replica", &first], &[&first]);
    let nobody = format!("127.0.0.1:{}", cluster.ports.server(39));
    cli.refused(&["group", "create", "2", "--primary", &nobody], &[&nobody]);
    let proxy = format!("127.0.0.1:{}", cluster.node(2).client_port);
    cli.refused(&["group", "create", "2", "--primary", &proxy], &[&proxy]);
    cli.refused(&["group", "add-server", "1", &second], &[&second, "holds 1 keys", "FLUSHALL"]);
    cli.refused(&["group", "remove-server", "1", &first], &["primary"]);
    cli.refused(&["slot", "ls", "--product", "none"], &["none"]);
    cli.refused(&["product", "create", "default", "--port", &other_port.to_string()], &["already"]);
    cli.refused(&["product", "create", "a b", "--port", &other_port.to_string()], &["a b"]);

    // A server of another product.
    cli.ok(&["product", "create", "other", "--port", &other_port.to_string(), "--wait", "--timeout", "40s"]);
    cli.refused(&["group", "create", "1", "--product", "other", "--primary", &first], &[&first, "default"]);
    // Ports: product + offset meets another listener of the host.
    let meets = (cluster.ports.product(0) + 1).to_string();
    cli.refused(&["product", "create", "third", "--port", &meets], &["would be used twice"]);
    // Usage.
    for usage in [
        vec!["slot", "assign", "x", "1"],
        vec!["slot", "assign", "5-1", "1"],
        vec!["product", "create", "p"],
        vec!["nonsense"],
    ] {
        assert_eq!(cli.run(&usage).code, 2, "{usage:?}");
    }
    // None of these changes was made.
    assert_eq!(cli.json(&["group", "ls"]).as_array().unwrap().len(), 1);
    assert_eq!(cli.json(&["product", "ls"]).as_array().unwrap().len(), 2);
    let nowhere = cluster_tests::cli::Cli::new(nobody, None).run(&["status"]);
    assert!(nowhere.code == 1 && nowhere.err.contains("--node"), "{nowhere:?}");
}

#[test]
fn servers_with_keys_passwords_and_replicas() {
    let mut cluster = Cluster::start(1);
    let options = RedisOptions { password: Some("backend pass".into()), ..RedisOptions::default() };
    let primary = cluster.add_server(&options);
    let port = cluster.servers[primary].port;
    let replica = cluster.add_server(&RedisOptions { primary: Some(port), ..options });
    let (primary, replica) = (cluster.servers[primary].addr(), cluster.servers[replica].addr());
    let mut direct = cluster.servers[0].client();
    direct.call(&["AUTH", "backend pass"]).unwrap();
    direct.call(&["SET", "old", "key"]).unwrap();
    let cli = cluster.cli();
    cli.refused(&["group", "create", "1", "--primary", &primary], &[&primary, "--password-file"]);
    let wrong = cluster.secret_file("wrong", "no");
    cli.refused(
        &["group", "create", "1", "--primary", &primary, "--password-file", wrong.to_str().unwrap()],
        &[&primary],
    );
    let file = cluster.secret_file("backend", "backend pass");
    let file = file.to_str().unwrap();
    let made = cli.ok(&["group", "create", "1", "--primary", &primary, "--replica", &replica, "--password-file", file]);
    assert!(made.out.contains("1 keys") && !format!("{made:?}").contains("backend pass"), "{made:?}");
    cli.ok(&["slot", "assign", "0-1023", "1", "--wait"]);
    assert_eq!(cluster.node(1).client().call(&["GET", "old"]).unwrap(), Reply::bulk("key"));
    cli.ok(&["group", "remove-server", "1", &replica]);
    cli.ok(&["group", "add-server", "1", &replica]);
    let roles = cli.json(&["group", "ls"])[0]["servers"].clone();
    assert_eq!((&roles[0]["role"], &roles[1]["role"]), (&"primary".into(), &"replica".into()));
    assert!(!cluster.node(1).log().contains("backend pass"));
}

#[test]
fn a_port_that_another_program_holds_is_reported_and_fails_wait() {
    let cluster = Cluster::start(3);
    let port = cluster.ports.product(1);
    let holder = std::net::TcpListener::bind(("127.0.0.1", port + 2)).unwrap();
    let cli = cluster.cli();
    let ran = cli.run(&["product", "create", "blocked", "--port", &port.to_string(), "--wait", "--timeout", "30s"]);
    assert_ne!(ran.code, 0, "{ran:?}");
    let text = (port + 2).to_string();
    assert!(ran.err.contains(&text), "the port is not named: {ran:?}");
    wait_for("product ls to show it", GENEROUS, || {
        let out = cli.ok(&["product", "ls"]);
        if out.out.contains(&text) || out.err.contains(&text) { Ok(()) } else { Err(out.out) }
    });
    drop(holder);
    // The node binds the port as soon as it is free.
    wait_for("node 2 to listen", GENEROUS, || Client::connect(port + 2).map(drop));
}

#[test]
fn without_the_secret_every_call_is_refused() {
    let mut cluster = Cluster::prepared(2);
    cluster.use_secret();
    cluster.start_all();
    cluster.cli().ok(&["product", "ls"]);
    let admin = cluster.node(1).admin();
    let none = cluster_tests::cli::Cli::new(admin.clone(), None).run(&["status"]);
    assert!(none.code == 1 && none.err.contains("secret"), "{none:?}");
    let wrong = cluster.secret_file("other-secret", "ffffffffffffffffffffffffffffffff");
    let refused = cluster_tests::cli::Cli::new(admin, Some(wrong.clone())).run(&["product", "ls"]);
    assert!(refused.code == 1 && refused.err.contains("secret"), "{refused:?}");
    // A node with the wrong secret cannot join.
    cluster.secret = Some(wrong);
    cluster.join(3);
    wait_for("the reason in the log", GENEROUS, || {
        let log = cluster.node(3).log();
        if log.contains("secret") { Ok(()) } else { Err(log) }
    });
    assert_eq!(cluster.cli().json(&["node", "ls"]).as_array().unwrap().len(), 2);
    assert!(!cluster.node(1).log().contains("0123456789abcdef0123456789abcdef"));
    // Readable by others: refused.
    use std::os::unix::fs::PermissionsExt;
    let open = cluster.secret_file("open", "0123456789abcdef0123456789abcdef");
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o644)).unwrap();
    let ran = cluster_tests::cli::Cli::new(cluster.node(1).admin(), Some(open)).run(&["status"]);
    assert!(ran.code != 0 && ran.err.contains("600"), "{ran:?}");
}

#[test]
fn a_server_of_a_redis_cluster_or_a_replica_cannot_be_a_primary() {
    let (ports, dir) = (Ports::take(), cluster_tests::process::Scratch::new());
    // By default its bus has the port + 10000, which may be the local port of another connection.
    let bus = ports.server(3).to_string();
    let clustered = RedisOptions {
        more: ["--cluster-enabled", "yes", "--cluster-port", &bus].map(String::from).to_vec(),
        ..Default::default()
    };
    let cluster = Cluster::start(1);
    let primary = RedisServer::start(ports.server(0), dir.path());
    let replica = RedisServer::start_with(
        ports.server(1),
        dir.path(),
        &RedisOptions { primary: Some(primary.port), ..Default::default() },
    );
    cluster.cli().refused(&["group", "create", "1", "--primary", &replica.addr()], &[&replica.addr(), "replica"]);
    let clustered = RedisServer::start_with(ports.server(2), dir.path(), &clustered);
    cluster.cli().refused(&["group", "create", "1", "--primary", &clustered.addr()], &[&clustered.addr(), "luster"]);
}

#[test]
fn groups_are_shown_reconciled_and_promoted() {
    let mut cluster = Cluster::serving(1);
    let fresh = cluster.add_server(&RedisOptions::default());
    let (addr, old) = (cluster.servers[fresh].addr(), cluster.servers[0].addr());
    let cli = cluster.node(cluster.follower()).cli();
    let added = cli.ok(&["group", "add-server", "1", &addr]);
    assert!(added.out.contains(&format!("{addr} is made to follow {old}")), "{added:?}");
    let show = || cli.try_json(&["group", "show", "1", "--timeout", "5s"]);
    wait_for("the new server to be in sync, and up for all nodes", GENEROUS, || {
        let shown = show()?;
        let seen = &shown["servers"][1]["observed"];
        let ready = seen["link"] == "up" && seen["state"] == "up" && seen["not_candidate_because"].is_null();
        if ready && seen["lag_bytes"].is_u64() { Ok(()) } else { Err(shown.to_string()) }
    });
    let primary = &show().unwrap()["servers"][0]["observed"];
    assert!(primary["role"] == "primary" && primary["ping_us"].is_u64() && primary["run_id"].is_string(), "{primary}");
    let listed = cli.ok(&["group", "ls"]).out;
    let line: Vec<_> = listed.lines().find(|l| l.contains(&addr)).unwrap_or_default().split_whitespace().collect();
    assert!(line.starts_with(&[&addr, "replica", "replica", "up", "up"]), "{listed}");

    cli.ok(&["server", "set", &addr, "priority=200", "zone=rack-7"]);
    cli.refused(&["server", "set", "127.0.0.1:1", "priority=1"], &["no group"]);
    assert_eq!(cli.json(&["group", "promote", "1", &old])["unchanged"], true);
    let promoted = cli.json(&["group", "promote", "1", &addr, "--wait", "--timeout", "60s"]);
    let shown = show().unwrap();
    let servers: Vec<_> = [0, 1].map(|i| shown["servers"][i]["address"].as_str().unwrap().to_owned()).into();
    assert_eq!(servers, [addr.clone(), old]);
    assert_eq!((&shown["servers"][0]["priority"], &shown["servers"][0]["zone"]), (&200.into(), &"rack-7".into()));
    let ended = &shown["ended_promotions"][0];
    assert_eq!((&ended["id"], &ended["state"]), (&promoted["promotion"], &"done".into()));
    let events = cli.json(&["events"]);
    let kinds: Vec<_> = events.as_array().unwrap().iter().filter_map(|e| e["kind"].as_str()).collect();
    assert!(["promotion-started", "promotion-held", "promoted"].iter().all(|k| kinds.contains(k)), "{kinds:?}");

    cli.ok(&["maintenance", "on"]);
    assert_eq!(cli.json(&["cluster", "show"])["maintenance"], true);
    assert!(cli.ok(&["status"]).out.contains("maintenance is on"));
    cli.ok(&["maintenance", "off"]);
    cli.ok(&["group", "set", "1", "down-after=5s", "maintenance=on"]);
    let shown = show().unwrap();
    assert_eq!((&shown["down_after_ms"], &shown["maintenance"]), (&5000.into(), &true.into()));
}
