//! Nodes with few file descriptors. Clients must leave enough of them to the node itself, and a leader that has none
//! left lets another node lead.

use std::{net::TcpStream, path::Path, time::Duration};

use cluster_tests::{
    client::{Client, Reply, request},
    cluster::Cluster,
    redis::RedisOptions,
    wait::{GENEROUS, let_pass, wait_for, wait_until},
};

/// As the soft limit of a shell with little; the hard limit is the same.
const FEW_FILES: u32 = 256;

/// Bytes of a value, less one, that a node does not hold for each client.
const HUGE: i64 = 32 << 20;

/// Three nodes with few files, and a group of a primary and a replica. Returns the indices of its servers.
fn start(open_files_max: Option<u32>) -> (Cluster, Vec<usize>) {
    let mut cluster = Cluster::prepared(3);
    cluster.nodes.iter_mut().for_each(|node| node.open_files_max = open_files_max);
    cluster.start_all();
    let servers = cluster.add_group_with_replicas(1, "0-1023", 1, &RedisOptions::default());
    (1..=3).for_each(|id| cluster.wait_answers(id));
    (cluster, servers)
}

fn open_files(pid: u32) -> u64 {
    std::fs::read_dir(Path::new("/proc").join(pid.to_string()).join("fd")).unwrap().count() as u64
}

/// CPU time that the process has used, in clock ticks, a hundred of which are a second.
fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// Connects clients until the node refuses them. Returns those that are served.
fn storm(port: u16) -> Vec<Client> {
    let clients: Vec<Client> = (0..2 * FEW_FILES).map(|_| Client::connect(port).unwrap()).collect();
    let (mut served, mut refused) = (Vec::new(), Vec::new());
    for mut client in clients {
        match client.call(&["PING"]) {
            Ok(Reply::Simple(_)) => served.push(client),
            // The rest of the line may be lost, because the client has sent something.
            Ok(reply) => {
                assert!(reply.text().contains("max number of clients reached"), "{reply:?}");
                refused.push(client);
            }
            Err(_) => refused.push(client),
        }
    }
    let (served_count, few) = (served.len(), FEW_FILES as usize);
    assert!(served_count >= few / 4 && refused.len() >= few, "{served_count} served, {} refused", refused.len());
    // They are refused once and do not connect again.
    drop(refused);
    served
}

/// What needs new descriptors works: a connection to another database, the admin port, a failover.
fn assert_files_are_left(cluster: &mut Cluster, servers: &[usize], leader: u16, old: &mut Client) {
    assert_eq!(old.call(&["SELECT", "3"]).unwrap(), Reply::ok());
    assert_eq!(old.call(&["SET", "k", "v"]).unwrap(), Reply::ok());
    let status = cluster.node(leader).cli().json(&["status"]);
    assert_eq!(status["leader"], u64::from(leader), "{status}");
    cluster.wait_replicated(servers);
    cluster.servers[servers[0]].kill9();
    wait_for("the replica to be promoted", GENEROUS, || {
        let groups = cluster.cli().try_json(&["group", "ls"])?;
        let primary = groups[0]["servers"][0]["address"].clone();
        if primary == cluster.servers[servers[1]].addr().as_str() { Ok(()) } else { Err(groups.to_string()) }
    });
    wait_until("an old client to be served", GENEROUS, || matches!(old.call(&["SET", "k", "w"]), Ok(Reply::Simple(_))));
}

#[test]
fn a_storm_of_clients_leaves_files_to_the_node() {
    let (mut cluster, servers) = start(Some(FEW_FILES));
    let leader = cluster.leader();
    let mut old = cluster.node(leader).client();
    let _clients = storm(cluster.node(leader).client_port);
    assert_files_are_left(&mut cluster, &servers, leader, &mut old);
}

/// Each of them has a connection to the server of its own, for as long as there are files for that.
#[test]
fn clients_with_large_values_leave_files_to_the_node() {
    let (mut cluster, servers) = start(Some(FEW_FILES));
    let leader = cluster.leader();
    let mut old = cluster.node(leader).client();
    let mut clients = storm(cluster.node(leader).client_port);
    let primary = cluster.servers[servers[0]].client();
    assert_eq!({ primary }.call(&["SETRANGE", "huge", &HUGE.to_string(), "x"]).unwrap(), Reply::Integer(HUGE + 1));
    let large = "x".repeat(1 << 20);
    let (mut holding, mut refused) = (0, 0);
    for (n, client) in clients.iter_mut().enumerate() {
        let reply = client.call(&["SET", &format!("large:{n}"), &large]).unwrap();
        if reply.is_error("ERR too many dedicated connections") {
            refused += 1;
        } else {
            assert_eq!(reply, Reply::ok());
            // It keeps its connection to the server while it does not read.
            client.send(&request(&["GET", "huge"])).unwrap();
            holding += 1;
        }
    }
    assert!(holding >= FEW_FILES / 8 && refused > 0, "{holding} have a connection, {refused} were refused");
    assert_files_are_left(&mut cluster, &servers, leader, &mut old);
}

#[test]
fn a_leader_without_files_lets_another_node_lead() {
    let (mut cluster, servers) = start(None);
    let leader = cluster.leader();
    let others: Vec<u16> = (1..=3).filter(|id| *id != leader).collect();
    let pid = cluster.node(leader).pid();
    // Every descriptor that it has is in use, and these connections wait for one.
    cluster.node(leader).limit_open_files(Some(open_files(pid)));
    let address = cluster.node(leader).admin();
    let _waiting: Vec<TcpStream> = (0..20).map(|_| TcpStream::connect(&address).unwrap()).collect();
    let next = wait_for("another leader", GENEROUS, || {
        let status = cluster.node(others[0]).cli().try_json(&["status", "--timeout", "2s"])?;
        match status["leader"].as_u64() {
            Some(id) if id != u64::from(leader) => Ok(id),
            _ => Err(status.to_string()),
        }
    });
    assert!(others.iter().any(|id| u64::from(*id) == next));
    // The next leader can act.
    cluster.servers[servers[0]].kill9();
    wait_for("the replica to be promoted", GENEROUS, || {
        let groups = cluster.node(others[0]).cli().try_json(&["group", "ls"])?;
        let primary = groups[0]["servers"][0]["address"].clone();
        if primary == cluster.servers[servers[1]].addr().as_str() { Ok(()) } else { Err(groups.to_string()) }
    });
    // The accept loops wait instead of using a core.
    let before = cpu_ticks(pid);
    let_pass(Duration::from_secs(3));
    let used = cpu_ticks(pid) - before;
    assert!(used < 150, "{used} ticks of 300 in three seconds");
    cluster.node(leader).limit_open_files(None);
    wait_for("the node to be in order again", GENEROUS, || {
        cluster.node(leader).cli().try_json(&["status", "--timeout", "2s"]).map(drop)
    });
    cluster.wait_serving(&[1, 2, 3]);
}
