//! Every command honours `--dry-run` and `--wait`, or refuses them: all commands that clap knows are tried.

use clap::{CommandFactory, error::ErrorKind};

use super::{
    fake::{Fake, FakeAnswer},
    *,
};

/// A command line for each command.
pub const LINES: &[&str] = &[
    "serve",
    "recover --data-dir /nowhere --from-survivor --the-others-are-gone",
    "playground",
    "status",
    "node ls",
    "node show 3",
    "node remove 3",
    "node set-role 3 voter",
    "node set 3 log=debug",
    "product ls",
    "product show shop",
    "product create shop --port 1",
    "product set shop port=1",
    "product remove shop",
    "group ls",
    "group show 3",
    "group create 3 --primary a:1",
    "group add-server 3 a:1",
    "group remove-server 3 a:1",
    "group promote 3 a:1",
    "group set 3 maintenance=on",
    "group drain 3",
    "group remove 3",
    "server ls",
    "server set a:1 priority=1",
    "maintenance on",
    "maintenance off",
    "maintenance status",
    "slot ls",
    "slot assign 0-9 3",
    "slot release 0-9",
    "slot key k",
    "migrate start 0-9 --to 3",
    "migrate ls",
    "migrate show 17",
    "migrate watch",
    "migrate cancel 17",
    "migrate pause 17",
    "migrate resume 17",
    "migrate set 17 hold-max=0",
    "client ls",
    "client kill 7",
    "rebalance --apply",
    "events",
    "cluster show",
    "cluster set voters=3",
    "version",
    "completions bash",
    "man /nowhere",
    "exec-child --parent 1 -- true",
];

/// Commands that work on this machine, not through a node.
const LOCAL: &[&str] = &["serve", "recover", "playground", "completions", "man", "exec-child"];

fn parsed(line: &str) -> Result<Cli, clap::Error> {
    let words: Vec<OsString> = ["pontoon"].into_iter().chain(line.split_whitespace()).map(Into::into).collect();
    Cli::parse_words(&words)
}

/// The names of all commands below this one that have none below them, as they are typed.
pub fn leaves(command: &clap::Command, name: &str, all: &mut Vec<String>) {
    let mut below = command.get_subcommands().filter(|c| c.get_name() != "help").peekable();
    if below.peek().is_none() {
        all.push(name.trim().to_owned());
    }
    below.for_each(|c| leaves(c, &format!("{name} {}", c.get_name()), all));
}

/// The command line with a flag, before anything that belongs to another program.
fn with(line: &str, flag: &str) -> String {
    format!("{flag} {line}")
}

#[tokio::test]
async fn every_command_honours_the_flags_or_refuses_them() {
    let mut all = Vec::new();
    leaves(&Cli::command(), "", &mut all);
    assert!(all.len() > 40, "{all:?}");
    for name in &all {
        let of = |line: &&&str| **line == *name || line.starts_with(&format!("{name} "));
        let line = LINES.iter().find(of).unwrap_or_else(|| panic!("'{name}' has no line in this test"));
        let local = LOCAL.contains(&name.as_str());
        for flag in ["--dry-run", "--wait"] {
            match parsed(&with(line, flag)) {
                Ok(_) if local => {
                    assert_eq!((name.as_str(), flag), ("recover", "--dry-run"), "it is tested with a log")
                }
                Ok(Cli { common, command }) => {
                    let node = Fake::start(&[FakeAnswer::Done]).await;
                    remote(command, Common { node: node.address.clone(), ..common }).await.unwrap();
                    let asked = node.asked();
                    assert!(!asked.is_empty(), "{line} takes {flag} and asks for no change");
                    assert!(asked.iter().all(|o| o.dry_run == (flag == "--dry-run")), "{line} {flag}: {asked:?}");
                }
                Err(refused) => {
                    assert_eq!((refused.kind(), refused.exit_code()), (ErrorKind::ArgumentConflict, 2), "{refused}");
                    assert!(refused.to_string().contains(flag), "{refused}");
                }
            }
        }
        let Cli { common, command } = parsed(line).unwrap();
        if !local && command.honours() == (false, false) {
            // A command that refuses the flags changes nothing without them either.
            let node = Fake::start(&[FakeAnswer::Done]).await;
            let _ = remote(command, Common { node: node.address.clone(), ..common }).await;
            assert!(node.asked().is_empty(), "{line} changes something");
        }
    }
}

#[test]
fn a_foreign_directory_is_not_recovered() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("letter"), "dear").unwrap();
    for flag in ["", "--dry-run"] {
        let dir = dir.path().display();
        let line = format!("recover --data-dir {dir} --from-survivor --the-others-are-gone {flag}");
        let Cli { common, command: Command::Recover(args) } = parsed(&line).unwrap() else { panic!("{line}") };
        let refused = recover::run(&args, &common).unwrap_err().to_string();
        assert!(refused.contains("is not the data directory of a node") && !refused.contains("damaged"), "{refused}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "it left a file there");
}
