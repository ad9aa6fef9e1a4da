//! A scan of one server, page by page. A cursor belongs to the process that returned it.
//! Knows nothing of which server comes next.

use std::rc::Rc;

use super::{
    super::{Operation, StepError, StepSlots, step::received},
    options::ScanOptions,
    page::Page,
};
use crate::model::{
    route::ProductRoutes,
    scan_cursor::{ScanPlace, key_cursor_at_server},
};

/// Where a server goes on.
#[derive(Clone, Debug)]
pub(super) enum ServerScan {
    Begins,
    /// As the cursor of a client says that it got from SCAN.
    Resumed(ScanPlace),
    /// The same from SLOTSSCAN.
    ResumedSlot(u64),
    /// With the cursor that this process returned.
    Cursor(u64, Rc<str>),
}

impl ServerScan {
    /// The next page of about `count` keys of a group's primary. `None`: it had to wait for the connection or for room, so
    /// the caller must look at holds and routes again. Afterwards it `Begins` if there are no more keys.
    ///
    /// # Errors
    /// Returns the error for the client.
    pub(super) async fn page(
        &mut self,
        operation: &Operation,
        of: (&ProductRoutes, u16),
        options: (&ScanOptions<'_>, u64),
        slots: StepSlots,
    ) -> Result<Option<Page>, String> {
        self.page_of(operation, operation.db(), of, options, slots).await
    }

    /// The same of a database.
    ///
    /// # Errors
    /// As [`page`](Self::page).
    pub(super) async fn page_of(
        &mut self,
        operation: &Operation,
        db: u32,
        (routes, group): (&ProductRoutes, u16),
        (options, count): (&ScanOptions<'_>, u64),
        slots: StepSlots,
    ) -> Result<Option<Page>, String> {
        let text = |error: StepError| error.text().to_owned();
        let backend = operation
            .control_backend(routes, usize::from(group), db)
            .ok_or("TRYAGAIN not executed: the groups of the product change")?;
        let Some(run_id) = operation.process(&backend).await.map_err(text)? else { return Ok(None) };
        // In the same turn.
        let request = options.request(self.cursor(&run_id), count);
        let result = match operation.send(&backend, &request, slots, false) {
            Err(StepError::Full) => {
                operation.wait_for_room().await;
                return Ok(None);
            }
            result => result.map_err(text)?,
        };
        let page = Page::of(received(result).await.map_err(text)?)?;
        *self = if page.next == 0 { Self::Begins } else { Self::Cursor(page.next, run_id) };
        Ok(Some(page))
    }

    /// The cursor for a process; 0 if another one returned what there is.
    fn cursor(&self, process: &str) -> u64 {
        match self {
            Self::Begins => 0,
            Self::Resumed(place) => place.server(process),
            Self::ResumedSlot(cursor) => key_cursor_at_server(*cursor, process),
            Self::Cursor(server, run_id) if **run_id == *process => *server,
            Self::Cursor(..) => 0,
        }
    }
}
