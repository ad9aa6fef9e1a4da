//! Reads the TOML file into the configuration. Errors name the file, line and key.
//! Knows nothing of what settings mean.

use std::{
    io::{self, Read},
    ops::Range,
    path::Path,
};

use toml::de::{DeTable, DeValue};

use super::{Config, dotted, value::SettingKind};
use crate::files;

/// Longest file that is read. A file with every key and its explanation has a tenth of this.
const FILE_LEN_MAX: u64 = 64 * 1024;

/// Overrides `config` with the file at `path`.
pub(super) fn read(path: &Path, config: &mut Config) -> Result<(), String> {
    let show = path.display();
    let unreadable = |e: io::Error| format!("{show}: cannot be read: {e}");
    let file = files::open_regular(path).map_err(unreadable)?;
    let size = file.metadata().map_err(unreadable)?.len();
    if size > FILE_LEN_MAX {
        return Err(format!("{show}: has {size} bytes; a configuration has at most {FILE_LEN_MAX}"));
    }
    let mut text = String::new();
    // It may have grown meanwhile.
    file.take(FILE_LEN_MAX).read_to_string(&mut text).map_err(unreadable)?;
    parse(&text, config).map_err(|(line, what)| format!("{show}:{line}: {what}"))
}

/// Overrides `config` with a TOML text. An error has its line, from 1.
pub(super) fn parse(text: &str, config: &mut Config) -> Result<(), (usize, String)> {
    let line = |span: Range<usize>| text.get(..span.start).map_or(1, |before| before.matches('\n').count() + 1);
    let root = DeTable::parse(text).map_err(|e| (line(e.span().unwrap_or(0..0)), e.message().to_owned()))?;
    for (key, value) in root.get_ref() {
        let name: &str = key.get_ref();
        let is_section = Config::keys().any(|(section, _)| section == name);
        match value.get_ref() {
            DeValue::Table(table) if is_section => {
                for (key, value) in table {
                    set(config, name, key.get_ref(), value.get_ref()).map_err(|what| (line(key.span()), what))?;
                }
            }
            value => set(config, "", name, value).map_err(|what| (line(key.span()), what))?,
        }
    }
    Ok(())
}

fn set(config: &mut Config, section: &str, key: &str, value: &DeValue<'_>) -> Result<(), String> {
    let name = dotted(section, key);
    let Some((_, known)) = Config::keys().find(|(s, k)| *s == section && k.name == key) else {
        let others: Vec<_> = Config::keys().filter(|(s, _)| *s == section).map(|(_, k)| k.name).collect();
        return Err(format!("{name}: there is no such setting; the settings are {}", others.join(", ")));
    };
    let wrong = |expected: &str| Err(format!("{name}: {expected} is expected, not a TOML {}", value.type_str()));
    let text = match (known.kind, value) {
        (SettingKind::Integer, DeValue::Integer(number)) if number.radix() == 10 => number.as_str().to_owned(),
        (SettingKind::Integer, _) => return wrong("a decimal whole number"),
        (SettingKind::Boolean, DeValue::Boolean(truth)) => truth.to_string(),
        (SettingKind::Boolean, _) => return wrong("true or false"),
        (SettingKind::Text | SettingKind::Map | SettingKind::List, DeValue::String(text)) => text.to_string(),
        (SettingKind::Text, _) => return wrong("a string"),
        (SettingKind::Map, DeValue::Table(table)) => {
            let mut parts = Vec::new();
            for (id, addr) in table {
                let Some(addr) = addr.get_ref().as_str() else { return wrong("a table of strings") };
                parts.push(format!("{}={addr}", id.get_ref()));
            }
            parts.join(",")
        }
        (SettingKind::List, DeValue::Array(items)) => {
            let Some(parts) = items.iter().map(|item| item.get_ref().as_str()).collect::<Option<Vec<_>>>() else {
                return wrong("an array of strings");
            };
            parts.join(",")
        }
        (SettingKind::List, _) => return wrong("an array of strings, or a string A,B"),
        (SettingKind::Map, _) => return wrong("a table, or a string ID=HOST:PORT,ID=HOST:PORT"),
    };
    config.set(&name, &text).map_err(|e| format!("{name}: {e}"))
}
