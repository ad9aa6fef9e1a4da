//! Writes to the target: values of small keys, and WAIT for its replicas.
//! Knows nothing of the source and of feeds. Values are opaque bytes, copied from one buffer to the other.

use std::collections::BTreeSet;

use super::requests::TargetRequest;
use crate::{
    mover::{
        expiry::Expiry,
        io::{connection::Connection, pipeline::Pipeline, scan::text},
        payload,
        track::dirty::DbKey,
    },
    resp::{number, write},
};

/// Room for the digits of an instant.
const DIGITS: usize = 20;

/// The target of a copy.
pub(super) struct TargetWriter {
    pub pipeline: Pipeline<TargetRequest>,
    /// The target refuses the version of the source's payloads, so it is lowered.
    pub lowers: bool,
    /// Types of payloads that the target refuses in every version: it does not know the encoding.
    pub unknown: BTreeSet<u8>,
    /// Replies to WAIT that the cut-over has not read: how many replicas have everything, of how many.
    pub waited: Vec<(u32, u32)>,
}

impl TargetWriter {
    /// Writes over this connection.
    pub fn new(connection: Connection) -> Self {
        Self { pipeline: Pipeline::new(connection), lowers: false, unknown: BTreeSet::new(), waited: Vec::new() }
    }

    /// Appends RESTORE of a reply to DUMP, and returns whether its version was lowered. If the key is gone, appends
    /// UNLINK and returns `None`. RESTORE of a key that has expired meanwhile deletes it at the target.
    pub fn write_value(&mut self, DbKey { db, key }: &DbKey, dump: &[u8], expiry: Expiry) -> Option<bool> {
        self.pipeline.select(*db, TargetRequest::Select);
        let out = self.pipeline.out();
        if dump.starts_with(b"$-") || dump[0] != b'$' || expiry == Expiry::Gone {
            write::request(out, &[b"UNLINK", key]);
            return None;
        }
        let expires_at = if let Expiry::At(at) = expiry { Some(at) } else { None };
        write::array(out, if expires_at.is_some() { 6 } else { 5 });
        out.extend_from_slice(b"$7\r\nRESTORE\r\n");
        write::bulk(out, key);
        if let Some(at) = expires_at {
            let mut digits = Vec::with_capacity(DIGITS);
            number::push(&mut digits, at);
            write::bulk(out, &digits);
        } else {
            out.extend_from_slice(b"$1\r\n0\r\n");
        }
        match self.lowers.then(|| payload::lowered(dump_value(dump))) {
            Some(Ok(lowered)) => write::bulk(out, &lowered),
            // Unchanged: the target may accept it.
            Some(Err(_)) | None => out.extend_from_slice(dump),
        }
        out.extend_from_slice(b"$7\r\nREPLACE\r\n");
        if expires_at.is_some() {
            out.extend_from_slice(b"$6\r\nABSTTL\r\n");
        }
        Some(self.lowers)
    }

    /// Requests WAIT for this many replicas, for at most `ms` milliseconds (not 0, which has no limit).
    pub fn request_wait(&mut self, replicas: u32, ms: u128) {
        // WAIT replies at once on a connection that has written nothing; this one has.
        self.pipeline.send(&[b"PING"], TargetRequest::Ping);
        let (count, ms) = (replicas.to_string(), ms.max(1).to_string());
        self.pipeline.send(&[b"WAIT", count.as_bytes(), ms.as_bytes()], TargetRequest::Wait(replicas));
    }

    /// Whether nothing but statistics is outstanding.
    pub fn is_drained(&self) -> bool {
        self.pipeline.awaited.iter().all(|request| matches!(request, TargetRequest::Stats(_)))
    }

    /// Whether no request is outstanding.
    pub fn is_idle(&self) -> bool {
        self.pipeline.awaited.is_empty()
    }
}

/// The payload in a reply to DUMP.
pub(super) fn dump_value(reply: &[u8]) -> &[u8] {
    text(reply).unwrap_or_default()
}

/// Whether an error of RESTORE means that the target does not accept the version of the payload.
pub(super) fn is_version_refused(reply: &[u8]) -> bool {
    let text = String::from_utf8_lossy(reply);
    text.contains(payload::REFUSED) || text.contains("Bad data format")
}
