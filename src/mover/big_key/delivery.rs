//! Reads pending entries of a stream's groups with their times of delivery.
//! Knows nothing of the stream's entries.
//!
//! XPENDING says how long ago an entry was delivered. So TIME is sent before and after each XPENDING: if both replies
//! have the same millisecond, the time of delivery is exact. If not, the group is read again, with fewer entries.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{requests::Requests, stream_id::StreamId, value::Reader};

/// Pending entries requested in one round, all groups together.
const PENDING_MAX: usize = 2048;
/// How often a group is read again for exact times. Each time half as many entries are requested: XPENDING of 512
/// entries takes a tenth of a millisecond, so the first repetition is usually exact.
const REPEATS_MAX: u32 = 8;

/// One request. The replies come in the order of the requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PendingRequest {
    /// TIME, before and after each XPENDING.
    Time,
    /// XPENDING of a group.
    Page {
        /// Position of the group.
        group: usize,
        /// Most entries that the server returns.
        count: usize,
    },
}

/// A pending entry of a group.
#[derive(Clone, Debug)]
pub(super) struct PendingEntry {
    /// Position of the group.
    pub group: usize,
    pub consumer: Bytes,
    /// In milliseconds since the epoch.
    pub delivered: i64,
    /// How often it was delivered.
    pub count: i64,
}

/// A reply to XPENDING whose second TIME is outstanding.
#[derive(Clone, Debug)]
struct Page {
    group: usize,
    /// Reply to the TIME before it.
    before: i64,
    /// Id, consumer, idle time, number of deliveries.
    rows: Vec<(StreamId, Bytes, i64, i64)>,
    /// More entries may follow.
    full: bool,
}

/// The pending entries that one round reads.
#[derive(Clone, Debug, Default)]
pub(super) struct PendingReader {
    /// By id.
    pub entries: BTreeMap<StreamId, Vec<PendingEntry>>,
    clock_ms: i64,
    page: Option<Page>,
    /// Groups that must be read again.
    inexact: Vec<usize>,
    repeats: u32,
}

impl PendingReader {
    /// Whether groups must be read again.
    pub fn is_inexact(&self) -> bool {
        !self.inexact.is_empty()
    }

    /// Requests at most `count` entries of each of `groups` from an id on, or of those that must be read again.
    pub fn request(
        &mut self,
        key: &[u8],
        groups: &[Bytes],
        from: &[u8],
        count: usize,
        out: &mut Requests,
    ) -> Vec<PendingRequest> {
        let each = (PENDING_MAX / groups.len().max(1)).clamp(1, count.max(1));
        let each = (each >> self.repeats).max(1);
        let which =
            if self.inexact.is_empty() { (0..groups.len()).collect() } else { std::mem::take(&mut self.inexact) };
        let mut requests = Vec::new();
        for group in which {
            out.push(&[b"TIME"]);
            out.push(&[b"XPENDING", key, &groups[group], from, b"+", each.to_string().as_bytes()]);
            requests.extend([PendingRequest::Time, PendingRequest::Page { group, count: each }]);
        }
        if !requests.is_empty() {
            out.push(&[b"TIME"]);
            requests.push(PendingRequest::Time);
        }
        requests
    }

    /// Reads a reply. Returns the id up to which a group was read, if more of it may follow.
    pub fn reply(&mut self, request: &PendingRequest, reader: &mut Reader<'_>) -> Option<Option<StreamId>> {
        match *request {
            PendingRequest::Time => self.time_reply(reader),
            PendingRequest::Page { group, count } => self.page_reply(group, count, reader).map(|()| None),
        }
    }

    fn page_reply(&mut self, group: usize, count: usize, reader: &mut Reader<'_>) -> Option<()> {
        let found = reader.array()?;
        let mut rows = Vec::new();
        for _ in 0..found {
            (reader.array()? == 4).then_some(())?;
            let id = StreamId::parse(reader.bulk()?)?;
            let consumer = Bytes::copy_from_slice(reader.bulk()?);
            rows.push((id, consumer, reader.int()?.max(0), reader.int()?.max(0)));
        }
        self.page = Some(Page { group, before: self.clock_ms, rows, full: found >= count });
        Some(())
    }

    fn time_reply(&mut self, reader: &mut Reader<'_>) -> Option<Option<StreamId>> {
        self.clock_ms = reader.clock_ms()?;
        let Some(Page { group, before, rows, full }) = self.page.take() else { return Some(None) };
        if before != self.clock_ms && !rows.is_empty() && self.repeats < REPEATS_MAX {
            self.inexact.push(group);
            return Some(None);
        }
        let last = rows.last().map(|(id, ..)| *id).filter(|_| full);
        for (id, consumer, idle, count) in rows {
            // If the time is not exact, it is too late: no consumer claims the entry earlier than at the source.
            let delivered = self.clock_ms.saturating_sub(idle).max(0);
            self.entries.entry(id).or_default().push(PendingEntry { group, consumer, delivered, count });
        }
        Some(last)
    }

    /// After the last reply of a round: counts a repetition if groups must be read again.
    pub fn finish_round(&mut self) {
        self.repeats = if self.is_inexact() { self.repeats + 1 } else { 0 };
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn time(pending: &mut PendingReader, ms: i64) -> Option<StreamId> {
        let micros = (ms % 1000 * 1000 + 7).to_string();
        let reply = format!("*2\r\n$1\r\n{}\r\n${}\r\n{micros}\r\n", ms / 1000, micros.len());
        pending.time_reply(&mut Reader::new(reply.as_bytes())).unwrap()
    }

    fn page(pending: &mut PendingReader, group: usize, idle: i64) {
        let reply = format!("*1\r\n*4\r\n$3\r\n5-1\r\n$1\r\nc\r\n:{idle}\r\n:2\r\n");
        pending.page_reply(group, 1, &mut Reader::new(reply.as_bytes())).unwrap();
    }

    #[test]
    fn a_group_is_read_again_until_its_times_are_exact() {
        let groups = [Bytes::from_static(b"a"), Bytes::from_static(b"b")];
        let mut pending = PendingReader::default();
        let asked = pending.request(b"k", &groups, b"0-0", 512, &mut Requests::default());
        assert_eq!(asked.len(), 5, "{asked:?}");
        time(&mut pending, 5000);
        page(&mut pending, 0, 100);
        assert_eq!(time(&mut pending, 5000), StreamId::parse(b"5-1"));
        page(&mut pending, 1, 200);
        assert_eq!(time(&mut pending, 5001), None);
        pending.finish_round();
        let delivered = |pending: &PendingReader| {
            pending.entries.values().flatten().map(|e| (e.group, e.delivered)).collect::<Vec<_>>()
        };
        assert_eq!(delivered(&pending), [(0, 4900)]);
        let asked = pending.request(b"k", &groups, b"0-0", 512, &mut Requests::default());
        let page = PendingRequest::Page { group: 1, count: 256 };
        assert_eq!(asked, [PendingRequest::Time, page, PendingRequest::Time]);
        time(&mut pending, 6000);
        self::page(&mut pending, 1, 1199);
        time(&mut pending, 6000);
        pending.finish_round();
        assert_eq!(delivered(&pending), [(0, 4900), (1, 4801)]);
        assert!(!pending.is_inexact() && pending.repeats == 0);
    }

    #[test]
    fn a_server_whose_replies_take_long_gets_a_time_that_is_too_late() {
        let groups = [Bytes::from_static(b"a")];
        let mut pending = PendingReader::default();
        for round in 0..=i64::from(REPEATS_MAX) {
            assert_eq!(pending.request(b"k", &groups, b"0-0", 512, &mut Requests::default()).len(), 3);
            time(&mut pending, 10 * round);
            page(&mut pending, 0, 0);
            time(&mut pending, 10 * round + 5);
            pending.finish_round();
        }
        assert!(!pending.is_inexact());
        let entry = pending.entries.values().flatten().next().unwrap();
        assert_eq!(entry.delivered, 10 * i64::from(REPEATS_MAX) + 5);
    }
}
