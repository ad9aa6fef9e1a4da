//! One request to the primaries of all groups, sent in one turn, and their replies.
//! Knows nothing of what the request means.

use std::{rc::Rc, sync::Arc};

use tokio::time::Instant;

use super::super::{
    Operation, StepError, StepSlots,
    step::{StepResult, received},
};
use crate::{
    model::{ids::GroupId, route::ProductRoutes},
    proxy::backend::{Backend, Unavailable},
    resp::write::Version,
};

/// Groups that an error names.
const NAMED_MAX: usize = 3;

/// The beginning of the error for a write that was executed, but not confirmed by enough replicas.
const UNCONFIRMED: &str = "NOREPLICAS executed";

/// What is sent to all groups.
#[derive(Clone, Copy, Debug)]
pub(in crate::proxy::operation) struct Broadcast<'a> {
    pub(in crate::proxy::operation) request: &'a [u8],
    pub(in crate::proxy::operation) db: u32,
    /// Which holds wait for it. Not [`StepSlots::One`].
    pub(in crate::proxy::operation) slots: StepSlots,
    pub(in crate::proxy::operation) is_write: bool,
}

/// The replies of all groups.
#[derive(Debug)]
pub(in crate::proxy::operation) struct Replies {
    /// The routes by which the request was sent.
    pub(in crate::proxy::operation) routes: Arc<ProductRoutes>,
    /// In the order of the groups, without errors.
    pub(in crate::proxy::operation) list: Vec<Vec<u8>>,
}

impl Broadcast<'_> {
    /// Sends it to every group, or to none, and waits for all replies. `deadline` is that of [`Operation::park`].
    ///
    /// # Errors
    /// Returns the error for the client if a group has not carried it out.
    pub(in crate::proxy::operation) async fn send(
        &self,
        operation: &Operation,
        deadline: &mut Option<Instant>,
    ) -> Result<Replies, String> {
        let (routes, pending) = loop {
            if self.slots == StepSlots::All {
                operation.wait_for_holds(deadline).await?;
            }
            operation.may_serve()?;
            let routes = operation.routes();
            let backends = (0..routes.groups.len())
                .map(|group| operation.control_backend(&routes, group, self.db))
                .collect::<Option<Vec<_>>>()
                .ok_or("TRYAGAIN not executed: the groups of the product change")?;
            match ready(operation, &backends) {
                Err(StepError::Full) => operation.wait_for_room().await,
                Err(error) => return Err(error.text().to_owned()),
                Ok(()) => {
                    let send = |backend: &Rc<Backend>| operation.send(backend, self.request, self.slots, self.is_write);
                    break (routes, backends.iter().map(send).collect::<Vec<_>>());
                }
            }
        };
        let mut results = Vec::with_capacity(pending.len());
        for pending in pending {
            results.push(match pending {
                Ok(pending) => received(pending).await,
                Err(error) => Err(error),
            });
        }
        self.replies(routes, results)
    }

    /// Sends it to one group, by its index, and waits for the reply, which may be an error of the server.
    ///
    /// # Errors
    /// Returns the error for the client.
    pub(super) async fn send_to(
        &self,
        operation: &Operation,
        group: usize,
        deadline: &mut Option<Instant>,
    ) -> Result<Vec<u8>, String> {
        loop {
            if self.slots == StepSlots::All {
                operation.wait_for_holds(deadline).await?;
            }
            operation.may_serve()?;
            let backend = operation.control_backend(&operation.routes(), group, self.db);
            let backend = backend.ok_or("TRYAGAIN not executed: the groups of the product change")?;
            match operation.send(&backend, self.request, self.slots, self.is_write) {
                Err(StepError::Full) => operation.wait_for_room().await,
                Err(error) => return Err(error.text().to_owned()),
                Ok(pending) => return received(pending).await.map_err(|error| error.text().to_owned()),
            }
        }
    }

    fn replies(&self, routes: Arc<ProductRoutes>, results: Vec<StepResult>) -> Result<Replies, String> {
        let mut failed = Vec::new();
        let total = results.len();
        let mut list = Vec::with_capacity(total);
        for (group, result) in routes.groups.iter().zip(results) {
            match result {
                Ok(reply) if reply.first() == Some(&b'-') => {
                    let text = String::from_utf8_lossy(&reply[1..]);
                    failed.push((group.id, text.trim_end().to_owned()));
                }
                Ok(reply) => list.push(reply),
                Err(error) => failed.push((group.id, error.text().to_owned())),
            }
        }
        match failure(&failed, total, self.is_write) {
            None => Ok(Replies { routes, list }),
            Some(text) => Err(text),
        }
    }
}

/// Whether a request can be sent to all of them in this turn.
fn ready(operation: &Operation, backends: &[Rc<Backend>]) -> Result<(), StepError> {
    for backend in backends {
        backend.available(&operation.worker).map_err(|error| match error {
            Unavailable::Down => StepError::NotExecuted(backend.refusal()),
            Unavailable::Full => StepError::Full,
        })?;
    }
    Ok(())
}

/// The error for the client, which names the groups that have not carried out the request, and says what they answered.
fn failure(failed: &[(GroupId, String)], total: usize, is_write: bool) -> Option<String> {
    let (_, first) = failed.first()?;
    let same = failed.iter().all(|(_, text)| text == first);
    if same && failed.len() == total {
        return Some(first.clone());
    }
    let unconfirmed = failed.iter().all(|(_, text)| text.starts_with(UNCONFIRMED));
    let executed = total - failed.len();
    if !is_write || unconfirmed {
        let groups: Vec<String> = failed.iter().take(NAMED_MAX).map(|(group, _)| group.to_string()).collect();
        let more = if failed.len() > NAMED_MAX { " and others" } else { "" };
        return Some(format!("{first} (group {}{more} of {total})", groups.join(", ")));
    }
    let details: Vec<String> = failed
        .iter()
        .take(NAMED_MAX)
        .map(|(group, text)| format!("group {group}: {}", text.strip_prefix("ERR ").unwrap_or(text)))
        .collect();
    let more = failed.len().saturating_sub(NAMED_MAX);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    Some(format!("ERR outcome unknown: {executed} of {total} groups have executed it; {}{more}", details.join("; ")))
}

impl Operation {
    /// The connection to the primary of a group as the control user. `None`: there is no such group.
    pub(super) fn control_backend(&self, routes: &ProductRoutes, group: usize, db: u32) -> Option<Rc<Backend>> {
        let group = u16::try_from(group).ok().filter(|group| usize::from(*group) < routes.groups.len())?;
        // The replies that the node reads are the same in both versions.
        self.session.product.control_set(db, Version::Resp2).backend(&self.worker, &self.session.product, group)
    }

    /// The database of the client.
    pub(in crate::proxy::operation) fn db(&self) -> u32 {
        self.session.client.borrow().db
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_who_has_not_executed_it() {
        let failed = |texts: &[(u32, &str)]| -> Vec<(GroupId, String)> {
            texts.iter().map(|(group, text)| (GroupId(*group), (*text).to_owned())).collect()
        };
        let down = "ERR its server is down, not executed";
        for (texts, is_write, want) in [
            (&[][..], true, None),
            (&[(1, down), (2, down), (3, down)], true, Some(down)),
            (
                &[(2, down)],
                true,
                Some("ERR outcome unknown: 2 of 3 groups have executed it; group 2: its server is down, not executed"),
            ),
            (&[(2, "ERR busy")], false, Some("ERR busy (group 2 of 3)")),
            (
                &[(1, "NOREPLICAS executed, not confirmed"), (3, "NOREPLICAS executed, not confirmed")],
                true,
                Some("NOREPLICAS executed, not confirmed (group 1, 3 of 3)"),
            ),
            (
                &[(1, "NOREPLICAS executed, not confirmed"), (3, down)],
                true,
                Some(
                    "ERR outcome unknown: 1 of 3 groups have executed it; group 1: NOREPLICAS executed, not confirmed; \
                     group 3: its server is down, not executed",
                ),
            ),
        ] {
            assert_eq!(failure(&failed(texts), 3, is_write).as_deref(), want);
        }
    }
}
