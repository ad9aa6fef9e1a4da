//! Which parts of DEBUG clients may use where the operator allows it, and the replies to those that the node answers itself.
//! Knows nothing of how servers are asked.

use std::time::Duration;

use super::QUOTED_MAX;
use crate::{
    commands::{Args, Local},
    proxy::dispatch::CallContext,
    resp::write::{self, Version},
};

/// How a part of DEBUG is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::proxy) enum DebugPart {
    Help,
    /// Delays the client.
    Sleep,
    Protocol,
    Error,
    /// Sent to the owner of the key, argument 2.
    Key,
    /// Each argument from 2 on is a key; each is asked of its owner, and the replies are listed.
    Keys,
    /// Sent to any primary: all of them answer the same.
    AnyPrimary,
    /// Sent to all primaries; OK if all answer OK.
    AllPrimaries,
    /// As `AllPrimaries`, and only with options that lose nothing.
    Reload,
    /// As `AllPrimaries`, if all of them write an append-only file: without one they would lose everything.
    Loadaof,
    /// The digests of all primaries are combined.
    Digest,
}

/// The parts, with the number of arguments, from and to, the name `DEBUG` included.
const PARTS: [(&str, usize, usize, DebugPart); 22] = [
    ("dict-resizing", 3, 3, DebugPart::AllPrimaries),
    ("digest", 2, 2, DebugPart::Digest),
    ("digest-value", 2, usize::MAX, DebugPart::Keys),
    ("error", 3, 3, DebugPart::Error),
    ("help", 2, 2, DebugPart::Help),
    ("htstats-key", 3, 4, DebugPart::Key),
    ("listpack", 3, 3, DebugPart::Key),
    ("listpack-entries", 3, 3, DebugPart::AllPrimaries),
    ("loadaof", 2, 2, DebugPart::Loadaof),
    ("log", 3, 3, DebugPart::AllPrimaries),
    ("object", 3, 4, DebugPart::Key),
    ("protocol", 3, 3, DebugPart::Protocol),
    ("quicklist", 3, 4, DebugPart::Key),
    ("quicklist-packed-threshold", 3, 3, DebugPart::AllPrimaries),
    ("reload", 2, 5, DebugPart::Reload),
    ("sdslen", 3, 3, DebugPart::Key),
    ("set-active-expire", 3, 3, DebugPart::AllPrimaries),
    ("set-disable-deny-scripts", 3, 3, DebugPart::AllPrimaries),
    ("set-skip-checksum-validation", 3, 3, DebugPart::AllPrimaries),
    ("sleep", 3, 3, DebugPart::Sleep),
    ("structsize", 2, 2, DebugPart::AnyPrimary),
    ("ziplist", 3, 3, DebugPart::Key),
];

/// The error where the operator has not allowed it.
pub(in crate::proxy) const NOT_ALLOWED: &str = "NOPERM DEBUG is not executed: it acts on servers and on their other clients, \
    and the operator has not allowed that for this product. See: pontoon product set NAME debug-commands=on";

/// DEBUG of a HyperLogLog, which names its key where DEBUG OBJECT does.
const PFDEBUG: &[u8] = b"pfdebug";

/// How long DEBUG SLEEP delays a client at most: an hour, since tests want seconds, and each sleeper occupies memory.
pub(in crate::proxy) const SLEEP_MAX: Duration = Duration::from_secs(3600);

/// The types of DEBUG PROTOCOL, as Redis names them in its error.
const TYPES: &str = "string|integer|double|bignum|null|array|set|map|attrib|push|verbatim|true|false";

impl DebugPart {
    /// The part that a call names.
    ///
    /// # Errors
    /// Returns the error for the client if this proxy does not carry out the part, or the number of arguments is wrong.
    pub(in crate::proxy) fn of(call: &CallContext<'_>) -> Result<Self, String> {
        if call.get(0).eq_ignore_ascii_case(PFDEBUG) {
            return Ok(Self::Key);
        }
        let (name, len) = (call.get(1), call.args.len());
        let found = PARTS.iter().find(|(part, ..)| name.eq_ignore_ascii_case(part.as_bytes()));
        let name = quoted(name);
        match found {
            Some((_, from, to, part)) if (*from..=*to).contains(&len) => Ok(*part),
            Some(_) => {
                Err(format!("ERR unknown subcommand or wrong number of arguments for '{name}'. Try DEBUG HELP."))
            }
            None => Err(format!(
                "ERR DEBUG {name}: this proxy does not carry it out, since it concerns one process, or loses data, not \
                 executed. See DEBUG HELP, or send it to the server itself"
            )),
        }
    }
}

/// At most as much of a client's own text as errors repeat.
fn quoted(text: &[u8]) -> String {
    String::from_utf8_lossy(&text[..text.len().min(QUOTED_MAX)]).into_owned()
}

/// Whether it is a call of DEBUG SLEEP.
#[cold]
pub(in crate::proxy) fn is_sleep(command: Local, call: &CallContext<'_>) -> bool {
    command == Local::Debug && DebugPart::of(call) == Ok(DebugPart::Sleep)
}

/// For how long DEBUG SLEEP is to sleep. As in Redis, what is no number is 0.
///
/// # Errors
/// Returns the error for the client if it is longer than [`SLEEP_MAX`].
pub(in crate::proxy) fn sleep_time(call: &CallContext<'_>) -> Result<Duration, String> {
    let seconds = std::str::from_utf8(call.get(2)).ok().and_then(|text| text.trim().parse::<f64>().ok());
    let seconds = seconds.filter(|seconds| *seconds > 0.0).unwrap_or_default();
    if seconds > SLEEP_MAX.as_secs_f64() {
        return Err(format!("ERR DEBUG SLEEP sleeps at most {} s here, not executed", SLEEP_MAX.as_secs()));
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// Whether these options of DEBUG RELOAD lose nothing: without NOFLUSH, or with NOFLUSH and MERGE. NOSAVE brings back what
/// was saved before, which may be keys of slots that the group does not own any more; NOFLUSH alone ends the server.
pub(in crate::proxy) fn reload_is_safe(call: &CallContext<'_>) -> bool {
    let has = |option: &[u8]| (2..call.args.len()).any(|i| call.get(i).eq_ignore_ascii_case(option));
    !has(b"nosave") && (!has(b"noflush") || has(b"merge"))
}

/// Writes the reply to DEBUG ERROR.
pub(in crate::proxy) fn error(call: &CallContext<'_>, out: &mut Vec<u8>) {
    write::error(out, call.get(2));
}

/// Writes the reply to DEBUG PROTOCOL: a value of a type, the same as a Redis gives.
pub(in crate::proxy) fn protocol(call: &CallContext<'_>, version: Version, out: &mut Vec<u8>) {
    let kind = quoted(call.get(2)).to_ascii_lowercase();
    match kind.as_str() {
        "string" => write::bulk(out, b"Hello World"),
        "integer" => write::int(out, 12345),
        "double" => raw(out, version, b",3.141\r\n", b"$5\r\n3.141\r\n"),
        "bignum" => raw(
            out,
            version,
            b"(1234567999999999999999999999999999999\r\n",
            b"$37\r\n1234567999999999999999999999999999999\r\n",
        ),
        "null" => write::null(out, version),
        "array" => {
            write::array(out, 3);
            (0..3).for_each(|i| write::int(out, i));
        }
        "set" => {
            write::set(out, 3, version);
            (0..3).for_each(|i| write::int(out, i));
        }
        "map" => {
            write::map(out, 3, version);
            for i in 0..3 {
                write::int(out, i);
                boolean(out, version, i == 1);
            }
        }
        "attrib" => {
            if version == Version::Resp3 {
                out.extend_from_slice(b"|1\r\n");
                write::bulk(out, b"key-popularity");
                write::array(out, 2);
                write::bulk(out, b"key:123");
                write::int(out, 90);
            }
            write::bulk(out, b"Some real reply following the attribute");
        }
        "push" if version == Version::Resp2 => write::error(out, "ERR RESP2 is not supported by this command"),
        "push" => {
            out.extend_from_slice(b">2\r\n");
            write::bulk(out, b"server-cpu-usage");
            write::int(out, 42);
            write::bulk(out, b"Some real reply following the push reply");
        }
        "true" | "false" => boolean(out, version, kind == "true"),
        "verbatim" => write::verbatim(out, "This is a verbatim\nstring", version),
        _ => {
            let text = format!("ERR Wrong protocol type name. Please use one of the following: {TYPES}");
            write::error(out, &text);
        }
    }
}

fn boolean(out: &mut Vec<u8>, version: Version, value: bool) {
    match value {
        true => raw(out, version, b"#t\r\n", b":1\r\n"),
        false => raw(out, version, b"#f\r\n", b":0\r\n"),
    }
}

/// Writes a value that the two versions write differently.
fn raw(out: &mut Vec<u8>, version: Version, resp3: &[u8], resp2: &[u8]) {
    out.extend_from_slice(match version {
        Version::Resp2 => resp2,
        Version::Resp3 => resp3,
    });
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use crate::resp::request::{RequestScanner, Scanned};

    fn with<T>(line: &str, look: impl FnOnce(&CallContext<'_>) -> T) -> T {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let mut bytes = Vec::new();
        write::request(&mut bytes, &words);
        let mut scanner = RequestScanner::default();
        assert!(matches!(scanner.scan(&bytes), Ok(Scanned::Request(_))));
        look(&CallContext { bytes: &bytes, args: scanner.args() })
    }

    #[test]
    fn parts_are_found_by_name_and_number_of_arguments() {
        for (line, part) in [
            ("DEBUG SLEEP 1", DebugPart::Sleep),
            ("debug Object k", DebugPart::Key),
            ("PFDEBUG TODENSE k", DebugPart::Key),
            ("DEBUG DIGEST-VALUE", DebugPart::Keys),
            ("DEBUG DIGEST-VALUE a b c", DebugPart::Keys),
            ("DEBUG SET-ACTIVE-EXPIRE 0", DebugPart::AllPrimaries),
        ] {
            assert_eq!(with(line, DebugPart::of), Ok(part), "{line}");
        }
        assert!(with("DEBUG SLEEP", DebugPart::of).unwrap_err().contains("wrong number"));
        for line in ["DEBUG SEGFAULT", "DEBUG CHANGE-REPL-ID", "DEBUG PAUSE-CRON 1", "DEBUG REPLICATE x"] {
            assert!(with(line, DebugPart::of).unwrap_err().contains("not executed"), "{line}");
        }
    }

    #[test]
    fn parts_are_sorted_and_unique() {
        assert!(PARTS.is_sorted_by(|a, b| a.0 < b.0));
    }

    #[test]
    fn sleeps_are_bounded() {
        for (line, millis) in
            [("DEBUG SLEEP 0.5", 500), ("DEBUG SLEEP -1", 0), ("DEBUG SLEEP x", 0), ("DEBUG SLEEP nan", 0)]
        {
            assert_eq!(with(line, sleep_time), Ok(Duration::from_millis(millis)), "{line}");
        }
        for line in ["DEBUG SLEEP 3601", "DEBUG SLEEP inf"] {
            assert!(with(line, sleep_time).is_err(), "{line}");
        }
    }

    #[test]
    fn a_reload_that_loses_data_is_not_safe() {
        for (line, safe) in [
            ("DEBUG RELOAD", true),
            ("DEBUG RELOAD MERGE noflush", true),
            ("DEBUG RELOAD NOFLUSH", false),
            ("DEBUG RELOAD NOSAVE", false),
        ] {
            assert_eq!(with(line, reload_is_safe), safe, "{line}");
        }
    }

    #[test]
    fn values_of_both_versions() {
        let of = |kind: &str, version| {
            let mut out = Vec::new();
            with(&format!("DEBUG PROTOCOL {kind}"), |call| protocol(call, version, &mut out));
            String::from_utf8(out).unwrap()
        };
        for (kind, resp2, resp3) in [
            ("Double", "$5\r\n3.141\r\n", ",3.141\r\n"),
            ("null", "$-1\r\n", "_\r\n"),
            ("set", "*3\r\n:0\r\n:1\r\n:2\r\n", "~3\r\n:0\r\n:1\r\n:2\r\n"),
            ("map", "*6\r\n:0\r\n:0\r\n:1\r\n:1\r\n:2\r\n:0\r\n", "%3\r\n:0\r\n#f\r\n:1\r\n#t\r\n:2\r\n#f\r\n"),
            ("true", ":1\r\n", "#t\r\n"),
            ("verbatim", "$25\r\nThis is a verbatim\nstring\r\n", "=29\r\ntxt:This is a verbatim\nstring\r\n"),
        ] {
            assert_eq!((of(kind, Version::Resp2).as_str(), of(kind, Version::Resp3).as_str()), (resp2, resp3));
        }
        assert!(of("push", Version::Resp2).starts_with("-ERR RESP2"));
        assert!(of("push", Version::Resp3).starts_with(">2\r\n"));
        assert!(of("attrib", Version::Resp3).starts_with("|1\r\n"));
        assert!(of("no", Version::Resp2).starts_with("-ERR Wrong protocol type"));
    }
}
