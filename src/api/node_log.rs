//! Sets which lines a node logs, while it runs: a call to that very node, which any other passes on.
//! Knows nothing of how lines are written.

use tonic::{Request, Response, Status};

use super::{
    Api,
    error::{CallFailure, CallOutcome, verdict},
    forward,
    leader::ASK_LEADER_MAX,
    validate,
};
use crate::{
    logging::{self, InEffect, Levels},
    wire::pb::admin::{SetNodeLogReply, SetNodeLogRequest},
};

/// The word for the levels of the configuration.
const DEFAULT: &str = "default";

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Wanted {
    /// To say what is in effect.
    Nothing,
    Default,
    Chosen(Levels),
}

impl Wanted {
    fn of(request: &SetNodeLogRequest) -> Result<Self, CallFailure> {
        Ok(match request.levels.as_deref() {
            None => Self::Nothing,
            Some(DEFAULT) => Self::Default,
            Some(text) => Self::Chosen(Levels::own(text).map_err(|e| CallFailure::Bad(format!("log: {e}")))?),
        })
    }
}

impl Api {
    /// Sets the levels of the node in the request, or passes the request on to it.
    pub(super) async fn set_log(
        &self,
        request: Request<SetNodeLogRequest>,
    ) -> Result<Response<SetNodeLogReply>, Status> {
        let was_forwarded = forward::was_forwarded(&request);
        let request = request.into_inner();
        let (id, wanted) = (validate::node(request.id)?, Wanted::of(&request)?);
        if id == self.control.me {
            return Ok(Response::new(self.set_own_log(wanted, request.dry_run)?));
        }
        let state = self.state();
        let Some(member) = state.members.get(&id) else {
            return Err(CallFailure::NotFound(format!("there is no node {id}")).into());
        };
        if was_forwarded {
            let me = self.control.me;
            return Err(CallFailure::Refused(format!("this is node {me}, and the call is for node {id}")).into());
        }
        let silent = |why: &str| CallFailure::NotLeader(format!("node {id} ({}) gives no answer: {why}", member.admin));
        let mut client = self.leaders.client(member.admin.as_str(), self.control.log.header_for(id, member.uuid))?;
        let call = client.set_node_log(forward::forwarded(request, ASK_LEADER_MAX));
        match tokio::time::timeout(ASK_LEADER_MAX, call).await {
            Err(_) => Err(silent("it was not there in time").into()),
            Ok(Err(status)) if verdict(&status) != CallOutcome::Final => Err(silent(status.message()).into()),
            Ok(answer) => answer,
        }
    }

    fn set_own_log(&self, wanted: Wanted, dry_run: bool) -> Result<SetNodeLogReply, CallFailure> {
        let changes = !dry_run && wanted != Wanted::Nothing;
        let log = match wanted {
            Wanted::Default if !dry_run => logging::choose(None),
            Wanted::Chosen(levels) if !dry_run => logging::choose(Some(levels)),
            _ => logging::in_effect(),
        };
        let InEffect { levels, chosen } = log.map_err(CallFailure::Refused)?;
        if changes {
            // Above every level that is usual, so that the log itself says why its lines change.
            tracing::warn!(levels, chosen, "an operator has set the levels of the log");
        }
        Ok(SetNodeLogReply { id: self.control.me.0, levels, chosen })
    }
}
