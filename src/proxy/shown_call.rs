//! A request as MONITOR and SLOWLOG show it: cut to a bounded size, its passwords hidden.
//! Knows nothing of who sees it.

use std::borrow::Cow;

use crate::commands::{Args, secret_args};

/// What stands in place of a password; the same as in Redis.
const REDACTED: &[u8] = b"(redacted)";

/// How much of a request is shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    /// Arguments; of more, the last one shown says how many are missing.
    pub(super) args: usize,
    /// Bytes of an argument; of more, its end says how many are missing.
    pub(super) bytes: usize,
}

/// The arguments of a call, as they are shown.
pub(super) fn shown<'a>(call: &'a (impl Args + ?Sized), cut: Cut) -> impl Iterator<Item = Cow<'a, [u8]>> {
    let secrets = secret_args(call);
    let len = call.len();
    (0..len.min(cut.args)).map(move |at| {
        if len > cut.args && at + 1 == cut.args {
            return format!("... ({} more arguments)", len - at).into_bytes().into();
        }
        if secrets.binary_search(&at).is_ok() {
            return REDACTED.into();
        }
        let arg = call.get(at);
        if arg.len() <= cut.bytes {
            return arg.into();
        }
        let rest = format!("... ({} more bytes)", arg.len() - cut.bytes);
        [&arg[..cut.bytes], rest.as_bytes()].concat().into()
    })
}

/// Appends a text in quotes, with escapes as Redis writes them.
pub(super) fn quote(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    for &byte in text {
        match byte {
            b'\\' | b'"' => out.extend([b'\\', byte]),
            b'\n' => out.extend(b"\\n"),
            b'\r' => out.extend(b"\\r"),
            b'\t' => out.extend(b"\\t"),
            7 => out.extend(b"\\a"),
            8 => out.extend(b"\\b"),
            b' '..=b'~' => out.push(byte),
            _ => out.extend(format!("\\x{byte:02x}").bytes()),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<Vec<u8>> {
        line.split(' ').map(Into::into).collect()
    }

    #[test]
    fn long_calls_are_cut_and_passwords_hidden() {
        let cut = Cut { args: 4, bytes: 5 };
        let show = |line: &str| {
            let words = words(line);
            let shown: Vec<_> = shown(&words[..], cut).map(|arg| String::from_utf8_lossy(&arg).into_owned()).collect();
            shown.join(" ")
        };
        assert_eq!(show("DEL a b c"), "DEL a b c");
        assert_eq!(show("DEL a b c d"), "DEL a b ... (2 more arguments)");
        assert_eq!(show("SET k 1234567"), "SET k 12345... (2 more bytes)");
        assert_eq!(show("AUTH default verysecret"), "AUTH (redacted) (redacted)");
    }

    #[test]
    fn quotes_as_redis() {
        let mut out = Vec::new();
        quote(&mut out, b"a\"b\\\n\r\t\x07\x08\x01\xc3 ~\x7f");
        assert_eq!(String::from_utf8_lossy(&out), r#""a\"b\\\n\r\t\a\b\x01\xc3 ~\x7f""#);
    }
}
