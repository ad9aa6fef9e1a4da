//! Commands about the keys of all groups, or about all their primaries. The node asks the servers as the control user:
//! what clients give is parsed, and requests are built anew. Knows nothing of how a request is sent.

mod broadcast;
mod flush;
mod options;
mod page;
mod save;
mod scan;
mod server_scan;
mod size;
mod slots;
mod walk;

pub(super) use broadcast::Broadcast;
pub(super) use size::count_keys;

use super::Operation;
use crate::commands::AllGroups;

/// Runs a command over all groups.
pub(in crate::proxy) async fn run(operation: Operation, kind: AllGroups) {
    match kind {
        AllGroups::Scan => scan::scan(operation).await,
        AllGroups::Keys => scan::keys(operation).await,
        AllGroups::Dbsize => size::dbsize(operation).await,
        AllGroups::Randomkey => size::randomkey(operation).await,
        AllGroups::Flushall => flush::flush(operation, b"FLUSHALL").await,
        AllGroups::Flushdb => flush::flush(operation, b"FLUSHDB").await,
        AllGroups::Swapdb => flush::swap_databases(operation).await,
        AllGroups::Save => save::save(operation).await,
        AllGroups::Bgsave => save::save_in_background(operation).await,
        AllGroups::Bgrewriteaof => save::rewrite(operation).await,
        AllGroups::Lastsave => save::last_save(operation).await,
        AllGroups::Slotsinfo => slots::info(operation).await,
        AllGroups::Slotsscan => slots::scan(operation).await,
    }
}
