//! Why a call failed, and the gRPC status that reports it (proto/admin.proto, ChangeReply).

use tonic::{Code, Status, metadata::MetadataValue};

use crate::{consensus::ProposeError, control::handle::WaitError, model::reject::Reject, wire::OUTCOME};

/// Why a call failed on this node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallFailure {
    /// The request is invalid in every state.
    #[error("{0}")]
    Bad(String),
    /// The request is refused in the present state.
    #[error("{0}")]
    Refused(String),
    /// What the request is about does not exist.
    #[error("{0}")]
    NotFound(String),
    /// Not executed: this node does not lead. Another node may.
    #[error("{0}")]
    NotLeader(String),
    /// Outcome unknown. A repeat under the same id returns the result.
    #[error("{0}")]
    Unknown(String),
    /// The change was made; what the call waited for did not happen before the deadline.
    #[error("{0}")]
    Deadline(String),
    /// The change was made; what the call waited for will not happen without an operator.
    #[error("{0}")]
    Stuck(String),
}

/// Longest piece of input that an error text repeats.
const QUOTE_MAX: usize = 80;

/// Input in a form that an error text can contain: short and printable.
#[must_use]
pub fn quote(text: &str) -> String {
    text.chars().take(QUOTE_MAX).map(|c| if c.is_control() { '?' } else { c }).collect()
}

impl CallFailure {
    /// Whether a repeat, at this or another node, may succeed.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::NotLeader(_) | Self::Unknown(_))
    }
}

impl From<Reject> for CallFailure {
    fn from(reject: Reject) -> Self {
        let text = reject.to_string();
        if reject.is_of_unknown() { Self::NotFound(text) } else { Self::Refused(text) }
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

/// A wait follows a change that was made.
impl From<WaitError> for CallFailure {
    fn from(error: WaitError) -> Self {
        match error {
            WaitError::Deadline(missing) => {
                Self::Deadline(format!("the change was made, but at the deadline: {missing}"))
            }
            WaitError::Listener(what) => Self::Stuck(format!(
                "the change was made, but {what}; free that port, or choose another (product set NAME port=P)"
            )),
            WaitError::NotLeader => Self::Unknown("the change was made, and the leader changed during the wait".into()),
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

/// Whether a call that another node answered with a status can be repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallOutcome {
    /// The status is the answer.
    Final,
    /// Not executed; repeat the call.
    NotExecuted,
    /// Outcome unknown; repeat the call under the same id.
    Unknown,
}

/// Interprets a status that came from another node or from the transport.
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
    CallOutcome::Unknown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_means_the_same_after_forwarding() {
        let table = [
            (CallFailure::Bad("a".into()), Code::InvalidArgument, CallOutcome::Final),
            (CallFailure::Refused("a".into()), Code::FailedPrecondition, CallOutcome::Final),
            (CallFailure::NotFound("a".into()), Code::NotFound, CallOutcome::Final),
            (Reject::UnknownNode(crate::model::ids::NodeId(9)).into(), Code::NotFound, CallOutcome::Final),
            (CallFailure::NotLeader("a".into()), Code::Unavailable, CallOutcome::NotExecuted),
            (CallFailure::Unknown("a".into()), Code::Unknown, CallOutcome::Unknown),
            (CallFailure::Deadline("a".into()), Code::DeadlineExceeded, CallOutcome::Final),
            (CallFailure::Stuck("a".into()), Code::FailedPrecondition, CallOutcome::Final),
        ];
        for (failure, code, expected) in table {
            let status = Status::from(failure.clone());
            assert_eq!((status.code(), verdict(&status)), (code, expected), "{failure:?}");
        }
        // Made by the transport, not by a node.
        assert_eq!(verdict(&Status::unavailable("broken pipe")), CallOutcome::Unknown);
        assert_eq!(verdict(&Status::unauthenticated("no secret")), CallOutcome::Final);
    }
}
