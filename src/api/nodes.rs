//! Changes of nodes: remove, set-role.
//! Knows nothing of when a node has provably stopped serving; that is for the leader's membership loop.

use super::{
    Api,
    call::MutationCall,
    change::{ChangeSummary, MutationHandler, forwardable},
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
        let was_removed = member.is_none() && state.removed.iter().any(|removed| removed.id == node);
        if was_removed && api.recorded(call)?.is_none() {
            return api.already(call, format!("node {node} was removed")).await;
        }
        if api.recorded(call)?.is_none() && !self.assume_dead {
            api.check_silence(node)?;
        }
        if !self.force {
            api.keeps_quorum(call, &change).await?;
        }
        let admin = member.map_or_else(String::new, |member| format!(" ({})", member.admin));
        let summary = ChangeSummary::of(format!(
            "node {node}{admin} is removed; its data directory must be wiped before it joins again"
        ));
        if call.dry_run {
            return api.dry_run(&change, summary.warnings);
        }
        let (index, _) = api.propose(call, change).await?;
        // The uuid, so that the call does not wait for another node that joins under the same id meanwhile. None:
        // already removed.
        if let Some(uuid) = member.map(|member| member.uuid) {
            api.control.wait_removed(node, uuid, call.deadline).await?;
        }
        api.conclude(call, index, false, summary).await
    }
}

impl Api {
    /// If a product lets isolated nodes serve, a silent node may serve forever: only a person can say that it does
    /// not.
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
            "node {node} is silent, and product '{}' lets isolated nodes keep serving, so the cluster cannot know whether it \
             still serves; make sure that its process is dead and stays dead, then: pontoon node remove {node} --assume-dead",
            product.name
        )))
    }
}

impl MutationHandler for SetNodeRoleRequest {
    forwardable!(set_node_role);

    async fn perform(&self, api: &Api, call: &MutationCall) -> Result<ChangeReply, CallFailure> {
        let node = validate::node(self.id)?;
        let role = validate::role(self.role)?;
        let done = match role {
            Role::Auto => format!("the cluster chooses the role of node {node}"),
            Role::Voter => format!("node {node} becomes a voter as soon as its log is up to date"),
            Role::Learner => format!("node {node} becomes a learner"),
        };
        let change = Change::SetRole(SetRole { node, role });
        if !self.force {
            api.keeps_quorum(call, &change).await?;
        }
        api.make(call, change, ChangeSummary::of(done)).await
    }
}
