//! kill -9 in the middle of appends, truncations, purges and snapshots, and a full disk: nothing acknowledged is
//! missing from the log.
//! Knows nothing of the log itself: the process `log_writer` writes it, and checks it afterwards.

#![allow(clippy::unwrap_used)]

use std::{
    io::{BufRead, BufReader},
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Command, Stdio},
};

const LOG_WRITER: &str = env!("CARGO_BIN_EXE_log_writer");

/// What a killed `log_writer append` has reported.
#[derive(Debug, Default)]
struct Reported {
    /// Term of the last vote.
    vote: u64,
    /// Number of appends.
    appends: u64,
    /// Term and index of the last entry that must be there. `None` if that entry was about to be truncated.
    acknowledged: Option<(u64, u64)>,
}

impl Reported {
    fn read(&mut self, line: &str) {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["vote", term] => self.vote = term.parse().unwrap(),
            ["ack", term, index] => {
                self.acknowledged = Some((term.parse().unwrap(), index.parse().unwrap()));
                self.appends += 1;
            }
            ["cut"] => self.acknowledged = None,
            _ => panic!("log_writer reports: {line}"),
        }
    }
}

/// Appends to the log below `dir`, and kills the process after this number of reports. Returns all that it reported.
fn append_and_kill(dir: &Path, seed: u64, reports: usize) -> Reported {
    let mut child =
        Command::new(LOG_WRITER).arg("append").arg(dir).arg(seed.to_string()).stdout(Stdio::piped()).spawn().unwrap();
    let mut reported = Reported::default();
    // The loop continues to the end of the pipe: the reports that are still in it are acknowledgements, too.
    for (n, line) in (1..).zip(BufReader::new(child.stdout.take().unwrap()).lines()) {
        reported.read(&line.unwrap());
        if n == reports {
            child.kill().unwrap();
        }
    }
    let ended = child.wait().unwrap();
    assert_eq!(ended.signal(), Some(9), "seed {seed}: the process was not killed while it appended, but: {ended}");
    assert!(reported.vote > 0 && reported.appends > 0, "seed {seed}: the process appended nothing: {reported:?}");
    reported
}

/// Runs a check of `log_writer`, which must succeed.
fn check(command: &str, dir: &Path, numbers: &[u64], what: &str) {
    let numbers = numbers.iter().map(u64::to_string);
    let output = Command::new(LOG_WRITER).arg(command).arg(dir).args(numbers).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what}: {}: {error}", output.status);
}

#[test]
fn nothing_acknowledged_is_missing_after_kill() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..6 {
        let reports = fastrand::Rng::with_seed(round).usize(3..60);
        let reported = append_and_kill(dir.path(), round, reports);
        let mut numbers = vec![reported.vote];
        if let Some((term, index)) = reported.acknowledged {
            numbers.extend([term, index]);
        }
        check("verify", dir.path(), &numbers, &format!("round {round}, {reported:?}"));
    }
}

#[test]
fn a_log_without_an_acknowledged_entry_fails_the_check() {
    let dir = tempfile::tempdir().unwrap();
    let Reported { vote, acknowledged, .. } = append_and_kill(dir.path(), 0, 20);
    let (term, index) = acknowledged.unwrap_or((vote, 0));
    let verify = |numbers: [u64; 3]| {
        let numbers = numbers.iter().map(u64::to_string);
        let output = Command::new(LOG_WRITER).arg("verify").arg(dir.path()).args(numbers).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    // After its last report the process has appended one more batch at most.
    let (passed, error) = verify([vote, term, index + 1000]);
    assert!(!passed && error.contains("is missing, the log is"), "{error}");
    let (passed, error) = verify([vote + 1000, term, index]);
    assert!(!passed && error.contains("the vote of term"), "{error}");
}

#[test]
fn a_full_disk_stops_the_log_and_loses_nothing_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    // 96 KB per file. The signal is ignored, so that `write` returns an error, as on a full disk.
    let script = "trap '' XFSZ; ulimit -f 96; exec \"$0\" fill \"$1\"";
    let output = Command::new("bash").args(["-c", script, LOG_WRITER]).arg(dir.path()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let last: Vec<&str> = text.lines().rev().take(4).collect();
    let report = format!("{last:?}, {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    let acknowledged = text.lines().filter_map(|l| l.strip_prefix("ack ")).map(|i| i.parse::<u64>().unwrap()).max();
    let acknowledged = acknowledged.unwrap_or_else(|| panic!("nothing was acknowledged: {report}"));
    assert!(output.status.success(), "{report}");
    assert!(text.lines().any(|l| l.starts_with("stopped ") && l.contains("cannot")), "{report}");
    assert!(text.lines().any(|l| l.starts_with("after ") && l.contains("has stopped")), "{report}");
    check("verify-filled", dir.path(), &[acknowledged], &report);
}
