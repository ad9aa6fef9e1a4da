//! Finds the end of a RESP2 reply, so that the decoder gets only complete replies within limits.
//! Knows nothing of the meaning of a reply. (redis-protocol recurses into nested arrays without a limit and parses an
//! incomplete reply again from its start; see ARCHITECTURE.md.)

/// Deepest nesting of arrays: COMMAND DOCS of Redis 7 has 9 levels, the commands that we send at most 4.
pub const DEPTH_MAX: usize = 32;
/// Most elements of one reply, all levels together: SCAN returns about 1000, CLIENT LIST is one string.
pub const ELEMENTS_MAX: usize = 4 << 20;
/// Longest line of a simple string, error, number or header.
pub const LINE_MAX: usize = 64 << 10;
/// Largest reply in bytes.
pub const REPLY_MAX: usize = 64 << 20;

/// Progress through one reply. Continues where it stopped when more bytes have arrived.
#[derive(Debug, Default)]
pub struct FrameScan {
    at: usize,
    elements: usize,
    /// Elements still to come on each open level.
    open: Vec<usize>,
}

impl FrameScan {
    /// Searches for the end of the reply at the start of `bytes`, which only grows between calls. Returns its length
    /// once it is complete.
    ///
    /// # Errors
    /// Returns why the bytes are not RESP2 or which limit they exceed.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<Option<usize>, String> {
        loop {
            let rest = bytes.get(self.at..).unwrap_or_default();
            let Some(&kind) = rest.first() else { return Ok(None) };
            if !matches!(kind, b'+' | b'-' | b':' | b'$' | b'*') {
                return Err(format!("a reply starts with byte 0x{kind:02x}"));
            }
            let window = &rest[..rest.len().min(LINE_MAX)];
            let Some(end) = memchr::memchr(b'\n', window) else {
                if rest.len() >= LINE_MAX {
                    return Err("a line of a reply is too long".into());
                }
                return Ok(None);
            };
            if end < 2 || rest[end - 1] != b'\r' {
                return Err("a line of a reply does not end in CR LF".into());
            }
            let line = &rest[1..end - 1];
            let mut length = end + 1;
            let mut children = 0;
            match kind {
                b'$' => {
                    if let Some(n) = count(line)? {
                        if n > REPLY_MAX {
                            return Err(format!("a string of {n} bytes; at most {REPLY_MAX} are accepted"));
                        }
                        length += n + 2;
                        match rest.get(length - 2..length) {
                            Some(b"\r\n") => {}
                            Some(_) => return Err("a string is not followed by CR LF".into()),
                            None => return Ok(None),
                        }
                    }
                }
                b'*' => children = count(line)?.unwrap_or(0),
                b':' => {
                    std::str::from_utf8(line)
                        .ok()
                        .and_then(|text| text.parse::<i64>().ok())
                        .ok_or("an invalid number")?;
                }
                _ => {
                    std::str::from_utf8(line).map_err(|_| "a line is not UTF-8")?;
                }
            }
            self.at += length;
            self.elements = self.elements.saturating_add(1);
            if self.elements > ELEMENTS_MAX || children > ELEMENTS_MAX {
                return Err(format!("more than {ELEMENTS_MAX} elements in a reply"));
            }
            if self.at > REPLY_MAX {
                return Err(format!("a reply of more than {REPLY_MAX} bytes"));
            }
            if children > 0 {
                if self.open.len() >= DEPTH_MAX {
                    return Err(format!("arrays nested deeper than {DEPTH_MAX}"));
                }
                self.open.push(children);
                continue;
            }
            while let Some(left) = self.open.last_mut() {
                *left -= 1;
                if *left > 0 {
                    break;
                }
                self.open.pop();
            }
            if self.open.is_empty() {
                return Ok(Some(self.at));
            }
        }
    }
}

/// Parses a length; -1 means null.
fn count(line: &[u8]) -> Result<Option<usize>, String> {
    if line == b"-1" {
        return Ok(None);
    }
    let text = std::str::from_utf8(line).unwrap_or_default();
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err("a length is not a number".into());
    }
    text.parse().map(Some).map_err(|_| "a length is out of range".into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn end(bytes: &[u8]) -> Result<Option<usize>, String> {
        FrameScan::default().advance(bytes)
    }

    #[test]
    fn whole_replies_are_found_at_every_split() {
        let replies: [&[u8]; 9] = [
            b"+OK\r\n",
            b"-ERR no\r\n",
            b":-12\r\n",
            b"$-1\r\n",
            b"*-1\r\n",
            b"$5\r\na\r\nbc\r\n",
            b"*0\r\n",
            b"*2\r\n$1\r\n0\r\n*2\r\n$1\r\na\r\n$1\r\nb\r\n",
            b"*2\r\n*0\r\n*1\r\n*1\r\n:1\r\n",
        ];
        for reply in replies {
            for split in 0..reply.len() {
                let mut scan = FrameScan::default();
                assert_eq!(scan.advance(&reply[..split]).unwrap(), None, "{reply:?} cut at {split}");
                let mut more = reply.to_vec();
                more.extend_from_slice(b"+next\r\n");
                assert_eq!(scan.advance(&more).unwrap(), Some(reply.len()), "{reply:?} cut at {split}");
            }
        }
    }

    #[test]
    fn nesting_is_limited() {
        let allowed = [b"*1\r\n".repeat(DEPTH_MAX), b":1\r\n".to_vec()].concat();
        assert_eq!(end(&allowed).unwrap(), Some(allowed.len()));
        // 40 KB of this abort a process that decodes it recursively.
        assert!(end(&b"*1\r\n".repeat(DEPTH_MAX + 1)).unwrap_err().contains("nested"));
    }

    #[test]
    fn invalid_and_excessive_replies_are_refused() {
        for bad in [
            &b"HTTP/1.1 400 Bad Request\r\n"[..],
            b"$x\r\n",
            b"$\r\n",
            b"$-2\r\n",
            b"$99999999999999999999\r\n",
            b"$3\r\nabcde",
            b":1a\r\n",
            b"+OK\n",
            b"\r\n",
            b"*999999999\r\n",
            b"$67108865\r\n",
            b"+\xff\r\n",
        ] {
            assert!(end(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
        assert!(end(&[b"+".to_vec(), vec![b'a'; LINE_MAX]].concat()).is_err());
    }
}
