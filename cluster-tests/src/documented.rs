//! Checks real JSON of the command line against docs/json.md: every answer in every test has exactly the documented fields, with
//! the documented types. Also what is waited for: every sentence says for how long, and what ends it.

use std::{collections::BTreeMap, sync::LazyLock};

use serde_json::Value;

static DOCUMENT: LazyLock<Document> = LazyLock::new(|| Document::read(include_str!("../../docs/json.md")));

/// What docs/json.md says.
#[derive(Debug, Default)]
struct Document {
    /// By command: whether the output is an array, and the object.
    commands: BTreeMap<String, (bool, String)>,
    objects: BTreeMap<String, Object>,
    /// Names that a value may have.
    names: BTreeMap<String, Vec<String>>,
}

#[derive(Debug, Default)]
struct Object {
    /// Its fields, with their types.
    fields: BTreeMap<String, String>,
    /// It has the fields of this object, too.
    with: Option<String>,
}

/// The name in `[Name](#name)`.
fn linked(text: &str) -> Option<&str> {
    text.split_once('[')?.1.split_once(']').map(|(name, _)| name)
}

/// The words in backticks.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

impl Document {
    fn read(text: &str) -> Self {
        let mut document = Self::default();
        let (mut chapter, mut section) = ("", "");
        for line in text.lines() {
            if let Some(title) = line.strip_prefix("## ") {
                chapter = title;
            } else if let Some(title) = line.strip_prefix("### ") {
                section = title;
            } else if let Some(rest) = line.strip_prefix("It has the fields of ") {
                document.objects.entry(section.to_owned()).or_default().with = linked(rest).map(str::to_owned);
            }
            let cells: Vec<&str> = line.split(" | ").map(|cell| cell.trim_matches(['|', ' '])).collect();
            let [first, second, ..] = cells[..] else { continue };
            if !line.starts_with("| `") {
                continue;
            }
            match chapter {
                "Commands" => {
                    let Some(object) = linked(second) else { continue };
                    let output = (second.starts_with("array of"), object.to_owned());
                    document.commands.extend(quoted(first).map(|command| (command.to_owned(), output.clone())));
                }
                "Objects" => {
                    let fields = &mut document.objects.entry(section.to_owned()).or_default().fields;
                    fields.extend(quoted(first).map(|name| (name.to_owned(), second.to_owned())));
                }
                "Values" => {
                    let names = document.names.entry(section.to_owned()).or_default();
                    names.extend(quoted(first).map(str::to_owned));
                }
                _ => {}
            }
        }
        document
    }

    /// What a command prints. Its words stand together somewhere in what was typed; of several, the longest is meant.
    fn output_of(&self, args: &str) -> Option<&(bool, String)> {
        let typed = format!(" {args} ");
        let meant = self.commands.iter().filter(|(command, _)| typed.contains(&format!(" {command} ")));
        meant.max_by_key(|(command, _)| command.len()).map(|(_, output)| output)
    }

    fn check(&self, value: &Value, name: &str, at: &str) -> Result<(), String> {
        let Some(map) = value.as_object() else { return Err(format!("{at} is no object")) };
        let mut known = Vec::new();
        let mut part = Some(name);
        while let Some(object) = part.and_then(|name| self.objects.get(name)) {
            for (field, kind) in &object.fields {
                let at = format!("{at}.{field}");
                self.check_field(map.get(field).ok_or_else(|| format!("{at} is missing"))?, kind, &at)?;
                known.push(field);
            }
            part = object.with.as_deref();
        }
        match map.keys().find(|key| !known.contains(key)) {
            Some(key) => Err(format!("{at}.{key} is not documented")),
            None => Ok(()),
        }
    }

    fn check_field(&self, value: &Value, kind: &str, at: &str) -> Result<(), String> {
        let (kind, nullable) = kind.strip_suffix(", or null").map_or((kind, false), |kind| (kind, true));
        if value.is_null() {
            return if nullable { Ok(()) } else { Err(format!("{at} is null")) };
        }
        if let Some(kind) = kind.strip_prefix("array of ") {
            let Some(items) = value.as_array() else { return Err(format!("{at} is no array: {value}")) };
            return items.iter().try_for_each(|item| self.check_field(item, kind, at));
        }
        let is = match linked(kind) {
            Some(name) if self.objects.contains_key(name) => return self.check(value, name, at),
            Some(name) => value.as_str().is_some_and(|text| self.names[name].iter().any(|known| known == text)),
            None => match kind.split(',').next() {
                Some("integer") => value.is_u64(),
                Some("boolean") => value.is_boolean(),
                Some("string" | "time") => value.is_string(),
                other => return Err(format!("{at}: '{other:?}' is no type")),
            },
        };
        if is { Ok(()) } else { Err(format!("{at} is no {kind}: {value}")) }
    }
}

/// Whether the JSON of a command is what docs/json.md says.
///
/// # Errors
/// Where it differs.
pub fn check(args: &str, value: &Value) -> Result<(), String> {
    let Some((array, object)) = DOCUMENT.output_of(args) else {
        return Err(format!("docs/json.md does not say what '{args}' prints"));
    };
    match value.as_array().filter(|_| *array) {
        Some(items) => items.iter().try_for_each(|item| DOCUMENT.check(item, object, object))?,
        None if *array => return Err(format!("{args} prints no array")),
        None => DOCUMENT.check(value, object, object)?,
    }
    check_waits(value)
}

/// Whether each sentence about what is waited for says for how long, and what ends it.
fn check_waits(value: &Value) -> Result<(), String> {
    match value {
        Value::Array(items) => items.iter().try_for_each(check_waits),
        Value::Object(map) => map.iter().try_for_each(|(name, value)| {
            if name != "waiting_on" {
                return check_waits(value);
            }
            let lines = value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
            let complete = |line: &str| {
                line.split_once("; ends when ")
                    .is_some_and(|(what, ends)| what.contains("; has lasted ") && !ends.is_empty())
            };
            match lines.iter().filter_map(Value::as_str).find(|line| !complete(line)) {
                Some(line) => Err(format!("it does not say for how long, or what ends it: {line}")),
                None => Ok(()),
            }
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_differs_from_the_document_is_found() {
        assert!(
            DOCUMENT.commands.len() > 40 && DOCUMENT.objects.len() > 25 && DOCUMENT.names.len() > 12,
            "{DOCUMENT:#?}"
        );
        let good = json!({"slot": 7, "group": null, "server": null, "key": "k"});
        assert_eq!(check("--product shop slot key k --output json", &good), Ok(()));
        for (field, value, part) in [
            ("slot", json!("7"), "LocatedKey.slot is no integer"),
            ("slot", json!(null), "LocatedKey.slot is null"),
            ("more", json!(1), "LocatedKey.more is not documented"),
        ] {
            let mut bad = good.clone();
            bad[field] = value;
            let found = check("slot key k", &bad);
            assert!(found.as_ref().is_err_and(|why| why.contains(part)), "{found:?}");
        }
        assert!(check("slot key k", &json!([good])).is_err() && check("node ls", &good).is_err());
        let waits = |line: &str| check_waits(&json!([{"waiting_on": [line]}]));
        assert_eq!(waits("a hold; has lasted 10 s; ends when all nodes hold"), Ok(()));
        assert!(waits("a hold; ends when all nodes hold").is_err() && waits("a hold; has lasted 10 s").is_err());
    }
}
