//! Every change of the cluster is an event that says who asked for it, from where, and what it changed: commands of an
//! operator at a node that does not lead, joins, removals and a recovery.

#![allow(clippy::unwrap_used)]

use cluster_tests::{
    binary,
    cli::Cli,
    cluster::Cluster,
    redis::RedisOptions,
    wait::{GENEROUS, wait_for},
};
use serde_json::Value;

fn events(cli: &Cli) -> Vec<Value> {
    cli.json(&["events"]).as_array().unwrap().clone()
}

/// Waits for an event of this kind and subject after the entry `after`.
#[track_caller]
fn wait_event(cli: &Cli, after: u64, kind: &str, subject: &str) -> Value {
    wait_for(&format!("the event {kind} of {subject}"), GENEROUS, || {
        let all = events(cli);
        let found = |e: &&Value| e["kind"] == kind && e["subject"] == subject && e["index"].as_u64().unwrap() > after;
        all.iter().find(found).cloned().ok_or_else(|| format!("{all:#?}"))
    })
}

/// An operator at one node.
struct Operator {
    cli: Cli,
    node: u16,
}

impl Operator {
    fn last(&self) -> u64 {
        events(&self.cli).last().map_or(0, |event| event["index"].as_u64().unwrap())
    }

    /// Runs a command and returns the event of its change, which names the operator.
    #[track_caller]
    fn does(&self, args: &[&str], kind: &str, subject: &str) -> Value {
        let last = self.last();
        self.cli.ok(args);
        let event = wait_event(&self.cli, last, kind, subject);
        assert_eq!((&event["actor"], &event["node"]), (&"cluster secret".into(), &self.node.into()), "{event:#}");
        assert!(event["origin"].as_str().is_some_and(|from| from.starts_with("127.0.0.1:")), "{event:#}");
        let words: Vec<&str> = args.iter().copied().take_while(|word| word.starts_with(char::is_alphabetic)).collect();
        let command = if words[0] == "maintenance" || words[0] == "rebalance" { &words[..1] } else { &words[..2] };
        let declared = event["declared"].as_str().unwrap();
        assert!(declared.contains(&format!(": pontoon {}", command.join(" "))), "{event:#}");
        event
    }

    /// Runs a command and checks what its event says that has changed.
    #[track_caller]
    fn changes(&self, args: &[&str], kind: &str, subject: &str, (before, after): (&str, &str)) {
        let event = self.does(args, kind, subject);
        let contains = |field: &str, part: &str| event[field].as_str().is_some_and(|text| text.contains(part));
        assert!(contains("before", before) && contains("after", after), "{before} -> {after} is not in {event:#}");
    }
}

/// The id that a command has printed: "migration 17 is ...".
fn id_of(event: &Value) -> String {
    event["subject"].as_str().unwrap().rsplit(' ').next().unwrap().to_owned()
}

fn operated() -> (Cluster, Operator) {
    let mut cluster = Cluster::prepared(3);
    cluster.use_secret();
    cluster.start_all();
    let node = cluster.follower();
    let cli = cluster.node(node).cli();
    (cluster, Operator { cli, node })
}

#[test]
fn every_command_of_an_operator_has_an_event() {
    let (mut cluster, operator) = operated();
    let does =
        |args: &[&str], kind: &str, subject: &str, change: (&str, &str)| operator.changes(args, kind, subject, change);

    does(&["cluster", "set", "hold-max=300ms"], "cluster-set", "cluster", ("hold-max=250ms", "hold-max=300ms"));
    does(&["maintenance", "on"], "maintenance-on", "cluster", ("maintenance=off", "maintenance=on"));
    does(&["maintenance", "off"], "maintenance-off", "cluster", ("maintenance=on", "maintenance=off"));

    let port = cluster.ports.product(1).to_string();
    let [one, two] = ["hunter1-hunter1", "hunter2-hunter2"].map(|password| cluster.secret_file(password, password));
    let (one, two) = (one.to_str().unwrap(), two.to_str().unwrap());
    let create = ["product", "create", "shop", "--port", &port, "--password-file", one];
    does(&create, "product-created", "product shop", ("none", "password=set"));
    let shop = |what: &[&str], change| {
        does(&[&["product", "set", "shop"], what].concat(), "product-set", "product shop", change)
    };
    shop(&["ops-max=1000"], ("ops-max=none", "ops-max=1000"));
    shop(&["--password-file", two, "--keep-sessions"], ("password=set, former-password=none", "password=changed"));
    shop(&["former-password="], ("former-password=set", "former-password=none"));

    let (first, second) = (cluster.add_server(&RedisOptions::default()), cluster.add_server(&RedisOptions::default()));
    let primary = Some(cluster.servers[first].port);
    let replica = cluster.add_server(&RedisOptions { primary, ..RedisOptions::default() });
    let [first, second, replica] = [first, second, replica].map(|n| cluster.servers[n].addr());
    let (first, second, replica) = (first.as_str(), second.as_str(), replica.as_str());
    does(&["group", "create", "1", "--primary", first], "group-created", "group 1", ("none", first));
    does(&["group", "create", "2", "--primary", second], "group-created", "group 2", ("none", second));
    let servers = format!("{first} {replica}");
    does(&["group", "add-server", "1", replica], "server-added", "group 1", (first, &servers));
    let server_set = ("priority=100, zone=none", "priority=50, zone=a");
    does(&["server", "set", replica, "priority=50", "zone=a"], "server-set", "group 1", server_set);
    does(&["group", "set", "1", "down-after=5s"], "group-set", "group 1", ("down-after=3s", "down-after=5s"));
    does(&["maintenance", "on", "1"], "maintenance-on", "group 1", ("maintenance=off", "maintenance=on"));
    does(&["maintenance", "off", "1"], "maintenance-off", "group 1", ("maintenance=on", "maintenance=off"));
    let users = ("data-user=pontoon-data,", "data-user=pontoon-data-2,");
    does(&["group", "set", "1", "data-user=new"], "data-user-set", "group 1", users);

    let assigned = ("owner=none (1024 slots)", "owner=group 1 (1024 slots)");
    does(&["slot", "assign", "0-1023", "1", "--wait"], "slots-assigned", "group 1", assigned);
    let last = operator.last();
    operator.cli.ok(&["slot", "release", "1000-1023"]);
    let begun = operator.cli.json(&["events", "--group", "1"]);
    let begun = begun.as_array().unwrap().iter().find(|e| e["kind"] == "assignment-started").unwrap().clone();
    assert_eq!((&begun["actor"], &begun["before"]), (&"cluster secret".into(), &"assignment=none".into()), "{begun:#}");
    // The rest is the leader's.
    let released = wait_event(&operator.cli, last, "slots-released", begun["subject"].as_str().unwrap());
    assert!(released["actor"].as_str().unwrap().contains(", leader in term "), "{released:#}");
    assert!(released["before"].as_str().unwrap().contains("owner=group 1 (24 slots)"), "{released:#}");
    does(&["slot", "assign", "1000-1023", "2", "--wait"], "slots-assigned", "group 2", ("none (24 slots)", "group 2"));

    // Keys enough, and a limit, so that the migration does not end by itself.
    let mut client = cluster.node(operator.node).client();
    for n in 0..1000 {
        client.call(&["SET", &format!("key:{n}"), "value"]).unwrap();
    }
    let last = operator.last();
    operator.cli.ok(&["migrate", "start", "0-511", "--to", "2", "--keys-per-second", "5"]);
    let all = events(&operator.cli);
    let planned = all.iter().find(|e| e["kind"] == "planned" && e["index"].as_u64().unwrap() > last).unwrap();
    assert_eq!((&planned["actor"], &planned["before"]), (&"cluster secret".into(), &"migration=none".into()));
    let (id, subject) = (id_of(planned), planned["subject"].as_str().unwrap());
    let limits = ("keys-per-second=5", "keys-per-second=6");
    does(&["migrate", "set", &id, "keys-per-second=6"], "limits-set", subject, limits);
    does(&["migrate", "pause", &id], "paused", subject, ("phase=", "phase=paused"));
    does(&["migrate", "resume", &id], "resumed", subject, ("phase=paused", "phase=planned"));
    does(&["migrate", "cancel", &id, "--wait"], "cancelling", subject, ("phase=", "phase=cancelling"));
    let rebalanced = {
        let last = operator.last();
        operator.cli.ok(&["rebalance", "--apply", "--wait"]);
        events(&operator.cli)
            .into_iter()
            .find(|e| e["kind"] == "planned" && e["index"].as_u64().unwrap() > last)
            .unwrap()
    };
    assert_eq!(rebalanced["actor"], "cluster secret", "{rebalanced:#}");
    assert!(rebalanced["declared"].as_str().unwrap().ends_with(": pontoon rebalance"), "{rebalanced:#}");
    operator.cli.ok(&["group", "drain", "2", "--wait"]);
    does(&["group", "remove", "2"], "group-removed", "group 2", (second, "none"));

    let promote = ["group", "promote", "1", replica, "--wait"];
    let promotion = format!(" to {replica}");
    does(&promote, "promotion-started", "group 1", ("promotion=none", &promotion));
    let promoted = wait_event(&operator.cli, 0, "promoted", "group 1");
    assert!(promoted["actor"].as_str().unwrap().contains(", leader in term "), "{promoted:#}");
    assert!(promoted["after"].as_str().unwrap().contains(&format!("primary={replica}")), "{promoted:#}");
    does(&["group", "remove-server", "1", first], "server-removed", "group 1", (first, replica));
    does(&["product", "remove", "shop"], "product-removed", "product shop", ("ops-max=1000", "none"));

    let leader = cluster.leader().to_string();
    let set = operator.does(&["node", "set", &leader, "log=debug"], "log-set", &format!("node {leader}"));
    assert!(set["text"].as_str().unwrap().contains("pontoon=debug"), "{set:#}");
    let (was, is) = (set["before"].as_str().unwrap(), set["after"].as_str().unwrap());
    assert!(was.starts_with("log=") && !was.contains("debug") && is.contains("pontoon=debug"), "{set:#}");
    let line = cluster.node(cluster.leader()).log();
    let line = line.lines().find(|line| line.contains("an operator has set the levels")).unwrap();
    assert!(line.contains("cluster secret") && line.contains(": pontoon node set"), "{line}");

    // All nodes have the same events, and none has a password.
    let last = operator.last();
    let all: Vec<String> = (1..=3)
        .map(|id| {
            wait_for("all events", GENEROUS, || {
                let all = events(&cluster.node(id).cli());
                let upto: Vec<&Value> = all.iter().filter(|e| e["index"].as_u64().unwrap() <= last).collect();
                let complete = upto.last().is_some_and(|e| e["index"] == last);
                if complete { Ok(serde_json::json!(upto).to_string()) } else { Err(format!("{all:?}")) }
            })
        })
        .collect();
    assert!(all.iter().all(|events| *events == all[0]), "{all:#?}");
    assert!(!all[0].contains("hunter"), "{}", all[0]);

    // As text: who, from where, before and after.
    let ran = operator.cli.ok(&["events", "--product", "shop", "--since", "1h", "-n", "1"]);
    for part in ["product shop  product-removed", " -> none", "[cluster secret from 127.0.0.1:", " says: "] {
        assert!(ran.out.contains(part), "{part} is not in {ran:?}");
    }
}

#[test]
fn joins_removals_and_a_recovery_have_events() {
    let (mut cluster, operator) = operated();
    let cli = operator.cli.clone();
    let formed = &events(&cli)[0];
    assert_eq!((&formed["kind"], &formed["after"]), (&"bootstrapped".into(), &"members=1 2 3".into()), "{formed:#}");
    let by_leader = |event: &Value| {
        let actor = event["actor"].as_str().unwrap_or_default();
        assert!(actor.starts_with("node ") && actor.contains(", leader in term "), "{event:#}");
    };
    by_leader(formed);

    cluster.join(4);
    let joined = wait_event(&cli, 0, "node-joined", "node 4");
    assert_eq!((&joined["actor"], &joined["before"]), (&"cluster secret".into(), &"none".into()), "{joined:#}");
    assert_eq!(joined["declared"], "node 4, which asks to join", "{joined:#}");
    assert!(joined["origin"].as_str().is_some_and(|from| from.starts_with("127.0.0.1:")), "{joined:#}");
    let started = wait_event(&cli, 0, "node-started", "node 4");
    by_leader(&started);
    let voting = wait_for("node 4 to vote", GENEROUS, || {
        let all = events(&cli);
        let of =
            |e: &&Value| e["kind"] == "membership-changed" && e["after"].as_str().unwrap().contains("voters=1 2 3 4");
        all.iter().find(of).cloned().ok_or_else(|| format!("{all:#?}"))
    });
    by_leader(&voting);

    operator.changes(&["node", "set-role", "4", "learner"], "node-set", "node 4", ("role=auto", "role=learner"));
    let leaving = ("leaving=no", "leaving=yes");
    operator.changes(&["node", "remove", "4", "--timeout", "40s"], "node-leaving", "node 4", leaving);
    let removed = wait_event(&cli, 0, "node-removed", "node 4");
    by_leader(&removed);
    assert_eq!(removed["after"], "none", "{removed:#}");

    let survivor = operator.node;
    cluster.nodes.iter_mut().for_each(|node| node.kill9());
    let dir = cluster.node(survivor).data_dir.clone();
    let mut command = binary::command(binary::pontoon());
    command.args(["recover", "--from-survivor", "--the-others-are-gone", "--data-dir"]).arg(&dir);
    let ran = command.output().unwrap();
    assert!(ran.status.success(), "{ran:?}");
    cluster.node_mut(survivor).start();
    cluster.wait_serving(&[survivor]);
    let cli = cluster.node(survivor).cli();
    let recovered = wait_event(&cli, 0, "recovered", "cluster");
    assert_eq!(recovered["actor"], "whoever may write the data directory", "{recovered:#}");
    assert!(recovered["declared"].as_str().unwrap().ends_with(": pontoon recover"), "{recovered:#}");
    assert_eq!(recovered["before"], "members=1 2 3", "{recovered:#}");
    assert_eq!(recovered["after"], format!("members={survivor}(voter)"), "{recovered:#}");
    assert_eq!((&recovered["origin"], &recovered["node"]), (&Value::Null, &survivor.into()), "{recovered:#}");
}
