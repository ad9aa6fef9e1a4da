//! Sets which lines a node logs, while it runs: a call to that very node, which any other passes on. The node that an
//! operator has called records it as an event, once it is done: also a cluster that has no leader can be made to log more.
//! Knows nothing of how lines are written.

use tonic::{Request, Response, Status};

use super::{
    Api,
    call::MutationCall,
    change::{ChangeSummary, MutationHandler, forwardable},
    error::{CallFailure, CallOutcome, verdict},
    forward,
    leader::ASK_LEADER_MAX,
    origin, validate,
};
use crate::{
    logging::{self, InEffect, Levels},
    model::{
        author::Requester,
        change::{Change, NodeNote, NoteNode},
    },
    wire::pb::admin::{ChangeOptions, ChangeReply, NoteNodeLogRequest, SetNodeLogReply, SetNodeLogRequest},
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
        let by = self.requester(&request);
        let by = Requester { declared: origin::declared(&request.get_ref().declared), ..by };
        let request = request.into_inner();
        let changes = !request.dry_run && request.levels.is_some();
        let reply = self.set_log_there(request, &by, was_forwarded).await?;
        if changes && !was_forwarded {
            self.note_log(by, reply.get_ref());
        }
        Ok(reply)
    }

    /// Sets the levels here, or passes the request on, once.
    async fn set_log_there(
        &self,
        request: SetNodeLogRequest,
        by: &Requester,
        was_forwarded: bool,
    ) -> Result<Response<SetNodeLogReply>, Status> {
        let (id, wanted) = (validate::node(request.id)?, Wanted::of(&request)?);
        if id == self.control.me {
            return Ok(Response::new(self.set_own_log(wanted, request.dry_run, by)?));
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
        let mut forwarded = forward::forwarded(request, ASK_LEADER_MAX);
        origin::pass_on(&mut forwarded, by);
        match tokio::time::timeout(ASK_LEADER_MAX, client.set_node_log(forwarded)).await {
            Err(_) => Err(silent("it was not there in time").into()),
            Ok(Err(status)) if verdict(&status) != CallOutcome::Final => Err(silent(status.message()).into()),
            Ok(answer) => answer,
        }
    }

    fn set_own_log(&self, wanted: Wanted, dry_run: bool, by: &Requester) -> Result<SetNodeLogReply, CallFailure> {
        let changes = !dry_run && wanted != Wanted::Nothing;
        let before = logging::in_effect().map_err(CallFailure::Refused)?.levels;
        let log = match wanted {
            Wanted::Default if !dry_run => logging::choose(None),
            Wanted::Chosen(levels) if !dry_run => logging::choose(Some(levels)),
            _ => logging::in_effect(),
        };
        let InEffect { levels, chosen } = log.map_err(CallFailure::Refused)?;
        if changes {
            // Above every level that is usual, so that the log itself says why its lines change.
            let Requester { actor, declared, address, node } = by;
            tracing::warn!(
                levels, chosen, actor, declared, address, received_by = %node,
                "an operator has set the levels of the log"
            );
        }
        Ok(SetNodeLogReply { id: self.control.me.0, levels, chosen, before })
    }

    /// Records that levels were set. Does not wait for the log of the cluster, which may have no leader now.
    fn note_log(&self, by: Requester, done: &SetNodeLogReply) {
        let SetNodeLogReply { id, levels, chosen, before } = done.clone();
        let options = Some(ChangeOptions { declared: by.declared.clone(), ..ChangeOptions::default() });
        let (note, api) = (NoteNodeLogRequest { id, levels, chosen, options, before }, self.clone());
        tokio::spawn(async move {
            if let Err(status) = api.change_for(by, note, false).await {
                tracing::warn!(node = id, error = status.message(), "an event about a node's log could not be written");
            }
        });
    }
}

impl MutationHandler for NoteNodeLogRequest {
    forwardable!(note_node_log);

    async fn perform(&self, api: &Api, call: &MutationCall) -> Result<ChangeReply, CallFailure> {
        let node = validate::node(self.id)?;
        let until = if self.chosen { "until it is restarted" } else { "as configured" };
        let text = format!("it logs {}, {until}", self.levels);
        // A node of an earlier version does not say what it logged before.
        let (before, after) = match self.before.as_str() {
            "" => (String::new(), String::new()),
            before => (format!("log={before}"), format!("log={}", self.levels)),
        };
        let change = Change::NoteNode(NoteNode { node, note: NodeNote::LogSet, text, before, after });
        api.make(call, change, ChangeSummary::of(format!("the levels of node {node} are recorded"))).await
    }
}
