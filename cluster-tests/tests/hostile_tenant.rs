//! A tenant that attacks: its scripts try to leave its product, and it sends more than its quota. (The user that keeps scripts
//! in, at servers of every kind: `data_user.rs`.)

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use cluster_tests::{
    client::{Client, Reply},
    cluster::Cluster,
    redis::RedisOptions,
    wait::{GENEROUS, wait_until},
};

/// The slots of group 1, in all tests.
const ALL: &str = "0-1023";

/// Runs a command from a script with one key, and returns what the script got.
fn in_script(client: &mut Client, command: &[&str]) -> Reply {
    let script = "return redis.pcall(unpack(ARGV))";
    client.call(&[&["EVAL", script, "1", "mine"], command].concat()).unwrap()
}

fn is_forbidden(reply: &Reply) -> bool {
    let Reply::Error(text) = reply else { return false };
    // Redis 7 and 6, and what no script may run.
    ["ACL failure in script", "can't run this command", "not allowed from script"].iter().any(|why| text.contains(why))
}

/// Product `shop` beside `default`, each with a group. Returns the port of `shop` on node 1.
fn two_products(cluster: &mut Cluster) -> u16 {
    cluster.add_groups(1);
    let port = cluster.ports.product(1);
    let wait = ["--wait", "--timeout", "40s"];
    cluster.cli().ok(&[&["product", "create", "shop", "--port", &port.to_string()][..], &wait].concat());
    cluster.add_group_of("shop", 1, ALL, 0, &RedisOptions::default());
    port + 1
}

#[test]
fn scripts_stay_in_their_product() {
    let mut cluster = Cluster::start(1);
    let shop = two_products(&mut cluster);
    let [victim, own] = [0, 1].map(|n| cluster.servers[n].port.to_string());
    assert_eq!(cluster.servers[0].call(&["SET", "mine", "theirs"]), Reply::ok());
    let mut client = Client::connect(shop).unwrap();
    assert_eq!(client.call(&["SET", "mine", "overwritten"]).unwrap(), Reply::ok());
    for command in [
        &["MIGRATE", "127.0.0.1", &victim, "mine", "0", "2000", "COPY", "REPLACE"][..],
        &["MIGRATE", "127.0.0.1", &own, "mine", "1", "2000", "COPY"],
        &["FLUSHALL"],
        &["FLUSHDB"],
        &["SWAPDB", "0", "1"],
        &["SELECT", "1"],
        &["MOVE", "mine", "1"],
        &["KEYS", "*"],
        &["SCAN", "0"],
        &["RANDOMKEY"],
        &["DBSIZE"],
        &["INFO"],
        &["SLOWLOG", "GET"],
        &["CONFIG", "GET", "requirepass"],
        &["CONFIG", "SET", "maxmemory", "1"],
        &["DEBUG", "SLEEP", "0"],
        &["SCRIPT", "FLUSH"],
        &["FUNCTION", "FLUSH"],
        &["ACL", "WHOAMI"],
        &["ACL", "LIST"],
        &["CLIENT", "LIST"],
        &["CLUSTER", "NODES"],
        &["REPLICAOF", "127.0.0.1", &victim],
        &["MODULE", "LIST"],
        &["LATENCY", "LATEST"],
        &["BGSAVE"],
        &["SHUTDOWN", "NOSAVE"],
    ] {
        let reply = in_script(&mut client, command);
        assert!(is_forbidden(&reply), "{command:?}: {reply:?}");
    }
    assert_eq!(cluster.servers[0].call(&["GET", "mine"]), Reply::bulk("theirs"));
    assert_eq!(client.call(&["GET", "mine"]).unwrap(), Reply::bulk("overwritten"));

    // An error that a script makes itself is the application's, also if it looks like one of the server's.
    let own =
        client.call(&["EVAL", "redis.call('INCR', KEYS[1]); return redis.error_reply('NOPERM not yours')", "1", "n"]);
    assert!(own.unwrap().is_error("NOPERM not yours"));
    assert_eq!(client.call(&["GET", "n"]).unwrap(), Reply::bulk("1"));

    // What applications' scripts need.
    for (command, reply) in [
        (&["SET", "mine", "1"][..], Reply::ok()),
        (&["INCR", "mine"], Reply::Integer(2)),
        (&["EXPIRE", "mine", "100"], Reply::Integer(1)),
        (&["OBJECT", "ENCODING", "mine"], Reply::bulk("int")),
        (&["PUBLISH", "channel", "message"], Reply::Integer(0)),
        (&["PING"], Reply::Simple("PONG".into())),
        (&["ECHO", "text"], Reply::bulk("text")),
    ] {
        assert_eq!(in_script(&mut client, command), reply, "{command:?}");
    }
    assert!(matches!(in_script(&mut client, &["TIME"]), Reply::Array(_)));
}

#[test]
fn without_a_data_user_a_second_product_needs_consent() {
    let mut cluster = Cluster::start(1);
    let server = cluster.add_server(&RedisOptions::default());
    let addr = cluster.servers[server].addr();
    let password = cluster.secret_file("password", "limited-password");
    let data_password = cluster.secret_file("data-password", "data-password");
    let [password, data_password] = [&password, &data_password].map(|file| file.to_str().unwrap());
    let user = ["on", ">limited-password", "~*", "&*", "+@all", "-acl"];
    assert_eq!(cluster.servers[server].call(&[&["ACL", "SETUSER", "limited"], &user[..]].concat()), Reply::ok());
    let cli = cluster.cli();
    let create = ["group", "create", "1", "--primary", &addr, "--username", "limited", "--password-file", password];
    let made = cli.ok(&create);
    assert!(made.err.contains("FLUSHALL, and MIGRATE to any server"), "{}", made.err);
    assert!(cli.ok(&["group", "show", "1"]).out.contains("none: scripts may do"));

    let port = cluster.ports.product(1).to_string();
    let product = ["product", "create", "shop", "--port", &port];
    cli.refused(&product, &["group 1 of product 'default' has no data user", "--accept-shared-risk"]);
    cli.ok(&[&product[..], &["--accept-shared-risk"]].concat());
    cli.ok(&["group", "remove", "1"]);

    // In the other order.
    let other = cluster.add_server(&RedisOptions::default());
    let other = cluster.servers[other].addr();
    cluster.cli().ok(&["group", "create", "1", "--primary", &other, "--product", "shop"]);
    let cli = cluster.cli();
    cli.refused(&create, &["would have no data user", "product 'shop'", "--data-username", "--accept-shared-risk"]);
    cli.ok(&[&create[..], &["--accept-shared-risk"]].concat());
    cli.ok(&["group", "remove", "1"]);

    // With a user that the operator has made.
    let data = ["--data-username", "tenant", "--data-password-file", data_password];
    let create = [&create[..], &data].concat();
    cli.refused(&create, &["refuses the data user 'tenant'", "ACL SETUSER"]);
    let rules = ["on", ">data-password", "~*", "&*", "+@all"];
    assert_eq!(cluster.servers[server].call(&[&["ACL", "SETUSER", "tenant"], &rules[..]].concat()), Reply::ok());
    let reach = "lets the data user 'tenant' run MIGRATE";
    cli.refused(&create, &[reach, "keys of product 'shop'", "--accept-shared-risk"]);
    let made = cli.ok(&[&create[..], &["--accept-shared-risk"]].concat());
    assert!(made.err.contains(reach) && made.err.contains("run SWAPDB, INFO"), "{}", made.err);
    assert!(cli.ok(&["group", "show", "1"]).out.contains("tenant"));
    assert_eq!(cluster.servers[server].call(&["ACL", "SETUSER", "tenant", "-migrate", "-@admin"]), Reply::ok());
    cli.ok(&["slot", "assign", ALL, "1", "--wait", "--timeout", "40s"]);
    let mut client = cluster.node(1).client();
    assert_eq!(client.call(&["SET", "mine", "1"]).unwrap(), Reply::ok());
    let reply = in_script(&mut client, &["MIGRATE", "127.0.0.1", "1", "mine", "0", "1"]);
    assert!(is_forbidden(&reply), "{reply:?}");
}

/// Regression: only the creation of a product, and a group beside another product's groups, were checked.
#[test]
fn shared_risk_needs_consent_in_every_order() {
    let mut cluster = Cluster::start(1);
    let servers: Vec<String> = (0..4)
        .map(|_| {
            let server = cluster.add_server(&RedisOptions::default());
            cluster.servers[server].addr()
        })
        .collect();
    let data_password = cluster.secret_file("data-password", "data-password");
    let limited_password = cluster.secret_file("password", "limited-password");
    let [data_password, limited_password] = [&data_password, &limited_password].map(|file| file.to_str().unwrap());
    let data = ["--data-username", "tenant", "--data-password-file", data_password];
    let accept = ["--accept-shared-risk"];
    let rules = |server: usize, name: &str, rules: &[&str]| {
        assert_eq!(cluster.servers[server].call(&[&["ACL", "SETUSER", name], rules].concat()), Reply::ok());
    };
    for server in [0, 1] {
        rules(server, "limited", &["on", ">limited-password", "~*", "&*", "+@all", "-acl"]);
    }
    for server in [0, 3] {
        rules(server, "tenant", &["on", ">data-password", "~*", "&*", "+@all", "-@dangerous", "-migrate"]);
    }
    let cli = cluster.cli();
    let port = cluster.ports.product(1).to_string();
    let create = |product: &'static str, group: &'static str, primary: usize| {
        ["group", "create", group, "--primary", &servers[primary], "--product", product].map(str::to_owned)
    };
    let run = |command: &[String], more: &[&str]| -> Vec<String> {
        command.iter().cloned().chain(more.iter().map(|word| (*word).to_owned())).collect()
    };
    let ok = |command: &[String]| cli.ok(&command.iter().map(String::as_str).collect::<Vec<_>>());
    let refused = |command: &[String], why: &[&str]| {
        drop(cli.refused(&command.iter().map(String::as_str).collect::<Vec<_>>(), why));
    };

    // The product is there before the group that is a risk to it.
    ok(&run(&["product".into(), "create".into(), "other".into(), "--port".into(), port], &[]));
    let limited = ["--username", "limited", "--password-file", limited_password];
    ok(&run(&create("default", "1", 0), &limited));
    let other = create("other", "1", 2);
    refused(&other, &["group 1 of product 'default' has no data user", "--accept-shared-risk"]);
    // A data user ends the risk, and one with too many rights does not.
    let set = |more: &[&str]| run(&["group", "set", "1"].map(str::to_owned), &[&data[..], more].concat());
    ok(&set(&[]));
    rules(0, "tenant", &["+migrate"]);
    refused(&other, &["group 1 of product 'default' has a data user whom", "lets run MIGRATE", "--accept-shared-risk"]);
    rules(0, "tenant", &["-migrate"]);
    ok(&other);
    // Now both have servers.
    rules(1, "tenant", &["on", ">data-password", "~*", "&*", "+@all"]);
    let reach = ["lets the data user 'tenant' run MIGRATE", "keys of product 'other'", "--accept-shared-risk"];
    let add = run(&["group".into(), "add-server".into(), "1".into(), servers[1].clone()], &[]);
    refused(&add, &reach);
    ok(&run(&add, &accept));
    refused(&set(&[]), &reach);
    let third = create("default", "3", 3);
    ok(&run(&third, &data));

    // The user of the nodes is no data user, by whatever command.
    let both = "would be both the user that nodes log in as and the data user";
    let default = ["--data-username", "default", "--data-password-file", data_password];
    let group_set: Vec<String> = ["group", "set", "3"].map(str::to_owned).to_vec();
    let wrong = |command: &[String]| {
        let ran = cli.run(&command.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(ran.code != 0 && ran.err.contains(both), "{ran:#?}");
    };
    wrong(&run(&group_set, &default));
    wrong(&run(&group_set, &["--username", "tenant", "--password-file", data_password]));
}

#[test]
fn an_operator_switches_scripts_off() {
    let mut cluster = Cluster::start(1);
    cluster.add_groups(1);
    cluster.cli().ok(&["product", "set", "default", "scripts=off", "--wait"]);
    let mut client = cluster.node(1).client();
    for command in ["EVAL", "EVAL_RO", "EVALSHA", "EVALSHA_RO", "FCALL", "FCALL_RO"] {
        let reply = client.call(&[command, "return 1", "1", "key"]).unwrap();
        assert!(reply.is_error("NOPERM") && reply.text().contains("not executed"), "{command}: {reply:?}");
    }
    assert!(cluster.cli().ok(&["product", "ls"]).out.contains("no scripts"));
    cluster.cli().ok(&["product", "set", "default", "scripts=on", "--wait"]);
    assert_eq!(client.call(&["EVAL", "return 1", "1", "key"]).unwrap(), Reply::Integer(1));
}

/// How many of a pipeline's requests are executed, and the texts of the errors.
fn executed(client: &mut Client, requests: usize) -> (usize, BTreeSet<String>) {
    let replies = client.pipeline(&vec![vec!["INCR", "count"]; requests]).unwrap();
    let errors: BTreeSet<String> =
        replies.iter().filter(|reply| matches!(reply, Reply::Error(_))).map(Reply::text).collect();
    (replies.iter().filter(|reply| matches!(reply, Reply::Integer(_))).count(), errors)
}

#[test]
fn a_product_cannot_use_more_than_its_quota() {
    let mut cluster = Cluster::start(1);
    let shop = two_products(&mut cluster);
    let cli = cluster.cli();
    // The requests wait, and are then refused.
    cli.ok(&["product", "set", "shop", "ops-max=20", "--wait"]);
    assert!(cli.ok(&["product", "ls"]).out.contains("20 ops/s"));
    let began = std::time::Instant::now();
    let clients: Vec<_> =
        (0..40).map(|_| std::thread::spawn(move || executed(&mut Client::connect(shop).unwrap(), 5))).collect();
    let all: Vec<_> = clients.into_iter().map(|client| client.join().unwrap()).collect();
    let done: usize = all.iter().map(|(done, _)| done).sum();
    let errors: BTreeSet<_> = all.into_iter().flat_map(|(_, errors)| errors).collect();
    let most = 20.0 * (began.elapsed().as_secs_f64() + 1.0);
    assert!(done > 0 && (done as f64) < most, "{done} in {:?}", began.elapsed());
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors.first().unwrap().starts_with("TRYAGAIN not executed"), "{errors:?}");
    let counted = cluster.servers[1].call(&["GET", "count"]);
    assert_eq!(counted, Reply::bulk(&done.to_string()), "a refused one was executed");
    wait_until("refused requests to be counted", GENEROUS, || {
        cluster.node(1).counter("pontoon_requests_over_quota_total") > 0
    });

    // Others are not concerned.
    let (done, errors) = executed(&mut cluster.node(1).client(), 200);
    assert_eq!((done, errors.len()), (200, 0), "{errors:?}");

    // Who waits gets through when the quota is taken away.
    let waiting = std::thread::spawn(move || executed(&mut Client::connect(shop).unwrap(), 20));
    cli.ok(&["product", "set", "shop", "ops-max=0", "bytes-max=100KB", "--wait"]);
    assert!(waiting.join().unwrap().0 > 0);

    // A large value passes, and those behind it wait until it is paid for: for seconds, which is too long.
    let value = "v".repeat(400_000);
    let mut client = Client::connect(shop).unwrap();
    wait_until("a large value to be written", GENEROUS, || {
        client.call(&["SET", "large", &value]).unwrap() == Reply::ok()
    });
    assert!(client.call(&["GET", "large"]).unwrap().is_error("TRYAGAIN not executed"), "a large value cost nothing");
    wait_until("the value to be paid for", GENEROUS, || client.call(&["GET", "large"]).unwrap() == Reply::bulk(&value));
    // A large reply has to be paid for, too.
    assert!(client.call(&["GET", "large"]).unwrap().is_error("TRYAGAIN not executed"), "a reply cost nothing");
}
