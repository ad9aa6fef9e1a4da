//! Why a call did not do what it was asked, and the gRPC status that says so (proto/admin.proto, ChangeReply).
//! Knows nothing of who asked.

use tonic::{Code, Status, metadata::MetadataValue};

use crate::{consensus::ProposeError, control::handle::WaitError, model::reject::Reject, wire::OUTCOME};

/// Why a call failed on this node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallFailure {
    /// The request makes no sense, whatever the state.
    #[error("{0}")]
    Bad(String),
    /// It cannot be done now.
    #[error("{0}")]
    Refused(String),
    /// What was asked about does not exist.
    #[error("{0}")]
    NotFound(String),
    /// This node does not lead; nothing was executed. Another may.
    #[error("{0}")]
    NotLeader(String),
    /// Perhaps executed. A repeat under the same id tells.
    #[error("{0}")]
    Unknown(String),
    /// The change was made; what was waited for did not come in time.
    #[error("{0}")]
    Deadline(String),
    /// The change was made; what was waited for will not come by itself.
    #[error("{0}")]
    Stuck(String),
}

impl CallFailure {
    /// Whether another attempt, here or at another node, may succeed.
    #[must_use]
    pub fn again(&self) -> bool {
        matches!(self, Self::NotLeader(_) | Self::Unknown(_))
    }
}

impl From<Reject> for CallFailure {
    fn from(reject: Reject) -> Self {
        Self::Refused(reject.to_string())
    }
}

impl From<ProposeError> for CallFailure {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::NotLeader(_) | ProposeError::Stopped(_) => Self::NotLeader(error.to_string()),
            ProposeError::Unknown(_) => Self::Unknown(error.to_string()),
            ProposeError::TooLarge { .. } => Self::Bad(error.to_string()),
        }
    }
}

/// After a change was made.
impl From<WaitError> for CallFailure {
    fn from(error: WaitError) -> Self {
        match error {
            WaitError::Deadline(missing) => {
                Self::Deadline(format!("the change was made, but in the given time: {missing}"))
            }
            WaitError::Listener(what) => Self::Stuck(format!(
                "the change was made, but {what}; free that port, or choose another (product set NAME port=P)"
            )),
            WaitError::NotLeader => {
                Self::Unknown("the change was made, and the leader changed while it was waited for".into())
            }
        }
    }
}

impl From<CallFailure> for Status {
    fn from(failure: CallFailure) -> Self {
        let text = failure.to_string();
        let (code, outcome) = match failure {
            CallFailure::Bad(_) => (Code::InvalidArgument, Some("none")),
            CallFailure::Refused(_) => (Code::FailedPrecondition, None),
            CallFailure::NotFound(_) => (Code::NotFound, Some("none")),
            CallFailure::NotLeader(_) => (Code::Unavailable, Some("none")),
            CallFailure::Unknown(_) => (Code::Unknown, None),
            CallFailure::Deadline(_) => (Code::DeadlineExceeded, Some("made")),
            CallFailure::Stuck(_) => (Code::FailedPrecondition, Some("made")),
        };
        let mut status = Status::new(code, text);
        if let Some(outcome) = outcome {
            status.metadata_mut().insert(OUTCOME, MetadataValue::from_static(outcome));
        }
        status
    }
}

/// What a status of another node tells about repeating the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallOutcome {
    /// It is the answer.
    Final,
    /// Surely not executed; ask again.
    NotExecuted,
    /// Perhaps executed; ask again under the same id.
    Perhaps,
}

/// Reads a status that came from another node, or from the transport on the way there.
#[must_use]
pub fn verdict(status: &Status) -> CallOutcome {
    match status.code() {
        Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal | Code::DeadlineExceeded => {}
        _ => return CallOutcome::Final,
    }
    match status.metadata().get(OUTCOME).map(|value| value.as_bytes()) {
        Some(b"made") => return CallOutcome::Final,
        Some(b"none") => return CallOutcome::NotExecuted,
        _ => {}
    }
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return CallOutcome::NotExecuted;
        }
        source = error.source();
    }
    CallOutcome::Perhaps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_survive_a_hop() {
        let table = [
            (CallFailure::Bad("a".into()), Code::InvalidArgument, CallOutcome::Final),
            (CallFailure::Refused("a".into()), Code::FailedPrecondition, CallOutcome::Final),
            (CallFailure::NotLeader("a".into()), Code::Unavailable, CallOutcome::NotExecuted),
            (CallFailure::Unknown("a".into()), Code::Unknown, CallOutcome::Perhaps),
            (CallFailure::Deadline("a".into()), Code::DeadlineExceeded, CallOutcome::Final),
            (CallFailure::Stuck("a".into()), Code::FailedPrecondition, CallOutcome::Final),
        ];
        for (failure, code, expected) in table {
            let status = Status::from(failure.clone());
            assert_eq!((status.code(), verdict(&status)), (code, expected), "{failure:?}");
        }
        // From the transport, not from a node.
        assert_eq!(verdict(&Status::unavailable("broken pipe")), CallOutcome::Perhaps);
        assert_eq!(verdict(&Status::unauthenticated("no secret")), CallOutcome::Final);
    }
}
