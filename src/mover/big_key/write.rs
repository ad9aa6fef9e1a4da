//! Writes what was read to the target.
//! Knows nothing of the position of the reader.

use bytes::Bytes;

use super::{
    BigKeyType, CHUNK_BYTES, CHUNK_ELEMENTS,
    read::{ElementPage, PIECE},
    requests::Requests,
    value::{Reader, Value},
};
use crate::mover::expiry::Expiry;

/// The content of one page.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Elements.
    pub elements: usize,
    /// Their bytes.
    pub bytes: usize,
    /// Names of a hash's fields, if they were requested.
    pub names: Vec<Bytes>,
}

/// Writes a page. HSCAN returns a small encoding as a whole, so it is split into commands of one chunk each. Returns
/// `None` if the values have another form.
pub fn page(kind: BigKeyType, key: &[u8], page: &ElementPage<'_>, names: bool, out: &mut Requests) -> Option<Written> {
    if kind == BigKeyType::String {
        return Some(Written { elements: 1, bytes: piece_of(page)?.len(), names: Vec::new() });
    }
    let each = if matches!(kind, BigKeyType::Hash | BigKeyType::Zset) { 2 } else { 1 };
    if !page.count.is_multiple_of(each) {
        return None;
    }
    let mut written = Written { elements: page.count / each, ..Written::default() };
    let mut reader = page.values;
    let mut left = written.elements;
    while left > 0 {
        let start = reader;
        let mut elements = 0;
        while elements < left.min(CHUNK_ELEMENTS) && start.rest().len() - reader.rest().len() < CHUNK_BYTES as usize {
            let name = reader.bulk()?;
            if names {
                written.names.push(Bytes::copy_from_slice(name));
            }
            if each == 2 {
                reader.bulk()?;
            }
            elements += 1;
        }
        left -= elements;
        let bulks = &start.rest()[..start.rest().len() - reader.rest().len()];
        written.bytes += bulks.len();
        out.open(2 + elements * each);
        match kind {
            BigKeyType::Hash => out.arg(b"HSET"),
            BigKeyType::Set => out.arg(b"SADD"),
            BigKeyType::Zset => out.arg(b"ZADD"),
            _ => out.arg(b"RPUSH"),
        }
        out.arg(key);
        if kind == BigKeyType::Zset {
            let mut pairs = start;
            for _ in 0..elements {
                let (member, score) = (pairs.bulk()?, pairs.bulk()?);
                out.arg(score);
                out.arg(member);
            }
        } else {
            out.splice(bulks);
        }
    }
    Some(written)
}

fn piece_of<'a>(page: &ElementPage<'a>) -> Option<&'a [u8]> {
    let mut reader = page.values;
    reader.bulk()
}

/// Writes a piece of a string. The target fills missing bytes before it with zeros.
pub fn piece(key: &[u8], piece: u64, reply: &[u8], out: &mut Requests) -> Option<usize> {
    let bytes = Reader::new(reply).bulk()?;
    if !bytes.is_empty() {
        out.push(&[b"SETRANGE", key, (piece * PIECE).to_string().as_bytes(), bytes]);
    }
    Some(bytes.len())
}

/// Writes fields of a hash as HMGET returned them: sets those that exist and deletes the others. Returns the bytes of
/// the values.
pub fn fields(key: &[u8], names: &[Bytes], reply: &[u8], out: &mut Requests) -> Option<usize> {
    let mut reader = Reader::new(reply);
    (reader.array()? == names.len()).then_some(())?;
    let (mut there, mut gone) = (Vec::new(), Vec::new());
    let mut bytes = 0;
    for name in names {
        match reader.next()? {
            Value::Bulk(value) => {
                bytes += value.len();
                there.push((name, value));
            }
            Value::Null => gone.push(name),
            _ => return None,
        }
    }
    if !there.is_empty() {
        out.open(2 + 2 * there.len());
        out.arg(b"HSET");
        out.arg(key);
        for (name, value) in there {
            out.arg(name);
            out.arg(value);
        }
    }
    delete(b"HDEL", key, &gone, out);
    Some(bytes)
}

/// Writes one member as SMISMEMBER, ZMSCORE or their forms for one member returned it.
pub fn member(kind: BigKeyType, key: &[u8], name: &Bytes, value: Value<'_>, out: &mut Requests) -> Option<()> {
    match (kind, value) {
        (BigKeyType::Set, Value::Int(1)) => out.push(&[b"SADD", key, name]),
        (BigKeyType::Set, Value::Int(0)) => out.push(&[b"SREM", key, name]),
        (BigKeyType::Zset, Value::Bulk(score)) => out.push(&[b"ZADD", key, score, name]),
        (BigKeyType::Zset, Value::Null) => out.push(&[b"ZREM", key, name]),
        _ => return None,
    }
    Some(())
}

/// Writes when fields of a hash expire, as HPEXPIRETIME returned it. HSET has removed former times.
pub fn field_expiry(key: &[u8], names: &[Bytes], reply: &[u8], out: &mut Requests) -> Option<()> {
    let mut reader = Reader::new(reply);
    // Null or an empty array: the hash is gone, which the feed reports.
    let count = match reader.next()? {
        Value::Array(count) => count,
        Value::Null => 0,
        _ => return None,
    };
    if count == 0 {
        return Some(());
    }
    (count == names.len()).then_some(())?;
    for name in names {
        // Never: it has no time to live. Gone: an event reports that.
        if let Expiry::At(at) = Expiry::of_expire_time(reader.int()?) {
            out.push(&[b"HPEXPIREAT", key, at.to_string().as_bytes(), b"FIELDS", b"1", name]);
        }
    }
    Some(())
}

fn delete(command: &[u8], key: &[u8], names: &[&Bytes], out: &mut Requests) {
    if names.is_empty() {
        return;
    }
    out.open(2 + names.len());
    out.arg(command);
    out.arg(key);
    for name in names {
        out.arg(name);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::mover::big_key::read::{self, Cursor};

    fn text(out: &Requests) -> String {
        String::from_utf8_lossy(out.bytes()).replace("\r\n", " ")
    }

    #[test]
    fn a_page_is_cut_into_chunks() {
        let mut reply = b"*2\r\n$1\r\n0\r\n*2000\r\n".to_vec();
        for i in 0..1000 {
            reply.extend_from_slice(format!("$4\r\n{i:04}\r\n$1\r\nv\r\n").as_bytes());
        }
        let read = read::page(BigKeyType::Hash, &reply, &Cursor::Scan(0), 512).unwrap();
        let mut out = Requests::default();
        let written = page(BigKeyType::Hash, b"k", &read, true, &mut out).unwrap();
        assert_eq!((written.elements, written.names.len(), out.count()), (1000, 1000, 2));
        let sent = text(&out);
        assert!(sent.starts_with("*1026 $4 HSET $1 k $4 0000 $1 v "), "{}", &sent[..60]);
        assert!(sent.contains(" *978 $4 HSET $1 k $4 0512 "));
    }

    #[test]
    fn scores_come_before_members() {
        let reply = b"*4\r\n$1\r\na\r\n$1\r\n1\r\n$1\r\nb\r\n$4\r\n-inf\r\n";
        let read = read::page(BigKeyType::Zset, reply, &Cursor::start(BigKeyType::Zset), 9).unwrap();
        let mut out = Requests::default();
        page(BigKeyType::Zset, b"k", &read, false, &mut out).unwrap();
        assert_eq!(text(&out), "*6 $4 ZADD $1 k $1 1 $1 a $4 -inf $1 b ");
    }

    #[test]
    fn missing_fields_are_deleted() {
        let names = [Bytes::from_static(b"a"), Bytes::from_static(b"b")];
        let mut out = Requests::default();
        assert_eq!(fields(b"k", &names, b"*2\r\n$-1\r\n$2\r\nvv\r\n", &mut out), Some(2));
        assert_eq!(text(&out), "*4 $4 HSET $1 k $1 b $2 vv *3 $4 HDEL $1 k $1 a ");
        assert_eq!(fields(b"k", &names, b"*1\r\n$-1\r\n", &mut Requests::default()), None);
        let mut out = Requests::default();
        member(BigKeyType::Set, b"k", &names[0], Value::Int(0), &mut out).unwrap();
        member(BigKeyType::Zset, b"k", &names[1], Value::Null, &mut out).unwrap();
        assert_eq!(member(BigKeyType::Set, b"k", &names[1], Value::Null, &mut out), None);
        assert_eq!(text(&out), "*3 $4 SREM $1 k $1 a *3 $4 ZREM $1 k $1 b ");
    }

    #[test]
    fn expiry_of_fields() {
        let names = [Bytes::from_static(b"a"), Bytes::from_static(b"b"), Bytes::from_static(b"c")];
        let mut out = Requests::default();
        assert_eq!(field_expiry(b"k", &names, b"*3\r\n:-1\r\n:-2\r\n:70\r\n", &mut out), Some(()));
        assert_eq!(text(&out), "*6 $10 HPEXPIREAT $1 k $2 70 $6 FIELDS $1 1 $1 c ");
        assert_eq!(field_expiry(b"k", &names, b"*-1\r\n", &mut out), Some(()));
    }
}
