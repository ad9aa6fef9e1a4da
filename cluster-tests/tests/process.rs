//! A node as a process: its signals, its log, its directory, and clients that it closes because they are idle.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    io::{self, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use cluster_tests::{
    binary,
    cli::Cli,
    client::Reply,
    cluster::Cluster,
    load::Load,
    node::Node,
    process::Scratch,
    wait::{GENEROUS, let_pass, wait_until},
};
use rustix::process::Signal;

/// Makes a node write a line of level debug: it refuses a request of its admin port.
fn write_debug_line(node: &Node) {
    let ask = || {
        let mut stream = TcpStream::connect(node.admin())?;
        stream.write_all(b"GET /nothing HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
        io::read_to_string(stream)
    };
    assert!(ask().unwrap().starts_with("HTTP/1.1 404"));
}

fn debug_lines(log: &str) -> usize {
    log.matches("the admin port has refused a request").count()
}

#[test]
fn sighup_opens_the_log_again_and_takes_over_its_levels_while_clients_are_served() {
    let mut cluster = Cluster::prepared(1);
    let at = |name: &str| cluster.dir.path().join(name);
    let (settings, log, rotated) = (at("pontoon.toml"), at("log"), at("log.1"));
    let configure = |level: &str, more: &str| {
        fs::write(&settings, format!("[log]\nfile = \"{}\"\nlevel = \"{level}\"\n{more}", log.display())).unwrap();
    };
    let text = || fs::read_to_string(&log).unwrap_or_default();
    let wait_logged = |part: &str| wait_until(part, GENEROUS, || text().contains(part));
    configure("info", "");
    cluster.node_mut(1).more.extend(["--config".into(), settings.to_str().unwrap().into()]);
    cluster.start_all();
    cluster.add_groups(1);
    let node = cluster.node(1);
    let load = Load::start(&[node.client_port; 2], &["k".into()]);
    load.wait_more(20);
    assert!(text().contains("calls are answered") && node.log().is_empty(), "{}", node.log());

    fs::rename(&log, &rotated).unwrap();
    node.signal(Signal::HUP);
    wait_logged("SIGHUP: the settings were read again");
    load.wait_more(20);

    write_debug_line(node);
    assert_eq!(debug_lines(&text()), 0);
    configure("info,pontoon=debug", "[proxy]\nclients_max = 77\n");
    node.signal(Signal::HUP);
    wait_logged("levels=\"info,pontoon=debug\"");
    // What cannot change is named.
    wait_logged("settings=\"proxy.clients_max\"");
    write_debug_line(node);
    assert_eq!(debug_lines(&text()), 1);

    // A mistake changes nothing, and the log is opened again in spite of it.
    configure("debg", "");
    node.signal(Signal::HUP);
    wait_logged("'debg' is not a level");
    fs::write(&settings, "[log").unwrap();
    fs::rename(&log, &rotated).unwrap();
    node.signal(Signal::HUP);
    wait_logged("the settings are refused");
    write_debug_line(node);
    assert_eq!(debug_lines(&text()), 1);

    for (signal, name) in [(Signal::USR1, "SIGUSR1"), (Signal::USR2, "SIGUSR2")] {
        node.signal(signal);
        wait_logged(&format!(
            "this signal does nothing; on SIGHUP the node reads its settings again signal=\"{name}\""
        ));
    }
    load.wait_more(20);
    let (seen, _) = load.finish();
    assert!(seen.iter().all(|client| client.errors.is_empty()), "{seen:?}");
    // The counter is a second old. A client that connects again has seen an error.
    wait_until("the two clients to be counted", GENEROUS, || node.counter("pontoon_clients_accepted_total") == 2);
}

/// A child that never outlives the test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Its terminal is closed, or the program that reads its log has ended: no line can be written any more.
#[test]
fn a_node_whose_log_nobody_takes_serves_on() {
    let cluster = Cluster::prepared(1);
    let node = cluster.node(1);
    let mut child = Killed(node.command().stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap());
    drop(child.0.stderr.take());
    cluster.wait_formed();
    let id = rustix::process::Pid::from_child(&child.0);
    for signal in [Signal::HUP, Signal::USR1, Signal::PIPE, Signal::HUP] {
        rustix::process::kill_process(id, signal).unwrap();
    }
    // The signals are answered before the clients are.
    for _ in 0..20 {
        assert_eq!(node.client().call(&["PING"]).unwrap().text(), "PONG");
        let_pass(Duration::from_millis(20));
    }
    assert!(child.0.try_wait().unwrap().is_none());
    node.cli().ok(&["status"]);
}

#[test]
fn the_levels_of_one_node_change_while_it_runs() {
    let mut cluster = Cluster::start(2);
    let cli = cluster.node(1).cli();
    let lines = |cluster: &Cluster| {
        [1, 2].map(|id| {
            write_debug_line(cluster.node(id));
            debug_lines(&cluster.node(id).log())
        })
    };
    // What it was before is in the events, see audit.rs.
    let shown = |cli: &Cli, command: &[&str]| {
        let mut shown = cli.json(command);
        shown.as_object_mut().unwrap().remove("before");
        shown
    };
    let levels = |levels: &str, chosen: bool| serde_json::json!({"id": 2, "levels": levels, "chosen": chosen});
    assert_eq!(shown(&cli, &["node", "set", "2"]), levels("info,openraft=off", false));
    assert_eq!(lines(&cluster), [0, 0]);
    cli.ok(&["node", "set", "2", "log=debug", "--dry-run"]);
    assert_eq!(lines(&cluster), [0, 0]);
    // Node 1 passes it on.
    assert_eq!(shown(&cli, &["node", "set", "2", "log=debug"]), levels("info,openraft=off,pontoon=debug", true));
    assert_eq!(lines(&cluster), [0, 1]);
    let ran = cli.ok(&["node", "set", "2"]);
    assert!(ran.out.contains("until it is restarted"), "{ran:?}");
    for (setting, why) in [
        ("log=debg", "'debg' is not a level"),
        ("log=pontoon=verbos", "'verbos' is not a level"),
        ("log=h2=trace", "cannot be set while a node runs"),
    ] {
        cli.refused(&["node", "set", "2", setting], &[why]);
    }
    cli.refused(&["node", "set", "9", "log=debug"], &["there is no node 9"]);
    assert_eq!(lines(&cluster), [0, 2]);
    assert_eq!(shown(&cli, &["node", "set", "2", "log=default"]), levels("info,openraft=off", false));
    assert_eq!(lines(&cluster), [0, 2]);

    cli.ok(&["node", "set", "2", "log=debug"]);
    assert!(cluster.node_mut(2).terminate(GENEROUS).success());
    cli.refused(&["node", "set", "2", "log=debug", "--timeout", "1s"], &["node 2 (", "gives no answer"]);
    cluster.node_mut(2).start();
    cluster.wait_serving(&[1, 2]);
    assert_eq!(shown(&cli, &["node", "set", "2"]), levels("info,openraft=off", false));
}

#[test]
fn idle_clients_are_closed_after_the_time_of_their_product() {
    let mut cluster = Cluster::start(1);
    cluster.add_groups(1);
    let (node, cli) = (cluster.node(1), cluster.cli());
    for out_of_range in ["idle-timeout=9s", "idle-timeout=1ms"] {
        cli.refused(&["product", "set", "default", out_of_range], &["choose 10 s to 1 h"]);
    }
    let (mut idle, mut used) = (node.client(), node.client());
    assert_eq!(idle.call(&["SET", "k", "v"]).unwrap(), Reply::ok());
    cli.ok(&["product", "set", "default", "idle-timeout=10s", "--wait"]);
    let ran = cli.ok(&["product", "ls"]);
    assert!(ran.out.contains("idle 10s"), "{ran:?}");
    let begun = Instant::now();
    wait_until("the idle client to be closed", GENEROUS, || {
        assert_eq!(used.call(&["GET", "k"]).unwrap(), Reply::bulk("v"));
        node.counter("pontoon_idle_clients_closed_total") == 1
    });
    assert!(begun.elapsed() > Duration::from_secs(8), "closed after {:?}", begun.elapsed());
    assert!(idle.closed());
    cli.ok(&["product", "set", "default", "idle-timeout=off", "--wait"]);
    assert_eq!(used.call(&["GET", "k"]).unwrap(), Reply::bulk("v"));
}

/// The names of all files below a directory.
fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Runs `pontoon`; its exit code and what it said.
fn run(args: &[&str]) -> (i32, String) {
    let mut command: Command = binary::command(binary::pontoon());
    let output = command.args(args).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8_lossy(&said).into_owned())
}

/// An address of this machine with a port that nobody uses now.
fn free_address() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

#[test]
fn a_check_of_the_configuration_finds_what_keeps_a_node_from_starting() {
    let mut cluster = Cluster::start(1);
    let dir = Scratch::new();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let check = |admin: &str, data_dir: &str, more: &[&str]| {
        let usual = ["serve", "--check-config", "--id", "1", "--admin", admin, "--data-dir", data_dir];
        run(&[&usual[..], more].concat())
    };
    let (free, used) = (free_address(), cluster.node(1).admin().to_owned());
    let (secret, of_node) = (cluster.secret_file("checked", &"s".repeat(16)), cluster.node(1).data_dir.clone());
    let (secret, of_node) = (secret.to_str().unwrap(), of_node.to_str().unwrap());
    let join = ["--join", "127.0.0.1:1"];
    assert_eq!(check(&free, &at("new"), &join), (0, "the configuration is valid\n".into()));
    let new = at("new");
    let with_secret = ["--join", "127.0.0.1:1", "--secret-file", secret];
    let elsewhere = [&with_secret[..], &["--bind", "192.0.2.1"]].concat();
    let cases: [(&str, &str, &[&str], &str); 6] = [
        (&free, &new, &[], "give --peers to form one"),
        (&free, "/proc/x", &join, "/proc/x"),
        (&free, of_node, &[], "another process uses the data directory"),
        (&used, &new, &join, "cannot be bound"),
        ("nosuch.invalid:1", &new, &with_secret, "nosuch.invalid:1 cannot be bound"),
        (&free, &new, &elsewhere, "bind: 192.0.2.1"),
    ];
    for (admin, data_dir, more, part) in cases {
        let (code, said) = check(admin, data_dir, more);
        assert!(code == 2 && said.contains(part), "{admin} {data_dir} {more:?}: {code}: {said}");
    }
    assert_eq!(names(dir.path()), Vec::<String>::new(), "a check changes nothing");
    // A member needs neither --peers nor --join.
    cluster.node_mut(1).kill9();
    assert_eq!(check(&free, of_node, &[]), (0, "the configuration is valid\n".into()));
}

#[test]
fn a_configuration_that_cannot_work_is_refused_by_its_check_and_nothing_is_changed() {
    let dir = Scratch::new();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    fs::write(at("file"), "").unwrap();
    fs::create_dir(at("home")).unwrap();
    fs::write(at("home/thesis.tex"), "").unwrap();
    let admin = free_address();
    let check = |data_dir: &str, more: &[&str]| {
        let peers = format!("1={admin}");
        let usual = ["serve", "--check-config", "--id", "1", "--admin", &admin, "--peers", &peers];
        run(&[&usual[..], &["--data-dir", data_dir], more].concat())
    };
    let (code, said) =
        check(&at("new"), &["--log-level", "info,pontoon::node=debug", "--set", &format!("log.file={}", at("log"))]);
    assert_eq!((code, said.as_str()), (0, "the configuration is valid\n"));
    for (data_dir, more, part) in [
        ("new", vec!["--log-level", "debg"], "'debg' is not a level"),
        ("new", vec!["--log-level", "info,pontoon=verbos"], "'verbos' is not a level"),
        ("new", vec!["--set", "log.file=/nowhere/pontoon.log"], "log.file: /nowhere/pontoon.log"),
        ("file", vec![], "is not a directory"),
        ("file/below", vec![], "cannot be made"),
        ("home", vec![], "other files (thesis.tex)"),
    ] {
        let (code, said) = check(&at(data_dir), &more);
        assert!(code == 2 && said.contains(part), "{data_dir} {more:?}: {code}: {said}");
    }
    // A start says the same.
    let (code, said) =
        run(&["serve", "--id", "1", "--admin", "127.0.0.1:1", "--peers", "1=127.0.0.1:1", "--data-dir", &at("home")]);
    assert!(code == 1 && said.contains("other files (thesis.tex)"), "{code}: {said}");
    let recover =
        |data_dir: &str| run(&["recover", "--data-dir", data_dir, "--from-survivor", "--the-others-are-gone"]);
    fs::create_dir(at("empty")).unwrap();
    for (data_dir, part) in [("home", "is not the data directory of a node"), ("empty", "is empty")] {
        let (code, said) = recover(&at(data_dir));
        assert!(code == 1 && said.contains(part) && !said.contains("damaged"), "{data_dir}: {code}: {said}");
    }
    assert_eq!(names(dir.path()), ["empty", "file", "home"]);
    assert_eq!(
        (names(Path::new(&at("home"))), names(Path::new(&at("empty")))),
        (vec!["thesis.tex".to_owned()], vec![])
    );
}
