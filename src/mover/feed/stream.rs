//! Parses a replication stream in pieces of any size and reports which keys its commands change.
//! Knows nothing of connections. Values are skipped, not stored: a stream that carries 100 MB values needs 1 MB here.

use super::Event;
use crate::{
    commands::{Args, ResolveError, flag, resolve},
    resp::{limits::ARGS_MAX, number},
};

/// Bytes kept of one argument. Longer keys are not supported, and values of that length are not needed.
const ARG_KEPT: usize = 1 << 20;
/// Bytes kept of one command: enough for a refetch by field and for a DEL of a million keys.
const COMMAND_KEPT: usize = 64 << 20;
/// Memory that is kept after an unusually large command.
const ROOM_KEPT: usize = 1 << 20;
/// Longest header line: type, number, CRLF.
const LINE_MAX: usize = 32;

/// The arguments of a command, its name first.
#[derive(Debug, Default)]
pub struct CommandWords {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    /// Positions of arguments that were truncated.
    cut: Vec<usize>,
}

impl CommandWords {
    /// Whether no argument was truncated.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.cut.is_empty()
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(ROOM_KEPT);
        self.ends.clear();
        self.ends.shrink_to(ROOM_KEPT / size_of::<usize>());
        self.cut.clear();
    }

    fn name(&self) -> String {
        self.ends.first().map_or_else(String::new, |_| String::from_utf8_lossy(self.get(0)).to_ascii_uppercase())
    }
}

impl Args for CommandWords {
    fn len(&self) -> usize {
        self.ends.len()
    }
    fn get(&self, i: usize) -> &[u8] {
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        &self.bytes[start..self.ends[i]]
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StreamPosition {
    /// Before a command: `*`, or an empty line that keeps the link alive.
    Command,
    /// In the header line of an argument.
    Argument,
    /// In an argument: bytes still to come, and how many of them are kept.
    Bytes(usize, usize),
    /// In the line end after an argument: bytes of it still to come.
    End(usize),
}

/// A replication stream that begins between two commands.
#[derive(Debug)]
pub struct Stream {
    at: StreamPosition,
    line: Vec<u8>,
    words: CommandWords,
    /// Arguments of the command that are still to come.
    left: usize,
    /// `None` until the first SELECT: after CONTINUE a server does not repeat it.
    db: Option<u32>,
    position: u64,
    keys: Vec<usize>,
}

impl Stream {
    /// Creates a stream whose next byte has the offset `offset` + 1.
    #[must_use]
    pub fn new(offset: u64) -> Self {
        Self {
            at: StreamPosition::Command,
            line: Vec::with_capacity(LINE_MAX),
            words: CommandWords::default(),
            left: 0,
            db: None,
            position: offset,
            keys: Vec::new(),
        }
    }

    /// The replication offset of the last byte that was consumed. A barrier lies at the end of a command, so it has
    /// passed only when that command was consumed completely.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Consumes all of `bytes`.
    ///
    /// # Errors
    /// Returns as text for the operator why this is not a stream of commands, or which command changes more than keys
    /// that can be determined.
    pub fn push(&mut self, mut bytes: &[u8], events: &mut dyn FnMut(Event<'_>)) -> Result<(), String> {
        while let Some(&first) = bytes.first() {
            let used = match self.at {
                // Empty lines may also come with a carriage return.
                StreamPosition::Command if self.line.is_empty() && matches!(first, b'\n' | b'\r') => 1,
                StreamPosition::Command | StreamPosition::Argument => self.line(bytes)?,
                StreamPosition::Bytes(left, kept) => {
                    let used = left.min(bytes.len());
                    let keep = kept.min(used);
                    self.words.bytes.extend_from_slice(&bytes[..keep]);
                    self.at = if used == left {
                        StreamPosition::End(2)
                    } else {
                        StreamPosition::Bytes(left - used, kept - keep)
                    };
                    used
                }
                StreamPosition::End(left) => {
                    if first != if left == 2 { b'\r' } else { b'\n' } {
                        return Err(broken("no line end after an argument"));
                    }
                    self.at = StreamPosition::End(left - 1);
                    if left == 1 {
                        self.words.ends.push(self.words.bytes.len());
                        self.left -= 1;
                        self.at = StreamPosition::Argument;
                    }
                    1
                }
            };
            self.position += used as u64;
            bytes = &bytes[used..];
            if self.left == 0 && self.at == StreamPosition::Argument {
                self.at = StreamPosition::Command;
                self.command(events)?;
                self.words.clear();
            }
        }
        Ok(())
    }

    /// Consumes what `bytes` has of a header line.
    fn line(&mut self, bytes: &[u8]) -> Result<usize, String> {
        let end = memchr::memchr(b'\n', &bytes[..bytes.len().min(LINE_MAX)]);
        let used = end.map_or(bytes.len().min(LINE_MAX), |lf| lf + 1);
        self.line.extend_from_slice(&bytes[..used]);
        if self.line.len() > LINE_MAX {
            return Err(broken("a header that does not end"));
        }
        if end.is_none() {
            return Ok(used);
        }
        let kind = if self.at == StreamPosition::Command { b'*' } else { b'$' };
        let number = self
            .line
            .strip_prefix(&[kind])
            .and_then(|line| line.strip_suffix(b"\r\n"))
            .and_then(number::parse)
            .and_then(|number| usize::try_from(number).ok());
        let Some(number) = number else {
            return Err(broken(&format!("{:?} instead of a header", String::from_utf8_lossy(&self.line))));
        };
        self.line.clear();
        if self.at == StreamPosition::Command {
            if number > ARGS_MAX {
                return Err(broken(&format!("a command of {number} arguments")));
            }
            self.left = number;
            self.at = StreamPosition::Argument;
        } else {
            let room = COMMAND_KEPT.saturating_sub(self.words.bytes.len());
            let kept = number.min(ARG_KEPT).min(room);
            if kept < number {
                self.words.cut.push(self.words.ends.len());
            }
            self.at = if number == 0 { StreamPosition::End(2) } else { StreamPosition::Bytes(number, kept) };
        }
        Ok(used)
    }

    /// Handles a complete command.
    fn command(&mut self, events: &mut dyn FnMut(Event<'_>)) -> Result<(), String> {
        let words = &self.words;
        if words.is_empty() {
            return Ok(());
        }
        let name = words.get(0);
        let is = |text: &str| name.eq_ignore_ascii_case(text.as_bytes());
        if is("SELECT") {
            let db = (words.len() == 2).then(|| number::parse(words.get(1))).flatten();
            self.db = Some(db.and_then(|db| db.try_into().ok()).ok_or_else(|| broken("a SELECT without a number"))?);
            return Ok(());
        }
        if is("FLUSHALL") || is("FLUSHDB") || is("SWAPDB") {
            return Err(format!("{} at the source: the copy is restarted", words.name()));
        }
        // Servers should replicate the effects. Where a server replicates the call itself, its keys need not be
        // declared.
        if is("EVAL") || is("EVALSHA") || is("FCALL") {
            return Err(format!(
                "the source replicates {} itself instead of what it did, so its keys cannot be determined; \
                 enable replication of effects (lua-replicate-commands yes)",
                words.name()
            ));
        }
        if is("FUNCTION") {
            events(Event::Functions);
            return Ok(());
        }
        let spec = match resolve(words) {
            Ok(spec) => spec,
            Err(ResolveError::Unknown | ResolveError::UnknownSubcommand(_) | ResolveError::WrongArity(_)) => {
                return Self::unknown_command(self.db, words, events);
            }
        };
        if !spec.flags.has(flag::WRITE | flag::MAY_REPLICATE) {
            return Ok(());
        }
        self.keys.clear();
        if spec.keys(words, &mut self.keys).is_err() {
            return Self::unknown_command(self.db, words, events);
        }
        if let Some(at) = self.keys.iter().find(|at| words.cut.binary_search(at).is_ok()) {
            return Err(format!(
                "argument {at} of a {} at the source is a key longer than {ARG_KEPT} bytes; such keys cannot be copied while \
                 they change",
                words.name()
            ));
        }
        // They also name another database. Marking the key in every database is simpler than parsing their options, and
        // they are rare.
        let db = if is("MOVE") || is("COPY") { None } else { self.db };
        let command = words.is_whole().then_some(words);
        for at in &self.keys {
            events(Event::Changed { db, key: words.get(*at), command });
        }
        Ok(())
    }

    fn unknown_command(db: Option<u32>, words: &CommandWords, events: &mut dyn FnMut(Event<'_>)) -> Result<(), String> {
        if !words.is_whole() {
            return Err(format!(
                "the keys of a {} at the source cannot be determined: the command is unknown and too long for COMMAND GETKEYS",
                words.name()
            ));
        }
        events(Event::UnknownCommand { db, command: words });
        Ok(())
    }
}

fn broken(why: &str) -> String {
    format!("the source's replication stream cannot be read: {why}; the copy is restarted")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::resp::write;

    fn stream(commands: &[&[&str]]) -> Vec<u8> {
        let mut out = Vec::new();
        for words in commands {
            let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
            write::request(&mut out, &words);
            out.push(b'\n');
        }
        out
    }

    /// The events of a stream that arrives in these pieces, as text.
    fn events<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<String>, Result<u64, String>) {
        let mut stream = Stream::new(100);
        let mut found = Vec::new();
        for piece in pieces {
            let pushed = stream.push(piece, &mut |event| {
                found.push(match event {
                    Event::Changed { db, key, command } => {
                        let whole = command.map_or("cut".into(), |words| words.len().to_string());
                        format!("{db:?} {} {whole}", String::from_utf8_lossy(key))
                    }
                    Event::UnknownCommand { db, command } => format!("{db:?} unknown {}", command.name()),
                    Event::Functions => "functions".into(),
                });
            });
            if let Err(why) = pushed {
                return (found, Err(why));
            }
        }
        (found, Ok(stream.position()))
    }

    #[test]
    fn keys_are_reported_however_the_stream_is_cut() {
        let bytes = stream(&[
            &["set", "a", "1"],
            &["SELECT", "3"],
            &["MULTI"],
            &["DEL", "b", "c"],
            &["EXEC"],
            &["PING"],
            &["REPLCONF", "GETACK", "*"],
            &["RENAME", "d", "e"],
            &["COPY", "f", "g", "DB", "5"],
            &["MOVE", "h", "5"],
            &["GEORADIUS", "i", "0", "0", "1", "m", "STORE", "j"],
            &["ZUNIONSTORE", "k", "2", "l", "m"],
            &["XGROUP", "CREATE", "n", "g", "$"],
            &["PFCOUNT", "o"],
            &["PUBLISH", "channel", "text"],
            &["MODULE.SET", "x"],
            &["FUNCTION", "FLUSH"],
            &["SET", "p", ""],
        ]);
        let want = [
            "None a 3",
            "Some(3) b 3",
            "Some(3) c 3",
            "Some(3) d 3",
            "Some(3) e 3",
            "None f 5",
            "None g 5",
            "None h 3",
            "Some(3) i 8",
            "Some(3) j 8",
            "Some(3) k 5",
            "Some(3) l 5",
            "Some(3) m 5",
            "Some(3) n 5",
            "Some(3) o 2",
            "Some(3) unknown MODULE.SET",
            "functions",
            "Some(3) p 3",
        ];
        for size in 1..=bytes.len() {
            let (found, end) = events(bytes.chunks(size));
            assert_eq!(found, want, "in pieces of {size}");
            assert_eq!(end, Ok(100 + bytes.len() as u64));
        }
        for cut in 0..bytes.len() {
            let (found, end) = events([&bytes[..cut], &bytes[cut..]].into_iter());
            assert_eq!((found.len(), end), (want.len(), Ok(100 + bytes.len() as u64)), "cut at {cut}");
        }
    }

    #[test]
    fn commands_that_change_more_than_keys_end_the_copy() {
        for words in [
            &["FLUSHALL"][..],
            &["flushdb", "ASYNC"],
            &["SWAPDB", "0", "1"],
            &["EVAL", "return 1", "0"],
            &["SELECT", "x"],
        ] {
            let bytes = stream(&[words]);
            let (found, end) = events([&bytes[..]].into_iter());
            assert!(found.is_empty() && end.is_err(), "{words:?}: {end:?}");
        }
        for bytes in [
            &b"+OK\r\n"[..],
            b"*1\r\n:1\r\n",
            b"*x\r\n",
            b"*1\r\n$1\r\nabc",
            b"*99999999\r\n",
            b"*1234567890123456789012345678901234567890",
        ] {
            assert!(events([bytes].into_iter()).1.is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn long_values_are_skipped_and_long_keys_refused() {
        let long = "v".repeat(ARG_KEPT + 1);
        let bytes = stream(&[&["SET", "a", &long], &["SET", "b", "1"]]);
        assert_eq!(events(bytes.chunks(70_000)).0, ["None a cut", "None b 3"]);
        let bytes = stream(&[&["SET", &long, "1"]]);
        assert!(events(bytes.chunks(70_000)).1.unwrap_err().contains("longer"));
        let bytes = stream(&[&["NOSUCH", &long]]);
        assert!(events(bytes.chunks(70_000)).1.is_err());
    }
}
