//! SCAN and KEYS. Knows nothing of which group comes next.

use std::{
    collections::{HashSet, hash_map::RandomState},
    hash::BuildHasher,
};

use super::{
    super::Operation,
    options::{ScanOptions, parse},
    walk::{GroupPage, Walk},
};
use crate::{
    commands::Args,
    model::{route::ProductRoutes, scan_cursor::canonical_cursor},
    proxy::pieces::Pieces,
    resp::write::{self, Version},
};

/// Keys of one step: a server is busy with it for about two milliseconds, and a hold that begins waits no longer.
const STEP_COUNT: u64 = 4096;

/// Groups that one SCAN finishes: few keys in some groups come in one reply, and the time for a reply stays bounded.
const GROUPS_PER_SCAN: usize = 16;

/// Runs SCAN.
pub(super) async fn scan(operation: Operation) {
    match scanned(&operation).await {
        Ok(Some((cursor, keys))) => {
            let cursor = cursor.to_string();
            let mut head = Vec::new();
            write::array(&mut head, 2);
            write::bulk(&mut head, cursor.as_bytes());
            keys.answer(operation, head);
        }
        Ok(None) => {}
        Err(text) => operation.refuse(&text),
    }
}

/// Runs KEYS: a SCAN to the end, without the keys that SCAN returns twice. No server is stopped for as long as KEYS stops
/// it, and no hold waits for it.
pub(super) async fn keys(operation: Operation) {
    match all_keys(&operation).await {
        Ok(Some(keys)) => keys.answer(operation, Vec::new()),
        Ok(None) => {}
        Err(text) => operation.refuse(&text),
    }
}

/// The cursor and the keys of a SCAN. `None`: the client was closed.
async fn scanned(operation: &Operation) -> Result<Option<(u64, FoundKeys)>, String> {
    let call = operation.call();
    let parsed = parse(&call, 1);
    // What servers refuse, each version refuses in its own words.
    if parsed.is_err() || canonical_cursor(call.get(1)).is_none() {
        let asked = if parsed.is_err() { operation.bytes.to_vec() } else { with_cursor_only(call.get(1)) };
        if let Some(error) = refused_by_a_server(operation, &asked).await {
            return Err(error);
        }
    }
    let (cursor, options) = parsed?;
    let mut walk = Walk::of(operation, cursor).await?;
    let mut found = FoundKeys::default();
    let (mut left, mut finished) = (options.count, 0);
    while left > 0 && finished < GROUPS_PER_SCAN {
        let count = left.min(STEP_COUNT);
        let Some(page) = walk.page(operation, &options, count).await? else { break };
        let ended = page.page.next == 0;
        // How many keys a server has looked at is not known when it has come to its end.
        left = left.saturating_sub(if ended { page.page.len as u64 } else { count });
        finished += usize::from(ended);
        if !found.add(operation, &page, &operation.routes()) {
            return Ok(None);
        }
    }
    Ok(Some((walk.cursor(&operation.routes())?, found)))
}

/// A SCAN without options: one that is valid is no more work for a server than that.
fn with_cursor_only(cursor: &[u8]) -> Vec<u8> {
    let mut request = Vec::new();
    write::request(&mut request, &[b"SCAN", cursor]);
    request
}

/// The error of a server for a call.
async fn refused_by_a_server(operation: &Operation, request: &[u8]) -> Option<String> {
    let reply = operation.ask_a_primary(request, Version::Resp2).await.ok()?;
    let error = reply.strip_prefix(b"-")?;
    Some(String::from_utf8_lossy(error).trim_end().to_owned())
}

/// All keys with a pattern. `None`: the client was closed.
async fn all_keys(operation: &Operation) -> Result<Option<FoundKeys>, String> {
    let call = operation.call();
    let pattern = Some(call.get(1)).filter(|pattern| *pattern != b"*");
    let options = ScanOptions { pattern, ..ScanOptions::ALL };
    let mut walk = Walk::of(operation, 0).await?;
    let mut found = FoundKeys { seen: Some(SeenKeys::default()), ..FoundKeys::default() };
    while let Some(page) = walk.page(operation, &options, STEP_COUNT).await? {
        if !found.add(operation, &page, &operation.routes()) {
            return Ok(None);
        }
    }
    Ok(Some(found))
}

/// Keys for a reply.
#[derive(Debug, Default)]
struct FoundKeys {
    count: usize,
    /// Each as a bulk string.
    bulks: Pieces,
    /// `None`: keys may come twice.
    seen: Option<SeenKeys>,
}

impl FoundKeys {
    /// Adds the keys that the page's group owns. Returns false if the client was closed, because there are too many.
    fn add(&mut self, operation: &Operation, page: &GroupPage, routes: &ProductRoutes) -> bool {
        let mut bulks = Vec::new();
        for (key, bulk) in page.owned(routes) {
            if self.seen.as_mut().is_none_or(|seen| seen.is_new(key)) {
                self.count += 1;
                bulks.extend_from_slice(bulk);
            }
        }
        self.bulks.push(bulks);
        let memory = self.bulks.memory() + self.seen.as_ref().map_or(0, SeenKeys::memory);
        operation.charge(memory);
        operation.may_keep(memory)
    }

    /// Answers with an array of the keys behind `head`.
    fn answer(self, operation: Operation, mut head: Vec<u8>) {
        write::array(&mut head, self.count);
        let mut reply = Pieces::default();
        reply.append(&head);
        reply.extend(self.bulks);
        operation.finish_with(|session, worker, ticket| session.complete_in_pieces(worker, ticket, reply, 0));
    }
}

/// The keys that were seen, by hashes of 128 bits with random keys: two keys have the same only in theory, and a long key
/// needs no more memory than a short one.
#[derive(Debug, Default)]
pub(super) struct SeenKeys {
    hashes: HashSet<u128>,
    hashers: (RandomState, RandomState),
}

impl SeenKeys {
    pub(super) fn is_new(&mut self, key: &[u8]) -> bool {
        let (a, b) = &self.hashers;
        self.hashes.insert(u128::from(a.hash_one(key)) << 64 | u128::from(b.hash_one(key)))
    }

    fn memory(&self) -> usize {
        // One byte of a table's control data for each place.
        self.hashes.capacity() * (size_of::<u128>() + 1)
    }
}
