//! Changes of nodes: remove, set-role.
//! Knows nothing of when a node surely serves no more; the leader's membership loop does.

use super::{
    Api,
    change::{ChangeSummary, MutationCall, MutationHandler, forwardable},
    error::CallFailure,
    validate,
};
use crate::{
    clock::boottime_ns,
    model::{
        change::{BeginRemove, Change, SetRole},
        ids::NodeId,
        route::Isolated,
        state::Role,
    },
    wire::pb::admin::{ChangeReply, RemoveNodeRequest, SetNodeRoleRequest},
};

impl MutationHandler for RemoveNodeRequest {
    forwardable!(remove_node);

    async fn perform(&self, api: &Api, call: &MutationCall) -> Result<ChangeReply, CallFailure> {
        let node = validate::node(self.id)?;
        let state = api.state();
        let member = state.members.get(&node);
        let change = Change::BeginRemove(BeginRemove { node, assume_dead: self.assume_dead });
        if api.recorded(call)?.is_none() && !self.assume_dead {
            api.check_silence(node)?;
        }
        let admin = member.map_or_else(String::new, |member| format!(" ({})", member.admin));
        let said = ChangeSummary::of(format!(
            "node {node}{admin} is removed; its data directory must be wiped before it joins again"
        ));
        if call.dry_run {
            return api.dry_run(&change, said.warnings);
        }
        let (index, _) = api.propose(call, change).await?;
        // The uuid, so that a node that joins again under the id meanwhile is not waited for. None: it is gone already.
        if let Some(uuid) = member.map(|member| member.uuid) {
            api.control.wait_removed(node, uuid, call.deadline).await?;
        }
        api.conclude(call, index, false, said).await
    }
}

impl Api {
    /// Where a product is `serve`, a silent node may serve for ever: only a person can say that it does not.
    fn check_silence(&self, node: NodeId) -> Result<(), CallFailure> {
        let (state, view) = (self.state(), self.control.view.borrow().clone());
        let Some(product) = state.products.values().find(|product| product.isolated == Isolated::Serve) else {
            return Ok(());
        };
        let now = boottime_ns();
        let alive = view.nodes.get(&node).is_some_and(|seen| self.control.alive(seen, now));
        if alive || !state.members.contains_key(&node) {
            return Ok(());
        }
        Err(CallFailure::Refused(format!(
            "node {node} is silent, and product '{}' lets isolated nodes go on serving, so nobody can tell whether it still \
             serves; make sure that its process is dead and stays so, then: pontoon node remove {node} --assume-dead",
            product.name
        )))
    }
}

impl MutationHandler for SetNodeRoleRequest {
    forwardable!(set_node_role);

    async fn perform(&self, api: &Api, call: &MutationCall) -> Result<ChangeReply, CallFailure> {
        let node = validate::node(self.id)?;
        let role = validate::role(&self.role)?;
        let done = match role {
            Role::Auto => format!("whether node {node} votes is left to the cluster"),
            Role::Voter => format!("node {node} becomes a voter as soon as its log is up to date"),
            Role::Learner => format!("node {node} becomes a learner"),
        };
        api.make(call, Change::SetRole(SetRole { node, role }), ChangeSummary::of(done)).await
    }
}
