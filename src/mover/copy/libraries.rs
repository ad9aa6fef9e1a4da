//! Carries libraries of functions to the target, before the switch and again when one has changed.
//! Knows nothing of what functions do.

use super::{
    engine::CopyEngine,
    fetch::{SourceRequest, TargetRequest},
    functions::{self, LIST, Libraries},
};
use crate::redis::Reply;

/// Whose libraries were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::mover) enum LibrarySide {
    Source,
    Target,
}

/// Where the carrying is.
#[derive(Debug)]
pub(in crate::mover) struct LibraryCopy {
    /// They have changed, or were never compared.
    stale: bool,
    /// Answers that are awaited.
    asked: usize,
    source: Libraries,
    target: Libraries,
}

impl Default for LibraryCopy {
    fn default() -> Self {
        Self { stale: true, asked: 0, source: Libraries::default(), target: Libraries::default() }
    }
}

impl LibraryCopy {
    /// A library was loaded, deleted, or all were flushed. (What was deleted at the source stays at the target: it may be
    /// someone else's.)
    pub fn changed(&mut self) {
        self.stale = true;
    }

    /// Whether the target had everything when it was last compared, and nothing has changed since.
    pub fn is_done(&self) -> bool {
        !self.stale && self.asked == 0
    }
}

impl CopyEngine<'_> {
    /// Asks both servers when something may be missing.
    pub fn carry_libraries(&mut self) {
        if self.carrying.stale && self.carrying.asked == 0 {
            self.carrying.stale = false;
            self.carrying.asked = 2;
            self.source.send(LIST, SourceRequest::Libraries);
            self.target.send(LIST, TargetRequest::Libraries);
        }
    }

    /// The answer of one of them. With the second one, what is missing is sent.
    pub fn libraries_of(&mut self, side: LibrarySide, reply: &Reply) -> Result<(), String> {
        let addr = match side {
            LibrarySide::Source => self.source.connection.addr(),
            LibrarySide::Target => self.target.connection.addr(),
        };
        let libraries = Libraries::of(addr.as_str(), reply)?;
        match side {
            LibrarySide::Source => self.carrying.source = libraries,
            LibrarySide::Target => self.carrying.target = libraries,
        }
        self.carrying.asked -= 1;
        if self.carrying.asked == 0 {
            for code in self.carrying.source.lacking(&self.carrying.target)? {
                self.target.send(&functions::load(&code), TargetRequest::Load);
            }
        }
        Ok(())
    }
}
