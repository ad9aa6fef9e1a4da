//! Which function libraries a target lacks, and the commands that load them.
//! Knows nothing of connections and of the functions' behaviour.
//!
//! FUNCTION RESTORE is not used: older servers refuse the version of its payload, and its policies either replace
//! existing libraries or fail if an equal library exists. Source text has neither problem. Nothing at the target is
//! ever replaced or deleted: a different library of the same name may be used by another application.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::redis::Reply;

/// Requests a server's libraries. Sent to both servers.
pub const LIST: &[&[u8]] = &[b"FUNCTION", b"LIST", b"WITHCODE"];
/// Libraries named in an error.
const NAMED_MAX: usize = 5;

/// The function libraries of a server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Libraries {
    /// Libraries by name.
    libraries: BTreeMap<String, Library>,
    /// The server does not support functions: it is older than Redis 7.
    unknown: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Library {
    /// Source text, with its `#!` line.
    code: Bytes,
    functions: BTreeSet<String>,
}

impl Libraries {
    /// Parses the reply to [`LIST`]. A server that does not know the command has no functions.
    ///
    /// # Errors
    /// Returns as text for the operator that `server` refuses the command, or that its reply has an unknown form.
    pub fn of(server: &str, reply: &Reply) -> Result<Self, String> {
        let items = match reply {
            Reply::Array(items) => items,
            Reply::Error(text) if text.contains("unknown command") || text.contains("unknown subcommand") => {
                return Ok(Self { unknown: true, ..Self::default() });
            }
            Reply::Error(text) => {
                return Err(format!(
                    "{server} does not list its functions: {text}; let the user run FUNCTION LIST \
                     (ACL SETUSER ... +function, then ACL SAVE or CONFIG REWRITE)"
                ));
            }
            _ => return Err(format!("{server} answers FUNCTION LIST in an unknown form")),
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
                library().ok_or_else(|| format!("{server} answers FUNCTION LIST in an unknown form"))?;
            libraries.insert(name, library);
        }
        Ok(Self { libraries, unknown: false })
    }

    /// The source texts of the libraries that the target lacks, each to be sent as `FUNCTION LOAD <text>` ([`load`]).
    /// Ask again before each hold: functions change without a change of a key.
    ///
    /// # Errors
    /// Returns as text for the operator which libraries or functions differ at the target, or that the target does not
    /// support functions.
    pub fn lacking(&self, target: &Self) -> Result<Vec<Bytes>, String> {
        if target.unknown && !self.libraries.is_empty() {
            return Err(format!(
                "the source has libraries of functions ({}) and the target does not support functions; upgrade the target to \
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

/// The command that loads one library. It fails if the library exists.
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
