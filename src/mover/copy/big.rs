//! Big keys in the engine: their rounds go over the same two connections as all other fetches and writes.
//! Knows nothing of how a big key is read and written; see `big_key`.

use tokio::time::Instant;

use super::{
    engine::CopyEngine,
    fetch::{SourceRequest, TargetRequest},
};
use crate::mover::{big_key::Requests, io::pipeline::Pipeline, track::dirty::DbKey};

/// Chunks wait while so much has not been taken by the target's socket.
const OUTPUT_MAX: usize = 4 << 20;
/// Elements that a target writes in a millisecond, cautiously: measured 500 to 1,000.
const ELEMENTS_PER_MS: u64 = 400;
/// The budget of a hold where no setting of the migration says one (the cluster's default, serving.md).
const HOLD_MS: u64 = 250;
/// Part of a hold's budget that copying what is never clean before it may take.
const HOLD_PART: u64 = 2;

impl CopyEngine<'_> {
    /// A key that was to be fetched is too big for one DUMP, and everything that was asked of it before is written.
    pub fn begin_big(&mut self, item: DbKey, now: Instant) {
        self.flying -= 1;
        // Found a second time: that says nothing that its events do not.
        if self.changes.big.contains(item.db, &item.key) {
            return;
        }
        // Nothing of it was asked yet, so an older mark is settled by what will be.
        self.changes.dirty.clear(&item);
        self.changes.big.begin(item.db, item.key, now.into_std());
    }

    /// Asks for chunks, at most so many rounds. Returns how many were begun.
    pub fn ask_chunks(&mut self, rounds: usize, now: Instant) -> usize {
        self.changes.big.set_urgent(self.is_finishing());
        let mut asked = 0;
        let (mut source, mut target) = (Requests::default(), Requests::default());
        while asked < rounds && self.target.connection.output.len() < OUTPUT_MAX {
            let Some(round) = self.changes.big.next_round(now.into_std(), &mut source, &mut target) else { break };
            let id = round.id;
            send(&mut self.target, round.db, &mut target, TargetRequest::Select, || TargetRequest::Chunk(id));
            send(&mut self.source, round.db, &mut source, SourceRequest::Select, || SourceRequest::Chunk(id, round.db));
            asked += 1;
        }
        while let Some(back) = self.changes.big.take_returned() {
            self.begin_small(DbKey { db: back.db, key: back.key }, back.dump_only);
            asked += 1;
        }
        asked
    }

    /// Milliseconds that copying takes of what gets clean, and of what does only when nobody writes to it.
    pub fn big_ms(&self) -> (u64, u64) {
        let left = self.changes.big.remaining();
        (left.elements / ELEMENTS_PER_MS, left.contended_elements / ELEMENTS_PER_MS)
    }

    /// Whether what only gets clean under a hold fits into one.
    pub fn contended_fits(&self) -> bool {
        let budget = match u64::from(self.limits.borrow().hold_ms_max) {
            0 => HOLD_MS,
            ms => ms,
        };
        self.big_ms().1 <= budget / HOLD_PART
    }

    /// Why no hold can come, if a big key is the reason.
    pub fn why_contended(&self) -> Option<String> {
        if self.is_finishing() || self.contended_fits() {
            return None;
        }
        let write_contended = self.changes.big.write_contended();
        let first = write_contended.first()?;
        Some(format!(
            "{first} is written faster than it can be copied; its copy takes about {} ms while the slots are held: raise \
             hold-max to twice that, or let its writers rest",
            self.big_ms().1
        ))
    }
}

/// Appends the requests that a big key wants to be sent.
pub(in crate::mover) fn send<T>(
    pipeline: &mut Pipeline<T>,
    db: u32,
    requests: &mut Requests,
    select: T,
    mut what: impl FnMut() -> T,
) -> usize {
    let (bytes, count) = requests.take();
    if count > 0 {
        pipeline.select(db, select);
        pipeline.out().extend_from_slice(&bytes);
        (0..count).for_each(|_| pipeline.expect(what()));
    }
    bytes.len()
}
