//! Writes answers: aligned columns for people, JSON for programs. JSON is the reply of the node as proto/admin.proto
//! describes it.

use std::io::{self, ErrorKind, Write};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;

use super::{
    Output, Remote,
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

/// Exit code when the reader of the output has gone (`| head`): what a shell reports for a program that SIGPIPE ended.
const READER_GONE: i32 = 141;
/// Exit code when the output cannot be written.
const UNWRITTEN: i32 = 1;
/// The same after a change was made.
const UNWRITTEN_MADE: i32 = 4;

/// Writes text to standard output. Ends the process if it cannot be written: quietly if its reader has gone.
pub fn print_text(text: &str) {
    print_or_end(text, UNWRITTEN);
}

fn print_or_end(text: &str, code: i32) {
    #[cfg(test)]
    if capture::add(text) {
        return;
    }
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(READER_GONE),
        Err(error) => {
            note(&format!("standard output cannot be written: {error}"));
            std::process::exit(code)
        }
    }
}

/// What a test lets a command print.
#[cfg(test)]
pub mod capture {
    use std::cell::RefCell;

    thread_local!(static PRINTED: RefCell<Option<String>> = const { RefCell::new(None) });

    /// From now on this thread prints into memory.
    pub fn begin() {
        PRINTED.set(Some(String::new()));
    }

    /// What was printed; from now on it goes to standard output.
    pub fn take() -> String {
        PRINTED.take().unwrap_or_default()
    }

    pub(super) fn add(text: &str) -> bool {
        PRINTED.with_borrow_mut(|printed| printed.as_mut().map(|all| all.push_str(text)).is_some())
    }
}

/// Ends the process quietly if the reader of its output has gone; for commands that may have nothing to write for long.
pub fn end_without_reader() {
    let out = io::stdout();
    let mut polled = [PollFd::new(&out, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    // The end of a pipe that is written to reports an error when nobody can read it.
    if poll(&mut polled, Some(&now)).is_ok() && polled[0].revents().contains(PollFlags::ERR) {
        std::process::exit(READER_GONE);
    }
}

/// Writes a line to standard output for as long as somebody reads it; for commands that go on without a reader.
pub fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// Writes a line to standard error for as long as somebody reads it.
pub fn note(line: &str) {
    let _ = writeln!(io::stderr(), "pontoon: {line}");
}

/// Writes a warning to standard error for as long as somebody reads it.
pub fn warn(text: &str) {
    let _ = writeln!(io::stderr(), "warning: {text}");
}

/// Writes an error to standard error for as long as somebody reads it: as JSON for programs.
pub fn print_error(error: &CliError, format: Output) {
    match format {
        Output::Table => note(&error.to_string()),
        Output::Json => {
            let text = to_json(&error.json()).unwrap_or_else(|error| format!("{error}\n"));
            let _ = io::stderr().write_all(text.as_bytes());
        }
    }
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
    let code = if remote.common.dry_run { UNWRITTEN } else { UNWRITTEN_MADE };
    if remote.json() {
        print_or_end(&to_json(&Changed { reply, dry_run: remote.common.dry_run })?, code);
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
    print_or_end(&out, code);
    reply.warnings.iter().for_each(|warning| warn(warning));
    Ok(())
}

/// Ranges of slots that a text for people names; a program gets all of them.
const RANGES_NAMED: usize = 8;

/// A list of slots such as `0-255, 600`, shortened if it has many ranges.
#[must_use]
pub fn few(slots: &str) -> String {
    let ranges = slots.matches(',').count() + 1;
    match slots.match_indices(',').nth(RANGES_NAMED - 1) {
        // One more is no longer than to say that there is one more.
        Some((end, _)) if ranges > RANGES_NAMED + 1 => {
            format!("{} and {} more ranges", &slots[..end], ranges - RANGES_NAMED)
        }
        _ => slots.to_owned(),
    }
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
    fn long_lists_of_slots_are_shortened() {
        let list = |n: usize| (0..n).map(|i| (2 * i).to_string()).collect::<Vec<_>>().join(", ");
        for n in [0, 1, 9] {
            assert_eq!(few(&list(n)), list(n));
        }
        assert_eq!(few(&list(10)), "0, 2, 4, 6, 8, 10, 12, 14 and 2 more ranges");
    }

    #[test]
    fn columns_and_sizes() {
        let rows = [vec!["1".to_owned(), "a".to_owned()], vec!["100".to_owned(), String::new()]];
        assert_eq!((size(0), size(1536), size(5 << 30)), ("0 B".into(), "1.5 KB".into(), "5.0 GB".into()));
        assert_eq!(table(&["id", "name"], &rows), "id   name\n1    a\n100\n");
    }
}
