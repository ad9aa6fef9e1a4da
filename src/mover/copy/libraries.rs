//! Copies function libraries to the target, before the switch and again when one has changed.
//! Knows nothing of the functions' behaviour.

use bytes::Bytes;

use super::{
    functions::{self, LIST, Libraries},
    requests::{SourceRequest, TargetRequest},
};
use crate::{model::ids::HostPort, mover::io::pipeline::Pipeline, redis::Reply};

/// The server whose libraries were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LibrarySide {
    Source,
    Target,
}

/// The copy of the libraries.
#[derive(Debug)]
pub(super) struct LibraryCopy {
    /// They have changed or were never compared.
    changed: bool,
    /// Outstanding replies.
    awaited: usize,
    source: Libraries,
    target: Libraries,
}

impl Default for LibraryCopy {
    fn default() -> Self {
        Self { changed: true, awaited: 0, source: Libraries::default(), target: Libraries::default() }
    }
}

impl LibraryCopy {
    /// A library was loaded or deleted, or all were flushed. (A library that was deleted at the source stays at the
    /// target: another application may use it.)
    pub fn mark_changed(&mut self) {
        self.changed = true;
    }

    /// Whether the target had everything at the last comparison, and nothing has changed since.
    pub fn is_done(&self) -> bool {
        !self.changed && self.awaited == 0
    }

    /// Requests the libraries of both servers if something may be missing.
    pub fn request(&mut self, source: &mut Pipeline<SourceRequest>, target: &mut Pipeline<TargetRequest>) {
        if self.changed && self.awaited == 0 {
            self.changed = false;
            self.awaited = 2;
            source.send(LIST, SourceRequest::Libraries);
            target.send(LIST, TargetRequest::Libraries);
        }
    }

    /// Handles the reply of one server. After the second reply, sends the missing libraries to the target.
    ///
    /// # Errors
    /// As [`Libraries::of`] and [`Libraries::lacking`].
    pub fn reply(
        &mut self,
        side: LibrarySide,
        addr: &HostPort,
        reply: &[u8],
        target: &mut Pipeline<TargetRequest>,
    ) -> Result<(), String> {
        let libraries = Libraries::of(addr.as_str(), &Reply::decode(&Bytes::copy_from_slice(reply))?)?;
        match side {
            LibrarySide::Source => self.source = libraries,
            LibrarySide::Target => self.target = libraries,
        }
        self.awaited -= 1;
        if self.awaited == 0 {
            for code in self.source.lacking(&self.target)? {
                target.send(&functions::load(&code), TargetRequest::Load);
            }
        }
        Ok(())
    }
}
