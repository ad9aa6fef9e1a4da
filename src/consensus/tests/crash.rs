//! kill -9 in the middle of appends, truncations, purges and snapshots: nothing acknowledged is missing.

use std::{
    io::{BufRead, BufReader},
    os::unix::process::ExitStatusExt,
    process::{Command, Stdio},
    time::Duration,
};

use super::*;
use crate::{
    consensus::{Consensus, ConsensusConfig, Timing},
    model::{
        change::NewMember,
        ids::{HostPort, NodeId},
    },
    wire::auth::ClusterSecret,
};

const DIR: &str = "PONTOON_TEST_CRASH_DIR";
const SEED: &str = "PONTOON_TEST_CRASH_SEED";

/// The process that is killed. It is a test so that it can use the store, which is private; it never passes.
#[test]
#[ignore = "the child process of nothing_acknowledged_is_missing_after_kill"]
fn child() {
    let variable =
        |name| std::env::var(name).unwrap_or_else(|_| panic!("only its parent test starts this, with {name}"));
    let (dir, seed) = (variable(DIR), variable(SEED));
    let mut random = fastrand::Rng::with_seed(seed.parse().unwrap());
    let disk = open(Path::new(&dir));
    let mut term = disk.vote().unwrap().map_or(0, |v| v.leader_id.term) + 1;
    let mut next = disk.ends().last.map_or(0, |l| l.index + 1);
    disk.save_vote(&Vote::new_committed(term, 1)).unwrap();
    println!("vote {term} 0");
    loop {
        let count = random.u64(1..6);
        disk.append(&(next..next + count).map(|i| log_entry(term, i)).collect::<Vec<_>>()).unwrap();
        next += count;
        println!("ack {term} {}", next - 1);
        let floor = disk.ends().purged.map_or(0, |p| p.index) + 3;
        match random.u8(..10) {
            0 if next > floor => {
                let since = next - 1;
                println!("cut {term} {since}");
                disk.truncate(since).unwrap();
                next = since;
                term += 1;
                disk.save_vote(&Vote::new_committed(term, 1)).unwrap();
                println!("vote {term} 0");
            }
            1 if next > floor => {
                let upto = disk.entries(next - 2, Some(next - 1), 0).unwrap().pop().unwrap().log_id;
                let meta = SnapshotMeta { last_log_id: Some(upto), ..SnapshotMeta::default() };
                disk.save_snapshot(&meta, &vec![upto.index as u8; 9000]).unwrap();
                disk.purge(upto).unwrap();
            }
            _ => {}
        }
    }
}

#[test]
fn nothing_acknowledged_is_missing_after_kill() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..6_u64 {
        let mut random = fastrand::Rng::with_seed(round);
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["consensus::tests::crash::child", "--exact", "--ignored", "--nocapture", "--test-threads=1"])
            .env(DIR, dir.path())
            .env(SEED, round.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (mut acked, mut vote, mut appends, mut left) = (None, 0, 0, random.usize(3..60));
        for line in lines {
            let line = line.unwrap();
            // libtest writes "test NAME ... " before the child's first line.
            let words: Vec<&str> = line.rsplit("... ").next().unwrap().split(' ').collect();
            let [what, term, index] = words[..] else { continue };
            let (Ok(term), Ok(index)) = (term.parse(), index.parse::<u64>()) else { continue };
            match what {
                "ack" => (acked, appends) = (Some(log_id(term, index)), appends + 1),
                // The entries that are being cut off may be missing from now on.
                "cut" => acked = None,
                "vote" => vote = term,
                _ => continue,
            }
            left = left.saturating_sub(1);
            // The loop goes on to the end of the pipe: what is still in it was acknowledged, too.
            if left == 0 {
                child.kill().unwrap();
            }
        }
        let ended = child.wait().unwrap();
        assert_eq!(ended.signal(), Some(9), "round {round}: the child was not killed at work, but: {ended}");
        assert!(vote > 0 && appends > 0, "round {round}: the child appended nothing: vote {vote}, {appends} appends");
        let disk = open(dir.path());
        assert!(disk.vote().unwrap().unwrap().leader_id.term >= vote, "round {round}");
        if let Some(acked) = acked {
            let purged = disk.ends().purged;
            let found = disk.entries(acked.index, Some(acked.index + 1), 0).unwrap().pop();
            assert!(
                purged.is_some_and(|p| p >= acked)
                    || found.is_some_and(|e| contents(&e) == contents(&log_entry(acked.leader_id.term, acked.index))),
                "round {round}: {acked} is missing, the log is {:?}",
                disk.ends()
            );
        }
        disk.close();
    }
}

const FULL: &str = "PONTOON_TEST_FULL_DIR";

/// A process with a cluster of one whose files may not grow. It is a test for the same reason as `child`; it never
/// passes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the child process of a_full_disk_stops_the_log_and_loses_nothing_acknowledged"]
async fn child_of_full_disk() {
    let dir = std::env::var(FULL).unwrap_or_else(|_| panic!("only its parent test starts this, with {FULL}"));
    let dir = std::path::PathBuf::from(dir);
    let me = NewMember {
        id: NodeId(1),
        uuid: directory::identity(&dir).unwrap(),
        admin: HostPort::parse("127.0.0.1:24001").unwrap(),
        advertise: "127.0.0.1".into(),
        port_offset: 0,
    };
    let timing = Timing {
        heartbeat: Duration::from_millis(100),
        election_min: Duration::from_millis(300),
        election_max: Duration::from_millis(600),
    };
    let config = ConsensusConfig { me: me.clone(), data_dir: dir, secret: ClusterSecret::none(), source: None, timing };
    let consensus = Consensus::open(config).await.unwrap();
    let mut stopped = consensus.stopped();
    consensus.initialize(Uuid(5), vec![me]).await.unwrap();
    consensus.leadership().wait_for(|l| l.is_me).await.unwrap();
    for n in 0..100_000 {
        match consensus.propose(Uuid(n), change(n as u64), Duration::from_secs(30)).await {
            Ok(applied) => println!("ack {} {n}", applied.index),
            Err(e) => {
                println!("error {e}");
                break;
            }
        }
    }
    let why = stopped.wait_for(Option::is_some).await.unwrap().clone().unwrap();
    println!("stopped {why}");
    let after = consensus.propose(Uuid(1 << 70), change(0), Duration::from_secs(30)).await.unwrap_err();
    println!("after {after}");
    // Without destructors, as by kill -9: what a process could still write while it ends must not matter.
    std::process::exit(0);
}

#[test]
fn a_full_disk_stops_the_log_and_loses_nothing_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    // 96 KB per file. The signal is ignored, so that `write` returns an error, as on a full disk.
    let script = "trap '' XFSZ; ulimit -f 96; exec \"$0\" consensus::tests::crash::child_of_full_disk --exact --ignored --nocapture";
    let out = Command::new("bash")
        .args(["-c", script])
        .arg(std::env::current_exe().unwrap())
        .env(FULL, dir.path())
        .stderr(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let end: Vec<&str> = text.lines().rev().take(4).collect();
    let acked = text.lines().filter_map(|l| l.split("ack ").nth(1)?.split(' ').next()?.parse::<u64>().ok()).max();
    let acked = acked.unwrap_or_else(|| panic!("nothing was acknowledged: {end:?}"));
    assert!(text.lines().any(|l| l.starts_with("stopped ") && l.contains("cannot")), "{end:?}");
    assert!(text.lines().any(|l| l.starts_with("after ") && l.contains("has stopped")), "{end:?}");
    let disk = open(dir.path());
    assert!(disk.ends().last.unwrap().index >= acked, "{acked} is missing: {:?}", disk.ends());
    disk.append(&[LogEntry { log_id: log_id(99, disk.ends().last.unwrap().index + 1), payload: EntryPayload::Blank }])
        .unwrap();
}
