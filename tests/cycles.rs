//! Files of one folder do not import each other in a circle, so that a reader can start at one end.
//! Reads `use` declarations and inline paths; knows nothing of what the files do.
#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// The folders below `src` whose files are compared with each other.
const FOLDERS: &[&str] = &[
    "api",
    "cli",
    "commands",
    "consensus",
    "control",
    "model",
    "mover",
    "node",
    "plan",
    "proxy",
    "redis",
    "resp",
    "wire",
];

/// Circles that are accepted: the folder, its files in order, the reason.
const ACCEPTED: &[(&str, &[&str], &str)] = &[
    (
        "model",
        &["ejection", "migration", "promotion", "state"],
        "plain types: the state holds migrations, promotions and ejections, whose files add queries to `ClusterState`",
    ),
    (
        "proxy",
        &[
            "acks",
            "backend",
            "backend_set",
            "dedicated",
            "hold",
            "inquiry",
            "monitor",
            "pause",
            "product",
            "quota",
            "session",
            "worker",
        ],
        "one thread's object graph: a worker owns sessions and backends, and both return to it to complete a request",
    ),
];

/// A module path below the crate root, for example `["mover", "io", "connection"]`.
type Module = Vec<String>;

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

/// The module of a file below `src`.
fn module_of(below: &str) -> Module {
    let mut parts: Module = below.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if parts.last().is_some_and(|last| last == "mod") {
        parts.pop();
    }
    parts
}

/// The code of a file without comments and without the test modules at its end.
fn code_of(text: &str) -> String {
    let code = text.split("#[cfg(test)]\nmod ").next().unwrap();
    let lines: Vec<_> = code.lines().map(|l| l.split("//").next().unwrap()).collect();
    lines.join("\n")
}

/// All paths that begin with `crate`, `super` or `self`, with the groups of `use` declarations expanded.
fn paths(code: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for root in ["crate::", "super::", "self::"] {
        for (at, _) in code.match_indices(root) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$' || c == ':') {
                continue;
            }
            expand(&code[at..], &mut Vec::new(), &mut found);
        }
    }
    found
}

/// Reads one path, or one tree of a `use` declaration; returns how many bytes it took.
fn expand(text: &str, prefix: &mut Vec<String>, found: &mut Vec<Vec<String>>) -> usize {
    let depth = prefix.len();
    let mut at = 0;
    loop {
        at += text[at..].len() - text[at..].trim_start().len();
        let rest = &text[at..];
        if let Some(list) = rest.strip_prefix('{') {
            let mut inner = 0;
            loop {
                inner += list[inner..].len() - list[inner..].trim_start().len();
                if list[inner..].starts_with('}') || list[inner..].is_empty() {
                    inner = (inner + 1).min(list.len());
                    break;
                }
                let took = expand(&list[inner..], prefix, found);
                // The rest of an item, such as `as name`, and its comma.
                let tail = list[inner + took..].find([',', '}']).unwrap_or(list.len() - inner - took);
                inner += took + tail;
                if list[inner..].starts_with(',') {
                    inner += 1;
                }
            }
            at += 1 + inner;
            break;
        }
        let word: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        if word.is_empty() {
            found.push(prefix.clone());
            break;
        }
        at += word.len();
        prefix.push(word);
        if text[at..].starts_with("::") {
            at += 2;
        } else {
            found.push(prefix.clone());
            break;
        }
    }
    prefix.truncate(depth);
    at
}

/// The file that a path names from within `from`; `None`: none of `modules`.
fn resolve(path: &[String], from: &Module, modules: &BTreeSet<Module>) -> Option<Module> {
    let mut full: Module = match path[0].as_str() {
        "crate" => Vec::new(),
        _ => from.clone(),
    };
    let mut rest = path;
    while let Some((first, more)) = rest.split_first() {
        match first.as_str() {
            "crate" | "self" => {}
            "super" => {
                full.pop()?;
            }
            _ => break,
        }
        rest = more;
    }
    full.extend(rest.iter().cloned());
    (1..=full.len()).rev().map(|n| full[..n].to_vec()).find(|prefix| modules.contains(prefix))
}

/// The groups of files that reach each other, each in order.
fn circles(edges: &BTreeMap<Module, BTreeSet<Module>>) -> Vec<Vec<Module>> {
    let reach = |from: &Module| {
        let mut seen = BTreeSet::new();
        let mut next = vec![from];
        while let Some(at) = next.pop() {
            for to in edges.get(at).into_iter().flatten() {
                if seen.insert(to.clone()) {
                    next.push(to);
                }
            }
        }
        seen
    };
    let reached: BTreeMap<&Module, BTreeSet<Module>> = edges.keys().map(|m| (m, reach(m))).collect();
    let mut found = Vec::new();
    let mut done = BTreeSet::new();
    for (module, others) in &reached {
        if done.contains(*module) || !others.contains(*module) {
            continue;
        }
        let circle: Vec<Module> =
            others.iter().filter(|o| reached.get(o).is_some_and(|r| r.contains(*module))).cloned().collect();
        done.extend(circle.iter().cloned());
        if circle.len() > 1 {
            found.push(circle);
        }
    }
    found
}

/// Which files of `folder` import which: a file that declares a module (`mod.rs`) does not count as an importer of its parts.
fn imports(folder: &str) -> BTreeMap<Module, BTreeSet<Module>> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src.join(folder), &mut files);
    let below = |path: &PathBuf| path.strip_prefix(&src).unwrap().to_string_lossy().into_owned();
    let modules: BTreeSet<Module> = files.iter().map(|f| module_of(&below(f))).collect();
    let mut edges = BTreeMap::new();
    for file in files.iter().filter(|f| !below(f).ends_with("tests.rs") && !below(f).contains("/tests/")) {
        let from = module_of(&below(file));
        let code = code_of(&fs::read_to_string(file).unwrap());
        let to: BTreeSet<Module> = paths(&code)
            .iter()
            .filter_map(|path| resolve(path, &from, &modules))
            .filter(|to| *to != from && !to.starts_with(&from))
            .collect();
        edges.insert(from, to);
    }
    edges
}

#[test]
fn files_of_a_folder_import_in_one_direction() {
    let mut wrong = Vec::new();
    let mut accepted = BTreeSet::new();
    for folder in FOLDERS {
        let edges = imports(folder);
        assert!(!edges.is_empty(), "{folder}: no files were found");
        for circle in circles(&edges) {
            let names: Vec<String> = circle.iter().map(|module| module[1..].join("/")).collect();
            if let Some(at) = ACCEPTED.iter().position(|(f, files, _)| f == folder && *files == names) {
                accepted.insert(at);
            } else {
                wrong.push(format!("{folder}: {}", names.join(", ")));
            }
        }
    }
    assert!(wrong.is_empty(), "files import each other in a circle:\n{}", wrong.join("\n"));
    assert_eq!(accepted.len(), ACCEPTED.len(), "an accepted circle is gone: take it off the list");
}

#[test]
fn the_reader_of_paths_reads() {
    let code =
        "use super::{a, b::{self, C as D}};\nuse crate::x::y::{Z, w};\nlet v = super::super::q::f();\nself::t::g(1)";
    let mut read: Vec<String> = paths(code).iter().map(|p| p.join("::")).collect();
    read.sort();
    let all = [
        "crate::x::y::Z",
        "crate::x::y::w",
        "self::t::g",
        "super::a",
        "super::b::C",
        "super::b::self",
        "super::q::f",
        "super::super::q::f",
    ];
    // `super::super` is read from its second word, too; that path leads out of the folder.
    assert!(all.iter().all(|path| read.contains(&(*path).to_owned()) || *path == "super::q::f"), "{read:?}");
}

#[test]
fn a_circle_is_found() {
    let module = |name: &str| vec!["f".to_owned(), name.to_owned()];
    let edges = BTreeMap::from([
        (module("a"), BTreeSet::from([module("b")])),
        (module("b"), BTreeSet::from([module("c")])),
        (module("c"), BTreeSet::from([module("a"), module("d")])),
        (module("d"), BTreeSet::new()),
    ]);
    assert_eq!(circles(&edges), [vec![module("a"), module("b"), module("c")]]);
    let modules = BTreeSet::from([module("a"), vec!["f".to_owned()]]);
    let words = |path: &str| path.split("::").map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(resolve(&words("super::a::Thing"), &module("b"), &modules), Some(module("a")));
    assert_eq!(resolve(&words("crate::f::Thing"), &module("b"), &modules), Some(vec!["f".to_owned()]));
    assert_eq!(resolve(&words("crate::other::Thing"), &module("b"), &modules), None);
}
