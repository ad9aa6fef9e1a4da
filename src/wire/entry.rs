//! Entries of the log to bytes and back: the durable format (proto/state.proto).
//! Knows nothing of indexes and terms, which the log keeps beside an entry.

use prost::Message;

use super::{
    change::{change_from, change_to},
    convert::{DecodeError, LEVEL, check_level, id_from, id_to, need},
    pb::state as pb,
};
use crate::model::{
    author::{Author, Requester},
    ids::NodeId,
    state::Entry,
};

/// The longest encoded entry, in bytes. The largest real one has a script of 512 KB.
pub const ENTRY_LEN_MAX: usize = 1 << 20;

/// Encodes an entry. Equal entries give equal bytes.
#[must_use]
pub fn encode_entry(entry: &Entry) -> Vec<u8> {
    pb::Entry {
        id: id_to(entry.id),
        request_hash: entry.request_hash,
        level: LEVEL,
        at_ms: entry.at_ms,
        change: Some(change_to(&entry.change)),
        author: author_to(&entry.author),
    }
    .encode_to_vec()
}

/// Decodes an entry.
///
/// # Errors
/// `TooNew` when a later version wrote it (also: an unknown kind of change), else what is wrong with the bytes.
pub fn decode_entry(bytes: &[u8]) -> Result<Entry, DecodeError> {
    if bytes.len() > ENTRY_LEN_MAX {
        return Err(DecodeError::TooLong { what: "an entry", len: bytes.len(), max: ENTRY_LEN_MAX });
    }
    let entry = pb::Entry::decode(bytes).map_err(|e| DecodeError::Damaged(e.to_string()))?;
    check_level(entry.level)?;
    // The decoder drops a kind of change that this program does not know, so that no kind is left. A later version that
    // writes such an entry must demand a higher level; this one forgot to.
    let Some(kind) = need(entry.change, "the change of an entry")?.kind else {
        return Err(DecodeError::TooNew { needs: LEVEL + 1 });
    };
    Ok(Entry {
        id: id_from(entry.id, "a change id")?,
        request_hash: entry.request_hash,
        at_ms: entry.at_ms,
        author: author_from(entry.author),
        change: change_from(kind)?,
    })
}

fn author_to(author: &Author) -> Option<pb::Author> {
    match author {
        Author::Unknown => None,
        Author::Leader(node) => Some(pb::Author { node: node.0, ..pb::Author::default() }),
        Author::Request(Requester { actor, declared, address, node }) => Some(pb::Author {
            actor: actor.clone(),
            declared: declared.clone(),
            address: address.clone(),
            node: node.0,
        }),
    }
}

fn author_from(author: Option<pb::Author>) -> Author {
    match author {
        None => Author::Unknown,
        Some(pb::Author { actor, node, .. }) if actor.is_empty() => Author::Leader(NodeId(node)),
        Some(pb::Author { actor, declared, address, node }) => {
            Author::Request(Requester { actor, declared, address, node: NodeId(node) })
        }
    }
}
