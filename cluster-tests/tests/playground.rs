//! `pontoon playground`: it starts, leaves no process behind when it dies, and continues with its data when it is
//! started again.

#![allow(clippy::unwrap_used)]

use std::{fs, path::Path};

use cluster_tests::{
    binary,
    client::{Client, Reply},
    ports::PlaygroundPorts,
    process::{Process, Scratch},
    wait::{GENEROUS, wait_for},
};
use rustix::process::Signal;

fn start(dir: &Path, port: u16) -> Process {
    let mut command = binary::command(binary::pontoon());
    command.args(["playground", "--port", &port.to_string(), "--dir"]).arg(dir.join("play"));
    let log = dir.join("playground.log");
    let before = fs::read(&log).map_or(0, |text| text.len());
    let process = Process::start("playground", &mut command, &log);
    wait_for("the table of addresses", GENEROUS, || {
        let printed = process.log().split_off(before);
        if printed.contains("Ctrl-C stops everything") { Ok(()) } else { Err(printed) }
    });
    process
}

/// Returns the command lines of all processes that name the directory or run in it.
fn processes(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let inside = fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(dir));
        if line.contains(&dir.display().to_string()) || inside {
            found.push(line);
        }
    }
    found
}

fn wait_no_processes(dir: &Path) {
    wait_for("all processes to be gone", GENEROUS, || match processes(dir) {
        none if none.is_empty() => Ok(()),
        some => Err(some.join("\n")),
    });
}

#[test]
fn it_leaves_no_process_and_continues_with_its_data() {
    let (dir, ports) = (Scratch::new(), PlaygroundPorts::take());
    let mut playground = start(dir.path(), ports.base);
    for node in 1..=3 {
        let mut client = Client::connect(ports.base + node).unwrap();
        assert_eq!(client.call(&["SET", &format!("key{node}"), "kept"]).unwrap(), Reply::ok());
    }
    // The servers have the ports from B + 201 on, the primary first.
    let role = |port| Client::connect(port).unwrap().call(&["ROLE"]).unwrap().text();
    assert!(role(ports.base + 201).starts_with("master") && role(ports.base + 202).starts_with("slave"));
    assert!(role(ports.base + 203).starts_with("master") && role(ports.base + 204).starts_with("slave"));
    assert!(!processes(dir.path()).is_empty(), "the processes must be found while they run");
    // With appendfsync everysec, the last write might not be in the file yet, and a WAIT would not change that.
    for port in [201, 203] {
        let mut server = Client::connect(ports.base + port).unwrap();
        server.call(&["CONFIG", "SET", "appendfsync", "no"]).unwrap();
    }
    Client::connect(ports.base + 1).unwrap().call(&["MSET", "last", "kept", "last2", "kept"]).unwrap();

    playground.kill9();
    wait_no_processes(dir.path());

    let mut again = start(dir.path(), ports.base);
    let cli = cluster_tests::cli::Cli::new(format!("127.0.0.1:{}", ports.base + 102), None);
    let slots = cli.json(&["slot", "ls"]);
    assert_eq!((&slots[0]["last"], &slots[1]["first"], &slots[1]["last"]), (&511.into(), &512.into(), &1023.into()));
    wait_for("the data from before the restart", GENEROUS, || {
        let got = Client::connect(ports.base + 3)
            .and_then(|mut c| c.call(&["MGET", "key1", "key2", "key3", "last", "last2"]));
        match got {
            Ok(reply) if reply.text() == "kept kept kept kept kept" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    again.signal(Signal::INT);
    let ended = again.wait_end(GENEROUS);
    assert!(ended.success(), "{ended}");
    wait_no_processes(dir.path());
}

#[test]
fn a_dead_child_is_not_restarted_and_its_command_is_printed() {
    let (dir, ports) = (Scratch::new(), PlaygroundPorts::take());
    let mut playground = start(dir.path(), ports.base);
    let before = playground.log().len();
    let admin = format!("127.0.0.1:{}", ports.base + 102);
    let find = |dir: &Path| {
        fs::read_dir("/proc").unwrap().flatten().find(|entry| {
            let line =
                String::from_utf8_lossy(&fs::read(entry.path().join("cmdline")).unwrap_or_default()).into_owned();
            line.contains(&dir.display().to_string()) && line.contains("\0--id\x002\0")
        })
    };
    let node = find(dir.path()).expect("node 2 runs").file_name().into_string().unwrap();
    let pid = rustix::process::Pid::from_raw(node.parse().unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
    let printed = wait_for("the playground to print the command", GENEROUS, || {
        let printed = playground.log().split_off(before);
        if printed.contains("start it again") { Ok(printed) } else { Err(printed) }
    });
    assert!(playground.ended().is_none(), "the playground must continue");
    let line = printed
        .lines()
        .find(|l| l.contains("serve") && l.contains("--id"))
        .expect("the command is printed")
        .trim()
        .to_owned();
    let mut shell = std::process::Command::new("/bin/sh");
    let node =
        Process::start("node 2 again", shell.args(["-c", &format!("exec {line}")]), &dir.path().join("again.log"));
    let cli = cluster_tests::cli::Cli::new(admin, None);
    wait_for("node 2 to be alive again", GENEROUS, || {
        let nodes = cli.try_json(&["node", "ls", "--timeout", "2s"])?;
        if nodes[1]["state"] == "alive" { Ok(()) } else { Err(nodes.to_string()) }
    });
    drop(node);
    playground.signal(Signal::TERM);
    assert!(playground.wait_end(GENEROUS).success());
    wait_no_processes(dir.path());
}
