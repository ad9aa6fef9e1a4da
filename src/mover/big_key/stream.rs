//! Copies a stream entry by entry, with its groups, their consumers and pending entries, its last id and counters.
//! Knows nothing of events: any change makes the stream stale. How long a consumer has been idle is not copied, since no
//! command sets it.
//!
//! The entry of a pending id may have been deleted from the stream (XDEL, XTRIM), and XCLAIM creates no pending entry
//! without it. So the entry is added, claimed and deleted again. Therefore entries and pending ids are read together in
//! the order of their ids, and written up to the id that all of them have reached.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::{
    delivery::{PendingReader, PendingRequest},
    requests::Requests,
    stream_id::StreamId,
    value::{Reader, Value},
};

/// One request of a round. The replies come in the order of the requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamRequest {
    /// XINFO STREAM.
    Info,
    /// XINFO GROUPS.
    Groups,
    /// XINFO CONSUMERS of a group.
    Consumers(usize),
    /// XRANGE with this COUNT.
    Entries(usize),
    /// For pending entries.
    Pending(PendingRequest),
}

#[derive(Clone, Debug)]
struct StreamGroup {
    name: Bytes,
    last: Bytes,
    read: Option<i64>,
    consumers: Vec<Bytes>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum StreamStage {
    Info,
    Consumers,
    Entries(StreamId),
    Done,
}

/// What one round has written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamProgress {
    /// Entries written.
    pub elements: usize,
    /// Their bytes.
    pub bytes: usize,
}

/// The copy of a stream.
#[derive(Clone, Debug)]
pub struct StreamCopy {
    step: StreamStage,
    length: u64,
    last: Bytes,
    added: Option<i64>,
    deleted: Option<Bytes>,
    groups: Vec<StreamGroup>,
    /// An entry that is in the stream has been written: deleted ids before it were trimmed, deleted ids after it were
    /// removed by XDEL.
    any_entry: bool,
    /// Entries of this round by id: the number of fields and values, and their encoded form.
    entries: BTreeMap<StreamId, (usize, Bytes)>,
    pending: PendingReader,
    /// The id up to which this round has read everything.
    known: StreamId,
}

impl Default for StreamCopy {
    fn default() -> Self {
        Self {
            step: StreamStage::Info,
            length: 0,
            last: Bytes::new(),
            added: None,
            deleted: None,
            groups: Vec::new(),
            any_entry: false,
            entries: BTreeMap::new(),
            pending: PendingReader::default(),
            known: StreamId::MAX,
        }
    }
}

impl StreamCopy {
    /// Appends the requests of the next round and returns them in order. Empty: the stream is written.
    pub fn next_round(&mut self, key: &[u8], count: usize, out: &mut Requests) -> Vec<StreamRequest> {
        let mut asked = Vec::new();
        match &self.step {
            StreamStage::Info => {
                out.push(&[b"XINFO", b"STREAM", key]);
                out.push(&[b"XINFO", b"GROUPS", key]);
                asked.extend([StreamRequest::Info, StreamRequest::Groups]);
            }
            StreamStage::Consumers => {
                for (i, group) in self.groups.iter().enumerate() {
                    out.push(&[b"XINFO", b"CONSUMERS", key, &group.name]);
                    asked.push(StreamRequest::Consumers(i));
                }
            }
            StreamStage::Entries(from) => {
                let from = from.text();
                if !self.pending.is_inexact() {
                    out.push(&[b"XRANGE", key, from.as_bytes(), b"+", b"COUNT", count.to_string().as_bytes()]);
                    asked.push(StreamRequest::Entries(count));
                }
                let groups: Vec<Bytes> = self.groups.iter().map(|group| group.name.clone()).collect();
                let pending = self.pending.request(key, &groups, from.as_bytes(), count, out);
                asked.extend(pending.into_iter().map(StreamRequest::Pending));
            }
            StreamStage::Done => {}
        }
        asked
    }

    /// The number of entries, as far as known.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Whether everything has been written.
    pub fn is_done(&self) -> bool {
        self.step == StreamStage::Done
    }

    /// Consumes one reply. Returns `None` if it has another form.
    pub fn reply(&mut self, request: &StreamRequest, reply: &[u8]) -> Option<()> {
        let mut reader = Reader::new(reply);
        match request {
            StreamRequest::Info => self.read_info(&mut reader),
            StreamRequest::Groups => {
                for _ in 0..reader.array()? {
                    let group = read_group(&mut reader)?;
                    self.groups.push(group);
                }
                Some(())
            }
            StreamRequest::Consumers(group) => {
                for _ in 0..reader.array()? {
                    let mut name = None;
                    for_each_pair(&mut reader, |field, reader| {
                        if field == b"name" {
                            reader.bulk().map(|n| name = Some(Bytes::copy_from_slice(n)))
                        } else {
                            reader.skip()
                        }
                    })?;
                    self.groups.get_mut(*group)?.consumers.push(name?);
                }
                Some(())
            }
            StreamRequest::Entries(count) => {
                let found = reader.array()?;
                let mut last = StreamId::default();
                for _ in 0..found {
                    (reader.array()? == 2).then_some(())?;
                    last = StreamId::parse(reader.bulk()?)?;
                    let values = reader.array()?;
                    let start = reader.rest();
                    for _ in 0..values {
                        reader.bulk()?;
                    }
                    let bulks = &start[..start.len() - reader.rest().len()];
                    self.entries.insert(last, (values, Bytes::copy_from_slice(bulks)));
                }
                if found >= *count {
                    self.known = self.known.min(last);
                }
                Some(())
            }
            StreamRequest::Pending(request) => {
                if let Some(last) = self.pending.reply(request, &mut reader)? {
                    self.known = self.known.min(last);
                }
                Some(())
            }
        }
    }

    fn read_info(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        for_each_pair(reader, |field, reader| {
            match field {
                b"length" => self.length = u64::try_from(reader.int()?).ok()?,
                b"last-generated-id" => self.last = Bytes::copy_from_slice(reader.bulk()?),
                // From Redis 7.0 on.
                b"entries-added" => self.added = Some(reader.int()?),
                b"max-deleted-entry-id" => self.deleted = Some(Bytes::copy_from_slice(reader.bulk()?)),
                _ => reader.skip()?,
            }
            Some(())
        })?;
        StreamId::parse(&self.last).map(|_| ())
    }

    /// Writes what the round has read, after its last reply. Appends to `newer` the positions of the requests that older
    /// servers do not support: [`super::copy`] accepts an error for them.
    pub fn finish_round(&mut self, key: &[u8], out: &mut Requests, newer: &mut Vec<usize>) -> Option<StreamProgress> {
        match self.step {
            StreamStage::Info => {
                for group in &self.groups {
                    out.push(&[b"XGROUP", b"CREATE", key, &group.name, &group.last, b"MKSTREAM"]);
                    if let Some(read) = group.read.map(|n| n.to_string()) {
                        newer.push(out.count());
                        out.push(&[
                            b"XGROUP",
                            b"SETID",
                            key,
                            &group.name,
                            &group.last,
                            b"ENTRIESREAD",
                            read.as_bytes(),
                        ]);
                    }
                }
                self.step = if self.groups.is_empty() {
                    StreamStage::Entries(StreamId::default())
                } else {
                    StreamStage::Consumers
                };
                Some(StreamProgress::default())
            }
            StreamStage::Consumers => {
                for group in &self.groups {
                    for consumer in &group.consumers {
                        newer.push(out.count());
                        out.push(&[b"XGROUP", b"CREATECONSUMER", key, &group.name, consumer]);
                    }
                }
                self.step = StreamStage::Entries(StreamId::default());
                Some(StreamProgress::default())
            }
            StreamStage::Entries(_) => {
                self.pending.finish_round();
                if self.pending.is_inexact() {
                    return Some(StreamProgress::default());
                }
                let progress = self.write_known(key, out);
                match self.known.next() {
                    Some(next) if self.known < StreamId::MAX => self.step = StreamStage::Entries(next),
                    _ => {
                        self.finish(key, out, newer);
                        self.step = StreamStage::Done;
                    }
                }
                self.entries.clear();
                self.pending.entries.clear();
                self.known = StreamId::MAX;
                Some(progress)
            }
            StreamStage::Done => None,
        }
    }

    /// Writes entries and pending entries up to the id that has been read of all.
    fn write_known(&mut self, key: &[u8], out: &mut Requests) -> StreamProgress {
        let mut progress = StreamProgress::default();
        let known = self.known;
        let entries: Vec<_> = self.entries.range(..=known).collect();
        let dead: BTreeSet<StreamId> = self
            .pending
            .entries
            .range(..=known)
            .map(|(id, _)| *id)
            .filter(|id| !self.entries.contains_key(id))
            .collect();
        let first = entries.first().map(|(id, _)| **id);
        // Deleted ids before the first entry were trimmed. Trimming removes them again without changing the counters.
        let head: BTreeSet<StreamId> = if self.any_entry {
            BTreeSet::new()
        } else {
            dead.iter().copied().filter(|id| first.is_none_or(|first| *id < first)).collect()
        };
        for id in &head {
            out.push(&[b"XADD", key, id.text().as_bytes(), b"-", b"-"]);
        }
        for id in &head {
            self.claim(*id, key, out);
        }
        if !head.is_empty() {
            out.push(&[b"XTRIM", key, b"MAXLEN", b"0"]);
        }
        let inner: Vec<StreamId> = dead.iter().copied().filter(|id| !head.contains(id)).collect();
        let mut inner_left = inner.as_slice();
        for (id, (values, bulks)) in &entries {
            while let Some((dead, rest)) = inner_left.split_first().filter(|(dead, _)| *dead < *id) {
                out.push(&[b"XADD", key, dead.text().as_bytes(), b"-", b"-"]);
                inner_left = rest;
            }
            out.open(3 + values);
            out.arg(b"XADD");
            out.arg(key);
            out.arg(id.text().as_bytes());
            out.splice(bulks);
            progress.elements += 1;
            progress.bytes += bulks.len();
        }
        for dead in inner_left {
            out.push(&[b"XADD", key, dead.text().as_bytes(), b"-", b"-"]);
        }
        for id in self.pending.entries.range(..=known).map(|(id, _)| *id).filter(|id| !head.contains(id)) {
            self.claim(id, key, out);
        }
        for dead in &inner {
            out.push(&[b"XDEL", key, dead.text().as_bytes()]);
        }
        self.any_entry |= first.is_some();
        progress
    }

    fn claim(&self, id: StreamId, key: &[u8], out: &mut Requests) {
        for pending in self.pending.entries.get(&id).into_iter().flatten() {
            let Some(group) = self.groups.get(pending.group) else { continue };
            out.push(&[
                b"XCLAIM",
                key,
                &group.name,
                &pending.consumer,
                b"0",
                id.text().as_bytes(),
                b"TIME",
                pending.delivered.to_string().as_bytes(),
                b"RETRYCOUNT",
                pending.count.to_string().as_bytes(),
                b"FORCE",
                b"JUSTID",
            ]);
        }
    }

    /// Writes the last id and the counters.
    fn finish(&self, key: &[u8], out: &mut Requests, newer: &mut Vec<usize>) {
        if self.groups.is_empty() && !self.any_entry {
            if StreamId::parse(&self.last) == Some(StreamId::default()) {
                // The stream never had an entry. Only creating a group creates such a stream.
                out.push(&[b"XGROUP", b"CREATE", key, b"-", b"0", b"MKSTREAM"]);
                out.push(&[b"XGROUP", b"DESTROY", key, b"-"]);
            } else {
                out.push(&[b"XADD", key, b"MAXLEN", b"0", &self.last, b"-", b"-"]);
            }
        }
        let added = self.added.map(|n| n.to_string());
        out.push(&[b"XSETID", key, &self.last]);
        if let (Some(added), Some(deleted)) = (&added, &self.deleted) {
            newer.push(out.count());
            out.push(&[b"XSETID", key, &self.last, b"ENTRIESADDED", added.as_bytes(), b"MAXDELETEDID", deleted]);
        }
    }
}

fn read_group(reader: &mut Reader<'_>) -> Option<StreamGroup> {
    let (mut name, mut last, mut read) = (None, None, None);
    for_each_pair(reader, |field, reader| {
        match field {
            b"name" => name = Some(Bytes::copy_from_slice(reader.bulk()?)),
            b"last-delivered-id" => last = Some(Bytes::copy_from_slice(reader.bulk()?)),
            // From Redis 7.0 on; null where the server itself does not know it.
            b"entries-read" => {
                read = match reader.next()? {
                    Value::Int(n) => Some(n),
                    Value::Null => None,
                    _ => return None,
                }
            }
            _ => reader.skip()?,
        }
        Some(())
    })?;
    Some(StreamGroup { name: name?, last: last?, read, consumers: Vec::new() })
}

/// Reads a reply of XINFO: names and values in turn. `each` reads the value.
fn for_each_pair<'a>(
    reader: &mut Reader<'a>,
    mut each: impl FnMut(&'a [u8], &mut Reader<'a>) -> Option<()>,
) -> Option<()> {
    for _ in 0..reader.array()? / 2 {
        let field = reader.bulk()?;
        each(field, reader)?;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{super::delivery::PendingEntry, *};

    #[test]
    fn pending_ids_without_entry_are_added_claimed_and_taken_away() {
        let pending = |id: &str| {
            (
                StreamId::parse(id.as_bytes()).unwrap(),
                vec![PendingEntry { group: 0, consumer: Bytes::from_static(b"c"), delivered: 9, count: 2 }],
            )
        };
        let group = StreamGroup { name: "g".into(), last: "5-0".into(), read: None, consumers: Vec::new() };
        let mut stream = StreamCopy {
            step: StreamStage::Entries(StreamId::default()),
            groups: vec![group],
            ..StreamCopy::default()
        };
        stream.last = Bytes::from_static(b"9-0");
        stream.pending.entries.extend([pending("1-0"), pending("3-0"), pending("4-0")]);
        let entry =
            |id: &str| (StreamId::parse(id.as_bytes()).unwrap(), (2, Bytes::from_static(b"$1\r\nf\r\n$1\r\nv\r\n")));
        stream.entries.extend([entry("2-0"), entry("4-0")]);
        let mut out = Requests::default();
        let progress = stream.finish_round(b"k", &mut out, &mut Vec::new()).unwrap();
        assert_eq!(progress, StreamProgress { elements: 2, bytes: 28 });
        let sent = String::from_utf8_lossy(out.bytes()).into_owned();
        let words: Vec<&str> = sent.split("\r\n").filter(|w| !w.starts_with(['*', '$']) && !w.is_empty()).collect();
        let commands = words.join(" ").replace(" X", "\nX");
        let claim = |id: &str| format!("XCLAIM k g c 0 {id} TIME 9 RETRYCOUNT 2 FORCE JUSTID");
        let want = [
            "XADD k 1-0 - -".into(),
            claim("1-0"),
            "XTRIM k MAXLEN 0".into(),
            "XADD k 2-0 f v".into(),
            "XADD k 3-0 - -".into(),
            "XADD k 4-0 f v".into(),
            claim("3-0"),
            claim("4-0"),
            "XDEL k 3-0".into(),
            "XSETID k 9-0".into(),
        ];
        assert_eq!(commands, want.join("\n"));
        assert!(stream.is_done());
    }
}
