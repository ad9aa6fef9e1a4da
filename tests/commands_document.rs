//! The list of all commands in docs/commands.md is that of the command table. `PONTOON_GOLDEN_WRITE=1` writes it.
#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use pontoon::commands::{self, Flags, Handling, Spec};

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
