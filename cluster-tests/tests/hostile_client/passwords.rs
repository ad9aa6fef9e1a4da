//! Passwords of a product: who guesses is counted and named, a change closes the clients whose login it ends on every node
//! within a second, and a rotation shows no client an error.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
};

use cluster_tests::{
    client::{Client, Reply},
    cluster::Cluster,
    wait::{GENEROUS, wait_for, wait_until},
};

/// Requests after which a client of the load connects anew.
const REQUESTS: usize = 20;

/// Changes what the clients of product `default` log in with. Every node serves by the change when this returns.
#[track_caller]
fn set(cluster: &Cluster, settings: &[&str]) {
    cluster.cli().ok(&[&["product", "set", "default"], settings, &["--wait", "--timeout", "40s"]].concat());
}

#[track_caller]
fn set_password(cluster: &Cluster, password: &str, more: &[&str]) {
    let file = cluster.secret_file("password", password);
    set(cluster, &[&["--password-file", file.to_str().unwrap()], more].concat());
}

/// A client at each node.
fn at_every_node(cluster: &Cluster) -> Vec<Client> {
    let ports = cluster.nodes.iter().map(|node| node.client_port);
    ports.map(|port| Client::connect_within(port, GENEROUS).unwrap()).collect()
}

#[track_caller]
fn log_in(client: &mut Client, password: &str) {
    assert_eq!(client.call(&["AUTH", password]).unwrap(), Reply::ok(), "{password}");
}

#[track_caller]
fn assert_all_closed(clients: &mut [Client]) {
    for (node, client) in (1..).zip(clients) {
        assert!(client.closed(), "node {node} has not closed a client");
    }
}

/// Clients that work all the time, connect often, and log in with the password that they are told to use.
struct Clients {
    password: Arc<Mutex<String>>,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Vec<String>>>,
}

impl Clients {
    fn start(cluster: &Cluster, each: usize, password: &str) -> Self {
        let password = Arc::new(Mutex::new(password.to_owned()));
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let ports = cluster.nodes.iter().flat_map(|node| vec![node.client_port; each]);
        let threads = ports
            .enumerate()
            .map(|(n, port)| {
                let (password, stop, answered) = (password.clone(), stop.clone(), answered.clone());
                std::thread::spawn(move || {
                    let mut errors = Vec::new();
                    while !stop.load(Ordering::Relaxed) {
                        let password = password.lock().unwrap().clone();
                        match work(port, &password, &format!("key:{n}")) {
                            Ok(requests) => _ = answered.fetch_add(requests, Ordering::Relaxed),
                            Err(error) => errors.push(error),
                        }
                    }
                    errors
                })
            })
            .collect();
        Self { password, stop, answered, threads }
    }

    /// The application is given another password.
    fn tell(&self, password: &str) {
        password.clone_into(&mut self.password.lock().unwrap());
    }

    #[track_caller]
    fn wait_more(&self, more: u64) {
        let from = self.answered.load(Ordering::Relaxed);
        wait_until("requests to be answered", GENEROUS, || self.answered.load(Ordering::Relaxed) >= from + more);
    }

    /// Stops them and returns what went wrong.
    fn finish(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    }
}

/// One connection of a client, from its login to its end.
fn work(port: u16, password: &str, key: &str) -> Result<u64, String> {
    let mut client = Client::connect(port).map_err(|e| format!("connect: {e}"))?;
    let mut expect = |request: &[&str], want: &Reply| match client.call(request) {
        Ok(got) if got == *want => Ok(()),
        other => Err(format!("{request:?}: {other:?}")),
    };
    expect(&["AUTH", password], &Reply::ok())?;
    for turn in 0..REQUESTS {
        let value = turn.to_string();
        expect(&["SET", key, &value], &Reply::ok())?;
        expect(&["GET", key], &Reply::bulk(&value))?;
    }
    Ok(2 * REQUESTS as u64)
}

#[test]
fn a_rotation_under_load_shows_no_client_an_error() {
    let mut cluster = Cluster::serving(2);
    set_password(&cluster, "first", &[]);
    let load = Clients::start(&cluster, 3, "first");
    let mut old = at_every_node(&cluster);
    old.iter_mut().for_each(|client| log_in(client, "first"));
    load.wait_more(1000);

    set_password(&cluster, "second", &["--keep-sessions"]);
    let listed = cluster.cli().json(&["product", "ls"]);
    assert_eq!(listed[0]["former_password_valid"], true, "{listed}");
    assert!(cluster.cli().ok(&["product", "ls"]).out.contains("yes, two are valid"));
    load.wait_more(1000);
    // A third password would end the first without a word.
    let file = cluster.secret_file("password", "third");
    let third = ["product", "set", "default", "--password-file", file.to_str().unwrap(), "--keep-sessions"];
    cluster.cli().refused(&third, &["two valid passwords", "former-password="]);
    load.tell("second");
    load.wait_more(1000);

    // Only the clients of `old` still use the former password.
    for node in &cluster.nodes {
        wait_for("the applications to use the new password", GENEROUS, || {
            let former = node.counter("pontoon_clients_former_password{product=\"default\"}");
            if former == 1 { Ok(()) } else { Err(former) }
        });
    }
    old.iter_mut().for_each(|client| assert_eq!(client.call(&["PING"]).unwrap(), Reply::Simple("PONG".into())));
    set(&cluster, &["former-password="]);
    assert_all_closed(&mut old);
    load.wait_more(1000);
    assert_eq!(load.finish(), Vec::<String>::new());

    // Also on a node that learns all this from its log.
    let restarted = cluster.follower();
    cluster.node_mut(restarted).kill9();
    cluster.node_mut(restarted).start();
    cluster.wait_formed();
    for node in &cluster.nodes {
        let mut client = node.client();
        assert!(client.call(&["AUTH", "first"]).unwrap().is_error("WRONGPASS"));
        log_in(&mut client, "second");
        assert!(!node.log().contains("second"), "a password is in the log");
    }
    assert_eq!(cluster.cli().json(&["product", "ls"])[0]["former_password_valid"], false);
}

#[test]
fn clients_do_not_outlive_what_they_logged_in_with() {
    let cluster = Cluster::serving(1);
    set_password(&cluster, "first", &[]);
    let mut known = at_every_node(&cluster);
    known.iter_mut().for_each(|client| log_in(client, "first"));
    let mut strangers = at_every_node(&cluster);
    strangers.iter_mut().for_each(|client| assert!(client.call(&["GET", "k"]).unwrap().is_error("NOAUTH")));

    // Without a password the product is on loopback only, so clients of other machines must go.
    set(&cluster, &["password="]);
    assert_all_closed(&mut known);
    assert_all_closed(&mut strangers);

    // Nobody asks them for a password.
    let mut never = at_every_node(&cluster);
    never.iter_mut().for_each(|client| assert_eq!(client.call(&["SET", "k", "v"]).unwrap(), Reply::ok()));
    let keep = ["product", "set", "default", "--keep-sessions", "--password-file"];
    let file = cluster.secret_file("password", "first");
    let refused = [&keep[..], &[file.to_str().unwrap()]].concat();
    cluster.cli().refused(&refused, &["no password that could stay valid"]);
    never.iter_mut().for_each(|client| assert_eq!(client.call(&["SET", "k", "v"]).unwrap(), Reply::ok()));
    set_password(&cluster, "first", &[]);
    assert_all_closed(&mut never);

    // Another password, without --keep-sessions.
    let mut known = at_every_node(&cluster);
    known.iter_mut().for_each(|client| log_in(client, "first"));
    set_password(&cluster, "second", &[]);
    assert_all_closed(&mut known);
    at_every_node(&cluster).iter_mut().for_each(|client| log_in(client, "second"));
}

#[test]
fn who_guesses_is_counted_and_named_once() {
    const CLIENTS: usize = 20;
    let cluster = Cluster::start(1);
    set_password(&cluster, "open sesame", &[]);
    let node = cluster.node(1);
    let guess = |n: usize| {
        let port = node.client_port;
        std::thread::spawn(move || {
            let mut client = Client::connect(port).unwrap();
            for turn in 0..3 {
                let reply = client.call(&["AUTH", &format!("guess{n}-{turn}")]).unwrap();
                assert!(reply.is_error("WRONGPASS"), "{reply:?}");
            }
            assert!(client.closed(), "the third failure is the last");
        })
    };
    let clients: Vec<_> = (0..CLIENTS).map(guess).collect();
    clients.into_iter().for_each(|client| client.join().unwrap());
    let closed = || node.counter("pontoon_clients_not_logged_in_closed_total");
    wait_until("the clients to be counted", GENEROUS, || closed() == CLIENTS as u64);
    assert_eq!(node.counter("pontoon_logins_failed_total{product=\"default\"}"), 3 * CLIENTS as u64);
    let log = node.log();
    let named: Vec<&str> = log.lines().filter(|line| line.contains("failed to log in")).collect();
    assert!(named.len() == 1 && named[0].contains("127.0.0.1") && named[0].contains("default"), "{named:?}");
    assert!(!log.contains("guess") && !log.contains("open sesame"), "a password is in the log");
}
