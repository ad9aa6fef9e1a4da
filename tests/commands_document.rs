//! The list of all commands in docs/commands.md is that of the command table. `PONTOON_GOLDEN_WRITE=1` writes it.
#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use pontoon::commands::{self, Flags, Handling, HashImport, OfferedCommands, Spec};

/// The heading of the list, which is the last section of the document.
const HEADING: &str = "## All commands\n";

/// How a command is served, as a part of a sentence.
fn how(spec: &Spec) -> String {
    let blocks = spec.flags.contains(Flags::BLOCKING);
    match spec.handling {
        Handling::Slot if blocks => "at the owner of the slot; blocks".to_owned(),
        Handling::Slot => "at the owner of the slot".to_owned(),
        Handling::Cursor => "at the owner of the slot; the cursor is valid for one server process".to_owned(),
        Handling::Database => "at the owner of the slot; the database is one of the product's".to_owned(),
        Handling::Split(_) => "split over the slots of its keys".to_owned(),
        Handling::Transaction(_) => "a transaction in one slot".to_owned(),
        Handling::Local(_) => "answered by the node".to_owned(),
        Handling::Node(_) => "answered by the node for all clients of the product at it".to_owned(),
        Handling::AllGroups(_) => "carried out at all groups".to_owned(),
        Handling::Script(_) => "at the owner of the slot; without keys, at one group".to_owned(),
        Handling::Scripts(_) => "carried out at all groups, and recorded".to_owned(),
        Handling::HashImport(HashImport::Set) => "at the owner of the slot, with its fieldset".to_owned(),
        Handling::HashImport(_) => "answered by the node, which keeps the fieldsets of a connection".to_owned(),
        Handling::AnyServer => "at any server".to_owned(),
        Handling::WaitReplicas => "at the groups that the client has written to".to_owned(),
        Handling::Unsupported(why) => format!("not supported yet: {}", short(why)),
        Handling::Refused(why) => format!("refused: {}", short(why)),
        Handling::Close(why) => format!("the connection is closed: {}", short(why)),
        Handling::Container => unreachable!("a container is replaced by its subcommands"),
    }
}

/// A reason without what only an error text needs.
fn short(why: &str) -> String {
    why.replace(", not executed", "").replace(". The connection is closed", "")
}

fn list() -> String {
    let mut rows = BTreeMap::new();
    for spec in commands::all() {
        let is_container = matches!(spec.handling, Handling::Container);
        let own = (!is_container).then_some(spec);
        for spec in own.into_iter().chain(spec.subcommands) {
            rows.insert(spec.name.replace('|', " ").to_ascii_uppercase(), how(spec));
        }
    }
    let mut out = format!(
        "{HEADING}\nThis list is generated from the command table. A command of a newer Redis or Valkey, or of a module, works where the \
         servers\nhave it. Commands that the table does not have are learnt from the servers; what they do not have either is \
         an unknown\ncommand.\n\n| command | how it is served |\n|---|---|\n"
    );
    for (name, how) in rows {
        writeln!(out, "| `{name}` | {how} |").unwrap();
    }
    out
}

#[test]
fn the_document_lists_all_commands() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/commands.md");
    let document = std::fs::read_to_string(&path).unwrap();
    let begin = document.find(HEADING).expect("docs/commands.md ends with the list of all commands");
    if std::env::var_os("PONTOON_GOLDEN_WRITE").is_some() {
        std::fs::write(&path, [&document[..begin], &list()].concat()).unwrap();
        return;
    }
    let differs = document[begin..].lines().zip(list().lines()).position(|(is, wanted)| is != wanted);
    assert!(
        document[begin..] == list(),
        "docs/commands.md differs from the command table, in line {differs:?} of the list: run this test with \
         PONTOON_GOLDEN_WRITE=1"
    );
}

/// The names in the first cells of the table of what scripts cannot run, those after "other than" left out.
fn denied_to_scripts(document: &str) -> Vec<String> {
    let (_, table) = document.split_once("| what a script cannot run | instead |\n|---|---|\n").unwrap();
    let cells = table.lines().take_while(|line| line.starts_with('|')).map(|line| line.split('|').nth(1).unwrap());
    let names = |cell: &str| {
        let parts: Vec<String> = cell.split('`').map(str::to_owned).collect();
        let named = |pair: &[String]| (!pair[0].ends_with("other than ")).then(|| pair[1].to_ascii_lowercase());
        parts.chunks_exact(2).filter_map(named).collect::<Vec<_>>()
    };
    cells.flat_map(names).collect()
}

/// Regression: MOVE was in the table when clients, and so scripts, could send it already.
#[test]
fn the_document_names_only_what_scripts_cannot_run() {
    // What is outside of the data user's rights, or what no script may run at any server.
    const IN_NO_SCRIPT: [&str; 1] = ["script|load"];
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/commands.md");
    let denied = denied_to_scripts(&std::fs::read_to_string(path).unwrap());
    assert!(denied.len() > 15 && denied.iter().any(|name| name == "migrate"), "{denied:?}");
    let all = commands::all().flat_map(|spec| [spec].into_iter().chain(spec.subcommands));
    let offered = OfferedCommands::new(all.map(|spec| spec.name.to_owned()));
    let exceptions = ["memory|usage", "command|docs"];
    let runs: Vec<_> = commands::allow_list(&offered)
        .into_iter()
        .filter(|name| !name.ends_with("|help") && !IN_NO_SCRIPT.contains(name) && !exceptions.contains(name))
        .filter(|name| denied.iter().any(|denied| name.split('|').next() == Some(denied)))
        .collect();
    assert_eq!(runs, Vec::<&str>::new(), "scripts can run these");
}
