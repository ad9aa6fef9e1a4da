//! Digests a stream: entries, last id, groups with their consumers and pending lists.
//! Knows nothing of how a stream is copied.
//!
//! Not compared: groups, if the feed does not report their changes (such a stream is copied again under the hold); and
//! how long ago a consumer was active or an entry was delivered, because servers report that only relative to the moment
//! of the request.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{
    connection::{PAGE, ReadConnection, ReadError, collect},
    digest::KeyDigest,
};
use crate::redis::Reply;

/// Most groups of a stream that are compared: each takes several requests.
const GROUPS_MAX: usize = 4096;

/// The digest of a stream. Properties that only newer servers report are added to `extras`.
pub(super) async fn digest(
    reader: &mut ReadConnection,
    key: &Bytes,
    page: u64,
    extras: &mut BTreeMap<String, Bytes>,
) -> Result<u64, ReadError> {
    let seed = reader.seed();
    let mut sequence = seed.sequence();
    let info = reader.request(&[b"XINFO", b"STREAM", key]).await?;
    sequence.push(&[b"last id", &text(&info, "last-generated-id")?]);
    for name in ["max-deleted-entry-id", "entries-added"] {
        if let Ok(value) = text(&info, name) {
            extras.insert(name.to_owned(), value);
        }
    }
    let mut from = Bytes::from_static(b"-");
    loop {
        let reply = reader.request(&[b"XRANGE", key, &from, b"+", b"COUNT", page.to_string().as_bytes()]).await?;
        let entries = reply.items().ok_or(ReadError::Key(KeyDigest::Changed))?;
        for entry in entries {
            let Some([Reply::Bulk(id), fields]) = entry.items() else {
                return Err(ReadError::Key(KeyDigest::Changed));
            };
            let mut parts = vec![id.clone()];
            collect(fields, &mut parts)?;
            sequence.push(&parts.iter().map(|part| &part[..]).collect::<Vec<_>>());
            from = after(id)?;
        }
        if (entries.len() as u64) < page || from.is_empty() {
            break;
        }
    }
    if !reader.groups() {
        return Ok(sequence.finish());
    }
    let groups = reader.request(&[b"XINFO", b"GROUPS", key]).await?;
    let groups = groups.items().ok_or(ReadError::Key(KeyDigest::Changed))?;
    if groups.len() > GROUPS_MAX {
        return Err(ReadError::Key(KeyDigest::Unreadable(format!("a stream with more than {GROUPS_MAX} groups"))));
    }
    // Redis returns them in the order of their names.
    for group in groups {
        let name = text(group, "name")?;
        sequence.push(&[b"group", &name, &text(group, "last-delivered-id")?]);
        if let Ok(read) = text(group, "entries-read") {
            extras.insert(format!("entries-read of group {}", name.escape_ascii()), read);
        }
        let consumers = reader.request(&[b"XINFO", b"CONSUMERS", key, &name]).await?;
        let mut names = Vec::new();
        for consumer in consumers.items().ok_or(ReadError::Key(KeyDigest::Changed))? {
            names.push(text(consumer, "name")?);
        }
        names.sort_unstable();
        for name in names {
            sequence.push(&[b"consumer", &name]);
        }
        let mut from = Bytes::from_static(b"-");
        loop {
            let reply = reader.request(&[b"XPENDING", key, &name, &from, b"+", PAGE.to_string().as_bytes()]).await?;
            let pending = reply.items().ok_or(ReadError::Key(KeyDigest::Changed))?;
            for entry in pending {
                // Id, consumer, idle time, number of deliveries.
                let Some([Reply::Bulk(id), Reply::Bulk(consumer), _, Reply::Integer(count)]) = entry.items() else {
                    return Err(ReadError::Key(KeyDigest::Changed));
                };
                sequence.push(&[b"pending", id, consumer, &count.to_le_bytes()]);
                from = after(id)?;
            }
            if (pending.len() as u64) < PAGE || from.is_empty() {
                break;
            }
        }
    }
    Ok(sequence.finish())
}

/// A field of XINFO as text: numbers in decimal, null as an empty text.
fn text(map: &Reply, name: &str) -> Result<Bytes, ReadError> {
    let value = map
        .items()
        .and_then(|items| items.chunks_exact(2).find(|pair| pair[0].text() == Some(name)))
        .map(|pair| &pair[1]);
    match value {
        Some(Reply::Bulk(bytes)) => Ok(bytes.clone()),
        Some(Reply::Simple(text)) => Ok(Bytes::copy_from_slice(text.as_bytes())),
        Some(Reply::Integer(number)) => Ok(Bytes::from(number.to_string())),
        Some(Reply::Null) => Ok(Bytes::new()),
        _ => Err(ReadError::Key(KeyDigest::Changed)),
    }
}

/// The id after `id`; empty after the greatest. (Exclusive ranges, `(id`, came with Redis 6.2.)
fn after(id: &[u8]) -> Result<Bytes, ReadError> {
    let parsed = || {
        let (ms, sequence) = std::str::from_utf8(id).ok()?.split_once('-')?;
        Some((ms.parse::<u64>().ok()?, sequence.parse::<u64>().ok()?))
    };
    let (ms, sequence) = parsed().ok_or(ReadError::Key(KeyDigest::Changed))?;
    Ok(match (sequence.checked_add(1), ms.checked_add(1)) {
        (Some(sequence), _) => format!("{ms}-{sequence}").into(),
        (None, Some(ms)) => format!("{ms}-0").into(),
        (None, None) => Bytes::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_id() {
        let check = |id: &str, next: &str| assert_eq!(after(id.as_bytes()).ok(), Some(Bytes::from(next.to_owned())));
        check("5-1", "5-2");
        check("5-18446744073709551615", "6-0");
        check("18446744073709551615-18446744073709551615", "");
        assert!(after(b"x").is_err());
    }
}
