//! Checks the layers of ARCHITECTURE.md by reading the sources: imports point down only, and pure layers stay pure.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The modules that each module may import directly. A module that is missing here fails the test; add it to the table
/// in ARCHITECTURE.md, too.
const MAY: &[(&str, &[&str])] = &[
    ("clock", &[]),
    ("faults", &[]),
    ("files", &[]),
    ("counters", &[]),
    ("logging", &["files"]),
    ("panics", &[]),
    ("model", &[]),
    ("plan", &["model"]),
    ("resolver", &["model"]),
    ("resp", &[]),
    ("commands", &["resp"]),
    ("wire", &["model", "clock"]),
    ("proxy", &["model", "resp", "commands", "clock", "counters", "faults", "panics", "resolver"]),
    ("redis", &["resp", "model", "resolver"]),
    ("mover", &["redis", "commands", "model", "resp", "faults", "panics"]),
    ("consensus", &["model", "wire", "clock", "counters", "faults", "panics"]),
    (
        "control",
        &[
            "consensus",
            "redis",
            "plan",
            "model",
            "commands",
            "wire",
            "clock",
            "counters",
            "faults",
            "files",
            "panics",
            "resolver",
        ],
    ),
    ("api", &["control", "consensus", "plan", "model", "wire", "clock", "counters", "faults", "logging", "proxy"]),
    ("config", &["model", "wire", "consensus", "files", "logging", "proxy", "plan"]),
    (
        "node",
        &[
            "api",
            "control",
            "consensus",
            "redis",
            "plan",
            "model",
            "commands",
            "wire",
            "proxy",
            "resp",
            "mover",
            "config",
            "clock",
            "counters",
            "faults",
            "files",
            "logging",
            "panics",
        ],
    ),
    ("cli", &["wire", "config", "model", "node", "consensus", "clock", "logging", "resolver"]),
];

/// Names that only some modules may use: the name, and the modules.
const ONLY: &[(&str, &[&str])] = &[
    ("openraft::", &["consensus"]),
    ("sled::", &["consensus"]),
    // The cold-path client, and the oracle of the scanner's tests.
    ("redis_protocol", &["redis"]),
    // Connections by host name go through the resolver: tokio would resolve the name in the thread pool that writes the
    // log.
    ("TcpStream::connect", &["resolver", "cli"]),
    ("lookup_host", &[]),
    // They panic when the reader of the output has gone; `cli::output` writes.
    ("print!(", &[]),
    // `consensus::crash_test` is a program of its own, which reports to the test that started it.
    ("println!(", &["consensus"]),
];

/// Names that pure layers never use, so that the same log gives the same state on every node.
const IMPURE: &[&str] = &["HashMap", "HashSet", "tokio", "Instant", "SystemTime", "fastrand", "std::net", "std::fs"];
const PURE: &[&str] = &["model", "plan", "resp", "commands"];

/// A file longer than this has more than one noun in it.
const LINES_MAX: usize = 550;

fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

/// Returns for each source file its module, its path below src/, and its text without comments and without the test
/// modules at the end of the file.
fn all() -> Vec<(String, String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 10, "the sources were not found");
    files
        .iter()
        .map(|path| {
            let below = path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
            let module = below.split(['/', '.']).next().unwrap().to_owned();
            let text = fs::read_to_string(path).unwrap();
            let code = text.split("#[cfg(test)]\nmod ").next().unwrap();
            let code: Vec<_> = code.lines().map(|l| l.split("//").next().unwrap()).collect();
            (module, below, code.join("\n"))
        })
        .filter(|(module, below, _)| !["lib", "main"].contains(&module.as_str()) && !below.ends_with("tests.rs"))
        .collect()
}

/// Returns the modules of this crate that a text imports: `crate::x`, also in `use crate::{x::.., y::..}`.
fn imports(code: &str) -> Vec<String> {
    let word = |s: &str| -> String { s.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect() };
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        if code[..at].ends_with('$') {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        let Some(list) = rest.strip_prefix('{') else {
            found.push(word(rest));
            continue;
        };
        let mut depth = 0;
        let mut part = String::new();
        for c in list.chars() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => found.push(word(std::mem::take(&mut part).trim())),
                _ => {}
            }
            if depth == 0 && c != ',' {
                part.push(c);
            }
        }
        found.push(word(part.trim()));
    }
    found.retain(|m| !m.is_empty());
    found
}

#[test]
fn imports_point_down() {
    let mut wrong = Vec::new();
    for (module, file, code) in all() {
        let Some((_, may)) = MAY.iter().find(|(m, _)| *m == module) else {
            wrong.push(format!("{file}: {module} is not in the table of layers"));
            continue;
        };
        for import in imports(&code) {
            if import != module && MAY.iter().any(|(m, _)| *m == import) && !may.contains(&import.as_str()) {
                wrong.push(format!("{file}: {module} must not import {import}"));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn names_stay_where_they_belong() {
    let mut wrong = Vec::new();
    for (module, file, code) in all() {
        for (name, places) in ONLY {
            if code.contains(name) && !places.contains(&module.as_str()) {
                wrong.push(format!("{file}: only {} may use {name}", places.join(", ")));
            }
        }
        for name in IMPURE.iter().filter(|_| PURE.contains(&module.as_str())) {
            if code.split(|c: char| !c.is_alphanumeric() && c != '_' && c != ':').any(|w| w.starts_with(name)) {
                wrong.push(format!("{file}: {module} is pure and must not use {name}"));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn files_are_one_noun() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    sources(&root.join("src"), &mut files);
    let long: Vec<_> = files
        .iter()
        .map(|f| (f, fs::read_to_string(f).unwrap().lines().count()))
        .filter(|(_, lines)| *lines > LINES_MAX)
        .map(|(f, lines)| format!("{}: {lines} lines, more than {LINES_MAX}", f.display()))
        .collect();
    assert!(long.is_empty(), "\n{}", long.join("\n"));
}

#[test]
fn the_reader_of_imports_reads() {
    let code = "use crate::model::ids;\nuse crate::{\n    api,\n    config::{a, b},\n    wire::x,\n};\nlet y = crate::node::run();";
    assert_eq!(imports(code), ["model", "api", "config", "wire", "node"]);
}

#[test]
fn the_systemd_unit_is_understood() {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/pontoon.service");
    let answer = std::process::Command::new("systemd-analyze").arg("verify").arg(&unit).output();
    let answer = answer.expect("systemd-analyze can be run; `make systemd` installs it");
    let messages = String::from_utf8_lossy(&answer.stderr).into_owned();
    // The program need not be installed on this machine. Every other message about the unit is a fault.
    let faults: Vec<_> = messages
        .lines()
        .filter(|l| l.contains("pontoon.service") && !l.contains("is not executable") && !l.contains("not found"))
        .collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
