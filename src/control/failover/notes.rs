//! Events about conditions of groups that the leader observes: one when a condition begins. Knows nothing of how a
//! condition is found out, nor of what is done about it.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;
use tracing::warn;

use crate::{
    control::leadership::context::LeaderContext,
    model::{
        change::{Change, GroupNote, NoteGroup},
        ids::{GroupId, ProductId},
        limits::CONDITION_ABSENT_MS,
    },
};

/// See [`CONDITION_ABSENT_MS`].
const ABSENT_FOR: Duration = Duration::from_millis(CONDITION_ABSENT_MS);
/// For how long a group must need a failover that is not possible before there is an event. Replicas that failed with
/// their primary or are being restarted often answer within seconds.
const NOT_FAILED_OVER_FOR: Duration = Duration::from_secs(5);

/// The conditions of this term. A new leader writes an event about what it observes, too.
#[derive(Debug, Default)]
pub struct GroupNotes {
    present: BTreeMap<(ProductId, GroupId, GroupNote), Condition>,
}

/// A condition of a group.
#[derive(Debug)]
struct Condition {
    /// When it was first present.
    first: Instant,
    /// When it was last present.
    last: Instant,
    /// Whether it has an event.
    noted: bool,
}

impl GroupNotes {
    /// Writes events about the conditions that have begun. `notes`: all that are present.
    pub async fn write(&mut self, ctx: &LeaderContext, notes: Vec<NoteGroup>) {
        for note in notes {
            let now = Instant::now();
            let begun = || Condition { first: now, last: now, noted: false };
            let condition = self.present.entry((note.product, note.group, note.note)).or_insert_with(begun);
            condition.last = now;
            let wait = if note.note == GroupNote::NotFailedOver { NOT_FAILED_OVER_FOR } else { Duration::ZERO };
            if condition.noted || now.duration_since(condition.first) < wait {
                continue;
            }
            warn!(group = %note.group, text = note.text, "{}", note.note.event_kind().name());
            match ctx.propose(Change::NoteGroup(note)).await {
                Ok(()) => condition.noted = true,
                Err(error) => warn!(%error, "an event about a group could not be written; it is tried again"),
            }
        }
        self.present.retain(|_, condition| condition.last.elapsed() < ABSENT_FOR);
    }
}
