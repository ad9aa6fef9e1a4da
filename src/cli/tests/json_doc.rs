//! docs/json.md says what every command prints under `--output json`. Its tables are made of the comments of
//! proto/admin.proto and of the list of commands here; `PONTOON_GOLDEN_WRITE=1` writes them.

use std::{collections::BTreeSet, path::Path};

use clap::CommandFactory;
use serde_json::Value;

use super::{
    dry_run,
    fake::{Fake, FakeAnswer},
    schema::{Field, Kind, Names, Object, Schema, Seen},
    *,
};
use crate::cli::error::ErrorCode;

/// How a command prints JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    One,
    List,
    /// Each line is an array.
    Lists,
}

use Form::{List, Lists, One};

/// What a command prints: command, form, object, golden file, and what else there is to say. Of a change see `CHANGE`.
type Printed = (&'static str, Form, &'static str, &'static str, &'static str);

const PRINTED: &[Printed] = &[
    ("status", One, "StatusReply", "status", "with `--check`, too"),
    ("node ls", List, "Node", "node-ls", ""),
    ("node show", One, "Node", "node-show", ""),
    ("node set", One, "SetNodeLogReply", "node-set", ""),
    ("product ls", List, "Product", "product-ls", ""),
    ("product show", One, "Product", "product-show", ""),
    ("group ls", List, "Group", "group-ls", ""),
    ("group show", One, "ShowGroupReply", "group-show", ""),
    ("server ls", List, "ListedServer", "server-ls", ""),
    ("maintenance status", One, "Maintenance", "maintenance-status", ""),
    ("slot ls", List, "SlotRange", "slot-ls", "with or without `--all`"),
    ("slot key", One, "LocatedKey", "slot-key", ""),
    ("migrate ls", List, "Migration", "migrate-ls", "with or without `--all`"),
    ("migrate show", One, "Migration", "migrate-show", ""),
    (
        "migrate watch",
        Lists,
        "Migration",
        "migrate-ls",
        "one line, whenever something has changed, until all have ended",
    ),
    ("client ls", One, "ClientsReply", "client-ls", ""),
    ("client kill", One, "ClientsReply", "client-ls", "those that were closed"),
    ("events", List, "Event", "events", "with `--follow` one line for each event, which is an object"),
    ("cluster show", One, "ShowClusterReply", "cluster-show", ""),
    ("version", One, "Versions", "version", ""),
];

/// Changes, which all print the same.
const CHANGE: (&str, &str) = ("Change", "change");
const CHANGES: &[&str] = &[
    "node remove",
    "node set-role",
    "product create",
    "product set",
    "product remove",
    "group create",
    "group add-server",
    "group remove-server",
    "group promote",
    "group set",
    "group drain",
    "group remove",
    "server set",
    "maintenance on",
    "maintenance off",
    "slot assign",
    "slot release",
    "migrate start",
    "migrate cancel",
    "migrate pause",
    "migrate resume",
    "migrate set",
    "rebalance",
    "cluster set",
];

/// Commands that print no JSON, except for errors.
const TEXT: &[&str] = &["serve", "recover", "playground", "completions", "man", "exec-child"];

const ERROR: (&str, &str) = ("Error", "error");

/// The objects that are printed, or are elements of an array that is.
pub fn roots() -> impl Iterator<Item = &'static str> {
    PRINTED.iter().map(|printed| printed.2).chain([CHANGE.0, ERROR.0])
}

/// Values that are printed, as parsed.
fn values(text: &str, form: Form) -> Vec<Value> {
    let parsed = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_else(|e| panic!("{e}: {text}"));
    let elements = |value: Value| match value {
        Value::Array(items) => items,
        other => panic!("it is no array: {other}"),
    };
    match form {
        One => vec![parsed(text)],
        List => elements(parsed(text)),
        Lists => text.lines().flat_map(|line| elements(parsed(line))).collect(),
    }
}

#[test]
fn every_command_is_in_the_list() {
    let listed: Vec<&str> =
        PRINTED.iter().map(|p| p.0).chain(CHANGES.iter().copied()).chain(TEXT.iter().copied()).collect();
    let mut all = Vec::new();
    dry_run::leaves(&Cli::command(), "", &mut all);
    for name in &all {
        assert_eq!(
            listed.iter().filter(|l| *l == name).count(),
            1,
            "'{name}' is to be once in PRINTED, CHANGES or TEXT"
        );
    }
    assert_eq!(listed.len(), all.len(), "a command is listed that does not exist");
}

/// Every golden file has the fields of its object and no others, and together they have a value for every field.
#[test]
fn golden_files_have_what_the_document_says() {
    let (schema, mut seen) = (Schema::new(), Seen::new());
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli/tests/golden");
    let other = [("", One, CHANGE.0, CHANGE.1, ""), ("", One, ERROR.0, ERROR.1, "")];
    let mut checked = BTreeSet::new();
    for (_, form, object, golden, _) in PRINTED.iter().chain(&other) {
        let text = std::fs::read_to_string(folder.join(format!("{golden}.json"))).unwrap();
        // A line of `migrate watch` is what `migrate ls` prints.
        let form = if *form == Lists { List } else { *form };
        for value in values(&text, form) {
            schema.check(&value, object, golden, &mut seen).unwrap();
        }
        checked.insert(format!("{golden}.json"));
    }
    let files: BTreeSet<String> =
        std::fs::read_dir(&folder).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(files, checked, "golden files, and those that were checked");
    for (name, object) in &schema.objects {
        for field in &object.fields {
            assert!(
                seen.contains(&(name.clone(), field.name.clone())),
                "no golden file has a value for {name}.{}",
                field.name
            );
        }
    }
}

/// The commands themselves, against a node that has something to say.
#[tokio::test]
async fn commands_print_what_the_document_says() {
    let schema = Schema::new();
    let changes = CHANGES.iter().map(|name| (*name, One, CHANGE.0, CHANGE.1, ""));
    for (name, form, object, ..) in PRINTED.iter().copied().chain(changes) {
        let line = dry_run::LINES.iter().find(|line| **line == name || line.starts_with(&format!("{name} ")));
        let node = Fake::with_samples(&[FakeAnswer::Done]).await;
        // The migration that it watches never ends.
        let timeout = if name == "migrate watch" { "--timeout 300ms" } else { "" };
        let line = format!("{} -o json {timeout}", line.unwrap());
        output::capture::begin();
        let result = retries::typed(&node.address, &line).await;
        let printed = output::capture::take();
        assert!(result.is_ok() || name == "migrate watch", "{line}: {result:?}");
        let found = values(&printed, form);
        assert!(!found.is_empty(), "{line} printed nothing");
        for value in found {
            schema.check(&value, object, &line, &mut Seen::new()).unwrap();
        }
    }
}

#[test]
fn every_field_and_value_has_a_comment() {
    let schema = Schema::new();
    let mut missing = Vec::new();
    for (name, object) in &schema.objects {
        missing.extend(object.text.is_empty().then(|| name.clone()));
        for field in &object.fields {
            let says_when = !field.nullable || field.text.to_lowercase().contains("not present");
            let fine = says_when && field.text.ends_with('.');
            missing.extend((!fine).then(|| format!("{name}.{}", field.name)));
        }
    }
    for (name, names) in &schema.names {
        missing.extend(names.text.is_empty().then(|| name.clone()));
        let without = names.values.iter().filter(|(_, text)| !text.ends_with('.'));
        missing.extend(without.map(|(value, _)| format!("{name}: {value}")));
    }
    assert!(
        missing.is_empty(),
        "in proto/admin.proto, no comment, or one that does not say when it is not present: {missing:#?}"
    );
}

/// Makes tables.
type Part = fn(&Schema) -> String;

/// The tables of docs/json.md between their marks.
const PARTS: [(&str, Part); 4] = [("commands", commands), ("objects", objects), ("names", names), ("errors", errors)];

#[test]
fn the_document_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/json.md");
    let before = std::fs::read_to_string(&path).unwrap();
    let schema = Schema::new();
    let mut text = before.clone();
    for (name, part) in PARTS {
        let (begin, end) = (format!("<!-- {name}: generated -->\n"), format!("<!-- {name}: end -->\n"));
        let (Some(from), Some(to)) = (text.find(&begin), text.find(&end)) else {
            panic!("docs/json.md has no {begin}")
        };
        text.replace_range(from + begin.len()..to, &format!("\n{}\n", part(&schema)));
    }
    if std::env::var_os("PONTOON_GOLDEN_WRITE").is_some() {
        return std::fs::write(&path, &text).unwrap();
    }
    let same = before.lines().zip(text.lines()).take_while(|(a, b)| a == b).count();
    assert!(
        before == text,
        "docs/json.md differs from the comments of proto/admin.proto at line {}: run this test with PONTOON_GOLDEN_WRITE=1",
        same + 1
    );
}

fn commands(_: &Schema) -> String {
    let mut out = String::from("| command | standard output |\n|---|---|\n");
    for (name, form, object, _, note) in PRINTED {
        let many = if *form == One { "" } else { "array of " };
        let note = if note.is_empty() { String::new() } else { format!("; {note}") };
        out += &format!("| `{name}` | {many}{}{note} |\n", link(object));
    }
    let changes: Vec<String> = CHANGES.iter().map(|name| format!("`{name}`")).collect();
    out += &format!("| {} | {} |\n", changes.join(", "), link(CHANGE.0));
    let hidden = |name: &&&str| Cli::command().find_subcommand(name).is_some_and(clap::Command::is_hide_set);
    let text: Vec<String> = TEXT.iter().filter(|name| !hidden(name)).map(|name| format!("`{name}`")).collect();
    out + &format!("| {} | text, whatever `--output` says |\n", text.join(", "))
}

fn objects(schema: &Schema) -> String {
    let of_error = [ERROR.0, "ErrorBody"];
    let shown = schema.objects.iter().filter(|(name, _)| !of_error.contains(&name.as_str()));
    shown.map(|(name, object)| object_text(name, object)).collect::<Vec<_>>().join("\n")
}

fn object_text(name: &str, object: &Object) -> String {
    let mut out = format!("### {name}\n\n{}\n\n", object.text);
    if let Some(with) = &object.with {
        out += &format!("It has the fields of {}, and these:\n\n", link(with));
    }
    out += "| field | type | meaning |\n|---|---|---|\n";
    object.fields.iter().for_each(|field| out += &row(field));
    out
}

fn row(field: &Field) -> String {
    let kind = match &field.kind {
        Kind::Integer(None) => "integer".into(),
        Kind::Integer(Some(unit)) => format!("integer, {unit}"),
        Kind::Text => "string".into(),
        Kind::Boolean => "boolean".into(),
        Kind::Moment => "time".into(),
        Kind::Names(name) | Kind::Object(name) => link(name),
    };
    let kind = if field.repeated { format!("array of {kind}") } else { kind };
    let kind = if field.nullable { format!("{kind}, or null") } else { kind };
    format!("| `{}` | {kind} | {} |\n", field.name, cell(&field.text))
}

fn names(schema: &Schema) -> String {
    let one = |(name, Names { text, values }): (&String, &Names)| {
        let rows: String = values.iter().map(|(value, text)| format!("| `{value}` | {} |\n", cell(text))).collect();
        format!("### {name}\n\n{text}\n\n| value | meaning |\n|---|---|\n{rows}")
    };
    schema.names.iter().map(one).collect::<Vec<_>>().join("\n")
}

fn errors(schema: &Schema) -> String {
    let mut out = String::new();
    for name in [ERROR.0, "ErrorBody"] {
        out += &object_text(name, &schema.objects[name]);
        out += "\n";
    }
    out += "### Codes\n\n| code | exit code | meaning | what to do |\n|---|---|---|---|\n";
    for (code, meaning, remedy) in ErrorCode::ALL {
        out += &format!("| `{}` | {} | {} | {} |\n", code.code(), code.exit_code(), cell(meaning.trim()), cell(remedy));
    }
    out
}

/// A link to the section of an object, or of names.
fn link(name: &str) -> String {
    format!("[{name}](#{})", name.to_lowercase())
}

/// A text as a cell of a table, in the words of JSON.
fn cell(text: &str) -> String {
    text.replace("Not present", "`null`").replace("not present", "`null`").replace('|', "\\|")
}
