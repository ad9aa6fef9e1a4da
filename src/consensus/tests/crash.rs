//! kill -9 in the middle of appends, truncations, purges and snapshots: nothing acknowledged is missing.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use super::*;

const DIR: &str = "PONTOON_TEST_CRASH_DIR";
const SEED: &str = "PONTOON_TEST_CRASH_SEED";

/// Not a test by itself: the process that is killed. Does nothing unless it is told a directory.
#[test]
fn child() {
    let (Ok(dir), Ok(seed)) = (std::env::var(DIR), std::env::var(SEED)) else { return };
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
            .args(["consensus::tests::crash::child", "--exact", "--nocapture", "--test-threads=1"])
            .env(DIR, dir.path())
            .env(SEED, round.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (mut acked, mut vote, mut left) = (None, 0, random.usize(3..60));
        for line in lines {
            let line = line.unwrap();
            // libtest writes "test NAME ... " before the first line.
            let words: Vec<&str> = line.rsplit("... ").next().unwrap().split(' ').collect();
            let [what, term, index] = words[..] else { continue };
            let (Ok(term), Ok(index)) = (term.parse(), index.parse::<u64>()) else { continue };
            match what {
                "ack" => acked = Some(log_id(term, index)),
                // What is being cut off is promised no more.
                "cut" => acked = None,
                "vote" => vote = term,
                _ => continue,
            }
            left = left.saturating_sub(1);
            // The lines that are still in the pipe are read, too: they were acknowledged.
            if left == 0 {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(vote > 0, "round {round}: the child said nothing");
        let disk = open(dir.path());
        assert!(disk.vote().unwrap().unwrap().leader_id.term >= vote, "round {round}");
        if let Some(acked) = acked {
            let purged = disk.ends().purged;
            let found = disk.entries(acked.index, Some(acked.index + 1), 0).unwrap().pop();
            assert!(
                purged.is_some_and(|p| p >= acked)
                    || found.is_some_and(|e| said(&e) == said(&log_entry(acked.leader_id.term, acked.index))),
                "round {round}: {acked} is missing, the log is {:?}",
                disk.ends()
            );
        }
        disk.close();
    }
}
