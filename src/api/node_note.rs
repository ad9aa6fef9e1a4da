//! Records in an event what has been done at a node. Knows nothing of how it was done.

use super::{
    Api,
    call::MutationCall,
    change::{ChangeSummary, MutationHandler, forwardable},
    error::CallFailure,
    validate,
};
use crate::{
    model::change::{Change, NodeNote, NoteNode},
    wire::pb::admin::{ChangeReply, NodeNoteKind, NoteNodeRequest},
};

impl MutationHandler for NoteNodeRequest {
    forwardable!(note_node);

    async fn perform(&self, api: &Api, call: &MutationCall) -> Result<ChangeReply, CallFailure> {
        let node = validate::node(self.node)?;
        let note = match NodeNoteKind::try_from(self.kind) {
            Ok(NodeNoteKind::ClientsKilled) => NodeNote::ClientsKilled,
            Ok(NodeNoteKind::ServersAsked) => NodeNote::ServersAsked,
            Ok(NodeNoteKind::Unspecified) | Err(_) => {
                return Err(CallFailure::Bad("kind: this version does not know it".to_owned()));
            }
        };
        let (before, after) = (String::new(), String::new());
        let done = ChangeSummary::of(format!("what was done at node {node} is recorded"));
        api.make(call, Change::NoteNode(NoteNode { node, note, text: self.text.clone(), before, after }), done).await
    }
}
