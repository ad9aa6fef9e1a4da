//! A walk over the keys of all groups, page by page: which group comes next, and where its server goes on
//! (`model::scan_history`, decision 0027). Knows nothing of what is done with the keys.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    super::{Operation, StepSlots},
    options::ScanOptions,
    page::Page,
    server_scan::ServerScan,
};
use crate::model::{
    ids::GroupId,
    route::ProductRoutes,
    scan_cursor::{CursorError, ScanPlace},
    scan_history::ScanPositions,
};

/// How long a cursor waits that names changes which this node does not know yet: route tables come within milliseconds.
const AHEAD_MAX: Duration = Duration::from_millis(500);

/// A walk on its way.
#[derive(Debug)]
pub(super) struct Walk {
    /// Number of changes of groups at its start.
    start: u64,
    position: usize,
    server: ServerScan,
    deadline: Option<Instant>,
}

/// A page of a group.
#[derive(Debug)]
pub(super) struct GroupPage {
    pub(super) group: GroupId,
    pub(super) page: Page,
}

impl GroupPage {
    /// The keys that the group owns by the present routes, each with the bytes of the reply that it consists of.
    pub(super) fn owned<'a>(&'a self, routes: &'a ProductRoutes) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        let owner = index_of(routes, self.group);
        self.page.keys().filter(move |(key, _)| owner.is_some() && group_of(routes, key) == owner)
    }
}

impl Walk {
    /// Goes on where a client's cursor says; 0 begins.
    ///
    /// # Errors
    /// Returns the error for the client.
    pub(super) async fn of(operation: &Operation, cursor: u64) -> Result<Self, String> {
        let until = Instant::now() + AHEAD_MAX;
        let mut deadline = None;
        loop {
            // Until then, the routes of this node may be older than those of the node that returned the cursor.
            operation.wait_for_holds(&mut deadline).await?;
            let routes = operation.routes();
            match ScanPlace::of(cursor, &routes.scans, ids(&routes)) {
                Ok(place) => {
                    let (start, position) = (place.start, place.position);
                    return Ok(Self { start, position, server: ServerScan::Resumed(place), deadline });
                }
                Err(CursorError::Ahead) if operation.wait_for_routes(until).await => {}
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    /// The next page of about `count` keys; `None`: there is no more.
    ///
    /// # Errors
    /// Returns the error for the client.
    pub(super) async fn page(
        &mut self,
        operation: &Operation,
        options: &ScanOptions<'_>,
        count: u64,
    ) -> Result<Option<GroupPage>, String> {
        loop {
            operation.wait_for_holds(&mut self.deadline).await?;
            operation.may_serve()?;
            let routes = operation.routes();
            let Some((position, group)) = self.next(&routes)? else { return Ok(None) };
            if position != self.position {
                (self.position, self.server) = (position, ServerScan::Begins);
            }
            let Some(index) = index_of(&routes, group) else { continue };
            let page = self.server.page(operation, (&routes, index), (options, count), StepSlots::All).await?;
            let Some(page) = page else { continue };
            self.deadline = None;
            if page.next == 0 {
                self.position += 1;
            }
            return Ok(Some(GroupPage { group, page }));
        }
    }

    /// The cursor for the client, by the same routes by which the last page was filtered; 0: the walk has ended.
    ///
    /// # Errors
    /// Returns the error for the client.
    pub(super) fn cursor(&self, routes: &ProductRoutes) -> Result<u64, String> {
        let Some((position, _)) = self.next(routes)? else { return Ok(0) };
        let (server, run_id) = match &self.server {
            ServerScan::Cursor(server, run_id) if position == self.position => (*server, &**run_id),
            _ => (0, ""),
        };
        let cursor = ScanPlace::cursor(&self.positions(routes)?, position, server, run_id);
        cursor.map_err(|error| error.to_string())
    }

    /// The next position that has to be scanned, and its group.
    fn next(&self, routes: &ProductRoutes) -> Result<Option<(usize, GroupId)>, String> {
        Ok(self.positions(routes)?.next(self.position, |group| owns_slots(routes, group)))
    }

    fn positions(&self, routes: &ProductRoutes) -> Result<ScanPositions, String> {
        let positions = routes.scans.positions(self.start, ids(routes));
        positions.ok_or_else(|| CursorError::TooManyChanges.to_string())
    }
}

fn ids(routes: &ProductRoutes) -> impl Iterator<Item = GroupId> {
    routes.groups.iter().map(|group| group.id)
}

/// The index of a group; `None`: it is gone.
pub(super) fn index_of(routes: &ProductRoutes, group: GroupId) -> Option<u16> {
    let index = routes.groups.binary_search_by_key(&group, |group| group.id).ok()?;
    u16::try_from(index).ok()
}

/// The index of the group that owns the slot of a key.
pub(super) fn group_of(routes: &ProductRoutes, key: &[u8]) -> Option<u16> {
    routes.slots.get(usize::from(routes.layout.slot(key).0))?.group
}

fn owns_slots(routes: &ProductRoutes, group: GroupId) -> bool {
    index_of(routes, group).is_some_and(|index| routes.slots.iter().any(|slot| slot.group == Some(index)))
}
