//! The password of a group's servers changes under load: no client gets an error, the former one is removed everywhere,
//! and another leader ends what one began.

#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use cluster_tests::{
    cli::Ran,
    client::{Client, Reply},
    cluster::Cluster,
    redis::RedisOptions,
    wait::{GENEROUS, wait_until},
    workload::Written,
};
use pontoon::faults::Point;

/// All slots of product `default`.
const ALL: &str = "0-1023";

/// Three nodes, and group 1 with a primary and a replica that have configuration files and no password. Returns the
/// indices of the servers.
fn start() -> (Cluster, Vec<usize>) {
    let mut cluster = Cluster::start(3);
    let servers = cluster.add_group_with_replicas(1, ALL, 1, &RedisOptions { config_file: true, ..Default::default() });
    (cluster, servers)
}

fn password_file(cluster: &Cluster, password: &str) -> PathBuf {
    cluster.secret_file(password, password)
}

/// Changes the password of group 1 by a command at `node`.
fn change(cluster: &Cluster, node: u16, password: &str) -> Ran {
    let file = password_file(cluster, password);
    cluster.node(node).cli().ok(&["group", "set", "1", "--password-file", file.to_str().unwrap(), "--timeout", "40s"])
}

/// The reply of a server to PING, of a client that logs in with this password.
fn ping(cluster: &Cluster, server: usize, password: Option<&str>) -> Reply {
    let mut client = Client::connect(cluster.servers[server].port).unwrap();
    if let Some(password) = password {
        let reply = client.call(&["AUTH", "default", password]).unwrap();
        if reply != Reply::ok() {
            return reply;
        }
    }
    client.call(&["PING"]).unwrap()
}

/// The reply to a command of a client that is logged in with this password.
fn call(cluster: &Cluster, server: usize, password: &str, command: &[&str]) -> Reply {
    let mut client = Client::connect(cluster.servers[server].port).unwrap();
    assert_eq!(client.call(&["AUTH", password]).unwrap(), Reply::ok());
    client.call(command).unwrap()
}

/// Panics unless these servers accept `password` and nothing that was valid before.
#[track_caller]
fn assert_only(cluster: &Cluster, servers: &[usize], password: &str, former: Option<&str>) {
    for server in servers {
        assert_eq!(ping(cluster, *server, Some(password)), Reply::Simple("PONG".into()));
        let refused = ping(cluster, *server, former);
        assert!(refused.is_error("WRONGPASS") || refused.is_error("NOAUTH"), "{refused:?}");
        let file = cluster.servers[*server].config();
        assert!(former.is_none_or(|former| !file.contains(former)), "the file has the former password:\n{file}");
    }
    assert_eq!(cluster.cli().json(&["group", "show", "1"])["former_password"], false);
}

/// Waits until the replica has a link to its primary that was opened after this call.
#[track_caller]
fn assert_follows(cluster: &Cluster, servers: &[usize], password: &str) {
    let up = || call(cluster, servers[1], password, &["INFO", "replication"]).text().contains("master_link_status:up");
    assert!(matches!(call(cluster, servers[0], password, &["CLIENT", "KILL", "TYPE", "replica"]), Reply::Integer(_)));
    wait_until("the replica to follow its primary again", GENEROUS, || {
        let replicas = call(cluster, servers[0], password, &["INFO", "replication"]).text();
        replicas.contains("connected_slaves:1") && up()
    });
}

#[test]
fn a_password_changes_under_load_without_an_error() {
    let (cluster, servers) = start();
    let ports: Vec<u16> = cluster.nodes.iter().map(|node| node.client_port).collect();
    let written = Written::start(&ports, "w");
    let mut former = None;
    // The first time the servers have none; the last two times writes wait for the replica.
    for (node, password) in
        [(1, "first-password"), (2, "second-password"), (3, "third-password"), (1, "fourth-password")]
    {
        written.wait_acknowledged(|_| true);
        if node == 3 {
            cluster.cli().ok(&["product", "set", "default", "min-acks=1", "--wait", "--timeout", "40s"]);
        }
        let made = change(&cluster, node, password);
        assert!(made.out.contains("do not accept the former one any more") && made.err.is_empty(), "{made:?}");
        assert!(!made.out.contains(password) && !made.err.contains(password), "{made:?}");
        written.wait_acknowledged(|_| true);
        assert_only(&cluster, &servers, password, former);
        assert_follows(&cluster, &servers, password);
        former = Some(password);
        assert!(change(&cluster, node, password).out.contains("with this password"), "a repeat is no change");
    }
    let (writes, lost) = written.finish(ports[0]);
    let errors: Vec<_> = writes.into_iter().filter_map(|write| write.error).collect();
    assert!(errors.is_empty() && lost.is_empty(), "{errors:?} {lost:?}");
    let events = cluster.cli().json(&["events", "--group", "1"]);
    let times = |kind: &str| events.as_array().unwrap().iter().filter(|event| event["kind"] == kind).count();
    assert_eq!((times("control-user-set"), times("former-password-removed")), (4, 4), "{events}");
    assert!(!events.to_string().contains("-password\""), "{events}");
    for node in &cluster.nodes {
        assert!(!node.log().contains("-password\""), "the log of node {} has a password", node.id);
    }
}

#[test]
fn servers_keep_a_changed_password_when_they_restart() {
    let (mut cluster, servers) = start();
    for password in ["first-password", "second-password"] {
        change(&cluster, 1, password);
    }
    for server in &servers {
        cluster.servers[*server].kill9();
        cluster.servers[*server].launch_again();
    }
    for server in &servers {
        wait_until("the server to answer", GENEROUS, || {
            Client::connect(cluster.servers[*server].port).is_ok_and(|mut client| client.call(&["PING"]).is_ok())
        });
    }
    assert_only(&cluster, &servers, "second-password", Some("first-password"));
    assert_follows(&cluster, &servers, "second-password");
}

#[test]
fn another_leader_removes_the_former_password() {
    let (mut cluster, servers) = start();
    change(&cluster, 1, "first-password");
    let leader = cluster.leader();
    let follower = cluster.follower();
    cluster.node(leader).faults.pause_at(Point::FormerCredentials);
    let cli = cluster.node(follower).cli();
    let file = password_file(&cluster, "second-password");
    let command = ["group", "set", "1", "--password-file", file.to_str().unwrap(), "--timeout", "60s"];
    let made = std::thread::scope(|threads| {
        let made = threads.spawn(|| cli.run(&command));
        cluster.node(leader).faults.wait_reached(Point::FormerCredentials);
        for server in &servers {
            for password in ["first-password", "second-password"] {
                assert_eq!(ping(&cluster, *server, Some(password)), Reply::Simple("PONG".into()));
            }
        }
        cluster.node(leader).signal(rustix::process::Signal::KILL);
        made.join().unwrap()
    });
    assert_eq!(made.code, 0, "{made:?}");
    cluster.node_mut(leader).kill9();
    wait_until("the former password to be removed", GENEROUS, || {
        ping(&cluster, servers[0], Some("first-password")).is_error("WRONGPASS")
            && cluster.node(follower).cli().json(&["group", "show", "1"])["former_password"] == false
    });
    assert!(ping(&cluster, servers[1], Some("first-password")).is_error("WRONGPASS"));
}

#[test]
fn a_server_that_hangs_keeps_the_former_password_until_it_answers() {
    let (cluster, servers) = start();
    change(&cluster, 1, "first-password");
    let leader = cluster.leader();
    cluster.node(leader).faults.pause_at(Point::FormerCredentials);
    let file = password_file(&cluster, "second-password");
    let command = ["group", "set", "1", "--password-file", file.to_str().unwrap(), "--timeout", "8s"];
    let made = std::thread::scope(|threads| {
        let made = threads.spawn(|| cluster.cli().run(&command));
        cluster.node(leader).faults.wait_reached(Point::FormerCredentials);
        cluster.servers[servers[1]].pause();
        cluster.node(leader).faults.go_on(Point::FormerCredentials);
        made.join().unwrap()
    });
    assert!(made.err.contains("still accept the former password"), "{made:?}");
    let status = || cluster.cli().run(&["status"]).out;
    let replica = cluster.servers[servers[1]].addr();
    wait_until("the status to say why", GENEROUS, || {
        let status = status();
        status.contains("accept the former password besides the new one") && status.contains(&replica)
    });
    assert!(cluster.cli().ok(&["group", "show", "1"]).out.contains("servers still accept it"));
    let third = password_file(&cluster, "third-password");
    let again = ["group", "set", "1", "--password-file", third.to_str().unwrap(), "--timeout", "8s"];
    cluster.cli().refused(&again, &["servers of group 1", "still accept the password before the present one"]);
    // Clients do not notice.
    assert_eq!(cluster.node(1).client().call(&["SET", "k", "v"]).unwrap(), Reply::ok());
    cluster.servers[servers[1]].resume();
    wait_until("the former password to be removed", GENEROUS, || {
        ping(&cluster, servers[1], Some("first-password")).is_error("WRONGPASS")
    });
    wait_until("the status to say nothing more", GENEROUS, || !status().contains("former password"));
    assert_only(&cluster, &servers, "second-password", Some("first-password"));
}

#[test]
fn passwords_of_others_stay_and_a_file_of_users_is_saved() {
    let mut cluster = Cluster::start(1);
    let options = RedisOptions { config_file: true, ..Default::default() };
    let settings = cluster.add_group_with_replicas(1, "0-511", 0, &options)[0];
    let users = cluster.secret_file("users.acl", "user default on nopass ~* &* +@all");
    let options = RedisOptions { more: vec!["--aclfile".into(), users.to_str().unwrap().into()], ..options };
    let by_file = cluster.add_group_with_replicas(2, "512-1023", 0, &options)[0];
    for (group, server) in [("1", settings), ("2", by_file)] {
        for password in ["first-password", "second-password"] {
            let file = password_file(&cluster, password);
            cluster.cli().ok(&["group", "set", group, "--password-file", file.to_str().unwrap()]);
            if password == "first-password" {
                let added = call(&cluster, server, password, &["ACL", "SETUSER", "default", ">of-a-tool"]);
                assert_eq!(added, Reply::ok());
            }
        }
        assert!(ping(&cluster, server, Some("first-password")).is_error("WRONGPASS"));
        for password in ["second-password", "of-a-tool"] {
            assert_eq!(ping(&cluster, server, Some(password)), Reply::Simple("PONG".into()), "{group} {password}");
        }
    }
    let setting = call(&cluster, settings, "second-password", &["CONFIG", "GET", "requirepass"]).text();
    assert!(setting.contains("second-password"), "{setting}");
    // The same login under its other name is no change; the only password stays.
    let file = password_file(&cluster, "second-password");
    let same = ["group", "set", "2", "--password-file", file.to_str().unwrap(), "--username", "default"];
    assert!(cluster.cli().ok(&same).out.contains("with this password"));
    assert_eq!(call(&cluster, by_file, "second-password", &["ACL", "LOAD"]), Reply::ok());
    assert!(ping(&cluster, by_file, Some("first-password")).is_error("WRONGPASS"));
    assert_eq!(ping(&cluster, by_file, Some("second-password")), Reply::Simple("PONG".into()));
}

#[test]
fn what_servers_do_not_accept_is_refused_and_changes_nothing() {
    let (cluster, servers) = start();
    let (cli, file) = (cluster.cli(), password_file(&cluster, "another-password"));
    let set = ["group", "set", "1", "--password-file", file.to_str().unwrap()];
    cli.refused(
        &[&set[..], &["--username", "operator"]].concat(),
        &["refuses the user 'operator'", "ACL SETUSER operator"],
    );
    let refused = cli.run(&[&set[..], &["maintenance=on"]].concat());
    assert_eq!(refused.code, 2, "{refused:?}");
    let dry = cli.ok(&[&set[..], &["--dry-run"]].concat());
    assert!(!dry.out.contains("another-password"), "{dry:?}");
    assert_eq!(ping(&cluster, servers[0], None), Reply::Simple("PONG".into()), "a dry run has no effect");

    // A user that the operator has made, and that Pontoon must not change.
    for server in &servers {
        let rules = ["ACL", "SETUSER", "operator", "on", ">another-password", "~*", "&*", "+@all"];
        assert_eq!(cluster.servers[*server].call(&rules), Reply::ok());
    }
    cli.ok(&[&set[..], &["--username", "operator"]].concat());
    let group = cli.json(&["group", "show", "1"]);
    assert_eq!((&group["username"], &group["former_password"]), (&"operator".into(), &false.into()), "{group}");
    assert_eq!(ping(&cluster, servers[0], None), Reply::Simple("PONG".into()), "the user default is the operator's");

    // It may not add passwords, so the operator does it.
    for server in &servers {
        assert_eq!(cluster.servers[*server].call(&["ACL", "SETUSER", "operator", "-acl"]), Reply::ok());
    }
    let file = password_file(&cluster, "third-password");
    let set = ["group", "set", "1", "--password-file", file.to_str().unwrap(), "--timeout", "8s"];
    cli.refused(&set, &["cannot add the password there", "ACL SETUSER operator >PASSWORD"]);
    for server in &servers {
        assert_eq!(cluster.servers[*server].call(&["ACL", "SETUSER", "operator", ">third-password"]), Reply::ok());
    }
    let made = cli.run(&set);
    assert!(made.err.contains("remove it there yourself (ACL SETUSER operator <FORMER"), "{made:?}");
    for server in &servers {
        assert_eq!(cluster.servers[*server].call(&["ACL", "SETUSER", "operator", "<another-password"]), Reply::ok());
    }
    wait_until("the leader to find that the former password is gone", GENEROUS, || {
        cli.json(&["group", "show", "1"])["former_password"] == false
    });
}

#[test]
fn a_server_that_accepts_everybody_or_cannot_save_is_named_or_closed() {
    let mut cluster = Cluster::start(1);
    let server = cluster.add_group_with_replicas(1, ALL, 0, &RedisOptions::default())[0];
    let user = ["ACL", "SETUSER", "tool", "on", "nopass", "~*", "&*", "+@all"];
    assert_eq!(cluster.servers[server].call(&user), Reply::ok());
    let set = |password: &str, user: &[&str]| {
        let file = password_file(&cluster, password);
        cluster.cli().ok(&[&["group", "set", "1", "--password-file", file.to_str().unwrap()][..], user].concat())
    };
    let made = set("first-password", &["--username", "tool"]);
    assert!(made.err.contains("the user before is still valid"), "{made:?}");
    assert!(made.err.contains("cannot save its users"), "{made:?}");
    let login = |password: &str| cluster.servers[server].client().call(&["AUTH", "tool", password]).unwrap();
    assert_eq!(login("any"), Reply::ok());
    // The same user gets a password, so from now on it is needed.
    let made = set("second-password", &[]);
    assert!(made.out.contains("do not accept the former one any more"), "{made:?}");
    for (password, accepted) in [("any", false), ("first-password", false), ("second-password", true)] {
        assert_eq!(login(password) == Reply::ok(), accepted, "{password}");
    }
    assert_eq!(cluster.node(1).client().call(&["SET", "k", "v"]).unwrap(), Reply::ok());
}
