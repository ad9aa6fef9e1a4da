//! What the program does without a cluster: pipes that are closed, configurations that cannot work, names that are unknown.

#![allow(clippy::unwrap_used)]

use std::{
    io::Read,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use cluster_tests::{binary, cli::Ran, process::Scratch};

fn pontoon(args: &[&str]) -> Command {
    let mut command = binary::command(binary::pontoon());
    command.args(args);
    command
}

fn run(args: &[&str]) -> Ran {
    Ran::new(args.join(" "), &pontoon(args).output().unwrap())
}

/// A pipe whose reader has gone.
fn closed_pipe() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

#[test]
fn a_reader_that_has_gone_ends_the_output_quietly() {
    for args in [&["completions", "bash"][..], &["serve", "--print-config"], &["version", "--node", "127.0.0.1:1"]] {
        let mut child = pontoon(args).stdout(closed_pipe()).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!((child.wait().unwrap().code(), said.as_str()), (Some(141), ""), "{args:?}");
    }
    // Errors and warnings: nobody reads them, and the exit code is that of the command.
    for (args, code) in
        [(&["status", "--node", "127.0.0.1:1"][..], 1), (&["serve", "--set", "x"], 2), (&["nonsense"], 2)]
    {
        let ended = pontoon(args).stdout(closed_pipe()).stderr(closed_pipe()).status().unwrap();
        assert_eq!(ended.code(), Some(code), "{args:?}");
    }
    // A full disk is no reader that has gone.
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let ended = pontoon(&["completions", "bash"]).stdout(full).stderr(Stdio::piped()).output().unwrap();
    assert!(ended.status.code() == Some(1) && String::from_utf8_lossy(&ended.stderr).contains("cannot be written"));
}

#[test]
fn check_config_reports_by_its_exit_code() {
    let scratch = Scratch::new();
    let dir = |name: &str| scratch.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(scratch.path().join("file"), "").unwrap();
    std::fs::create_dir(scratch.path().join("foreign")).unwrap();
    std::fs::write(scratch.path().join("foreign/letter"), "dear").unwrap();
    // It tries to bind it.
    let admin = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let check = |data_dir: &str, level: &str| {
        let peers = format!("1={admin}");
        let node = ["serve", "--id", "1", "--admin", &admin, "--peers", &peers];
        run(&[&node[..], &["--data-dir", data_dir, "--log-level", level, "--check-config"]].concat())
    };
    let good = check(&dir("new/data"), "info,pontoon=debug");
    assert!(good.code == 0 && good.out.contains("valid"), "{good:?}");
    assert!(!scratch.path().join("new").exists(), "a check changes nothing");
    for (data_dir, level, part) in [
        (dir("new"), "loud", "'loud' is not a level"),
        (dir("file"), "info", "is not a directory"),
        (dir("file/data"), "info", "cannot be made"),
        (dir("foreign"), "info", "other files (letter)"),
        ("/dev/null/data".into(), "info", "/dev/null"),
    ] {
        let bad = check(&data_dir, level);
        assert!(bad.code == 2 && bad.err.contains(part), "{bad:?}");
    }
}

#[test]
fn what_cannot_be_reached_is_reported_at_once() {
    let began = Instant::now();
    let ran = run(&["status", "--node", "127.0.0.1:1,127.0.0.1:2", "-o", "json"]);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let error: serde_json::Value = serde_json::from_str(&ran.err).unwrap();
    assert_eq!((ran.code, &error["error"]["code"]), (1, &"no-node".into()), "{ran:?}");
    let text = error["error"]["message"].as_str().unwrap();
    assert!(text.contains("127.0.0.1:1:") && text.contains("127.0.0.1:2:"), "{text}");
    let usage = run(&["status", "--dry-run", "-o", "json"]);
    let error: serde_json::Value = serde_json::from_str(&usage.err).unwrap();
    assert_eq!((usage.code, &error["error"]["code"]), (2, &"usage".into()), "{usage:?}");
}

#[test]
fn a_foreign_directory_is_not_recovered() {
    let scratch = Scratch::new();
    std::fs::write(scratch.path().join("letter"), "dear").unwrap();
    let dir = scratch.path().to_str().unwrap();
    let ran = run(&["recover", "--data-dir", dir, "--from-survivor", "--the-others-are-gone"]);
    assert!(ran.code == 1 && ran.err.contains("not the data directory") && !ran.err.contains("damaged"), "{ran:?}");
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 1);
}
