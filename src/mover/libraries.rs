//! Carries libraries of functions to the target, before the switch and again when one has changed.
//! Knows nothing of what functions do.

use super::{
    copy::Copy,
    fetch::{Fetching, Writing},
    functions::{self, LIST, Libraries},
};
use crate::redis::Reply;

/// Whose libraries were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Source,
    Target,
}

/// Where the carrying is.
#[derive(Debug)]
pub(super) struct Carrying {
    /// They have changed, or were never compared.
    stale: bool,
    /// Answers that are awaited.
    asked: usize,
    source: Libraries,
    target: Libraries,
}

impl Default for Carrying {
    fn default() -> Self {
        Self { stale: true, asked: 0, source: Libraries::default(), target: Libraries::default() }
    }
}

impl Carrying {
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

impl Copy<'_> {
    /// Asks both servers when something may be missing.
    pub fn carry_libraries(&mut self) {
        if self.carrying.stale && self.carrying.asked == 0 {
            self.carrying.stale = false;
            self.carrying.asked = 2;
            self.source.send(LIST, Fetching::Libraries);
            self.target.send(LIST, Writing::Libraries);
        }
    }

    /// The answer of one of them. With the second one, what is missing is sent.
    pub fn libraries_of(&mut self, side: Side, reply: &Reply) -> Result<(), String> {
        let addr = match side {
            Side::Source => self.source.connection.addr(),
            Side::Target => self.target.connection.addr(),
        };
        let libraries = Libraries::of(addr.as_str(), reply)?;
        match side {
            Side::Source => self.carrying.source = libraries,
            Side::Target => self.carrying.target = libraries,
        }
        self.carrying.asked -= 1;
        if self.carrying.asked == 0 {
            for code in self.carrying.source.lacking(&self.carrying.target)? {
                self.target.send(&functions::load(&code), Writing::Load);
            }
        }
        Ok(())
    }
}
