//! Writes answers: aligned columns for people, JSON for programs.
//! Knows nothing of what is in them.

use serde_json::{Value, json};

use super::{Remote, error::CliError};
pub use crate::clock::utc;
use crate::wire::pb::admin::ChangeReply;

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

/// A JSON value on standard output; keys are sorted, so equal states give equal bytes.
pub fn print_json(value: &Value) {
    print_text(&format!("{value:#}\n"));
}

/// Text on standard output. A reader that has gone (`| head`) is no error.
pub fn print_text(text: &str) {
    use std::io::Write;
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// What a change did, or would do.
///
/// # Errors
/// None; the type makes it the last expression of a command.
pub fn changed(remote: &Remote, reply: &ChangeReply) -> Result<(), CliError> {
    if remote.json() {
        print_json(&json!({
            "index": reply.index,
            "route_epoch": reply.route_epoch,
            "done": reply.done,
            "warnings": reply.warnings,
            "unchanged": reply.unchanged,
            "migrations": reply.migrations,
            "promotion": (reply.promotion > 0).then_some(reply.promotion),
            "dry_run": remote.common.dry_run,
        }));
        return Ok(());
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

/// Bytes for people.
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
