//! Sends a request of a session to the owner of its slot, as the session itself would, and answers with the reply.
//! Knows nothing of what the request means.

use tokio::sync::oneshot;

use super::{
    Operation, StepError, StepSlots,
    step::{StepResult, received},
};
use crate::{
    proxy::{
        client::Access,
        dispatch::{CallContext, Dispatch, dispatch},
    },
    resp::request::{RequestScanner, Scanned},
};

/// What became of a try.
enum Tried {
    Answered(Vec<u8>),
    /// The text of the error for the client.
    Refused(String),
    Held,
    /// A hold has cut it off.
    CutOff,
    Full,
}

impl Operation {
    /// Forwards its own request.
    pub(super) async fn forward_own(self) {
        let request = self.bytes.clone();
        self.forward(&request).await;
    }

    /// Forwards `request`, whose keys are those of its own request. Waits for the end of holds, and for room.
    pub(super) async fn forward(self, request: &[u8]) {
        self.charge(request.len());
        let mut until = None;
        loop {
            if self.session.is_closed() {
                return;
            }
            let text = match self.try_forward(request).await {
                Tried::Answered(reply) => return self.finish(&reply),
                Tried::Refused(text) => text,
                Tried::Full => {
                    self.wait_for_room().await;
                    continue;
                }
                Tried::CutOff => continue,
                Tried::Held => match self.park(&mut until).await {
                    Ok(()) => continue,
                    Err(text) => text.to_owned(),
                },
            };
            return self.refuse(&text);
        }
    }

    async fn try_forward(&self, request: &[u8]) -> Tried {
        let result = match self.send_forward(request) {
            Ok(result) => result,
            Err(tried) => return tried,
        };
        match received(result).await {
            Ok(reply) => Tried::Answered(reply),
            Err(StepError::CutOff) => Tried::CutOff,
            Err(StepError::Full) => Tried::Full,
            Err(StepError::NotExecuted(text) | StepError::Unknown(text) | StepError::Unconfirmed(text)) => {
                Tried::Refused(text)
            }
        }
    }

    fn send_forward(&self, request: &[u8]) -> Result<oneshot::Receiver<StepResult>, Tried> {
        self.may_serve().map_err(Tried::Refused)?;
        let (worker, session) = (&self.worker, &self.session);
        let mut scanner = RequestScanner::default();
        if !matches!(scanner.scan(request), Ok(Scanned::Request(_))) {
            return Err(Tried::Refused("ERR the request could not be repeated, not executed".into()));
        }
        let call = CallContext { bytes: request, args: scanner.args() };
        let routes = self.routes();
        let check = worker.serve_check(&session.product);
        let decision = dispatch(&routes, check, Access::Open, &call, &mut worker.buffers.dispatch.borrow_mut());
        let target = match decision {
            Dispatch::Forward(target) | Dispatch::Script { target, .. } => target,
            Dispatch::Held => return Err(Tried::Held),
            Dispatch::Refuse(refusal) => return Err(Tried::Refused(refusal.to_string())),
            Dispatch::Split { .. }
            | Dispatch::LargeSplit { .. }
            | Dispatch::Scripts(_)
            | Dispatch::HashImport(..)
            | Dispatch::AllGroups(_)
            | Dispatch::Node(_)
            | Dispatch::KeyScan(_)
            | Dispatch::Blocking { .. }
            | Dispatch::WaitReplicas { .. }
            | Dispatch::Transaction(..)
            | Dispatch::Local(_)
            | Dispatch::Close(_) => {
                return Err(Tried::Refused("TRYAGAIN not executed: its slot moved before it could be sent".into()));
            }
        };
        let Some(backend) = session.backend_set().backend(worker, &session.product, target.group) else {
            return Err(Tried::Refused(session.product.too_many_dedicated(worker)));
        };
        let slots = target.slot.map_or(StepSlots::None, |slot| StepSlots::One(slot, target.epoch));
        if routes.reads.own_writes && target.is_write {
            session.note_write(self.ticket);
        }
        self.send(&backend, request, slots, target.is_write).map_err(|error| match error {
            StepError::Full => Tried::Full,
            other => Tried::Refused(other.text().to_owned()),
        })
    }
}
