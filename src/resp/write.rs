//! Writes RESP messages, in the version of the client where the versions differ.
//! Knows nothing of what the messages mean.

use super::number;

/// The protocol version of a client or a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// The version with which every client begins.
    #[default]
    Resp2,
    /// After `HELLO 3`.
    Resp3,
}

/// Writes `+text`. The text must not contain line ends, so it must never contain a client's bytes.
pub fn simple(out: &mut Vec<u8>, text: &str) {
    line(out, b'+', text.as_bytes());
}

/// Writes `-text`. The text begins with the code (`ERR ...`); line ends inside become spaces.
pub fn error(out: &mut Vec<u8>, text: &(impl AsRef<[u8]> + ?Sized)) {
    out.push(b'-');
    out.extend(text.as_ref().iter().map(|c| if [b'\r', b'\n'].contains(c) { b' ' } else { *c }));
    out.extend_from_slice(b"\r\n");
}

/// Writes `:number`.
pub fn int(out: &mut Vec<u8>, value: i64) {
    head(out, b':', value);
}

/// Writes a bulk string, `$len bytes`.
pub fn bulk(out: &mut Vec<u8>, bytes: &[u8]) {
    head(out, b'$', bytes.len() as i64);
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// Writes the null of the version.
pub fn null(out: &mut Vec<u8>, version: Version) {
    out.extend_from_slice(match version {
        Version::Resp2 => b"$-1\r\n",
        Version::Resp3 => b"_\r\n",
    });
}

/// Writes the null of the version in place of an array.
pub fn null_array(out: &mut Vec<u8>, version: Version) {
    out.extend_from_slice(match version {
        Version::Resp2 => b"*-1\r\n",
        Version::Resp3 => b"_\r\n",
    });
}

/// Writes the header of an array of `len` values.
pub fn array(out: &mut Vec<u8>, len: usize) {
    head(out, b'*', len as i64);
}

/// Writes the header of a map of `pairs` pairs; in RESP2, of an array with twice as many values.
pub fn map(out: &mut Vec<u8>, pairs: usize, version: Version) {
    match version {
        Version::Resp2 => array(out, pairs * 2),
        Version::Resp3 => head(out, b'%', pairs as i64),
    }
}

/// Writes the header of a set of `len` values; in RESP2, of an array.
pub fn set(out: &mut Vec<u8>, len: usize, version: Version) {
    match version {
        Version::Resp2 => array(out, len),
        Version::Resp3 => head(out, b'~', len as i64),
    }
}

/// Writes a text for people: a verbatim string in RESP3, a bulk string in RESP2.
pub fn verbatim(out: &mut Vec<u8>, text: &str, version: Version) {
    match version {
        Version::Resp2 => bulk(out, text.as_bytes()),
        Version::Resp3 => {
            head(out, b'=', text.len() as i64 + 4);
            out.extend_from_slice(b"txt:");
            out.extend_from_slice(text.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// Writes a request.
pub fn request(out: &mut Vec<u8>, args: &[&[u8]]) {
    array(out, args.len());
    for arg in args {
        bulk(out, arg);
    }
}

fn head(out: &mut Vec<u8>, kind: u8, number: i64) {
    out.push(kind);
    number::push(out, number);
    out.extend_from_slice(b"\r\n");
}

fn line(out: &mut Vec<u8>, kind: u8, text: &[u8]) {
    out.push(kind);
    out.extend_from_slice(text);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_both_versions() {
        let write = |f: &dyn Fn(&mut Vec<u8>)| {
            let mut out = Vec::new();
            f(&mut out);
            String::from_utf8_lossy(&out).into_owned()
        };
        assert_eq!(write(&|o| simple(o, "OK")), "+OK\r\n");
        assert_eq!(write(&|o| error(o, "ERR a\r\nb")), "-ERR a  b\r\n");
        assert_eq!(write(&|o| int(o, -5)), ":-5\r\n");
        assert_eq!(write(&|o| bulk(o, b"ab")), "$2\r\nab\r\n");
        assert_eq!(write(&|o| null(o, Version::Resp2)), "$-1\r\n");
        assert_eq!(write(&|o| null(o, Version::Resp3)), "_\r\n");
        assert_eq!(write(&|o| map(o, 2, Version::Resp2)), "*4\r\n");
        assert_eq!(write(&|o| map(o, 2, Version::Resp3)), "%2\r\n");
        assert_eq!(write(&|o| set(o, 2, Version::Resp3)), "~2\r\n");
        assert_eq!(write(&|o| verbatim(o, "x", Version::Resp3)), "=5\r\ntxt:x\r\n");
        assert_eq!(write(&|o| request(o, &[b"GET", b"k"])), "*2\r\n$3\r\nGET\r\n$1\r\nk\r\n");
    }
}
