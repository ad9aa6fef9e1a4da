//! Inline commands: converts a line of words, as typed into telnet, to a request.
//! Knows nothing of what the words mean.

use super::{request::RequestError, write};

/// Converts an inline command to a RESP request. `line` may end with LF or CRLF. A line without words becomes the empty
/// array `*0`.
///
/// # Errors
/// Returns `UnbalancedQuotes` if a quote is not closed, or if a closing quote is not followed by white space or the end
/// of the line, as Redis does. Returns `InlineNul` if there is a NUL.
pub fn to_request(line: &[u8]) -> Result<Vec<u8>, RequestError> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    // Redis never finds the end of such a line: it waits until 64 KB have arrived, and then refuses it.
    if memchr::memchr(0, line).is_some() {
        return Err(RequestError::InlineNul);
    }
    let words = words(line)?;
    let mut out = Vec::with_capacity(line.len() + 16 * (words.len() + 1));
    write::array(&mut out, words.len());
    for word in &words {
        write::bulk(&mut out, word);
    }
    Ok(out)
}

fn words(line: &[u8]) -> Result<Vec<Vec<u8>>, RequestError> {
    let mut words = Vec::new();
    let mut at = 0;
    loop {
        while line.get(at).is_some_and(|c| is_space(*c)) {
            at += 1;
        }
        if at >= line.len() {
            return Ok(words);
        }
        let mut word = Vec::new();
        at = take_word(line, at, &mut word)?;
        words.push(word);
    }
}

/// Reads one word from `at` on and returns the position after it. Quotes may begin inside a word, as in Redis.
fn take_word(line: &[u8], mut at: usize, word: &mut Vec<u8>) -> Result<usize, RequestError> {
    while let Some(&c) = line.get(at) {
        match c {
            b'"' | b'\'' => {
                at = take_quoted(line, at + 1, c, word)?;
                return match line.get(at) {
                    Some(next) if !is_space(*next) => Err(RequestError::UnbalancedQuotes),
                    _ => Ok(at),
                };
            }
            // Redis ends a word at fewer characters than it skips between words.
            b' ' | b'\t' | b'\n' | b'\r' => return Ok(at),
            c => word.push(c),
        }
        at += 1;
    }
    Ok(at)
}

/// Reads up to the closing `quote` and returns the position after it.
fn take_quoted(line: &[u8], mut at: usize, quote: u8, word: &mut Vec<u8>) -> Result<usize, RequestError> {
    loop {
        let rest = line.get(at..).unwrap_or_default();
        match *rest {
            [] => return Err(RequestError::UnbalancedQuotes),
            [c, ..] if c == quote => return Ok(at + 1),
            [b'\\', b'\'', ..] if quote == b'\'' => {
                word.push(b'\'');
                at += 2;
            }
            [b'\\', b'x', high, low, ..] if quote == b'"' && high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                word.push(hex(high) << 4 | hex(low));
                at += 4;
            }
            [b'\\', c, ..] if quote == b'"' => {
                word.push(match c {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'a' => 7,
                    other => other,
                });
                at += 2;
            }
            [c, ..] => {
                word.push(c);
                at += 1;
            }
        }
    }
}

fn is_space(c: u8) -> bool {
    matches!(c, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit - b'A' + 10,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn splits_words_as_redis_does() {
        let check = |line: &str, want: &[&[u8]]| assert_eq!(words(line.as_bytes()).unwrap(), want, "{line:?}");
        check("", &[]);
        check("  get   k ", &[b"get", b"k"]);
        check(r#"set k "a b\n\x41\"""#, &[b"set", b"k", b"a b\nA\""]);
        check(r"set k 'it\'s'", &[b"set", b"k", b"it's"]);
        check(r#"a"b c" d"#, &[b"ab c", b"d"]);
        check(r#"set k """#, &[b"set", b"k", b""]);
        for bad in [r#"set "k"#, r#"set "k"x"#, "'a"] {
            assert_eq!(words(bad.as_bytes()), Err(RequestError::UnbalancedQuotes), "{bad:?}");
        }
    }

    #[test]
    fn converts_a_line_to_a_request() {
        assert_eq!(to_request(b"PING hi\r\n").unwrap(), b"*2\r\n$4\r\nPING\r\n$2\r\nhi\r\n");
        assert_eq!(to_request(b"\r\n").unwrap(), b"*0\r\n");
    }
}
