//! The cursors that clients carry: of a SCAN over all groups, and of a scan of one key (HSCAN, SSCAN, ZSCAN). A cursor
//! has everything that a node needs to go on, so a scan may go on at any node (decision 0027).
//! Knows nothing of how keys are found.

use super::{
    ids::GroupId,
    limits::{GROUP_CHANGES_MAX, GROUPS_MAX},
    scan_history::{ScanHistory, ScanPositions},
};

/// Bits below the server's cursor. With a table of 2^32 buckets, the largest cursor is below 2^53: clients that keep
/// cursors in a double read it exactly.
const TAG_BITS: u32 = 21;

/// The lowest bits: the number of changes at the start of the scan, modulo 2^8. A node that knows the last 64 changes can
/// tell a start up to 191 changes ago from one that it does not know yet.
const START_BITS: u32 = 8;

/// Bits of the position and of the check of the process together. The check has what the position leaves.
const PLACE_BITS: u32 = TAG_BITS - START_BITS;

/// Bits below the server's cursor in the cursor of a key.
const KEY_CHECK_BITS: u32 = 13;

/// Bits of a cursor: many clients keep it in a signed 64-bit number.
const CURSOR_BITS: u32 = 63;

// The positions of the largest product fit, with two bits for the check.
const _: () = assert!(position_bits(GROUPS_MAX) + 2 <= PLACE_BITS);

/// Why a scan cannot go on, or not yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CursorError {
    /// It names changes that this node does not know yet; they come with the next route tables. (Or it is no cursor of
    /// this product.)
    Ahead,
    /// More changes have happened since its start than are remembered.
    TooManyChanges,
    /// The server's cursor is too large to be passed on.
    TooLarge,
}

/// Where a SCAN over all groups goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanPlace {
    /// Number of changes when the scan began.
    pub start: u64,
    /// The position.
    pub position: usize,
    /// The cursor of the server at this position; 0: it begins there.
    server: u64,
    /// The check of the process that returned `server`, and its length in bits.
    check: (u32, u32),
}

impl ScanPlace {
    /// Where a client's cursor goes on. `groups` are the present ones, ascending.
    ///
    /// # Errors
    /// Returns why it cannot be found out.
    pub fn of(cursor: u64, history: &ScanHistory, groups: impl Iterator<Item = GroupId>) -> Result<Self, CursorError> {
        if cursor == 0 {
            return Ok(Self { start: history.count, position: 0, server: 0, check: (0, 0) });
        }
        let since = history.count.wrapping_sub(cursor) & mask(START_BITS);
        if since > mask(START_BITS) - GROUP_CHANGES_MAX as u64 {
            return Err(CursorError::Ahead);
        }
        let start = history.count.checked_sub(since).ok_or(CursorError::Ahead)?;
        let positions = history.positions(start, groups).ok_or(CursorError::TooManyChanges)?;
        let bits = position_bits(positions.groups_at_start);
        let place = (cursor & mask(TAG_BITS)) >> START_BITS;
        let position = (place & mask(bits)) as usize;
        if !positions.has(position) {
            return Err(CursorError::Ahead);
        }
        let check = ((place >> bits) as u32, PLACE_BITS - bits);
        Ok(Self { start, position, server: cursor >> TAG_BITS, check })
    }

    /// The cursor for the process `run_id` at this place: 0 if another process returned the server's cursor, because it
    /// means nothing there.
    #[must_use]
    pub fn server(&self, run_id: &str) -> u64 {
        let (check, bits) = self.check;
        if check == check_of(run_id, bits) { self.server } else { 0 }
    }

    /// The cursor for the client, so that the scan goes on at `position`, where the process `run_id` has returned the
    /// cursor `server`. `server` is 0 only where a position begins, which is not the first one.
    ///
    /// # Errors
    /// Returns that the server's cursor is too large.
    pub fn cursor(positions: &ScanPositions, position: usize, server: u64, run_id: &str) -> Result<u64, CursorError> {
        if server >> (CURSOR_BITS - TAG_BITS) != 0 {
            return Err(CursorError::TooLarge);
        }
        let bits = position_bits(positions.groups_at_start);
        let check = u64::from(check_of(run_id, PLACE_BITS - bits));
        let place = (check << bits) | position as u64;
        Ok((server << TAG_BITS) | (place << START_BITS) | (positions.start & mask(START_BITS)))
    }
}

/// A client's cursor in the form in which it was returned. `None`: it is something else, which servers of some versions
/// refuse, and others read as `strtoul` does.
#[must_use]
pub fn canonical_cursor(text: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(text).ok()?;
    let cursor = digits.parse().ok()?;
    (digits == "0" || digits.starts_with(|c: char| ('1'..='9').contains(&c))).then_some(cursor)
}

/// The cursor of a scan of one key for the process `run_id`, from a client's: 0 if another process returned it.
#[must_use]
pub fn key_cursor_at_server(cursor: u64, run_id: &str) -> u64 {
    let check = u64::from(check_of(run_id, KEY_CHECK_BITS));
    if cursor & mask(KEY_CHECK_BITS) == check { cursor >> KEY_CHECK_BITS } else { 0 }
}

/// The cursor of a scan of one key for the client, from that of the process `run_id`.
///
/// # Errors
/// Returns that the server's cursor is too large.
pub fn key_cursor_for_client(server: u64, run_id: &str) -> Result<u64, CursorError> {
    match server {
        0 => Ok(0),
        _ if server >> (CURSOR_BITS - KEY_CHECK_BITS) != 0 => Err(CursorError::TooLarge),
        _ => Ok((server << KEY_CHECK_BITS) | u64::from(check_of(run_id, KEY_CHECK_BITS))),
    }
}

/// Bits that the positions of a scan need which began with this number of groups.
const fn position_bits(groups_at_start: usize) -> u32 {
    usize::BITS - (groups_at_start + GROUP_CHANGES_MAX - 1).leading_zeros()
}

/// Some bits of a hash of a process's run id.
fn check_of(run_id: &str, bits: u32) -> u32 {
    (u64::from(crc32fast::hash(run_id.as_bytes())) & mask(bits)) as u32
}

const fn mask(bits: u32) -> u64 {
    (1 << bits) - 1
}

impl std::fmt::Display for CursorError {
    /// The text for the client.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ahead => {
                "ERR invalid cursor: it is not of this product, or this node is behind, not executed. Begin with 0"
            }
            Self::TooManyChanges => {
                "ERR invalid cursor: slots have moved too often since this scan began, not executed. Begin with 0"
            }
            Self::TooLarge => "ERR the table of a server is too large to be scanned through the proxy",
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::model::scan_history::GroupChange;

    fn groups(count: u32) -> impl Iterator<Item = GroupId> {
        (1..=count).map(GroupId)
    }

    fn changed(times: usize) -> ScanHistory {
        let mut history = ScanHistory::default();
        (0..times).for_each(|_| history.record(GroupChange::Changed(GroupId(1))));
        history
    }

    #[test]
    fn a_cursor_that_no_server_writes_is_not_canonical() {
        for (text, want) in [("0", 0), ("10", 10), ("18446744073709551615", u64::MAX)] {
            assert_eq!(canonical_cursor(text.as_bytes()), Some(want));
        }
        for text in ["", "00", "01", "+1", "-1", " 1", "1 ", "x", "18446744073709551616"] {
            assert_eq!(canonical_cursor(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn cursors_stay_below_the_limits_of_clients() {
        for count in [1, 3, 100, GROUPS_MAX as u32] {
            let history = changed(255);
            let positions = history.positions(history.count, groups(count)).unwrap();
            let last = count as usize + GROUP_CHANGES_MAX - 1;
            let largest = ScanPlace::cursor(&positions, last, (1 << 32) - 1, "x").unwrap();
            assert!(largest < 1 << 53, "{count}: {largest}");
            assert!(ScanPlace::cursor(&positions, last, (1 << 42) - 1, "x").unwrap() < 1 << 63);
            assert_eq!(ScanPlace::cursor(&positions, last, 1 << 42, "x"), Err(CursorError::TooLarge));
        }
        assert!(key_cursor_for_client((1 << 40) - 1, "x").unwrap() < 1 << 53);
        assert_eq!(key_cursor_for_client(1 << 50, "x"), Err(CursorError::TooLarge));
    }

    #[test]
    fn a_cursor_says_where_to_go_on() {
        for count in [1, 3, 63, 64, 65, GROUPS_MAX as u32] {
            let mut history = changed(7);
            let positions = history.positions(7, groups(count)).unwrap();
            for (position, server) in [(0, 5), (count as usize - 1, 1 << 41), (count as usize - 1, 77)] {
                let cursor = ScanPlace::cursor(&positions, position, server, "one").unwrap();
                for _ in 0..3 {
                    let place = ScanPlace::of(cursor, &history, groups(count)).unwrap();
                    assert_eq!((place.start, place.position, place.server("one")), (7, position, server));
                    history.record(GroupChange::Changed(GroupId(1)));
                }
                history = changed(7);
            }
        }
    }

    #[test]
    fn the_cursor_of_another_process_begins_anew() {
        let history = changed(0);
        let positions = history.positions(0, groups(3)).unwrap();
        let cursor = ScanPlace::cursor(&positions, 1, 99, "one").unwrap();
        let place = ScanPlace::of(cursor, &history, groups(3)).unwrap();
        assert_eq!((place.server("one"), place.server("another")), (99, 0));
        let cursor = key_cursor_for_client(99, "one").unwrap();
        assert_eq!((key_cursor_at_server(cursor, "one"), key_cursor_at_server(cursor, "another")), (99, 0));
        assert_eq!((key_cursor_for_client(0, "one"), key_cursor_at_server(0, "one")), (Ok(0), 0));
    }

    #[test]
    fn a_scan_ends_with_an_error_when_its_start_is_forgotten() {
        let history = changed(10);
        let positions = history.positions(10, groups(3)).unwrap();
        let cursor = ScanPlace::cursor(&positions, 2, 5, "one").unwrap();
        let after = |changes| ScanPlace::of(cursor, &changed(changes), groups(3)).map(|place| place.position);
        assert_eq!(after(10 + GROUP_CHANGES_MAX), Ok(2));
        for more in GROUP_CHANGES_MAX + 1..256 - GROUP_CHANGES_MAX {
            assert_eq!(after(10 + more), Err(CursorError::TooManyChanges), "{more} changes later");
        }
        // A node that is behind.
        for changes in 0..10 {
            assert_eq!(after(changes), Err(CursorError::Ahead), "at {changes}");
        }
        let beyond = ScanPlace::cursor(&positions, 3, 5, "one").unwrap();
        assert_eq!(ScanPlace::of(beyond, &history, groups(3)), Err(CursorError::Ahead));
        assert!(ScanPlace::of(beyond, &changed(11), groups(3)).is_ok());
    }
}
