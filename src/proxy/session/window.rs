//! How many requests of a session may be unanswered. Knows nothing of who answers them.
//!
//! A shared connection serves its sessions in turns of one reply. A session with large replies would take most of the
//! bytes, so its window is small: the connection is shared fairly by bytes. It also bounds what servers keep for a client
//! that does not read.

/// Requests that may be unanswered while the size of the replies is unknown, and after a reply of [`LARGE_REPLY`] bytes:
/// enough that the server always has the next request at hand.
const INITIAL: u32 = 8;

/// Requests that may be unanswered after a large message: the one that is being answered, and the next.
const AFTER_LARGE_MESSAGE: u32 = 2;

/// Replies from this size on, in bytes, make the window small.
pub(super) const LARGE_REPLY: usize = 16 * 1024;

/// The window of one session. It grows by one with each answered request, so it doubles with each round trip.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    initial: u32,
    /// Number of answered requests, modulo 2^32, when the window had its initial size.
    since: u32,
}

impl Default for Window {
    fn default() -> Self {
        Self { initial: INITIAL, since: 0 }
    }
}

impl Window {
    /// The window after a reply of at least [`LARGE_REPLY`] bytes. `answered`: number of answered requests, modulo 2^32;
    /// `large_message`: whether the reply was a large message.
    pub(super) fn after_large(answered: u32, large_message: bool) -> Self {
        Self { initial: if large_message { AFTER_LARGE_MESSAGE } else { INITIAL }, since: answered }
    }

    /// Number of requests that may be unanswered. (When `answered` wraps around, the window grows anew.)
    #[inline]
    pub(super) fn size(self, answered: u32) -> usize {
        self.initial.saturating_add(answered.wrapping_sub(self.since)) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_with_answers_and_shrinks_after_a_large_reply() {
        let window = Window::default();
        assert_eq!((window.size(0), window.size(8), window.size(1016)), (8, 16, 1024));
        let answered = u32::MAX - 3;
        let window = Window::after_large(answered, false);
        assert_eq!((window.size(answered), window.size(answered.wrapping_add(8))), (8, 16));
        assert_eq!(Window::after_large(answered, true).size(answered), 2);
    }
}
