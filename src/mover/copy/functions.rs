//! Which libraries of functions a target lacks, and the commands that bring them.
//! Knows nothing of connections, nor of what a function does.
//!
//! FUNCTION RESTORE is not used: its payload has a version that older servers refuse, and its policies replace what is
//! there or fail because of a library that is the same. Source text has neither fault. Nothing at the target is ever
//! replaced or deleted: a library that differs under the same name belongs to someone.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::redis::Reply;

/// Asks a server for its libraries. Send it to both.
pub const LIST: &[&[u8]] = &[b"FUNCTION", b"LIST", b"WITHCODE"];
/// Libraries named in a refusal.
const NAMED_MAX: usize = 5;

/// A server's libraries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Libraries {
    /// Source text (with its `#!` line) and functions by name.
    libraries: BTreeMap<String, Library>,
    /// It does not know the command: it is older than Redis 7.
    unknown: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Library {
    code: Bytes,
    functions: BTreeSet<String>,
}

impl Libraries {
    /// Reads the answer to [`LIST`]. A server that does not know the command has no functions.
    ///
    /// # Errors
    /// A sentence when the server refuses, or its answer has an unknown shape. `server` is named in it.
    pub fn of(server: &str, reply: &Reply) -> Result<Self, String> {
        let items = match reply {
            Reply::Array(items) => items,
            Reply::Error(text) if text.contains("unknown command") || text.contains("unknown subcommand") => {
                return Ok(Self { unknown: true, ..Self::default() });
            }
            Reply::Error(text) => {
                return Err(format!(
                    "{server} does not show its functions: {text}; let the user run FUNCTION LIST (ACL SETUSER ... +function)"
                ));
            }
            _ => return Err(format!("{server} answers FUNCTION LIST in an unknown shape")),
        };
        let mut libraries = BTreeMap::new();
        for item in items {
            let library = || {
                let functions = field(item, "functions")?.items()?;
                let functions = functions.iter().map(|f| Some(field(f, "name")?.text()?.to_owned()));
                let Reply::Bulk(code) = field(item, "library_code")? else { return None };
                let name = field(item, "library_name")?.text()?.to_owned();
                Some((name, Library { code: code.clone(), functions: functions.collect::<Option<_>>()? }))
            };
            let (name, library) =
                library().ok_or_else(|| format!("{server} answers FUNCTION LIST in an unknown shape"))?;
            libraries.insert(name, library);
        }
        Ok(Self { libraries, unknown: false })
    }

    /// The source texts that the target lacks, each to be sent as `FUNCTION LOAD <text>` ([`load`]). Empty: nothing to do.
    /// Ask again before each hold: functions are changed without touching a key.
    ///
    /// # Errors
    /// A sentence when a library or a function of the source is something else at the target, or the target has no
    /// functions at all.
    pub fn lacking(&self, target: &Self) -> Result<Vec<Bytes>, String> {
        if target.unknown && !self.libraries.is_empty() {
            return Err(format!(
                "the source has libraries of functions ({}) and the target knows no functions; upgrade the target to \
                 Redis 7 or later, or delete them at the source (FUNCTION DELETE)",
                named(self.libraries.keys())
            ));
        }
        let mut lacking = Vec::new();
        let mut differing = Vec::new();
        for (name, library) in &self.libraries {
            match target.libraries.get(name) {
                Some(there) if there.code == library.code => {}
                Some(_) => differing.push(name.clone()),
                None => {
                    let owner = |function: &String| {
                        target.libraries.iter().find(|(_, there)| there.functions.contains(function)).map(|(n, _)| n)
                    };
                    match library.functions.iter().find_map(|function| Some((function, owner(function)?))) {
                        Some((function, owner)) => {
                            differing.push(format!("{name} (its {function} is in {owner} there)"))
                        }
                        None => lacking.push(library.code.clone()),
                    }
                }
            }
        }
        if differing.is_empty() {
            return Ok(lacking);
        }
        Err(format!(
            "libraries of functions differ between source and target: {}; make them equal (FUNCTION LOAD REPLACE) or \
             delete them on one side (FUNCTION DELETE), then resume",
            named(differing.iter())
        ))
    }
}

/// The command that brings one library. It refuses to replace one.
#[must_use]
pub fn load(code: &[u8]) -> [&[u8]; 3] {
    [b"FUNCTION", b"LOAD", code]
}

fn named<'a>(names: impl ExactSizeIterator<Item = &'a String>) -> String {
    let more = names.len().saturating_sub(NAMED_MAX);
    let shown: Vec<_> = names.take(NAMED_MAX).map(|name| name.escape_debug().to_string()).collect();
    if more == 0 { shown.join(", ") } else { format!("{} and {more} more", shown.join(", ")) }
}

/// A field of a map in RESP2.
fn field<'a>(map: &'a Reply, name: &str) -> Option<&'a Reply> {
    map.items()?.chunks_exact(2).find(|pair| pair[0].text() == Some(name)).map(|pair| &pair[1])
}
