//! Reads the feed and applies its events to the copy.
//! Knows nothing of holds.

use std::time::Duration;

use tokio::time::Instant;

use super::{copier::KeyCopier, requests::TargetRequest};
use crate::{
    commands::Args,
    faults::{self, Rule},
    mover::{
        feed::{CommandWords, Event, Feed},
        spec::CopySpec,
    },
};

/// A feed whose position does not change for this long while the primary's offset does is dead, whatever its socket
/// says.
const STALLED_MAX: Duration = Duration::from_secs(15);

/// The feed of a copy.
pub(super) struct FeedReader {
    pub feed: Box<dyn Feed>,
    /// The feed's position, and since when it has not changed.
    position: (u64, Instant),
    /// A test wants changes replayed instead of fetched; never in a release build.
    replays: bool,
}

impl FeedReader {
    /// Reads this feed.
    pub fn new(feed: Box<dyn Feed>, now: Instant) -> Self {
        Self { feed, position: (0, now), replays: faults::without(Rule::Refetch) }
    }

    /// Applies everything that has arrived. `primary_offset`: the last known replication offset of the source's
    /// primary.
    ///
    /// # Errors
    /// Returns as text for the operator why the copy must be restarted.
    pub fn read(
        &mut self,
        copier: &mut KeyCopier<'_>,
        spec: &CopySpec,
        primary_offset: u64,
        now: Instant,
    ) -> Result<(), String> {
        let filled = self.feed.connection().fill();
        let replays = self.replays;
        let mut applied = Ok(());
        self.feed.drain(&mut |event| match event {
            Event::Changed { db, key, command: Some(command) } if replays && spec.slots.has_key(key) => {
                replay(copier, db, command);
            }
            Event::Changed { db, key, command } if spec.slots.has_key(key) => {
                copier.no_ttl.changed(db, command);
                if let Err(why) = copier.changes.change(&mut copier.source.scan, db, key, command, now) {
                    applied = Err(why);
                }
            }
            Event::Changed { .. } => {}
            Event::UnknownCommand { db, command } => copier.source.request_keys(db, command),
            Event::Functions => copier.libraries.mark_changed(),
        })?;
        applied?;
        filled.map_err(|error| format!("the connection of the feed is lost: {error}"))?;
        self.feed.tick(now);
        self.check_position(spec, primary_offset, now)
    }

    fn check_position(&mut self, spec: &CopySpec, primary_offset: u64, now: Instant) -> Result<(), String> {
        let position = self.feed.position();
        if position != Some(self.position.0) {
            self.position = (position.unwrap_or(0), now);
        } else if position.is_some_and(|at| at < primary_offset)
            && now.saturating_duration_since(self.position.1) > STALLED_MAX
        {
            return Err(format!(
                "the feed of {} has not advanced for {} s although its primary's offset has",
                spec.feed.addr,
                STALLED_MAX.as_secs()
            ));
        }
        Ok(())
    }

    /// Bytes between the primary's offset and the feed's position; 0 for a feed without offsets.
    pub fn lag(&self, primary_offset: u64) -> u64 {
        self.feed.position().map_or(0, |at| primary_offset.saturating_sub(at))
    }
}

fn replay(copier: &mut KeyCopier<'_>, db: Option<u32>, command: &CommandWords) {
    let target = &mut copier.target.pipeline;
    target.select(db.unwrap_or(0), TargetRequest::Select);
    let args: Vec<&[u8]> = (0..command.len()).map(|i| command.get(i)).collect();
    target.send(&args, TargetRequest::Replayed);
}
