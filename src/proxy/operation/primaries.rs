//! Sends a request to the primaries of all groups, or of one, as the control user. Each answers or fails for itself.
//! Knows nothing of what the request means.

use std::rc::Rc;

use tokio::sync::oneshot;

use super::{
    Operation, StepError, StepSlots,
    step::{StepResult, received},
};
use crate::{
    model::ids::{GroupId, HostPort},
    proxy::scripts::ProcessScripts,
    resp::write::{self, Version},
};

/// The reply of a group's primary.
#[derive(Debug)]
pub(super) struct GroupReply {
    pub(super) group: GroupId,
    pub(super) result: StepResult,
    /// The process that has answered; `None`: not known.
    pub(super) process: Option<Rc<ProcessScripts>>,
}

impl GroupReply {
    /// The reply, if the server has answered.
    pub(super) fn reply(&self) -> Option<&[u8]> {
        self.result.as_deref().ok()
    }
}

impl Operation {
    /// Asks the primaries of all groups, in the order of the groups. `version`: of the replies.
    pub(super) async fn ask_primaries(&self, request: &[u8], version: Version) -> Vec<GroupReply> {
        let mut pending = Vec::new();
        for (index, group) in self.routes().groups.iter().enumerate() {
            let sent = self.send_to_primary(index, &group.primary, request, version).await;
            pending.push((group.id, sent));
        }
        let mut replies = Vec::with_capacity(pending.len());
        for (group, sent) in pending {
            replies.push(match sent {
                Err(error) => GroupReply { group, result: Err(error), process: None },
                Ok((process, result)) => GroupReply { group, result: received(result).await, process },
            });
        }
        replies
    }

    /// Asks the first primary that answers.
    ///
    /// # Errors
    /// Returns the error of the last one if none does.
    pub(super) async fn ask_a_primary(&self, request: &[u8], version: Version) -> StepResult {
        let mut last = Err(StepError::NotExecuted("CLUSTERDOWN this product has no groups, not executed".into()));
        for (index, group) in self.routes().groups.iter().enumerate() {
            last = match self.send_to_primary(index, &group.primary, request, version).await {
                Ok((_, result)) => received(result).await,
                Err(error) => Err(error),
            };
            if last.is_ok() {
                break;
            }
        }
        last
    }

    /// Asks one primary, if it still is one.
    pub(super) async fn ask_primary(&self, addr: &HostPort, request: &[u8], version: Version) -> StepResult {
        let routes = self.routes();
        let Some(index) = routes.groups.iter().position(|group| group.primary == *addr) else {
            return Err(StepError::NotExecuted("TRYAGAIN not executed: the groups of the product change".into()));
        };
        let (_, result) = self.send_to_primary(index, addr, request, version).await?;
        received(result).await
    }

    pub(super) async fn send_to_primary(
        &self,
        index: usize,
        addr: &HostPort,
        request: &[u8],
        version: Version,
    ) -> Result<(Option<Rc<ProcessScripts>>, oneshot::Receiver<StepResult>), StepError> {
        loop {
            self.may_serve().map_err(StepError::NotExecuted)?;
            let product = &self.session.product;
            let is_still = product.routes.borrow().groups.get(index).is_some_and(|group| group.primary == *addr);
            let backend = u16::try_from(index).ok().filter(|_| is_still);
            // Scripts and functions are not those of a database.
            let backend =
                backend.and_then(|group| product.control_set(0, version).backend(&self.worker, product, group));
            let Some(backend) = backend else {
                return Err(StepError::NotExecuted("TRYAGAIN not executed: the groups of the product change".into()));
            };
            // It concerns no slot, and nothing of it is lost with a failover that the catalogue does not bring back.
            match self.send(&backend, request, StepSlots::None, false) {
                Err(StepError::Full) => self.wait_for_room().await,
                Err(error) => return Err(error),
                // If another process answers, it is on another connection, and this request has failed.
                Ok(result) => return Ok((backend.scripts.process(), result)),
            }
        }
    }
}

/// The first error among replies, as a reply.
pub(super) fn first_error(replies: &[GroupReply]) -> Vec<u8> {
    let mut error = Vec::new();
    match replies.iter().find(|group| group.reply().is_none_or(|reply| reply.starts_with(b"-"))) {
        Some(GroupReply { result: Ok(reply), .. }) => error.extend_from_slice(reply),
        Some(GroupReply { result: Err(why), .. }) => write::error(&mut error, why.text()),
        None => write::error(&mut error, "CLUSTERDOWN this product has no groups, not executed"),
    }
    error
}
