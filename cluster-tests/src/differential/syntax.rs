//! The syntax of each command as a server describes it with COMMAND DOCS: so that every option of every version is
//! generated without a table of ours. Knows nothing of what the arguments stand for.

use std::collections::BTreeMap;

use super::{
    connection::{Connection, words},
    reply::Reply,
};

/// An argument, or several that belong together.
#[derive(Clone, Debug)]
pub struct Argument {
    /// Its name, such as `seconds`.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// The word in front of it, such as `EX`; of [`Kind::Token`]: the word itself.
    pub token: Option<String>,
    /// It may be left out.
    pub is_optional: bool,
    /// It may be repeated.
    pub is_multiple: bool,
    /// Where it is repeated, so is its token.
    pub repeats_token: bool,
}

/// What an argument is.
#[derive(Clone, Debug)]
pub enum Kind {
    /// A word of this type: `key`, `string`, `integer`, `double`, `pattern` or `unix-time`.
    Word(String),
    /// The token alone.
    Token,
    /// One of these.
    OneOf(Vec<Argument>),
    /// All of these.
    Block(Vec<Argument>),
}

/// A command's syntax.
#[derive(Clone, Debug)]
pub struct Syntax {
    /// The group of the command, such as `sorted-set`.
    pub group: String,
    /// Its arguments.
    pub arguments: Vec<Argument>,
}

/// The syntax of all commands and subcommands that the server describes, by their full names in lower case.
#[must_use]
pub fn of_server(server: &mut Connection) -> BTreeMap<String, Syntax> {
    let mut all = BTreeMap::new();
    read(&server.calls(&[words("COMMAND DOCS")])[0], &mut all);
    all
}

fn read(docs: &Reply, all: &mut BTreeMap<String, Syntax>) {
    for pair in docs.items().chunks_exact(2) {
        let doc = &pair[1];
        let group = doc.field("group").map_or_else(String::new, Reply::text);
        let arguments = arguments(doc);
        all.insert(pair[0].text().to_lowercase(), Syntax { group, arguments });
        if let Some(subcommands) = doc.field("subcommands") {
            read(subcommands, all);
        }
    }
}

fn arguments(of: &Reply) -> Vec<Argument> {
    of.field("arguments").map_or_else(Vec::new, |list| list.items().iter().map(argument).collect())
}

fn argument(of: &Reply) -> Argument {
    let text = |name| of.field(name).map(Reply::text);
    let flags: Vec<String> =
        of.field("flags").map_or_else(Vec::new, |flags| flags.items().iter().map(Reply::text).collect());
    let has = |flag: &str| flags.iter().any(|known| known == flag);
    let kind = match text("type").unwrap_or_default().as_str() {
        "pure-token" => Kind::Token,
        "oneof" => Kind::OneOf(arguments(of)),
        "block" => Kind::Block(arguments(of)),
        other => Kind::Word(other.to_owned()),
    };
    Argument {
        name: text("name").unwrap_or_default(),
        kind,
        token: text("token"),
        is_optional: has("optional"),
        is_multiple: has("multiple"),
        repeats_token: has("multiple_token"),
    }
}
