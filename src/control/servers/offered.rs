//! Asks a server which commands it has, and what those are of which the command table knows nothing.
//! Knows nothing of what they are asked for.

use tokio::time::Instant;

use crate::{
    commands::{DifferingCommands, KeyCount, KeySearch, OfferedCommands, ReportedCommand, ReportedKeys},
    redis::{Client, RedisError, Reply},
};

/// Asks a server for its commands.
///
/// # Errors
/// As [`Client::ask`].
pub async fn offered_commands(client: &mut Client, deadline: Instant) -> Result<OfferedCommands, RedisError> {
    match client.ask(&[b"COMMAND", b"LIST"], deadline).await {
        Ok(reply) => {
            let names = reply.items().unwrap_or_default().iter();
            let mut offered = OfferedCommands::new(names.filter_map(|name| name.text().map(str::to_owned)));
            let unknown: Vec<String> = offered.unknown().map(str::to_owned).collect();
            let described = client.ask(&[b"COMMAND"], deadline).await?;
            offered.differing = differing(&described);
            if !unknown.is_empty() {
                let mut ask = vec![b"COMMAND".as_slice(), b"INFO"];
                ask.extend(unknown.iter().map(String::as_bytes));
                let described = client.ask(&ask, deadline).await?;
                offered.learn(described.items().unwrap_or_default().iter().filter_map(reported));
            }
            Ok(offered)
        }
        // It came with Redis 7.
        Err(RedisError::Refused { .. }) => {
            let reply = client.ask(&[b"COMMAND"], deadline).await?;
            let described: Vec<_> = reply.items().unwrap_or_default().iter().filter_map(reported).collect();
            let mut offered = OfferedCommands::new(described.iter().map(|command| command.name.clone()));
            offered.differing = DifferingCommands::of(&described);
            offered.learn(described);
            Ok(offered)
        }
        Err(error) => Err(error),
    }
}

/// The commands of the table that a server describes otherwise, from its reply to COMMAND.
fn differing(described: &Reply) -> DifferingCommands {
    let described: Vec<_> = described.items().unwrap_or_default().iter().filter_map(reported).collect();
    DifferingCommands::of(&described)
}

/// An element of the reply to COMMAND: ten values of Redis 7, seven of Redis 6. `None`: it is not.
#[must_use]
pub fn reported(element: &Reply) -> Option<ReportedCommand> {
    let [name, arity, flags, first, last, step, more @ ..] = element.items()? else { return None };
    let flags = texts(flags);
    let has = |flag: &str| flags.iter().any(|other| other == flag);
    // A module's command that finds its keys itself.
    let finds_keys = has("module") && has("movablekeys");
    let described = more.get(2).map(|specs| specs.items().unwrap_or_default().iter());
    Some(ReportedCommand {
        name: name.text()?.to_owned(),
        arity: arity.integer()?,
        keys: described.map(|specs| specs.map(|spec| keys(spec, finds_keys)).collect()),
        flags,
        range: (first.integer()?, last.integer()?, step.integer()?),
        categories: more.first().map(texts).unwrap_or_default(),
        is_container: more.get(3).and_then(Reply::items).is_some_and(|subcommands| !subcommands.is_empty()),
    })
}

fn texts(list: &Reply) -> Vec<String> {
    list.items().unwrap_or_default().iter().filter_map(|text| text.text().map(str::to_owned)).collect()
}

/// A key specification of a command. What it does not say is unknown.
fn keys(spec: &Reply, finds_keys: bool) -> ReportedKeys {
    let flags = field(spec, "flags").map(texts).unwrap_or_default();
    let number = |of: &Reply, name: &str| field(of, name).and_then(Reply::integer);
    let position = |of: &Reply, name: &str| number(of, name).and_then(|number| usize::try_from(number).ok());
    let begin = typed(spec, "begin_search").and_then(|(kind, of)| match kind {
        "index" => Some(KeySearch::Index(position(of, "index")?)),
        "keyword" => Some(KeySearch::Keyword(field(of, "keyword")?.text()?.to_owned(), number(of, "startfrom")?)),
        _ => None,
    });
    let find = typed(spec, "find_keys").and_then(|(kind, of)| match kind {
        "range" => Some(KeyCount::Range {
            last: number(of, "lastkey")?,
            step: position(of, "keystep")?,
            limit: position(of, "limit")?,
        }),
        "keynum" => Some(KeyCount::Counted {
            at: position(of, "keynumidx")?,
            first: position(of, "firstkey")?,
            step: position(of, "keystep")?,
        }),
        _ => None,
    });
    ReportedKeys {
        begin: begin.unwrap_or(KeySearch::Unknown),
        find: find.unwrap_or(KeyCount::Unknown),
        incomplete: flags.iter().any(|flag| flag == "incomplete" || (finds_keys && flag == "variable_flags")),
    }
}

/// The type and the specification of a part of a key specification.
fn typed<'a>(spec: &'a Reply, part: &str) -> Option<(&'a str, &'a Reply)> {
    let part = field(spec, part)?;
    Some((field(part, "type")?.text()?, field(part, "spec")?))
}

/// The value of a field of a map, which is an array in RESP2.
fn field<'a>(map: &'a Reply, name: &str) -> Option<&'a Reply> {
    map.items()?.chunks(2).find_map(|pair| match pair {
        [key, value] if key.text() == Some(name) => Some(value),
        _ => None,
    })
}
