//! The cluster secret is replaced while clients, operators and monitoring work: nobody sees an error, no node is lost, and
//! the old secret is refused afterwards. What cannot be used, or would cut a node off, is not taken over.

#![allow(clippy::unwrap_used)]

use std::{
    io::{self, Write},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use cluster_tests::{
    cli::Cli,
    client::Reply,
    cluster::Cluster,
    history::{Action, Op},
    linear,
    load::Load,
    node::Node,
    wait::{GENEROUS, let_pass, wait_for, wait_until},
};
use pontoon::wire::{
    auth::{ClientAuth, ClusterSecret},
    pb::{
        node::{HelloRequest, node_client::NodeClient},
        raft::{VoteRequest, raft_client::RaftClient},
    },
};
use rustix::process::Signal;
use tonic::{Code, transport::Endpoint};

const OLD: &str = "0123456789abcdef0123456789abcdef";
const NEW: &str = "fedcba9876543210fedcba9876543210";
/// The pause of monitoring, much shorter than a step.
const SCRAPE_EVERY: Duration = Duration::from_millis(10);
/// What a node logs when it takes over its secret file.
const REPLACED: &str = "SIGHUP: the cluster secrets were replaced";
/// What a node logs when it does not.
const KEPT: &str = "SIGHUP: the node keeps the cluster secrets that it had";

/// Three nodes, each with a secret file of its own with these lines, as on three machines.
fn prepared(lines: &[&str]) -> Cluster {
    let mut cluster = Cluster::prepared(3);
    for id in 1..=3 {
        cluster.node_mut(id).secret = Some(write(&cluster, id, lines));
    }
    cluster
}

/// Writes the secret file of a node.
fn write(cluster: &Cluster, id: u16, lines: &[&str]) -> PathBuf {
    cluster.secret_file(&format!("secret-{id}"), &lines.join("\n"))
}

fn logged(node: &Node, what: &str) -> usize {
    node.log().lines().filter(|line| line.contains(what)).count()
}

/// Sends SIGHUP and waits until the node has logged `what` once more.
#[track_caller]
fn reload(node: &Node, what: &str) {
    let before = logged(node, what);
    node.signal(Signal::HUP);
    wait_for(&format!("node {} to log: {what}", node.id), GENEROUS, || {
        if logged(node, what) > before { Ok(()) } else { Err(node.log()) }
    });
}

/// The codes of the warnings that are about secrets.
fn warnings(cli: &Cli) -> Result<Vec<String>, String> {
    let status = cli.try_json(&["status"])?;
    let codes = status["warnings"].as_array().unwrap().iter().map(|w| w["code"].as_str().unwrap().to_owned());
    Ok(codes.filter(|code| code.contains("secret")).collect())
}

#[track_caller]
fn wait_warnings(cli: &Cli, expected: &[&str]) {
    wait_for(&format!("the warnings {expected:?}"), GENEROUS, || {
        let found = warnings(cli)?;
        if found == expected { Ok(()) } else { Err(format!("{found:?}")) }
    });
}

/// The answer to `GET /metrics` with this secret.
fn scrape(admin: &str, secret: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(admin)?;
    let head = format!(
        "GET /metrics HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {secret}\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    io::read_to_string(stream)
}

#[track_caller]
fn counter(node: &Node, name: &str, secret: &str) -> u64 {
    let page = scrape(&node.admin(), secret).unwrap();
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.trim().parse().ok()).unwrap_or_else(|| panic!("{name} is not in: {page}"))
}

/// Operators and monitoring at every node, which work all the time with the secret that they are told to use.
struct Users {
    secret: Arc<Mutex<(String, PathBuf)>>,
    stop: Arc<AtomicBool>,
    /// What each of them has done.
    done: Vec<Arc<AtomicU64>>,
    threads: Vec<JoinHandle<Vec<String>>>,
}

impl Users {
    fn start(cluster: &Cluster, secret: &str, file: PathBuf) -> Self {
        let secret = Arc::new(Mutex::new((secret.to_owned(), file)));
        let mut users = Self { secret, stop: Arc::default(), done: Vec::new(), threads: Vec::new() };
        for node in &cluster.nodes {
            let (id, admin) = (node.id, node.admin());
            users.add(move |turn, _, file| command(&Cli::new(admin.clone(), Some(file)), id, turn));
            let admin = node.admin();
            users.add(move |_, secret, _| {
                // Beside it, others have work for this machine.
                let_pass(SCRAPE_EVERY);
                match scrape(&admin, &secret) {
                    Ok(page) if page.starts_with("HTTP/1.1 200") => Ok(()),
                    other => Err(format!("/metrics: {other:?}")),
                }
            });
        }
        users
    }

    fn add(&mut self, mut act: impl FnMut(u64, String, PathBuf) -> Result<(), String> + Send + 'static) {
        let (secret, stop, done) = (self.secret.clone(), self.stop.clone(), Arc::<AtomicU64>::default());
        self.done.push(done.clone());
        self.threads.push(std::thread::spawn(move || {
            let mut errors = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let (secret, file) = secret.lock().unwrap().clone();
                let turn = done.load(Ordering::Relaxed);
                errors.extend(act(turn, secret, file).err());
                done.fetch_add(1, Ordering::Relaxed);
            }
            errors
        }));
    }

    /// They are given another secret.
    fn tell(&self, secret: &str, file: PathBuf) {
        *self.secret.lock().unwrap() = (secret.to_owned(), file);
    }

    /// Waits until each of them has done this much more.
    #[track_caller]
    fn wait_more(&self, more: u64) {
        for done in &self.done {
            let from = done.load(Ordering::Relaxed);
            wait_until("operators to work", GENEROUS, || done.load(Ordering::Relaxed) >= from + more);
        }
    }

    /// Stops them. How many commands and scrapes there were, and what went wrong.
    fn finish(self) -> (u64, u64, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        let errors = self.threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        let sum = |first: usize| self.done.iter().skip(first).step_by(2).map(|n| n.load(Ordering::Relaxed)).sum();
        (sum(0), sum(1), errors)
    }
}

/// One command of the operator at node `id`: two of three are changes, which followers forward to the leader.
fn command(cli: &Cli, id: u16, turn: u64) -> Result<(), String> {
    let clients = format!("clients-max={}", 1000 * u64::from(id) + turn);
    let hold = format!("hold-max={}ms", 200 + turn % 50);
    let args: &[&str] = match turn % 6 {
        0 => &["product", "set", "default", &clients],
        1 => &["status"],
        2 => &["cluster", "set", &hold],
        3 => &["product", "set", "default", &clients, "--wait", "--timeout", "40s"],
        4 => &["node", "ls"],
        _ => &["cluster", "set", &hold, "--wait", "--timeout", "40s"],
    };
    let ran = cli.run(args);
    if ran.code == 0 { Ok(()) } else { Err(format!("{ran:?}")) }
}

/// Gives every node this file, one after the other, under load.
#[track_caller]
fn step(cluster: &Cluster, load: &Load, users: &Users, cli: &Cli, lines: &[&str], ends_with: &[&str]) {
    for node in &cluster.nodes {
        write(cluster, node.id, lines);
        reload(node, REPLACED);
        if node.id < 3 {
            wait_warnings(cli, &["secrets-differ"]);
        }
        users.wait_more(3);
        load.wait_more(300);
    }
    wait_warnings(cli, ends_with);
    let nodes = cli.json(&["node", "ls"]);
    for node in nodes.as_array().unwrap() {
        assert_eq!(node["secrets_accepted"], lines.len(), "{nodes}");
        assert_eq!(node["state"], "alive", "{nodes}");
    }
}

/// The codes with which a node answers another one that has this secret: to a call of Raft, and to one beside it.
fn calls_of_a_node(admin: &str, secret: &str) -> [Code; 2] {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let auth = ClientAuth(ClusterSecret::new(secret).unwrap());
    runtime.block_on(async {
        let channel = Endpoint::from_shared(format!("http://{admin}")).unwrap().connect_lazy();
        let mut raft = RaftClient::with_interceptor(channel.clone(), auth.clone());
        let mut node = NodeClient::with_interceptor(channel, auth);
        let voted = raft.vote(VoteRequest::default()).await.map(drop);
        let greeted = node.hello(HelloRequest::default()).await.map(drop);
        [voted, greeted].map(|result| result.map_or_else(|status| status.code(), |()| Code::Ok))
    })
}

#[test]
fn a_rotation_under_load_shows_nobody_an_error() {
    let mut cluster = prepared(&[OLD]);
    cluster.start_all();
    cluster.add_groups(2);
    let keys: Vec<String> = (0..60).map(|n| format!("key:{n}")).collect();
    let ports: Vec<u16> = cluster.nodes.iter().flat_map(|node| [node.client_port; 2]).collect();
    let load = Load::start(&ports, &keys);
    let (old, new) = (cluster.secret_file("old", OLD), cluster.secret_file("new", NEW));
    let users = Users::start(&cluster, OLD, old.clone());
    let began = Instant::now();
    users.wait_more(6);

    let with_old = Cli::new(cluster.node(1).admin(), Some(old.clone()));
    step(&cluster, &load, &users, &with_old, &[OLD, NEW], &["two-secrets"]);
    step(&cluster, &load, &users, &with_old, &[NEW, OLD], &["two-secrets"]);

    // The metrics say that somebody uses the old secret, and then that nobody does.
    let used = || -> Vec<u64> {
        cluster.nodes.iter().map(|node| counter(node, "pontoon_calls_other_secret_total", NEW)).collect()
    };
    let before = used();
    users.wait_more(6);
    assert!(used().iter().zip(&before).all(|(now, before)| now > before), "{before:?} {:?}", used());
    users.tell(NEW, new.clone());
    // What has begun with the old one ends.
    users.wait_more(2);
    wait_for("the old secret to be unused", GENEROUS, || {
        let before = used();
        users.wait_more(6);
        let now = used();
        if now == before { Ok(()) } else { Err(format!("{before:?} {now:?}")) }
    });

    let with_new = Cli::new(cluster.node(1).admin(), Some(new.clone()));
    step(&cluster, &load, &users, &with_new, &[NEW], &[]);
    users.wait_more(6);
    load.wait_more(1000);

    let (commands, scrapes, errors) = users.finish();
    assert_eq!(errors, Vec::<String>::new());
    let (seen, history) = load.finish();
    let errors: Vec<&String> = seen.iter().flat_map(|seen| &seen.errors).collect();
    assert!(errors.is_empty(), "clients saw errors: {errors:?}");
    let requests: u64 = seen.iter().map(|seen| seen.answered).sum();
    println!("{:?}: {requests} requests, {commands} commands, {scrapes} scrapes", began.elapsed());
    // No call between nodes was refused, so no node was lost.
    for node in &cluster.nodes {
        assert_eq!(counter(node, "pontoon_calls_refused_total{reason=\"secret\"}", NEW), 0, "node {}", node.id);
        let log = node.log();
        assert!(!log.contains(OLD) && !log.contains(NEW), "a secret is in the log of node {}", node.id);
    }
    // Every acknowledged write is there, at every node.
    for node in &cluster.nodes {
        let mut client = node.client();
        for key in &keys {
            let begin = history.now();
            let value = match client.call(&["GET", key]).unwrap() {
                Reply::Bulk(value) => Some(String::from_utf8_lossy(&value).parse().unwrap()),
                other => panic!("{key}: {other:?}"),
            };
            history.add(Op { key: key.clone(), action: Action::Read(value), begin, end: Some(history.now()) });
        }
    }
    linear::check(&history.ops()).unwrap();

    // Each of the three changes of each node is an event, without what would tell secrets apart.
    wait_for("events about the secrets", GENEROUS, || {
        let all = with_new.json(&["events", "-n", "1000"]);
        let set = all.as_array().unwrap().iter().filter(|event| event["kind"] == "secrets-set");
        let mut set: Vec<String> = set.map(|e| format!("{} {} {}", e["subject"], e["before"], e["after"])).collect();
        set.sort();
        let of = |id: u16| {
            let changes = [("1", "2 sends=the same"), ("2", "1 sends=the same"), ("2", "2 sends=another one")];
            changes.map(|(before, after)| format!("\"node {id}\" \"accepts={before}\" \"accepts={after}\""))
        };
        let expected: Vec<String> = [1, 2, 3].into_iter().flat_map(of).collect();
        if set == expected { Ok(()) } else { Err(format!("{set:#?}")) }
    });

    // Nobody gets in with the old secret, at any node, in any way.
    for node in &cluster.nodes {
        let admin = node.admin();
        Cli::new(admin.clone(), Some(old.clone())).refused(&["status"], &["another secret", "--secret-file"]);
        assert!(scrape(&admin, OLD).unwrap().starts_with("HTTP/1.1 401"));
        assert_eq!(calls_of_a_node(&admin, OLD), [Code::Unauthenticated; 2]);
        assert_eq!(calls_of_a_node(&admin, NEW), [Code::InvalidArgument, Code::Ok]);
    }
    cluster.secret = Some(new);
    cluster.join(4);
    cluster.wait_serving(&[1, 2, 3, 4]);
    cluster.wait_answers(4);
}

#[test]
fn a_file_that_cannot_be_used_or_cuts_a_node_off_is_not_taken_over() {
    let mut cluster = prepared(&[OLD]);
    cluster.start_all();
    let node = cluster.node(2);
    let file = node.secret.clone().unwrap();
    // The files of commands, which are not those of the nodes.
    let (old, new) = (cluster.secret_file("old", OLD), cluster.secret_file("new", NEW));
    let at = |id: u16, file: &PathBuf| Cli::new(cluster.node(id).admin(), Some(file.clone()));
    let put = |text: &str, mode: u32| {
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, PermissionsExt::from_mode(mode)).unwrap();
    };
    let long = "x".repeat(5000);
    for (text, mode, why) in [
        (Some(OLD.to_owned()), 0o640, "run: chmod 600"),
        (Some(String::new()), 0o600, "it is empty"),
        (Some(long), 0o600, "it is longer than 4096 bytes"),
        (Some("short-secret".to_owned()), 0o600, "16 to 512 are needed"),
        (Some(format!("{OLD}\n{NEW}\n{NEW}")), 0o600, "more than two lines"),
        (Some(format!("{OLD}\n{OLD}\n")), 0o600, "line 2 repeats line 1"),
        (None, 0o600, "cannot be read"),
        (Some(NEW.to_owned()), 0o600, "still sent by nodes 1, 3"),
        (Some(format!("{NEW}\n{OLD}\n")), 0o600, "not accepted yet by nodes 1, 3"),
    ] {
        match &text {
            Some(text) => put(text, mode),
            None => std::fs::remove_file(&file).unwrap(),
        }
        reload(node, KEPT);
        assert!(node.log().lines().any(|line| line.contains(KEPT) && line.contains(why)), "{why}: {}", node.log());
        wait_for("the status to say so", GENEROUS, || {
            let status = at(1, &old).try_json(&["status"])?;
            let warned = status["warnings"].as_array().unwrap().iter().any(|warning| {
                let text = warning["text"].as_str().unwrap();
                warning["code"] == "secret-file-refused" && text.contains("node 2 keeps") && text.contains(why)
            });
            if warned { Ok(()) } else { Err(status.to_string()) }
        });
        at(2, &old).ok(&["product", "ls"]);
        at(2, &new).refused(&["product", "ls"], &["another secret"]);
    }
    // Nobody writes to the pipe: a node that waits for that obeys no signal any more.
    std::fs::remove_file(&file).unwrap();
    assert!(std::process::Command::new("mkfifo").arg("-m600").arg(&file).status().unwrap().success());
    reload(node, KEPT);
    assert!(node.log().contains("it is not a regular file"), "{}", node.log());
    std::fs::remove_file(&file).unwrap();
    put(OLD, 0o600);
    node.signal(Signal::HUP);
    wait_warnings(&at(1, &old), &[]);
    assert_eq!(logged(node, REPLACED), 0);

    // A node that starts reads both lines.
    put(&format!("{OLD}\n{NEW}\n"), 0o600);
    cluster.node_mut(2).kill9();
    cluster.node_mut(2).start();
    cluster.wait_formed();
    let at = |id: u16, file: &PathBuf| Cli::new(cluster.node(id).admin(), Some(file.clone()));
    at(2, &old).ok(&["product", "ls"]);
    at(2, &new).ok(&["product", "ls"]);
    at(1, &new).refused(&["product", "ls"], &["another secret"]);

    // A dead node keeps nobody from going on.
    cluster.node_mut(3).kill9();
    for lines in [&[OLD, NEW][..], &[NEW, OLD], &[NEW]] {
        for id in [1, 2] {
            write(&cluster, id, lines);
            if (id, lines.len(), lines[0]) != (2, 2, OLD) {
                reload(cluster.node(id), REPLACED);
            }
        }
    }
    assert!(cluster.node(1).log().contains("no_answer_from=\"3\""), "{}", cluster.node(1).log());
    write(&cluster, 3, &[NEW]);
    cluster.node_mut(3).start();
    cluster.wait_formed();
    wait_warnings(&Cli::new(cluster.node(3).admin(), Some(new)), &[]);
}

#[test]
fn a_running_node_neither_gets_a_secret_nor_loses_it() {
    const RESTART: &str = "take effect when the node is restarted";
    let mut cluster = Cluster::prepared(1);
    let config = cluster.dir.path().join("pontoon.toml");
    let file = cluster.secret_file("secret", OLD);
    let with = format!("secret_file = \"{}\"\n", file.display());
    cluster.node_mut(1).more.extend(["--config".to_owned(), config.to_str().unwrap().to_owned()]);
    std::fs::write(&config, "").unwrap();
    cluster.start_all();
    let (admin, known) = (cluster.node(1).admin(), Some(file));
    let (stranger, operator) = (Cli::new(admin.clone(), None), Cli::new(admin, known));
    std::fs::write(&config, &with).unwrap();
    reload(cluster.node(1), RESTART);
    stranger.ok(&["product", "ls"]);
    assert_eq!(stranger.json(&["node", "show", "1"])["secrets_accepted"], 0);

    cluster.node_mut(1).kill9();
    cluster.node_mut(1).start();
    wait_for("the node to want its secret", GENEROUS, || operator.try_json(&["node", "ls"]).map(drop));
    stranger.refused(&["product", "ls"], &["the call has none"]);
    std::fs::write(&config, "").unwrap();
    reload(cluster.node(1), RESTART);
    stranger.refused(&["product", "ls"], &["the call has none"]);
    wait_for("the node to report its secret", GENEROUS, || {
        let node = operator.try_json(&["node", "show", "1"])?;
        if node["secrets_accepted"] == 1 { Ok(()) } else { Err(node.to_string()) }
    });
}
