//! What becomes of the data user at servers of every kind: when a server loses it, is restarted, is promoted; and when a group
//! gets another one. (What it may run: `tests/data_user/` of the package pontoon.)

#![allow(clippy::unwrap_used)]

use std::{collections::BTreeSet, path::PathBuf, thread};

use cluster_tests::{
    cli::{Cli, Ran},
    client::{Client, Reply},
    cluster::Cluster,
    kinds::Kind,
    redis::{RedisOptions, RedisServer},
    wait::{GENEROUS, wait_for, wait_until},
    workload::Written,
};
use pontoon::{
    faults::Point,
    model::{ids::SlotId, slot::Layout},
};

/// The ACL user that Pontoon makes at the servers of a group, and the one that comes next.
const DATA_USERS: [&str; 2] = ["pontoon-data", "pontoon-data-2"];

/// The users of a server as it comes.
const ONLY_DEFAULT: &str = "user default on nopass ~* &* +@all\n";

/// A group whose servers are of one kind.
struct Group {
    kind: Kind,
    gid: String,
    /// Indices in `Cluster::servers`, the primary first.
    servers: Vec<usize>,
    /// A key in its slots.
    key: String,
}

/// Creates a group for each kind of server. Each has an equal part of the slots of product `default`.
fn group_of_each_kind(
    cluster: &mut Cluster,
    replicas: usize,
    options: impl Fn(&Cluster, Kind) -> RedisOptions,
) -> Vec<Group> {
    let each = u16::try_from(1024 / Kind::ALL.len()).unwrap();
    let mut groups = Vec::new();
    for (gid, kind) in (1..).zip(Kind::ALL) {
        let slots = each * (gid - 1)..each * gid;
        let range = format!("{}-{}", slots.start, slots.end - 1);
        let options = RedisOptions { kind, ..options(cluster, kind) };
        let servers = cluster.add_group_with_replicas(gid, &range, replicas, &options);
        let is_own = |key: &String| {
            let SlotId(slot) = Layout::Codis.slot(key.as_bytes());
            slots.contains(&slot)
        };
        let key = (0..).map(|n| format!("key{n}")).find(is_own).unwrap();
        groups.push(Group { kind, gid: gid.to_string(), servers, key });
    }
    groups
}

/// What a server says of a user: words, since their order differs from process to process.
fn rules_of(server: &RedisServer, user: &str) -> BTreeSet<String> {
    server.call(&["ACL", "GETUSER", user]).text().split(' ').map(str::to_owned).collect()
}

fn rules(server: &RedisServer) -> BTreeSet<String> {
    rules_of(server, DATA_USERS[0])
}

/// Whether the server trusts the payloads of movers.
fn trusts_movers(server: &RedisServer) -> bool {
    server.call(&["CONFIG", "GET", "sanitize-dump-payload"]).text().contains("clients")
        && rules_of(server, "default").contains("skip-sanitize-payload")
}

/// Repeats a write until it succeeds. All errors before must say that it was not executed. `closed`: the server closes
/// connections, so that of a write that was just sent nobody knows it.
fn wait_written(client: &mut Client, key: &str, closed: bool) {
    wait_for("a write to succeed", GENEROUS, || match client.call(&["SET", key, "value"]).unwrap() {
        Reply::Simple(_) => Ok(()),
        Reply::Error(text) => {
            let lost =
                closed && text.starts_with("ERR outcome unknown: its server ") && text.contains("the connection");
            assert!(lost || text.contains("not executed"), "{text}");
            Err(text)
        }
        other => panic!("{other:?}"),
    });
}

/// Takes the data user from a server in every way, and waits until it has it again. `file`: its file of users.
fn lose_and_get(group: &Group, server: &mut RedisServer, file: &PathBuf, mut client: Client) {
    let (kind, key) = (group.kind, &group.key);
    wait_written(&mut client, key, false);
    let made = rules(server);
    assert!(trusts_movers(server), "{kind:?}");
    let user = DATA_USERS[0];
    for change in [
        &["ACL", "DELUSER", user][..],
        &["ACL", "SETUSER", user, "-set"],
        &["ACL", "SETUSER", user, "resetkeys"],
        &["ACL", "SETUSER", user, "reset"],
        &["ACL", "LOAD"],
    ] {
        // Another tool has written the file.
        std::fs::write(file, ONLY_DEFAULT).unwrap();
        let reply = server.call(change);
        assert!(!matches!(reply, Reply::Error(_)), "{kind:?}: {change:?}: {reply:?}");
        wait_written(&mut client, key, matches!(change[1], "DELUSER" | "LOAD"));
        // A connection that was open keeps what it may do when only the password is gone.
        let _ = server.call(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        wait_written(&mut client, key, true);
        assert_eq!(rules(server), made, "{kind:?}: after {change:?}");
        assert!(trusts_movers(server), "{kind:?}: after {change:?}");
    }
    // More than it had: no server refuses anything, so nobody notices it by a request.
    assert_eq!(server.call(&["ACL", "SETUSER", user, "+@all", ">known"]), Reply::ok());
    wait_until("the rights that it should not have to be gone", GENEROUS, || rules(server) == made);
    // No client has to notice a restart.
    std::fs::write(file, ONLY_DEFAULT).unwrap();
    server.restart();
    wait_until("the data user to be made", GENEROUS, || rules(server) == made && trusts_movers(server));
    wait_written(&mut client, key, true);
}

#[test]
fn a_server_that_loses_the_data_user_gets_it_again() {
    let mut cluster = Cluster::start(1);
    let file = |cluster: &Cluster, kind: Kind| cluster.dir.path().join(format!("{kind:?}.acl"));
    let groups = group_of_each_kind(&mut cluster, 0, |cluster, kind| {
        let file = file(cluster, kind);
        std::fs::write(&file, ONLY_DEFAULT).unwrap();
        RedisOptions { more: vec!["--aclfile".into(), file.to_str().unwrap().into()], ..RedisOptions::default() }
    });
    let with: Vec<_> =
        groups.iter().map(|group| (group, file(&cluster, group.kind), cluster.node(1).client())).collect();
    thread::scope(|scope| {
        for ((group, file, client), server) in with.into_iter().zip(&mut cluster.servers) {
            scope.spawn(move || lose_and_get(group, server, &file, client));
        }
    });
}

#[test]
fn a_server_saves_the_data_user() {
    let mut cluster = Cluster::start(1);
    let mut all = Vec::new();
    for kind in Kind::ALL {
        for users_file in [false, true] {
            let gid = all.len() + 1;
            let mut options = RedisOptions { kind, config_file: true, ..RedisOptions::default() };
            let file = cluster.secret_file(&format!("users{gid}.acl"), ONLY_DEFAULT);
            if users_file {
                options.more = vec!["--aclfile".into(), file.to_str().unwrap().into()];
            }
            let server = cluster.add_server(&options);
            let addr = cluster.servers[server].addr();
            cluster.cli().ok(&["group", "create", &gid.to_string(), "--primary", &addr]);
            let made = rules(&cluster.servers[server]);
            let saved = if users_file { file } else { cluster.servers[server].home().join("redis.conf") };
            let text = std::fs::read_to_string(saved).unwrap();
            let line = text.lines().find(|line| line.starts_with("user pontoon-data ")).unwrap();
            assert!(line.contains(" #") && !line.contains(" >"), "{kind:?}: {line}");
            all.push((kind, server, made));
        }
    }
    // Nodes do not make it again before a client needs it.
    cluster.node_mut(1).kill9();
    for (kind, server, made) in all {
        cluster.servers[server].restart();
        assert_eq!(rules(&cluster.servers[server]), made, "{kind:?}");
        assert!(trusts_movers(&cluster.servers[server]), "{kind:?}");
    }
}

/// Writes until a write succeeds. No error before is about the data user.
fn wait_written_without_refusal(client: &mut Client, group: &Group) {
    wait_for("a write to succeed", GENEROUS, || match client.call(&["SET", &group.key, "value"]).unwrap() {
        Reply::Simple(_) => Ok(()),
        reply => {
            let text = reply.text();
            assert!(!text.contains("data user"), "{:?}: {text}", group.kind);
            Err(text)
        }
    });
}

#[test]
fn a_replica_has_the_data_user_for_reads_and_before_it_is_promoted() {
    let mut cluster = Cluster::start(3);
    let groups = group_of_each_kind(&mut cluster, 1, |_, _| RedisOptions::default());
    let mut client = cluster.node(1).client();
    let reads_from = |cluster: &Cluster, from: &str| {
        let set = ["product", "set", "default", from, "errors=detailed", "--wait", "--timeout", "40s"];
        cluster.cli().ok(&set);
    };
    reads_from(&cluster, "read-from=prefer-replica");
    for group in &groups {
        wait_written(&mut client, &group.key, false);
        cluster.wait_replicated(&group.servers);
        let replica = &cluster.servers[group.servers[1]];
        let made = rules(replica);
        assert_eq!(replica.call(&["ACL", "SETUSER", DATA_USERS[0], "-get"]), Reply::ok());
        wait_until("the data user to be made at the replica", GENEROUS, || {
            // The primary executes what the replica refuses.
            assert_eq!(client.call(&["GET", &group.key]).unwrap(), Reply::bulk("value"), "{:?}", group.kind);
            rules(replica) == made
        });
    }

    // Now nobody notices that replicas lose it.
    reads_from(&cluster, "read-from=primary");
    for group in &groups {
        let [primary, replica] = group.servers[..] else { panic!() };
        assert_eq!(cluster.servers[replica].call(&["ACL", "DELUSER", DATA_USERS[0]]), Reply::Integer(1));
        cluster.servers[primary].kill9();
        wait_written_without_refusal(&mut client, group);
        // Else too many primaries are down at the same time.
        cluster.servers[primary].launch_again();
        wait_until("the former primary to be a replica", GENEROUS, || {
            let info = cluster.servers[primary].try_call(&["INFO", "replication"]);
            info.is_ok_and(|info| info.text().contains("master_link_status:up"))
        });
    }
    // Switchovers, back.
    for group in &groups {
        let [former, _] = group.servers[..] else { panic!() };
        let addr = cluster.servers[former].addr();
        let _ = cluster.servers[former].call(&["ACL", "DELUSER", DATA_USERS[0]]);
        wait_for("a switchover", GENEROUS, || {
            let ran = cluster.cli().run(&["group", "promote", &group.gid, &addr, "--wait", "--timeout", "40s"]);
            if ran.code == 0 { Ok(()) } else { Err(ran.err) }
        });
        assert_eq!(client.call(&["SET", &group.key, "value"]).unwrap(), Reply::ok(), "{:?}", group.kind);
    }
}

#[test]
fn nodes_change_to_another_data_user_without_an_error() {
    let mut cluster = Cluster::start(3);
    let groups =
        group_of_each_kind(&mut cluster, 1, |_, _| RedisOptions { config_file: true, ..RedisOptions::default() });
    let ports: Vec<u16> = cluster.nodes.iter().map(|node| node.client_port).collect();
    let written = Written::start(&ports, "w");
    for group in &groups {
        let first = rules(&cluster.servers[group.servers[0]]);
        for (now, former) in [(DATA_USERS[1], DATA_USERS[0]), (DATA_USERS[0], DATA_USERS[1])] {
            written.wait_acknowledged(|_| true);
            let made = cluster.cli().ok(&["group", "set", &group.gid, "data-user=new"]);
            assert!(!made.err.contains("can still log in"), "{:?}: {made:?}", group.kind);
            assert!(cluster.cli().ok(&["group", "show", &group.gid]).out.contains(now));
            for server in group.servers.iter().map(|server| &cluster.servers[*server]) {
                let [on, off] = [now, former].map(|user| server.call(&["ACL", "GETUSER", user]).text());
                assert!(on.contains("flags on") && off.contains("flags off"), "{:?}: {on}{off}", group.kind);
                let saved = std::fs::read_to_string(server.home().join("redis.conf")).unwrap();
                let lines = [format!("user {now} on "), format!("user {former} off ")];
                assert!(lines.iter().all(|line| saved.contains(line)), "{:?}: {saved}", group.kind);
            }
        }
        // The same name again, with the same rights and another password.
        let again = rules(&cluster.servers[group.servers[0]]);
        let differ: Vec<_> = again.symmetric_difference(&first).map(String::len).collect();
        assert_eq!(differ, [64, 64], "{:?}: {again:?} {first:?}", group.kind);
    }
    written.wait_acknowledged(|_| true);
    let errors: Vec<_> = written.finish(ports[0]).0.into_iter().filter_map(|write| write.error).collect();
    assert!(errors.is_empty(), "{errors:?}");
    let cli = cluster.cli();
    let mixed = cli.run(&["group", "set", "1", "data-user=new", "maintenance=on"]);
    assert!(mixed.code == 2 && mixed.err.contains("no other setting"), "{mixed:?}");
}

/// Three nodes, and a group with a replica.
struct Rotation {
    cluster: Cluster,
    servers: Vec<usize>,
}

impl Rotation {
    fn start() -> Self {
        let mut cluster = Cluster::start(3);
        let servers = cluster.add_group_with_replicas(1, "0-1023", 1, &RedisOptions::default());
        Self { cluster, servers }
    }

    fn servers(&self) -> impl Iterator<Item = &RedisServer> {
        self.servers.iter().map(|server| &self.cluster.servers[*server])
    }

    /// Begins to change the data user with a command that tries these nodes, pauses the leader when the log has the change,
    /// kills it, and returns its id, and what runs the command.
    fn change_and_kill_the_leader(&mut self, nodes: &[u16], timeout: &'static str) -> (u16, thread::JoinHandle<Ran>) {
        self.cluster.pause_at(Point::DataUserChanged);
        let nodes: Vec<String> = nodes.iter().map(|id| self.cluster.node(*id).admin()).collect();
        let cli = Cli::new(nodes.join(","), None);
        let command = thread::spawn(move || cli.run(&["group", "set", "1", "data-user=new", "--timeout", timeout]));
        let leader = self.cluster.wait_reached(Point::DataUserChanged);
        for server in self.servers() {
            // With a password that the test knows. Nodes want the other user already.
            wait_until("nodes to have made the other user", GENEROUS, || {
                rules_of(server, DATA_USERS[1]).contains("on")
            });
            assert_eq!(server.call(&["ACL", "SETUSER", DATA_USERS[0], ">known"]), Reply::ok());
            assert!(former_may_log_in(server), "nobody has switched it off yet");
        }
        self.cluster.node_mut(leader).kill9();
        self.cluster.go_on(Point::DataUserChanged);
        (leader, command)
    }
}

fn former_may_log_in(server: &RedisServer) -> bool {
    match server.client().call(&["AUTH", DATA_USERS[0], "known"]).unwrap() {
        Reply::Simple(_) => true,
        error => {
            assert!(error.is_error("WRONGPASS"), "{error:?}");
            false
        }
    }
}

#[test]
fn a_repeated_change_switches_the_former_data_user_off() {
    let mut rotation = Rotation::start();
    let first = rotation.cluster.leader();
    // The command repeats the change under its id at the next node.
    let (dead, command) = rotation.change_and_kill_the_leader(&[first, first % 3 + 1, (first + 1) % 3 + 1], "40s");
    let ran = command.join().unwrap();
    assert!(ran.code == 0 && !ran.err.contains("can still log in"), "{ran:?}");
    for server in rotation.servers() {
        assert!(!former_may_log_in(server), "{ran:?}");
        assert!(rules_of(server, DATA_USERS[1]).contains("on"));
    }
    // The change was made once: another one would have gone back to the first name.
    let left = rotation.cluster.nodes.iter().find(|node| node.id != dead).unwrap();
    assert!(left.cli().ok(&["group", "show", "1"]).out.contains(DATA_USERS[1]));
    wait_written(&mut left.client(), "key", true);
}

#[test]
fn nodes_switch_the_former_data_user_off_if_nobody_else_does() {
    let mut rotation = Rotation::start();
    let leader = rotation.cluster.leader();
    // The command knows no other node.
    let (dead, command) = rotation.change_and_kill_the_leader(&[leader], "5s");
    let ran = command.join().unwrap();
    assert!(ran.code != 0, "{ran:?}");
    for server in rotation.servers() {
        wait_until("the former data user to be switched off", GENEROUS, || !former_may_log_in(server));
    }
    let left = rotation.cluster.nodes.iter().find(|node| node.id != dead).unwrap();
    assert!(left.cli().ok(&["group", "show", "1"]).out.contains(DATA_USERS[1]));
    wait_written(&mut left.client(), "key", true);
}
