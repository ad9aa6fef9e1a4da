//! What a node does when its disk is full, its log is damaged, or the others are gone for good.
//! Knows nothing of the log's format beyond where its files are.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    io::{Seek, SeekFrom, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::SystemTime,
};

use cluster_tests::{
    binary,
    client::{Client, Reply},
    cluster::Cluster,
    stock,
    wait::{GENEROUS, wait_for},
};

/// The largest file under a directory: the log itself.
fn largest(dir: &Path) -> PathBuf {
    let mut found: Option<(u64, PathBuf)> = None;
    let mut todo = vec![dir.to_path_buf()];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let (path, meta) = {
                let e = entry.unwrap();
                (e.path(), e.metadata().unwrap())
            };
            if meta.is_dir() {
                todo.push(path);
            } else if found.as_ref().is_none_or(|(len, _)| meta.len() > *len) {
                found = Some((meta.len(), path));
            }
        }
    }
    found.unwrap().1
}

/// Checks that the node refuses to start, and that it says what to do.
#[track_caller]
fn refuses(cluster: &mut Cluster, id: u16) {
    let before = cluster.node(id).log().len();
    cluster.node_mut(id).start();
    let ended = cluster.node_mut(id).wait_end(GENEROUS);
    assert!(!ended.success(), "{ended}");
    let said = cluster.node(id).log().split_off(before);
    assert!(said.contains("refuses to start") && said.contains("node remove"), "it does not say what to do: {said}");
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn a_damaged_log_is_refused_and_the_node_comes_back_by_joining() {
    let mut cluster = Cluster::serving(1);
    let victim = cluster.follower();
    let other = cluster.nodes.iter().map(|n| n.id).find(|id| *id != victim).unwrap();
    cluster.node_mut(victim).kill9();
    let (dir, kept) = (cluster.node(victim).data_dir.clone(), cluster.dir.path().join("kept"));
    stock::run(std::process::Command::new("cp").arg("-a").arg(&dir).arg(&kept));
    let restore = || {
        std::fs::remove_dir_all(&dir).unwrap();
        stock::run(std::process::Command::new("cp").arg("-a").arg(&kept).arg(&dir));
    };

    // Bytes at the beginning have changed.
    let file = largest(&dir);
    let len = std::fs::metadata(&file).unwrap().len();
    let mut log = std::fs::File::options().write(true).open(&file).unwrap();
    log.seek(SeekFrom::Start(0)).unwrap();
    log.write_all(&vec![0x5a; usize::try_from(len.min(64 << 10)).unwrap()]).unwrap();
    drop(log);
    refuses(&mut cluster, victim);

    // The file is cut off: acknowledged entries are missing.
    restore();
    std::fs::File::options().write(true).open(&file).unwrap().set_len(0).unwrap();
    refuses(&mut cluster, victim);

    // Without the damage, it starts.
    restore();
    cluster.node_mut(victim).start();
    cluster.wait_formed();
    cluster.node_mut(victim).kill9();

    // The remedy in the message works.
    cluster.node(other).cli().ok(&["node", "remove", &victim.to_string(), "--assume-dead", "--timeout", "40s"]);
    std::fs::remove_dir_all(&dir).unwrap();
    let join = ("--join".into(), cluster.node(other).admin());
    cluster.node_mut(victim).origin = join;
    cluster.node_mut(victim).start();
    cluster.wait_formed();
    cluster.wait_answers(victim);
}

#[test]
fn a_node_whose_disk_is_full_acknowledges_nothing_and_the_others_go_on() {
    let mut cluster = Cluster::serving(1);
    let victim = cluster.follower();
    let others: Vec<u16> = (1..=3).filter(|id| *id != victim).collect();
    cluster.node_mut(victim).kill9();
    // Started with SIGXFSZ ignored, so that a write fails as on a full disk.
    cluster.node_mut(victim).file_limit_kb = Some(1 << 30);
    cluster.node_mut(victim).start();
    cluster.wait_formed();
    // The witness fits. The log outgrows the limit soon: sled writes segments of 512 KB, and reuses free ones.
    cluster.node(victim).limit_files(8 << 10);
    // Changes are made until its log must grow.
    let cli = cluster.node(others[0]).cli();
    let name = "x".repeat(64);
    let port = cluster.ports.product(1).to_string();
    wait_for("the full disk to be noticed", GENEROUS * 3, || {
        cli.ok(&["product", "create", &name, "--port", &port, "--timeout", "40s"]);
        cli.ok(&["product", "remove", &name, "--timeout", "40s"]);
        if cluster.node(victim).log().contains("the log has stopped") { Ok(()) } else { Err("its log still grows") }
    });
    let ended = cluster.node_mut(victim).wait_end(GENEROUS);
    assert!(!ended.success(), "a node that cannot keep its promises ends: {ended}");
    for id in &others {
        cluster.wait_answers(*id);
    }
    // The message differs from that of a damaged log: an operator must not wipe a directory because a disk is full.
    // The limit leaves room for log lines, but not for the segment that sled begins when it opens.
    cluster.node_mut(victim).file_limit_kb = Some(256);
    let before = cluster.node(victim).log().len();
    cluster.node_mut(victim).start();
    assert!(!cluster.node_mut(victim).wait_end(GENEROUS).success());
    let said = cluster.node(victim).log().split_off(before);
    assert!(said.contains("space") && !said.contains("node remove"), "{said}");
    // With space again it starts and catches up.
    cluster.node_mut(victim).file_limit_kb = None;
    cluster.node_mut(victim).start();
    cluster.wait_formed();
    cluster.wait_answers(victim);
}

/// All files and folders below a directory: name, mode, time of the last change, content.
fn contents(dir: &Path) -> Vec<(PathBuf, u32, SystemTime, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let found = path.metadata().unwrap();
        if found.is_dir() {
            all.extend(contents(&path));
        }
        let content = if found.is_dir() { Vec::new() } else { fs::read(&path).unwrap() };
        all.push((path, found.permissions().mode(), found.modified().unwrap(), content));
    }
    all.sort();
    all
}

#[test]
fn the_survivor_becomes_a_cluster_of_one_and_the_others_are_refused() {
    let mut cluster = Cluster::serving(2);
    assert_eq!(cluster.node(3).client().call(&["SET", "kept", "1"]).unwrap(), Reply::ok());
    let (slots, id) = (cluster.cli().json(&["slot", "ls"]), cluster.cli().json(&["status"])["cluster_id"].clone());
    let dir = cluster.node(3).data_dir.clone();
    let recover = |more: &[&str]| {
        let mut command = binary::command(binary::pontoon());
        command.args(["recover", "--data-dir"]).arg(&dir).args(more).output().unwrap()
    };
    let both = ["--from-survivor", "--the-others-are-gone"];
    assert!(!recover(&both).status.success(), "a node that runs is not recovered");
    for node in &mut cluster.nodes {
        node.kill9();
    }
    assert_eq!(recover(&["--from-survivor"]).status.code(), Some(2));
    let before = contents(&dir);
    let tried = recover(&[&both[..], &["--dry-run"]].concat());
    assert!(before == contents(&dir), "a dry run changes no file");
    let said = String::from_utf8_lossy(&tried.stdout).into_owned();
    assert!(tried.status.success() && said.contains("node 3 would be a cluster of one"), "{tried:?}");
    let ran = recover(&both);
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert!(ran.status.success(), "{ran:?}");
    assert!(
        said.contains("missing") || said.contains("lost") || said.contains("older"),
        "it does not say what may be missing: {said}"
    );

    cluster.node_mut(3).start();
    cluster.wait_serving(&[3]);
    let status = cluster.node(3).cli().json(&["status"]);
    assert_ne!(status["cluster_id"], id);
    assert_eq!(status["nodes"].as_array().unwrap().len(), 1);
    let of = |json: &serde_json::Value| {
        json.as_array()
            .unwrap()
            .iter()
            .map(|r| (r["first"].clone(), r["last"].clone(), r["group"].clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(of(&cluster.node(3).cli().json(&["slot", "ls"])), of(&slots));
    wait_for("the recovered node to serve", GENEROUS, || {
        match Client::connect(cluster.node(3).client_port).and_then(|mut c| c.call(&["GET", "kept"])) {
            Ok(reply) if reply == Reply::bulk("1") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    // A former member is refused until its data directory is empty.
    let before = cluster.node(1).log().len();
    cluster.node_mut(1).start();
    let ended = cluster.node_mut(1).wait_end(GENEROUS);
    let log = cluster.node(1).log().split_off(before);
    assert!(ended.success() && log.contains("the cluster has removed this node; it stops"), "{ended}: {log}");
    assert_eq!(cluster.node(3).cli().json(&["node", "ls"]).as_array().unwrap().len(), 1);
    std::fs::remove_dir_all(&cluster.node(1).data_dir).unwrap();
    let join = ("--join".into(), cluster.node(3).admin());
    cluster.node_mut(1).origin = join;
    cluster.node_mut(1).start();
    cluster.wait_serving(&[1, 3]);
}
