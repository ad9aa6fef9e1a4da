//! Writes answers: aligned columns for people, JSON for programs. JSON is the reply of the node as proto/admin.proto describes
//! it.

use serde::Serialize;

use super::{
    Remote,
    error::{CliError, failed},
};
use crate::wire::pb::admin::ChangeReply;
pub use crate::{clock::utc, wire::json::text as name};

/// Rows under headings, columns aligned, two spaces between.
#[must_use]
pub fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = headings.iter().map(|h| h.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<_> = cells.zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        padded.join("  ").trim_end().to_owned() + "\n"
    };
    let mut out = line(&mut headings.iter().copied());
    for row in rows {
        out += &line(&mut row.iter().map(String::as_str));
    }
    out
}

/// A value as indented JSON. Keys are sorted, so that equal states give equal bytes.
///
/// # Errors
/// If the value cannot be JSON; that is a fault of the program.
pub fn to_json<T: Serialize>(value: &T) -> Result<String, CliError> {
    // Through a `Value`: its maps are sorted.
    let value = serde_json::to_value(value).map_err(failed)?;
    Ok(format!("{value:#}\n"))
}

/// Writes a value as JSON to standard output.
///
/// # Errors
/// As [`to_json`].
pub fn print_json<T: Serialize>(value: &T) -> Result<(), CliError> {
    print_text(&to_json(value)?);
    Ok(())
}

/// Writes text to standard output. It is not an error if the reader has gone (`| head`).
pub fn print_text(text: &str) {
    use std::io::Write;
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// A [`ChangeReply`] as JSON.
#[derive(Serialize)]
pub struct Changed<'a> {
    /// The reply of the node.
    #[serde(flatten)]
    pub reply: &'a ChangeReply,
    /// It only says what would change.
    pub dry_run: bool,
}

/// Writes what a change did, or would do.
///
/// # Errors
/// As [`to_json`].
pub fn print_change(remote: &Remote, reply: &ChangeReply) -> Result<(), CliError> {
    if remote.json() {
        return print_json(&Changed { reply, dry_run: remote.common.dry_run });
    }
    let mut out = String::new();
    for done in &reply.done {
        out += if remote.common.dry_run { "would: " } else { "" };
        out += done;
        out += "\n";
    }
    if reply.done.is_empty() {
        out += match (reply.unchanged, remote.common.dry_run) {
            (true, _) => "nothing had to change\n",
            (false, true) => "it would be done\n",
            (false, false) => "done\n",
        };
    }
    print_text(&out);
    for warning in &reply.warnings {
        eprintln!("warning: {warning}");
    }
    Ok(())
}

/// `yes`, or nothing.
#[must_use]
pub fn yes(truth: bool) -> String {
    if truth { "yes".into() } else { String::new() }
}

/// Bytes, for people.
#[must_use]
pub fn size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("GB", 1 << 30), ("MB", 1 << 20), ("KB", 1 << 10)];
    match UNITS.into_iter().find(|(_, one)| bytes >= *one) {
        Some((unit, one)) => format!("{:.1} {unit}", bytes as f64 / one as f64),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_and_sizes() {
        let rows = [vec!["1".to_owned(), "a".to_owned()], vec!["100".to_owned(), String::new()]];
        assert_eq!((size(0), size(1536), size(5 << 30)), ("0 B".into(), "1.5 KB".into(), "5.0 GB".into()));
        assert_eq!(table(&["id", "name"], &rows), "id   name\n1    a\n100\n");
    }
}
