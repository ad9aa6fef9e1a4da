//! A damaged log is refused with advice, unless the damage is where it does not matter: nothing is lost silently.

use std::{fs, path::Path};

use super::*;
use crate::consensus::witness;

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for item in fs::read_dir(from).unwrap() {
        let item = item.unwrap();
        let target = to.join(item.file_name());
        if item.file_type().unwrap().is_dir() {
            copy(&item.path(), &target);
        } else {
            fs::copy(item.path(), target).unwrap();
        }
    }
}

fn refusal(dir: &Path) -> String {
    let text = Disk::open(dir).expect_err("a damaged log was accepted").to_string();
    assert!(text.contains("refuses to start") && text.contains("node remove") && text.contains("--join"), "{text}");
    text
}

/// Checks that everything acknowledged is there: the vote, and the entries up to 99, the first of which may be in the
/// snapshot. (sled may fall back to before the purge; then the snapshot is gone, and the entries in it are there
/// again.)
fn nothing_lost(disk: &Disk, what: &str) {
    assert_eq!(disk.vote().unwrap(), Some(Vote::new_committed(3, 1)), "{what}");
    let entries = disk.entries(0, None, 0).unwrap();
    let first = entries.first().map_or(100, |e| e.log_id.index);
    let expected: Vec<_> = (first..100).map(|i| contents(&log_entry(3, i))).collect();
    assert_eq!(entries.iter().map(contents).collect::<Vec<_>>(), expected, "{what}");
    match disk.snapshot().unwrap() {
        Some(snapshot) => {
            assert!(snapshot.meta.last_log_id >= Some(log_id(3, first.saturating_sub(1))), "{what}");
            assert_eq!(snapshot.snapshot.into_inner(), vec![7; 20_000], "{what}");
        }
        None => assert_eq!(first, 0, "{what}: neither snapshot nor entries"),
    }
}

#[test]
fn a_truncated_or_missing_database_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let good = dir.path().join("good");
    fill(&good);
    let whole = fs::metadata(good.join("raft/db")).unwrap().len();
    let mut refused = 0;
    for (n, len) in [0, 1, whole / 8, whole / 4, whole / 2].into_iter().enumerate() {
        let bad = dir.path().join(format!("cut{n}"));
        copy(&good, &bad);
        fs::OpenOptions::new().write(true).open(bad.join("raft/db")).unwrap().set_len(len).unwrap();
        match Disk::open(&bad) {
            Err(_) => {
                refusal(&bad);
                refused += 1;
            }
            Ok(disk) => nothing_lost(&disk, &format!("cut at {len} of {whole}")),
        }
    }
    assert!(refused >= 3, "only {refused} cuts were noticed");
    for victim in ["raft/db", "raft"] {
        let bad = dir.path().join(format!("without-{}", victim.len()));
        copy(&good, &bad);
        let path = bad.join(victim);
        if path.is_dir() {
            fs::remove_dir_all(path).unwrap()
        } else {
            fs::remove_file(path).unwrap()
        }
        refusal(&bad);
    }
    open(&good);
}

#[test]
fn flipped_bytes_are_refused_or_harmless() {
    let dir = tempfile::tempdir().unwrap();
    let good = dir.path().join("good");
    fill(&good);
    let bytes = fs::read(good.join("raft/db")).unwrap();
    let used = bytes.iter().rposition(|b| *b != 0).unwrap();
    let mut random = fastrand::Rng::with_seed(3);
    let mut refused = 0;
    let rounds = 24;
    for n in 0..rounds {
        let bad = dir.path().join(format!("flip{n}"));
        copy(&good, &bad);
        let mut bytes = bytes.clone();
        let at = random.usize(..=used);
        for byte in &mut bytes[at..(at + 64).min(used)] {
            *byte ^= 0x55;
        }
        fs::write(bad.join("raft/db"), &bytes).unwrap();
        match Disk::open(&bad) {
            Err(_) => {
                refusal(&bad);
                refused += 1;
            }
            Ok(disk) => nothing_lost(&disk, &format!("flipped at {at}")),
        }
    }
    assert!(refused > 0, "no flip was noticed in {rounds}");
}

#[test]
fn a_truncated_or_missing_witness_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    let path = witness::path(dir.path());
    let good = fs::read(&path).unwrap();
    for len in [0, 100, good.len() / 2, good.len() - 1] {
        fs::write(&path, &good[..len]).unwrap();
        assert!(refusal(dir.path()).contains("witness"));
        assert!(directory::identity(dir.path()).unwrap_err().to_string().contains("refuses to start"));
    }
    fs::remove_file(&path).unwrap();
    assert!(refusal(dir.path()).contains("missing"));
    // A new identity is not made beside an old log.
    assert!(directory::identity(dir.path()).unwrap_err().to_string().contains("missing"));
    fs::write(&path, &good).unwrap();
    open(dir.path());
}

#[test]
fn a_stale_copy_of_the_log_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (live, kept) = (dir.path().join("live"), dir.path().join("kept"));
    fill(&live);
    copy(&live, &kept);
    let disk = open(&live);
    disk.append(&[log_entry(3, 100)]).unwrap();
    disk.close();
    fs::remove_dir_all(live.join("raft")).unwrap();
    copy(&kept.join("raft"), &live.join("raft"));
    assert!(refusal(&live).contains("entry 100 was acknowledged"));

    // The same for a vote.
    let disk = open(&kept);
    disk.save_vote(&Vote::new(4, 2)).unwrap();
    disk.close();
    fs::remove_dir_all(kept.join("raft")).unwrap();
    copy(&live.join("raft"), &kept.join("raft"));
    assert!(refusal(&kept).contains("vote"));
}
