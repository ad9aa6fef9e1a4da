//! A cluster that is attacked, and the checks after an attack.

use std::{collections::BTreeMap, path::Path, time::Duration};

use cluster_tests::{
    client::Reply,
    cluster::Cluster,
    wait::{GENEROUS, holds_for, wait_until},
};
use pontoon::wire::pb::raft::{AppendEntriesRequest, InstallSnapshotRequest};
use tonic::{Code, Status};

use crate::peer::Peer;

/// How long a data directory must not change to count as quiet: several times the interval in which sled writes what
/// nobody waits for (500 ms).
const QUIET: Duration = Duration::from_millis(1600);

/// The attacked cluster.
pub struct Victim {
    pub cluster: Cluster,
}

/// The names and contents of all files of a data directory.
pub type Image = BTreeMap<String, Vec<u8>>;

pub fn image(dir: &Path) -> Image {
    let mut files = Image::new();
    let mut todo = vec![dir.to_path_buf()];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(dir).unwrap().flatten() {
            if entry.path().is_dir() {
                todo.push(entry.path());
            } else {
                files.insert(entry.path().display().to_string(), std::fs::read(entry.path()).unwrap_or_default());
            }
        }
    }
    files
}

impl Victim {
    /// Nodes with a secret, and a group that serves all slots.
    pub fn start(nodes: u16) -> Self {
        let mut cluster = Cluster::prepared(nodes);
        cluster.use_secret();
        cluster.start_all();
        cluster.add_groups(1);
        Self { cluster }
    }

    /// A hostile process that calls node `id`.
    pub fn peer(&self, id: u16) -> Peer {
        Peer::of(&self.cluster.node(id).admin())
    }

    /// Waits until node `id` writes nothing, and returns its files.
    #[track_caller]
    pub fn quiet(&self, id: u16) -> Image {
        let dir = self.cluster.node(id).data_dir.clone();
        let mut seen = image(&dir);
        wait_until("the data directory to be quiet", GENEROUS, || {
            let before = std::mem::replace(&mut seen, image(&dir));
            before == seen && holds_for(QUIET, || image(&dir) == seen)
        });
        seen
    }

    /// Checks that node `id` serves clients and operators.
    #[track_caller]
    pub fn serves(&self, id: u16) {
        let node = self.cluster.node(id);
        node.cli().ok(&["status", "--timeout", "20s"]);
        assert_eq!(node.client().call(&["SET", "k", "1"]).unwrap(), Reply::ok());
    }

    /// The term of node `id`.
    pub fn term(&self, id: u16) -> u64 {
        self.cluster.node(id).cli().json(&["status"])["term"].as_u64().unwrap()
    }

    /// Index of the last entry that node `id` has applied.
    pub fn applied(&self, id: u16) -> u64 {
        self.cluster.node(id).cli().json(&["status"])["applied"].as_u64().unwrap()
    }

    /// Checks that node `id` restarts cleanly, after SIGTERM and after SIGKILL, and logged no panic.
    #[track_caller]
    pub fn restarts(&mut self, id: u16) {
        let ended = self.cluster.node_mut(id).terminate(GENEROUS);
        assert!(ended.success(), "{ended}");
        self.cluster.node_mut(id).start();
        self.cluster.wait_formed();
        self.cluster.node_mut(id).kill9();
        self.cluster.node_mut(id).start();
        self.cluster.wait_formed();
        self.cluster.wait_answers(id);
        let log = self.cluster.node(id).log();
        assert!(!log.contains("panicked"), "{log}");
    }
}

/// Checks that a call was refused for this reason.
#[track_caller]
pub fn refused<T: std::fmt::Debug>(what: &str, answer: Result<T, Status>, code: Code, part: &str) {
    let status = answer.expect_err(what);
    assert!(status.code() == code && status.message().contains(part), "{what}: {status:?}");
}

/// Checks that every Raft call of a peer was refused for this reason. The peer claims to be
/// beyond this term and this applied index of the victim.
#[track_caller]
pub fn all_refused(peer: &mut Peer, (term, applied): (u64, u64), part: &str) {
    let code = Code::FailedPrecondition;
    refused("a vote", peer.vote(term + 1, peer.at(term, applied + 1000)), code, part);
    let append = AppendEntriesRequest { vote: peer.leads(term + 1), ..Default::default() };
    refused("an append", peer.append(append), code, part);
    let install = InstallSnapshotRequest {
        vote: peer.leads(term + 1),
        meta: peer.snapshot(term + 1, applied + 1000),
        done: true,
        ..Default::default()
    };
    refused("a snapshot", peer.install(install), code, part);
    refused("an election", peer.stand(), code, part);
}
